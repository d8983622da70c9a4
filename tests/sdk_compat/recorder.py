"""What an official SDK is judged on: the very bytes it got, in the same pieces and with the same end, for our decoders.

The recorder stands in the SDK's network layer. It reads each reply to its end first, and then plays it to the SDK: so
both sides see the same, however early the SDK stops reading.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx2

from batchrunner.core.http import Completed, Decoder, Ending, Interrupted, ResponseHead
from batchrunner.simulator.http_server import serve
from batchrunner.simulator.world import World

T = TypeVar("T")

NOON = 1_790_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came over the wire. Without a head, nothing came."""

    head: ResponseHead | None
    pieces: tuple[bytes, ...]
    ending: Ending

    def read_with(self, decoder: Decoder[T]) -> T:
        """What one of our decoders makes of it, as a transport feeds it."""
        if self.head is not None:
            decoder.begin(self.head)
            for piece in self.pieces:
                if decoder.feed(piece):
                    return decoder.end(Completed())
        return decoder.end(self.ending)

    @property
    def body(self) -> bytes:
        """All the bytes."""
        return b"".join(self.pieces)


class Recorder(httpx2.AsyncBaseTransport):
    """Passes requests on, keeps the replies and plays them."""

    def __init__(self) -> None:
        self._network = httpx2.AsyncHTTPTransport()
        self.replies: list[Reply] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange."""
        try:
            response = await self._network.handle_async_request(request)
        except httpx2.TransportError as refused:
            self.replies.append(Reply(head=None, pieces=(), ending=_broken(refused)))
            raise
        pieces, fault = await _read(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        reply = Reply(
            head=ResponseHead(status=response.status_code, headers=headers, received_at=NOON),
            pieces=tuple(pieces),
            ending=Completed() if fault is None else _broken(fault),
        )
        self.replies.append(reply)
        played = _Played(pieces, fault)
        return httpx2.Response(response.status_code, headers=response.headers, stream=played, request=request)

    async def aclose(self) -> None:
        """Close the network below."""
        await self._network.aclose()


class _Played(httpx2.AsyncByteStream):
    """Recorded pieces, and the fault that ended them."""

    def __init__(self, pieces: list[bytes], fault: httpx2.TransportError | None) -> None:
        self._pieces = pieces
        self._fault = fault

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._fault is not None:
            raise self._fault


async def _read(response: httpx2.Response) -> tuple[list[bytes], httpx2.TransportError | None]:
    """The body's pieces, and the fault that ended them."""
    pieces: list[bytes] = []
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    try:
        async for piece in response.stream:
            pieces.append(piece)  # noqa: PERF401 - what came before a fault must be kept
    except httpx2.TransportError as broken:
        return pieces, broken
    finally:
        await response.stream.aclose()
    return pieces, None


def _broken(fault: httpx2.TransportError) -> Interrupted:
    timed_out = isinstance(fault, httpx2.TimeoutException)
    return Interrupted(cause="timeout" if timed_out else "reset", message=repr(fault), sent=True)


def patience_s(scenario: str) -> float:
    """How long to wait for bytes: short only where none will come."""
    return 0.4 if "hang" in scenario else 20.0


def with_world(world: World, use: Callable[[str, httpx2.AsyncClient], Awaitable[T]]) -> tuple[T, tuple[Reply, ...]]:
    """What `use` comes to with the world's address and a recording client, and the replies that were recorded."""

    async def main() -> tuple[T, tuple[Reply, ...]]:
        recorder = Recorder()
        server = await serve(world)
        try:
            async with httpx2.AsyncClient(transport=recorder) as client:
                return await use(server.api_url, client), tuple(recorder.replies)
        finally:
            await server.close()

    return asyncio.run(main())
