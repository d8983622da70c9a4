"""Raw servers on 127.0.0.1 that say exactly what a test wants, and a decoder that keeps all it is told."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from batchrunner.core.http import Ending, Request, ResponseHead
from batchrunner.core.job import AuthScheme, DialectName, Provider, Timeouts
from batchrunner.transport import ApiTransport, PictureDownloads, Secret
from batchrunner.transport.memory_budget import MemoryBudget

CANARY = "sk-canary-0123456789abcdef"
ACCOUNT = "MY_KEY"

Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Gets a whole request and writes what it likes; the connection stays open unless it closes it."""


@dataclass
class Server:
    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has closed its connection."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a whole request has come."""

    def url(self, path: str = "/v1/chat/completions", *, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


class Noticing(asyncio.StreamReader):
    """Notices that the client went, also while nobody reads."""

    def __init__(self, lost: asyncio.Event) -> None:
        super().__init__()
        self.gone = lost

    def feed_eof(self) -> None:
        self.gone.set()
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        self.gone.set()
        super().set_exception(exc)


@asynccontextmanager
async def serve(talk: Talk, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[None]] = set()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                while not writer.is_closing():
                    server.requests.append(await read_request(reader))
                    server.asked.set()
                    await talk(server.requests[-1], writer)
                    await writer.drain()
            finally:
                writer.close()

    def protocol() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(Noticing(server.lost), attend)

    listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=tls)
    server = Server(port=listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


def sends(reply: bytes, *, then: str = "stay") -> Talk:
    """Write the reply, then `stay`, `close` or `reset` the connection."""

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()
        if then == "close":
            writer.close()
        elif then == "reset":
            reset(writer)

    return talk


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silent(request: bytes, writer: asyncio.StreamWriter) -> None:
    """Say nothing, for longer than any test lasts."""
    await asyncio.Event().wait()


async def reset_at_once(request: bytes, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def endless(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 65536)
        await writer.drain()


def drips(piece: bytes, *, every_s: float, first: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Talk:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_s)

    return talk


def reply(body: bytes = b"{}", *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*pieces: bytes, end: bool = True, headers: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + (b"0\r\n\r\n" if end else b"")


class Kept:
    """A decoder that keeps everything, and is content once `enough` stands in the body."""

    def __init__(self, *, enough: bytes | None = None, keep: bool = True) -> None:
        self.enough = enough
        self.keep = keep
        self.head: ResponseHead | None = None
        self.size = 0
        self.ending: Ending | None = None
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def begin(self, head: ResponseHead) -> None:
        self.head = head

    def feed(self, data: bytes) -> bool:
        self.size += len(data)
        if self.keep:
            self._pieces.append(data)
        return self.enough is not None and self.enough in self.body

    def end(self, ending: Ending) -> "Kept":
        self.ending = ending
        return self


def provider(
    base_url: str,
    *,
    auth: AuthScheme = "bearer",
    dialect: DialectName = "openai-chat",
    headers: dict[str, str] | None = None,
    proxy: str | None = None,
    allow_http: bool = False,
    ca_file: str | None = None,
) -> Provider:
    return Provider(
        preset="openai", dialect=dialect, base_url=base_url, key_env=(ACCOUNT,), auth=auth,
        headers=headers or {}, proxy=proxy, allow_http=allow_http, ca_file=ca_file,
    )  # fmt: skip


NEVER = 60.0
"""A deadline that no test waits for, also on a busy machine."""
PATIENT = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=NEVER, total_s=NEVER, download_s=NEVER)
KEYS = {ACCOUNT: Secret(CANARY)}


def api(
    source: Provider | str, *, timeouts: Timeouts = PATIENT, memory_budget: MemoryBudget | None = None
) -> ApiTransport:
    chosen = provider(source) if isinstance(source, str) else source
    return ApiTransport(chosen, timeouts=timeouts, keys=KEYS, limit=0, memory_budget=memory_budget)


def downloads(
    *, timeouts: Timeouts = PATIENT, cap_bytes: int = 1 << 20, hide: Collection[Secret] = ()
) -> PictureDownloads:
    return PictureDownloads(timeouts=timeouts, allow_private=True, allow_http=True, cap_bytes=cap_bytes, hide=hide)


def post(url: str, body: bytes = b'{"prompt": "x"}', headers: dict[str, str] | None = None) -> Request:
    return Request(method="POST", url=url, headers=headers or {"Content-Type": "application/json"}, body=body)


async def one(source: Provider | str, url: str, *, timeouts: Timeouts = PATIENT, decoder: Kept | None = None) -> Kept:
    """One POST by a transport of its own."""
    async with api(source, timeouts=timeouts) as transport:
        return await transport.exchange(post(url), decoder or Kept(), account=ACCOUNT)


def header_lines(request: bytes) -> list[str]:
    return request.partition(b"\r\n\r\n")[0].decode("latin-1").lower().split("\r\n")[1:]
