"""A server on 127.0.0.1 that means harm: every reply is garbage of a seeded kind, now and then one that is sound.

What it says is a list of steps: bytes to send, seconds to wait, or how the connection ends. It knows the client's key,
as every server does, and says it wherever a reply has room for words.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Step: TypeAlias = bytes | float | Literal["reset", "close"]
Steps: TypeAlias = list[Step] | Iterator[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, and what a kind of reply may need of the world."""

    method: str
    path: str
    head: bytes
    body: bytes
    base: str
    """The server's own `http://127.0.0.1:PORT`."""
    random_source: random.Random

    @property
    def key(self) -> str:
        """The key as the client sent it; empty for downloads."""
        for line in self.head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() in {"authorization", "x-api-key"}:
                return value.strip().removeprefix("Bearer ")
        return ""


Kind: TypeAlias = Callable[[Asked], Steps]


@dataclass(slots=True)
class Hostile:
    """A running server: how often it was asked for what, and by whom with a key."""

    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    downloads_with_key: int = 0
    raised: list[Exception] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"


MOST_S: Final = 20.0
"""Of one reply, however long a kind would go on."""


class _Talk:
    """What the server's loop does: one instance, one thread."""

    def __init__(self, kinds: dict[str, Kind], seed: int, server: Hostile) -> None:
        self.kinds = kinds
        self.names = sorted(kinds)
        self.random_source = random.Random(seed)
        self.server = server
        self.writers: set[asyncio.StreamWriter] = set()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(MOST_S):
                while await self._one(reader, writer):
                    pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(next(lengths, b"0")))
        method, path, *_ = head.decode("latin-1").split(" ", 2)
        asked = Asked(
            method=method, path=path, head=head, body=body, base=self.server.base, random_source=self.random_source
        )
        name = self.random_source.choice(self.names)
        self.server.asked[name] += 1
        self.server.downloads_with_key += path.startswith("/files") and bool(asked.key)
        for step in self.kinds[name](asked):
            if not await self._take(step, writer):
                return False
        return True

    async def _take(self, step: Step, writer: asyncio.StreamWriter) -> bool:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
                return True
            case float():
                await asyncio.sleep(step)
                return True
            case "reset":
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            case "close":
                return False

    async def listen(self) -> asyncio.Server:
        listener = await asyncio.start_server(self.attend, "127.0.0.1", 0, limit=1 << 22)
        self.server.port = listener.sockets[0].getsockname()[1]
        return listener

    async def end(self, listener: asyncio.Server) -> None:
        listener.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in self.writers:
            writer.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)

    def noticed(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        if isinstance(error := context.get("exception"), Exception) and not isinstance(error, OSError):
            self.server.raised.append(error)


@contextmanager
def hostile(kinds: dict[str, Kind], seed: int) -> Iterator[Hostile]:
    """The server in a thread of its own, with random numbers of its own; every request gets one of the kinds."""
    server = Hostile()
    talk = _Talk(kinds, seed, server)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(talk.noticed)
    listener = loop.run_until_complete(talk.listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(talk.end(listener), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()
    assert not server.raised, server.raised
