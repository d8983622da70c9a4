"""Finds the pictures in a JSON reply, wherever a server puts them: URLs, data URLs, base64.

Only http(s) and data URLs count; anything else in such a place is no picture and is read over. Whether the bytes are a
picture is not looked at here. Sources: PROTOCOL 3.9, 6.1.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes, PictureUrl
from batchrunner.providers.json_text import at, is_object, sound

_PLACES: Final = (("output_images",), ("images",), ("data",), ("output", "results"), ("output", "output_images"))
_BASE64_KEYS: Final = ("b64_json", "base64")
_MOST_URLS: Final = 16
_URL_BYTES: Final = 4096
_URLS_BYTES: Final = 48 * 1024
"""Of all URLs of a reply as ASCII JSON: a task's URLs are one record of the ledger, which holds 64 KiB."""


def pictures_in(value: Json) -> tuple[PictureUrl | PictureBytes, ...]:
    """The pictures of the first place that has any; empty when there is none. URLs that no record holds are none."""
    for place in _PLACES:
        found = at(value, *place)
        refs = tuple(_recordable(_refs(found if isinstance(found, list) else [found])))
        if refs:
            return refs
    return ()


def _recordable(refs: Iterable[PictureUrl | PictureBytes]) -> Iterator[PictureUrl | PictureBytes]:
    room = _URLS_BYTES
    urls = 0
    for ref in refs:
        if isinstance(ref, PictureUrl):
            size_bytes = _size_bytes(ref.url)
            if urls == _MOST_URLS or size_bytes > room:
                continue
            urls += 1
            room -= size_bytes
        yield ref


def _refs(entries: Iterable[Json]) -> Iterator[PictureUrl | PictureBytes]:
    for entry in entries:
        ref = _ref(entry)
        if ref is not None:
            yield ref


def _ref(entry: Json) -> PictureUrl | PictureBytes | None:
    if isinstance(entry, str):
        return _from_url(entry.strip())
    if not is_object(entry):
        return None
    for key in _BASE64_KEYS:
        packed = entry.get(key)
        if isinstance(packed, str) and packed:
            return _from_base64(packed)
    url = entry.get("url")
    return _from_url(url.strip()) if isinstance(url, str) else None


def _from_url(url: str) -> PictureUrl | PictureBytes | None:
    scheme = url[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return PictureUrl(url=url) if sound(url) == url and _size_bytes(url) <= _URL_BYTES else None
    if not scheme.startswith("data:"):
        return None
    media, comma, payload = url[len("data:") :].partition(",")
    if not comma:
        return None
    if media.lower().endswith(";base64"):
        return _from_base64(payload)
    data = unquote_to_bytes(sound(payload))
    return PictureBytes(data=data) if data else None


def _size_bytes(url: str) -> int:
    """As ASCII JSON, without the quotes."""
    return len(json.dumps(url)) - 2


def _from_base64(packed: str) -> PictureBytes | None:
    """Standard or URL-safe, with or without padding and line breaks, or as a data URL in a base64 field."""
    if packed.startswith("data:"):
        packed = packed.partition(",")[2]
    bare = "".join(packed.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return PictureBytes(data=data) if data else None
