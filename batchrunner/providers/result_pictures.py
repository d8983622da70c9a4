"""Finds the pictures in a JSON reply, wherever a server puts them: URLs, data URLs, base64.

Only http(s) and data URLs count; anything else in such a place is no picture and is read over. Whether the bytes are a
picture is not looked at here. Sources: PROTOCOL 3.9, 6.1.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes, PictureUrl
from batchrunner.providers.json_text import at, is_object
from batchrunner.providers.picture_refs import picture_from_base64, picture_from_url, url_size_bytes

_PLACES: Final = (("output_images",), ("images",), ("data",), ("output", "results"), ("output", "output_images"))
_BASE64_KEYS: Final = ("b64_json", "base64")
_MOST_URLS: Final = 16
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
            size_bytes = url_size_bytes(ref.url)
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
        return picture_from_url(entry.strip())
    if not is_object(entry):
        return None
    for key in _BASE64_KEYS:
        packed = entry.get(key)
        if isinstance(packed, str) and packed:
            return picture_from_base64(packed)
    url = entry.get("url")
    return picture_from_url(url.strip()) if isinstance(url, str) else None
