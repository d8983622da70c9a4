"""What stands in an answer besides words: pictures, sound and thinking in the parts of a message, whoever wrote them.

A part is read by what it holds, not by its name alone, for every server names it otherwise. Refuses to lose one: what
is neither text nor a picture nor sound nor thinking is given back as it is.
"""

import re
from collections.abc import Iterator
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.outcome import AudioBytes, PictureBytes, PictureUrl
from batchrunner.core.values import dataclass, field
from batchrunner.providers.json_bodies import is_object
from batchrunner.providers.result_pictures import picture_from_base64, picture_from_url

_THINKING: Final = ("thinking", "reasoning", "thought", "summary")
_AUDIO_TYPES: Final = ("audio", "sound", "speech")
_URLS: Final = ("url", "uri", "file_uri", "fileUri", "image_url", "image", "audio_url")
_PACKED: Final = ("b64_json", "base64", "data", "result", "image_base64", "bytes", "file_data", "fileData")
_MEDIA: Final = ("mime_type", "mimeType", "media_type", "mediaType", "format")
_SIGNATURES: Final = ("signature", "thoughtSignature", "thought_signature")
_PICTURE: Final = ("image", "picture", "photo", "img")
MAGICS: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\xff\x0a")
"""How files of pictures begin: PNG, JPEG, GIF, WebP, BMP, TIFF, JPEG XL."""
_BOXED: Final = frozenset({b"ftypavif", b"ftypavis", b"ftypheic", b"ftypheix", b"ftypmif1", b"JXL \r\n\x87\n"})
_FENCED: Final = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_SHOWN_IN_TEXT: Final = re.compile(
    r"!\[[^\]]{0,1000}\]\(\s*<?(data:image/[^)\s>]+)|<img\b[^>]{0,1000}?\bsrc\s*=\s*[\"']?(data:image/[^\"'\s>]+)",
    re.IGNORECASE,
)
_DEPTH: Final = 5
_TAGS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
)
"""How models mark their thinking in the text itself, where no server took it out."""
_END_ALONE: Final = "</think>"
"""On a line of its own: the prompt's template said `<think>` already, so the answer begins in the middle of it."""


