"""Files that a chat model is given beside words: PDF documents and sound.

A table says how each kind begins (its bytes decide, a name's ending never), and which dialects have a part for it. How
that part is written is the dialect's own business.
"""

from collections.abc import Mapping
from typing import Final

from batchrunner.core.item import FileKind
from batchrunner.core.job import DialectName
from batchrunner.core.values import dataclass

_Signature = tuple[tuple[int, bytes], ...]
"""(offset, bytes) that all have to stand there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """What is to be known of a kind of files."""

    words: str
    """For people."""
    media_type: str
    signatures: tuple[_Signature, ...]
    """One of them is enough."""
    ending: str
    """Of a file's name, by which some servers tell what it is."""


def _frames(*second: int) -> tuple[_Signature, ...]:
    """MPEG audio without a tag begins with a frame: eleven set bits, then version and layer."""
    return tuple(((0, bytes((0xFF, byte))),) for byte in second)


FORMS: Final[Mapping[FileKind, KnownFile]] = {
    "pdf": KnownFile(words="PDF", media_type="application/pdf", ending="pdf", signatures=(((0, b"%PDF-"),),)),
    "wav": KnownFile(words="WAV", media_type="audio/wav", ending="wav", signatures=(((0, b"RIFF"), (8, b"WAVE")),)),
    "mp3": KnownFile(
        words="MP3",
        media_type="audio/mpeg",
        ending="mp3",
        signatures=(((0, b"ID3"),), *_frames(0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),
    ),
    "flac": KnownFile(words="FLAC", media_type="audio/flac", ending="flac", signatures=(((0, b"fLaC"),),)),
    "mp4": KnownFile(words="MP4 or M4A", media_type="audio/mp4", ending="mp4", signatures=(((4, b"ftyp"),),)),
    "ogg": KnownFile(words="OGG", media_type="audio/ogg", ending="ogg", signatures=(((0, b"OggS"),),)),
    "webm": KnownFile(words="WEBM", media_type="audio/webm", ending="webm", signatures=(((0, b"\x1aE\xdf\xa3"),),)),
}
TAKEN: Final[Mapping[DialectName, tuple[FileKind, ...]]] = {
    "openai-chat": ("pdf", "wav", "mp3"),
    "openai-responses": ("pdf",),
    "anthropic-messages": ("pdf",),
    "openai-transcriptions": ("wav", "mp3", "flac", "mp4", "ogg", "webm"),
}
"""What a dialect has a part for; those that are not named have none."""
BY_ADDRESS: Final[Mapping[DialectName, FileKind]] = {"anthropic-messages": "pdf", "openai-responses": "pdf"}
"""What a dialect takes by its http(s) address. It cannot be looked at, so there is one kind at most."""


LARGEST_BYTES: Final[Mapping[DialectName, int]] = {"openai-transcriptions": 25 * 1024 * 1024}
"""Where that is another size than of pictures: OpenAI's own limit of a sound."""


def kind_of(content: bytes) -> FileKind | None:
    """By the first bytes; None for anything else."""
    for kind, form in FORMS.items():
        for signature in form.signatures:
            if all(content.startswith(part, offset) for offset, part in signature):
                return kind
    return None


def not_taken(kind: FileKind, dialect: DialectName) -> str | None:
    """Why a dialect cannot be given a file of that kind; None where it can."""
    taken = TAKEN.get(dialect, ())
    if kind in taken:
        return None
    others = f"it takes {', '.join(FORMS[one].words for one in taken)}" if taken else "it takes no files"
    return f"is {FORMS[kind].words}, for which the dialect {dialect} has no part: {others}"
