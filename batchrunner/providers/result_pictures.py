"""Finds the pictures in a JSON reply, wherever a server puts them: URLs, data URLs, base64.

A walk with rules, no list of shapes: it goes down only through keys that name results, so that echoed input pictures,
previews and links of the API's own are never taken for what was paid for. Only http(s) and data URLs, paths on the
server itself and base64 count; anything else in such a place is no picture and is read over. Whether the bytes are a
picture is looked at here only where nothing else says so.
"""

import base64
import binascii
import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes, PictureUrl
from batchrunner.core.text import has_surrogate, without_lone_surrogates
from batchrunner.providers.json_bodies import NotJson, decode, is_object

RESULT_LISTS: Final = (
    "outputimages",
    "images",
    "imageurls",
    "imagelist",
    "imageresult",
    "imageresults",
    "generatedimages",
    "resulturls",
    "resultimages",
    "outputurls",
    "urls",
    "pictures",
    "artifacts",
    "generations",
    "predictions",
)
"""Keys of what holds nothing but results, without case, `_` and `-`; the first that has any counts."""
_OUTPUTS: Final = ("outputs", "output", "results", "result", "taskresult")
"""Keys of results or of what wraps them."""
_WRAPPERS: Final = (
    *("data", "response", "task", "content", "assets", "payload", "body"),
    *("prediction", "generation", "job", "reply", "resp", "rsp", "ret", "value", "item"),
)
"""Keys of what wraps a reply: what stands directly in them may as well be an echo of the request."""
_BASE64: Final = ("b64json", "base64", "imagebase64", "b64", "imageb64")
_NAMED: Final = ("imageurl", "outputimage", "outputurl", "pictureurl", "image", "img", "picture", "sample")
"""Keys of one picture."""
_LINKS: Final = ("url", "uri", "fileurl", "downloadurl", "signedurl", "href", "file")
"""Keys of one address, which outside of results is a picture's only where its path ends like one."""
_RESULTS: Final = (*RESULT_LISTS, *_OUTPUTS)
_ANYWHERE: Final = (*_BASE64, "url", *_NAMED, *_LINKS, *_RESULTS, *_WRAPPERS)
"""Keys of a result, in the order in which they are believed."""
_PICTURE_PATH: Final = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|heif|jxl|svg)$", re.IGNORECASE)
_MAGIC: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00", b"<svg")
_LEAST_BASE64_CHARS: Final = 32
_URL_BYTES: Final = 4096
_ABOUT_WORDS: Final = (
    "taskid id requestid traceid status taskstatus state code message msg object type model prompt created createdat"
    " updatedat finishedat submittime scheduledtime endtime starttime timetaken taskmetrics usage metrics"
)
_ABOUT: Final = frozenset(_ABOUT_WORDS.split())
"""Keys that describe a task and are no result of it."""
_DEEPEST: Final = 8
_MOST_URLS: Final = 10_000
_ADDRESS_CHARS: Final = 4096
_MARKDOWN: Final = re.compile(r"!\[[^\]\n]{0,200}\]\(\s*([^)\s]{1,4096})")
_MARKDOWN_CHARS: Final = 64 * 1024
_URLS_BYTES: Final = 4 * 1024 * 1024
"""Of all URLs of a reply as ASCII JSON: they stand in the ledger, over as many records as they need."""


def pictures_in(
    value: Json, *, base_url: str = "", given: Collection[str] = ()
) -> tuple[PictureUrl | PictureBytes, ...]:
    """The pictures of the first place that has any; empty when there is none. URLs that no record holds are none.

    `base_url` is where the reply came from: addresses without a scheme or host are completed by it. `given` are the
    addresses of pictures that the request held, which are no results wherever they stand.
    """
    return tuple(recordable(_Finder(base_url, frozenset(given)).of_reply(value, 0)))


def mentions_results(value: Json, *, depth: int = 0) -> bool:
    """True when a place for results holds something, whether it is understood or not."""
    value = _only_entry(value)
    if not is_object(value) or depth > _DEEPEST:
        return False
    keys = by_plain_name(value)
    if any(_is_filled(keys.get(name)) for name in _RESULTS):
        return True
    return any(mentions_results(keys[name], depth=depth + 1) for name in _WRAPPERS if name in keys)


