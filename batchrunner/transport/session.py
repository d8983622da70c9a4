"""How sessions are made: connectors that report when a request leaves, TLS that always verifies, nothing from outside.

Neither proxies nor netrc nor cookies come from the environment (threats 14 and 16).
"""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TypeAlias, TypedDict, cast

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from multidict import CIMultiDict

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.transport.deadlines import UNDER_WAY
from batchrunner.transport.keepalive import LINE_BYTES, Heads, KeepAlive, KnownHead, end_of, may_begin, repaired
from batchrunner.transport.secrets import Secret

READ_BYTES: Final = 64 * 1024
"""aiohttp holds at most twice this of a reply that is not read."""

# Shorter than the five seconds after which common servers drop an idle connection: a POST that crosses with the
# closing cannot be distinguished from one that was executed.
_KEEPALIVE_S = 4.0
_DNS_TTL_S = 60

# A paid answer after a long head is an answer: gateways add a cookie for each of their hops, and signed policies.
_HEAD_LINES = 4096
_HEAD_BYTES = 256 * 1024


class ReadingOptions(TypedDict):
    """How a session reads its replies."""

    read_bufsize: int
    auto_decompress: bool
    max_line_size: int
    max_field_size: int
    max_headers: int


READING: Final = ReadingOptions(
    read_bufsize=READ_BYTES,
    auto_decompress=False,
    max_line_size=LINE_BYTES,
    max_field_size=LINE_BYTES,
    max_headers=_HEAD_LINES,
)
"""The same for whoever takes a connection and reads its replies without the session."""

# Finds a dead peer behind a NAT while a slow model thinks: after a minute of silence, every minute, five times.
_SOCKET_KEEPALIVE = tuple(
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))
    if hasattr(socket, name)
)


AT_ONCE: Final = 64
"""Of the answers that are there at once, so many are handed over in a turn of the loop."""

OrdinaryReply: TypeAlias = tuple[KnownHead, bytes]


class Turns:
    """Hands ordinary replies to those who wait for them, at most `AT_ONCE` in a turn of the loop.

    The loop writes what is sent at the end of a turn. When a thousand replies come at once, the first of them would
    otherwise be followed by their next requests only when the last had been read: the server has nothing to do
    meanwhile, answers all at once again, and the crowd never dissolves.
    """

    __slots__ = ("_given", "_waiting", "connections")

    def __init__(self) -> None:
        self.connections = 0
        """Of the session, that stand: more replies cannot come at once."""
        self._given = 0
        """In this turn."""
        self._waiting: deque[tuple[asyncio.Future[OrdinaryReply | None], OrdinaryReply]] = deque()

    def __repr__(self) -> str:
        return f"<Turns of {self.connections} connections, {len(self._waiting)} replies waiting>"

    def hand_over(self, asked: "asyncio.Future[OrdinaryReply | None]", reply: OrdinaryReply) -> None:
        """Give a reply to who asked for it, now or in one of the next turns."""
        if not self._given:
            asyncio.get_running_loop().call_soon(self._turn_ends)
        if self._given < AT_ONCE:
            self._given += 1
            asked.set_result(reply)
        else:
            self._waiting.append((asked, reply))

    def _turn_ends(self) -> None:
        self._given = 0
        while self._waiting and self._given < AT_ONCE:
            asked, reply = self._waiting.popleft()
            if not asked.done():  # else its exchange was cancelled meanwhile
                self.hand_over(asked, reply)


