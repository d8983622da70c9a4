"""A picture as servers write one into JSON: an address, a data URL, or bare base64.

Only http(s) and data URLs count. Whether the bytes are a picture is not looked at here.
"""

import base64
import binascii
import json
from typing import Final
from urllib.parse import unquote_to_bytes

from batchrunner.core.outcome import PictureBytes, PictureUrl
from batchrunner.providers.json_text import sound

_URL_BYTES: Final = 4096


def picture_from_url(url: str) -> PictureUrl | PictureBytes | None:
    """What an http(s) URL or a data URL refers to; None for anything else."""
    scheme = url[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return PictureUrl(url=url) if sound(url) == url and url_size_bytes(url) <= _URL_BYTES else None
    if not scheme.startswith("data:"):
        return None
    media, comma, payload = url[len("data:") :].partition(",")
    if not comma:
        return None
    if media.lower().endswith(";base64"):
        return picture_from_base64(payload)
    data = unquote_to_bytes(sound(payload))
    return PictureBytes(data=data) if data else None


def url_size_bytes(url: str) -> int:
    """As ASCII JSON, without the quotes."""
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