def has_empty_results(value: Json, *, depth: int = 0) -> bool:
    """True when a place for results is there and holds nothing: they may come later."""
    value = _only_entry(value)
    if not is_object(value) or depth > _DEEPEST:
        return False
    keys = by_plain_name(value)
    if any(name in keys and not _is_filled(keys[name]) for name in _RESULTS):
        return True
    return any(has_empty_results(keys[name], depth=depth + 1) for name in (*_WRAPPERS, *_OUTPUTS) if name in keys)


class _Finder:
    """One walk through one reply."""

    def __init__(self, base_url: str, given: frozenset[str]) -> None:
        self._base_url = base_url
        self._given = given

    def of_reply(self, value: Json, depth: int) -> list[PictureUrl | PictureBytes]:
        """Of a reply or of what wraps it: results first, then what is named a picture, if no place stands empty."""
        value = _only_entry(value)
        if not is_object(value) or depth > _DEEPEST:
            return []
        keys = by_plain_name(value)
        for name in _RESULTS:
            if name in keys and (found := self._of_results(keys[name], depth + 1)):
                return found
        if isinstance(listed := keys.get("data"), list) and (found := self._of_results(listed, depth + 1)):
            return found
        for name in _WRAPPERS:
            if name in keys and (found := self.of_reply(keys[name], depth + 1)):
                return found
        # where the place of the results is known and empty, what is next to it is something else
        return [] if has_empty_results(value) else self._of_names(keys, depth)

    def _of_names(self, keys: dict[str, Json], depth: int) -> list[PictureUrl | PictureBytes]:
        """Of what is named a picture, or is an address that ends like one."""
        for name in (*_BASE64, *_NAMED):
            if name in keys and (found := self._of_results(keys[name], depth + 1)):
                return found
        for name in _LINKS:
            link = keys.get(name)
            if isinstance(link, str) and _PICTURE_PATH.search(_path_of(link)) and (found := self._of_text(link)):
                return found
        return []

    def _of_results(self, value: Json, depth: int) -> list[PictureUrl | PictureBytes]:
        """Of a place for results: each entry of a list, the first key that has any of an object."""
        if depth > _DEEPEST:
            return []
        if isinstance(value, str):
            return self._of_packed(value, depth) or self._of_text(value)
        if isinstance(value, list):
            return [ref for entry in value for ref in self._of_results(entry, depth + 1)]
        if not is_object(value):
            return []
        keys = by_plain_name(value)
        for name in _BASE64:
            packed = keys.get(name)
            if isinstance(packed, str) and packed:
                ref = picture_from_base64(packed)
                return [ref] if ref is not None else []
        numbered = [entry for name, entry in keys.items() if name.isdigit()]
        for name in _ANYWHERE:
            if name in keys and (found := self._of_results(keys[name], depth + 1)):
                return found
        return [ref for entry in numbered for ref in self._of_results(entry, depth + 1)]

    def _of_packed(self, text: str, depth: int) -> list[PictureUrl | PictureBytes]:
        """Of JSON in a text, and of pictures in Markdown, as some gateways pass results on."""
        start = text[:_ADDRESS_CHARS].lstrip()[:2]
        if start[:1] in {"[", "{"}:
            value = decode(text.encode("utf-8", "replace"))
            return [] if isinstance(value, NotJson | str) else self._of_results(value, depth + 1)
        if start == "![":
            return [ref for url in _MARKDOWN.findall(text[:_MARKDOWN_CHARS]) for ref in self._of_text(url)]
        return []

    def _of_text(self, text: str) -> list[PictureUrl | PictureBytes]:
        text = text.strip()
        if not text or text in self._given:
            return []
        ref = self._from_url(text) or _from_bare_base64(text)
        return [ref] if ref is not None and not (isinstance(ref, PictureUrl) and ref.url in self._given) else []

    def _from_url(self, url: str) -> PictureUrl | PictureBytes | None:
        scheme = url[:8].lower()
        return picture_from_url(url if scheme.startswith(("http://", "https://", "data:")) else self._completed(url))

    def _completed(self, address: str) -> str:
        """An address on the host that it names, or on the server itself; empty when it is none."""
        if not address.startswith("/") or any(char.isspace() for char in address[:_ADDRESS_CHARS]):
            return ""
        here = urlsplit(self._base_url)
        if address.startswith("//"):
            host = address[2:].partition("/")[0]
            return f"{here.scheme or 'https'}:{address}" if "." in host or ":" in host else ""
        if not here.netloc or not _PICTURE_PATH.search(_path_of(address)):
            return ""  # base64 of a JPEG begins with a slash, too
        return f"{here.scheme}://{here.netloc}{address}"