@dataclass(slots=True)
class Parts:
    """The parts of a content, sorted."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    pictures: list[PictureUrl | PictureBytes] = field(default_factory=list)
    sounds: list[AudioBytes] = field(default_factory=list)
    others: list[Json] = field(default_factory=list)


def parts_of(content: object) -> Parts:
    """A string, a part, or a list of either."""
    parts = Parts()
    for part in content if isinstance(content, list) else [content]:
        _sort(part, parts)
    return parts


def words_in(value: object) -> str:
    """All text in a string, a part or a list of parts, thinking or not."""
    parts = parts_of(value)
    return "".join([*parts.thinking, *parts.text])


def media_in(value: object) -> list[PictureUrl | PictureBytes]:
    """The pictures below a value of which it is known that it holds some: `images`, `image_url` and the like."""
    return list(_pictures(value, _DEPTH))


def without_thinking(text: str, *, cut: bool) -> tuple[str, str | None]:
    """(the answer, the thinking) of a text that begins with thinking in tags; (text, None) of any other.

    `cut` says that the text ends where the tokens did: then thinking without an end is all there is.
    """
    bare = text.lstrip()
    for opening, closing in _TAGS:
        if bare.startswith(opening):
            thought, closed, rest = bare[len(opening) :].partition(closing)
            if closed or cut:
                return rest.lstrip(), thought.strip() or None
            return text, None
    if _END_ALONE in text and "<think>" not in text:
        place = 0
        for line in text.split("\n"):
            if line.strip() == _END_ALONE:
                return text[place + len(line) :].lstrip(), text[:place].strip() or None
            place += len(line) + 1
    return text, None


def _sort(part: object, parts: Parts) -> None:
    if isinstance(part, str):
        parts.text.append(part)
    elif is_object(part) and part:
        kind = str(part.get("type") or "").lower()
        if kind == "refusal" and isinstance(part.get("refusal"), str):
            parts.refusal.append(str(part["refusal"]))
        elif part.get("thought") is True or any(name in kind for name in _THINKING):
            parts.thinking.append(_thought(part))
            if "encrypted" in kind or "redacted" in kind or any(part.get(name) for name in _SIGNATURES):
                parts.others.append(part)
        elif (text := _text(part)) is not None:
            parts.text.append(text)
            beside: dict[str, Json] = {
                name: said for name, said in part.items() if name not in {"type", "text", "thought"} and said
            }
            if beside:
                parts.others.append(beside)
        else:
            _sort_media(kind, part, parts)


def _sort_media(kind: str, part: dict[str, Json], parts: Parts) -> None:
    is_audio = _is_audio(kind, part)
    sounds = list(_audio_in(part, _DEPTH)) if is_audio else []
    pictures = [] if is_audio or "video" in kind else list(_pictures(part, _DEPTH))
    if not _is_about_pictures(kind, part):  # an address may be that of a page, bytes those of a document
        pictures = [found for found in pictures if isinstance(found, PictureBytes) and is_picture(found.data)]
    parts.sounds += sounds
    parts.pictures += pictures
    if not (sounds or pictures):
        parts.others.append(part)


def _text(part: dict[str, Json]) -> str | None:
    text = part.get("text")
    if is_object(text):
        text = text.get("value")
    return text if isinstance(text, str) else None


def _thought(part: dict[str, Json]) -> str:
    for name in ("thinking", "reasoning", "thought", "summary", "text", "content"):
        said = part.get(name)
        if isinstance(said, str) and said:
            return said
        if isinstance(said, list | dict) and said:
            return words_in(said)
    return ""


def _is_audio(kind: str, part: dict[str, Json]) -> bool:
    if any(name in kind for name in _AUDIO_TYPES):
        return True
    return any(name in key.lower() for key in part for name in _AUDIO_TYPES) or any(
        media.startswith("audio/") for media in _media_types(part)
    )


def _is_about_pictures(kind: str, part: dict[str, Json]) -> bool:
    if any(name in kind for name in _PICTURE):
        return True
    named = [key.lower() for inner in (part, *part.values()) if is_object(inner) for key in inner]
    return any(name in key for key in named for name in _PICTURE) or any(
        media.startswith("image/") for media in _media_types(part)
    )


def is_picture(data: bytes) -> bool:
    """Whether bytes begin as pictures do."""
    return data.startswith(MAGICS) or data[4:12] in _BOXED or data.lstrip()[:4].lower() in {b"<svg", b"<?xm"}


def pictures_in_text(text: str) -> list[PictureBytes]:
    """Pictures that stand as data URLs in Markdown or HTML, or are the whole text; not those in fenced code."""
    if "data:image/" not in text:
        return []
    bare = text.strip()
    if bare.startswith("data:image/") and " " not in bare:
        urls = [bare]
    else:
        urls = [found[1] or found[2] for found in _SHOWN_IN_TEXT.finditer(_FENCED.sub("", text))]
    found = (picture_from_url(url) for url in urls)
    return [ref for ref in found if isinstance(ref, PictureBytes) and is_picture(ref.data)]


def _media_types(part: dict[str, Json]) -> Iterator[str]:
    for inner in (part, *part.values()):
        if is_object(inner):
            yield from (str(inner[name]).lower() for name in _MEDIA if isinstance(inner.get(name), str))


def _audio_in(value: object, depth: int) -> Iterator[AudioBytes]:
    if not is_object(value) or depth == 0:
        return
    for name in ("data", "b64_json", "base64"):
        packed = value.get(name)
        if isinstance(packed, str) and (found := picture_from_base64(packed)) is not None:
            said = next((word for key in _MEDIA if isinstance(word := value.get(key), str)), None)
            transcript = value.get("transcript")
            yield AudioBytes(
                data=found.data,
                format=said.rpartition("/")[2] if said else None,
                transcript=transcript if isinstance(transcript, str) else None,
            )
            return
    for inner in value.values():
        yield from _audio_in(inner, depth - 1)


def _pictures(value: object, depth: int) -> Iterator[PictureUrl | PictureBytes]:
    if depth == 0:
        return
    if isinstance(value, str):
        if (found := picture_from_url(value.strip())) is not None:
            yield found
    elif isinstance(value, list):
        for entry in value:
            yield from _pictures(entry, depth - 1)
    elif is_object(value):
        yield from _pictures_of_object(value, depth)


def _pictures_of_object(value: dict[str, Json], depth: int) -> Iterator[PictureUrl | PictureBytes]:
    for name in _PACKED:
        packed = value.get(name)
        if isinstance(packed, str) and packed and (found := picture_from_url(packed) or picture_from_base64(packed)):
            yield found
            return
    for name in _URLS:
        at_name = value.get(name)
        if isinstance(at_name, str) and at_name:
            found = picture_from_url(at_name.strip())
            if found is None and name == "image":
                found = picture_from_base64(at_name)
            if found is not None:
                yield found
                return
    for inner in value.values():
        if isinstance(inner, list | dict):
            yield from _pictures(inner, depth - 1)