class Replies(ResponseHandler):
    """Reads the replies of one connection; what follows a complete reply without having been asked for is set aside.

    aiohttp's parser gives up a piece of the network as a whole when it ends in bytes that are no HTTP, and with it the
    answer that stands before them. So a head goes to the parser by itself, and the rest as a piece of its own: what
    was complete by then stays so.
    """

    behind: bytes = b""
    """Bytes that came in one piece with the end of the last reply, as far as their place is known."""

    came = False
    """An ordinary reply is here, and who asked for it has not gone on with it yet."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, reuse: KeepAlive, heads: Heads, turns: Turns | None = None
    ) -> None:
        super().__init__(loop=loop)
        self._reuse = reuse
        self._heads = heads
        self._turns = turns or Turns()
        self.asked: asyncio.Future[OrdinaryReply | None] | None = None
        """Who waits for the first piece of a reply, and takes an ordinary reply without the parser."""
        self._answered = False
        """True once a reply went by the parser."""
        self.uses = 0
        self.rests_since: float | None = None
        self._start = bytearray()
        """Of a head that has no end yet."""

    def data_received(self, data: bytes) -> None:
        """A piece from the network."""
        asked = self.asked
        if asked is not None and data:
            self.asked = None
            if not self._start and not asked.done() and (head := self._heads.of(data)) is not None:
                self._waiter = None
                self._answered = self.came = True
                if self._turns.connections <= AT_ONCE:
                    asked.set_result((head, data))
                else:
                    self._turns.hand_over(asked, (head, data))
                return
        if self._payload is not None and not self._payload.is_eof():
            self.body_received(data)
            return
        known, start = len(self._start), self._start
        start += data
        if not may_begin(start):
            self._pass_on()
            return
        end = end_of(start, known)
        if (end or len(start)) > _HEAD_BYTES:
            self.set_exception(HttpProcessingError(message="the head is too long"))
            self.abort()
            return
        if not end:
            return
        before, rest = bytes(start[:end]), bytes(start[end:])
        start.clear()
        super().data_received(repaired(before, rest))
        self.body_begins()
        if rest and self._payload is not None and self.is_connected():
            self.body_received(rest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._turns.connections += 1
        super().connection_made(transport)

    def body_begins(self) -> None:
        """A head was read, of a reply or of what goes before one."""

    def body_received(self, data: bytes) -> None:
        """A piece of a body; an empty one when aiohttp's reader was emptied."""
        self._take(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The end; half a head is the parser's to judge."""
        self._turns.connections -= 1
        payload = self._payload
        if (
            exc is None
            and self.transport is not None  # else it is we who closed it
            and (payload.is_eof() if payload is not None else self._answered)
            and not self._start
            and not self._should_close
        ):
            self._reuse.was_closed(self)
        self._pass_on()
        super().connection_lost(exc)

    def _pass_on(self) -> None:
        """What is no head is passed on as it came."""
        if self._start:
            data = bytes(self._start)
            self._start.clear()
            super().data_received(data)

    def _take(self, data: bytes) -> None:
        """A piece of a body: more than the rest of it is there when the parser complains and the body is whole."""
        payload = self._payload
        before = payload.total_bytes if payload is not None else 0
        super().data_received(data)
        if payload is None or self._exception is None:
            return
        if payload.is_eof():
            self.behind = data[payload.total_bytes - before :]
        elif payload.exception() is None:  # else its reader would never be woken
            payload.set_exception(aiohttp.ClientPayloadError("the body has invalid HTTP framing"))


def left_in(content: aiohttp.StreamReader) -> bytes:
    """What came of a body before its end was lost: aiohttp reports the loss first, and may drop a whole answer."""
    return content._read_nowait(-1)  # noqa: SLF001 - its public readers raise as soon as an exception is set


class Connector(aiohttp.TCPConnector):
    """Tells the exchange under way that its connection stands; uses none again where the server closes them."""

    reuse: KeepAlive
    resting: dict[ConnectionKey, deque[Connection]]
    """Connections that the short way keeps in hand, the one that rests for longest first; aiohttp's pool has others."""
    keeps: bool
    """Whether any may be kept in hand."""
    heads: Heads
    turns: Turns
    _rest_timer: asyncio.TimerHandle | None = None
    proxy_login: str | None
    """Headers for the proxy only."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        """A connection from the pool or a new one."""
        if self.proxy_login is not None and req.proxy is not None:
            if req.is_ssl():
                req.proxy_headers = CIMultiDict({hdrs.PROXY_AUTHORIZATION: self.proxy_login})
            else:
                req.headers[hdrs.PROXY_AUTHORIZATION] = self.proxy_login
        connection, replies = await self.lasting(req, traces, timeout)
        connection.add_callback(partial(self.reuse.is_over, replies))
        deadlines = UNDER_WAY.get()
        deadlines.replies = replies
        deadlines.request_leaves()
        return connection

    async def lasting(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as above
    ) -> tuple[Connection, Replies]:
        """A connection that the server is not about to close, as far as one can know, and who reads it."""
        pool = self.resting.get(req.connection_key)
        while True:
            connection = None
            if pool and req.proxy is None:
                connection = self.at_rest(pool, asyncio.get_running_loop().time())
            if connection is None:
                connection = await super().connect(req, traces, timeout)
            replies = connection.protocol
            assert isinstance(replies, Replies), "the session's factory makes them"
            if await self.reuse.allows(connection, replies):
                return connection, replies

    def at_rest(self, pool: deque[Connection], now: float) -> Connection | None:
        """A connection in hand that stands and has not rested for too long; others are closed."""
        while pool:
            connection = pool.popleft()
            replies = connection.protocol
            assert isinstance(replies, Replies), "the session's factory makes them"
            transport, since = replies.transport, replies.rests_since
            if (
                since is not None
                and now - since <= _KEEPALIVE_S
                and transport is not None
                and not transport.is_closing()
            ):
                return connection
            connection.close()
        return None

    def keep(self, pool: deque[Connection], connection: Connection) -> None:
        """Keep a connection in hand, of which the exchange is over."""
        pool.append(connection)
        if self._rest_timer is None:
            self._rest_timer = asyncio.get_running_loop().call_later(_KEEPALIVE_S, self._close_rested)

    def _close_rested(self) -> None:
        """Close what has rested for too long, and look again for as long as there are others."""
        loop = asyncio.get_running_loop()
        self._rest_timer = None
        for pool in self.resting.values():
            connection = self.at_rest(pool, loop.time())
            if connection is not None:
                pool.appendleft(connection)
        if any(self.resting.values()):
            self._rest_timer = loop.call_later(_KEEPALIVE_S / 2, self._close_rested)

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, those in hand too."""
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        for pool in self.resting.values():
            while pool:
                pool.popleft().release()
        self.keeps = False
        await super().close(abort_ssl=abort_ssl)


def plain_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A TCP socket that notices when the other side has vanished."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SOCKET_KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


@lru_cache(maxsize=4)  # reading the system's authorities takes tens of milliseconds
def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's authorities and those of `ca_file`.

    Raises:
        JobMistakesError: `ca_file` cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            reason = "no certificate in it" if isinstance(error, ssl.SSLError) else (error.strerror or "unreadable")
            mistake = Mistake(
                problem=f"{ca_file}: {reason}", key="provider.ca_file", expected="a readable file of PEM certificates"
            )
            raise JobMistakesError((mistake,)) from error
    return context


def new_session(
    *,
    limit: int,
    headers: Mapping[str, str],
    proxy: str | None,
    proxy_auth: Secret | None = None,
    context: ssl.SSLContext,
    socket_factory: aiohttp.SocketFactoryType = plain_socket,
) -> aiohttp.ClientSession:
    """A session on the running loop. All deadlines are the watch's, so aiohttp gets none."""
    connector = Connector(
        limit=limit,
        ssl=context,
        keepalive_timeout=_KEEPALIVE_S,
        ttl_dns_cache=_DNS_TTL_S,
        socket_factory=socket_factory,
    )
    connector.reuse, connector.heads, connector.resting = KeepAlive(), Heads(), {}
    connector.turns = Turns()
    connector.keeps = limit == 0  # else waiters in aiohttp's pool would never get those that are kept here
    made = partial(
        Replies,
        loop=asyncio.get_running_loop(),
        reuse=connector.reuse,
        heads=connector.heads,
        turns=connector.turns,
    )
    connector._factory = cast("partial[ResponseHandler]", made)  # noqa: SLF001 - aiohttp has no public way
    connector.proxy_login = _basic(proxy_auth) if proxy is not None else None
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": user_agent(), **headers},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        trust_env=False,
        proxy=proxy,
        **READING,
    )


def _basic(secret: Secret | None) -> str | None:
    return None if secret is None else f"Basic {b64encode(secret.reveal().encode()).decode()}"


def user_agent() -> str:
    """`batchrunner/VERSION`."""
    try:
        return f"batchrunner/{version('batchrunner')}"
    except PackageNotFoundError:
        return "batchrunner/0"
