"""The item and the provider that our side of a judgement works for."""

from collections.abc import Sequence
from hashlib import sha256

from batchrunner.core.http import Request, StreamedBody
from batchrunner.core.item import Item
from batchrunner.core.job import DialectName, Json, PresetName, Provider, Turn
from batchrunner.core.remote_batch import RequestFile


def provider(preset: PresetName, dialect: DialectName) -> Provider:
    """A provider on this machine."""
    return Provider(
        preset=preset, dialect=dialect, base_url="http://127.0.0.1:8000/v1", key_env=(), auth="none", allow_http=True
    )


def item(prompt: str, *, model: str, params: dict[str, Json] | None = None, stream: bool = True) -> Item:
    """An item with one user turn."""
    return Item(
        id="a",
        prompt_id="a",
        index=1,
        key="0" * 32,
        model=model,
        prompt=prompt,
        turns=(Turn(role="user", content=prompt),),
        params=params or {},
        stream=stream,
    )


def requests_of(lines: Sequence[bytes], between: bytes = b"") -> RequestFile:
    """The file of requests with these lines."""
    data = between.join(lines)
    body = StreamedBody(size_bytes=len(data), pieces=lambda: iter((data,)))
    return RequestFile(body=body, sha256=sha256(data).hexdigest())


def whole_body(request: Request) -> bytes:
    """What it sends."""
    return request.body or (b"".join(request.streamed.pieces()) if request.streamed is not None else b"")