def recordable(refs: Iterable[PictureUrl | PictureBytes]) -> Iterator[PictureUrl | PictureBytes]:
    """Those that records hold: the first addresses, as many as there is room for."""
    left_bytes = _URLS_BYTES
    urls = 0
    for ref in refs:
        if isinstance(ref, PictureUrl):
            size_bytes = url_size_bytes(ref.url)
            if urls == _MOST_URLS or size_bytes > left_bytes:
                continue
            urls += 1
            left_bytes -= size_bytes
        yield ref


def _only_entry(value: Json) -> Json:
    """A reply in a list of its own, as gateways that ask for many tasks at once pass it on."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def by_plain_name(value: dict[str, Json]) -> dict[str, Json]:
    """The object by its keys as they are compared: `outputImages` and `output_images` are one.

    Gateways that speak for two APIs write both, and fill one of them: the first that holds anything counts.
    """
    keys: dict[str, Json] = {}
    for key, entry in value.items():
        name = plain_name(key)
        keys[name] = keys.get(name) or entry
    return keys


def plain_name(key: str) -> str:
    """A key without case, `_` and `-`."""
    return key.lower().replace("_", "").replace("-", "")


def _is_filled(value: Json) -> bool:
    """True when anything but emptiness stands there."""
    if isinstance(value, list):
        return any(_is_filled(entry) for entry in value[:_MOST_URLS])
    if is_object(value):
        return any(_is_filled(entry) for name, entry in value.items() if plain_name(name) not in _ABOUT)
    return isinstance(value, str) and bool(value.strip())


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _from_bare_base64(text: str) -> PictureBytes | None:
    """Base64 where an address is expected: only if what it holds begins like a picture."""
    if len(text) < _LEAST_BASE64_CHARS or text[:1] in "{[<" or "://" in text[:16]:
        return None
    head = picture_from_base64(text[:64].strip()[:60])
    if head is None or not head.data.startswith(_MAGIC):
        return None
    return picture_from_base64(text)


# A picture as servers write one into JSON: an address, a data URL, or bare base64.
#
# Only http(s) and data URLs count. Whether the bytes are a picture is not looked at here.


def picture_from_url(url: str) -> PictureUrl | PictureBytes | None:
    """What an http(s) URL or a data URL refers to; None for anything else."""
    scheme = url[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return PictureUrl(url=url) if not has_surrogate(url) and url_size_bytes(url) <= _URL_BYTES else None
    if not scheme.startswith("data:"):
        return None
    media, comma, payload = url[len("data:") :].partition(",")
    if not comma:
        return None
    if media.lower().endswith(";base64"):
        return picture_from_base64(payload)
    data = unquote_to_bytes(without_lone_surrogates(payload))
    return PictureBytes(data=data) if data else None


def url_size_bytes(url: str) -> int:
    """As ASCII JSON, without the quotes."""
    if url.isascii() and url.isprintable() and '"' not in url and "\\" not in url:
        return len(url)  # nothing in it is escaped
    return len(json.dumps(url)) - 2


def picture_from_base64(packed: str) -> PictureBytes | None:
    """Standard or URL-safe, with or without padding and line breaks, or as a data URL in a base64 field."""
    if packed.startswith("data:"):
        packed = packed.partition(",")[2]
    bare = "".join(packed.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return PictureBytes(data=data) if data else None
