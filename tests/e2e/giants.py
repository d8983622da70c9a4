"""A server whose answers are as large as they may be, and larger: whole, streamed, in one line, compressed.

One answer of a kind for every request; what it holds is one letter, so that the server itself stays small.
"""

import asyncio
import base64
import contextlib
import functools
import io
import json
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

MEGABYTE = 1024 * 1024
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nConnection: close\r\n{}\r\n"


@dataclass(frozen=True)
class Giant:
    """A reply: its media type, its coding, and its body in pieces."""

    media_type: str
    body: Callable[[], Iterator[bytes]]
    gzip: bool = False


def _whole(megabytes: int, *, end: str = "") -> Iterator[bytes]:
    yield b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    yield b'"message":{"role":"assistant","content":"'
    for _ in range(megabytes):
        yield b"x" * MEGABYTE
    yield end.encode()
    yield b'"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'


def _streamed(size_bytes: int, *, piece_bytes: int) -> Iterator[bytes]:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return b"data: " + json.dumps({**head, "choices": choices}).encode() + b"\n\n"

    piece = chunk({"content": "x" * piece_bytes})
    for _ in range(size_bytes // piece_bytes):
        yield piece
    yield chunk({}, "stop")
    yield b"data: [DONE]\n\n"


@functools.cache
def noise() -> bytes:
    """A PNG of 35 MB that no compression makes smaller."""
    out = io.BytesIO()
    Image.frombytes("RGB", (3400, 3400), random.Random(1).randbytes(34_680_000)).save(out, "PNG", compress_level=0)
    return out.getvalue()


def _pictures_inside() -> Iterator[bytes]:
    yield b'{"created":1,"data":[{"b64_json":"' + base64.b64encode(noise()) + b'"}]}'


_JSON, _SSE = "application/json", "text/event-stream"
GIANTS = {
    "whole": Giant(_JSON, lambda: _whole(15)),
    "whole-compressed": Giant(_JSON, lambda: _whole(15), gzip=True),
    "whole-wide": Giant(_JSON, lambda: _whole(15, end="🦉"), gzip=True),
    "streamed": Giant(_SSE, lambda: _streamed(12 * MEGABYTE, piece_bytes=4096)),
    "streamed-in-drops": Giant(_SSE, lambda: _streamed(MEGABYTE // 4, piece_bytes=4)),
    "long-lines": Giant(_SSE, lambda: _streamed(14 * MEGABYTE, piece_bytes=7 * MEGABYTE)),
    "too-large": Giant(_JSON, lambda: _whole(40)),
    "too-large-streamed": Giant(_SSE, lambda: _streamed(40 * MEGABYTE, piece_bytes=65536)),
    "bomb": Giant(_JSON, lambda: _whole(400), gzip=True),
}
"""What is 16 MB at most is an answer; the last three are refused. One wide letter makes a text take four bytes each."""
PICTURES = Giant(_JSON, _pictures_inside)
REFUSED = frozenset({"too-large", "too-large-streamed", "bomb"})


def _coded(giant: Giant) -> Iterator[bytes]:
    if not giant.gzip:
        yield from giant.body()
        return
    packer = zlib.compressobj(wbits=31)
    for piece in giant.body():
        yield packer.compress(piece)
    yield packer.flush()


@contextlib.contextmanager
def giant_server(giant: Giant) -> Iterator[str]:
    """Serve it to every request, in a thread; gives the base URL."""
    loop = asyncio.new_event_loop()
    packed = list(_coded(giant)) if giant.gzip else None

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
            coding = "Content-Encoding: gzip\r\n" if giant.gzip else ""
            writer.write(_HEAD.format(giant.media_type, coding).encode())
            for piece in packed if packed is not None else giant.body():
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(_end, loop, server)
        thread.join()
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    ending = asyncio.gather(*tasks, return_exceptions=True)
    ending.add_done_callback(lambda _: loop.stop())
