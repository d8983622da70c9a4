"""The short way of a POST: on the connections and the parser of aiohttp, without its request and response objects.

What is the same for all requests of an account to an address, the head as bytes and the key of aiohttp's pool, is made
once; a request is then one write. A reply that comes in one piece with an ordinary head is taken as it is, and its
connection is kept for the next request; any other is read from the connection's own queue, after the parser.
Making and closing connections, TLS, and the framing of all that is not ordinary stay aiohttp's. This is the only module
that knows those of its internals, so `direct_way` tries them first, and where they are not as expected there is no
short way: every request then takes the public one, as those with a proxy and those with a large body always do.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from batchrunner.core.http import Gate, Request, ResponseHead
from batchrunner.transport.chunks import Chunks
from batchrunner.transport.coding import GZIP_MAGIC
from batchrunner.transport.deadlines import Deadlines
from batchrunner.transport.keepalive import Heads, KeepAlive, KnownHead
from batchrunner.transport.memory_budget import Reservation
from batchrunner.transport.session import READING, Connector, Replies, Turns

DIRECT_BYTES: Final = 64 * 1024
"""Larger bodies are written in steps by aiohttp, which waits for the network in between."""
WHOLE_BYTES: Final = 64 * 1024
"""A reply that is complete when its head is read, and not larger, is taken in one piece."""

_PREPARED_MOST: Final = 64
"""Of the heads that are kept; a run has one for each account and address."""
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_TRIAL: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"
_CHUNKED: Final = (
    *(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n2\r\nde\r\n2\r\nf"),
    *(b"g\r\n", b"1\r\nh\r\n", b"1;x=y\r\ni\r\n", b"0\r\n\r\n"),
)

Addressed: TypeAlias = Callable[[str, str], tuple[str, Mapping[str, str]]]
"""From the URL of a dialect's request, and the account: the URL that is asked, and headers that the account adds."""


class Prepared:
    """What is the same for all requests of an account to an address."""

    __slots__ = ("account", "given", "head", "made", "resting", "url")

    def __init__(
        self,
        made: aiohttp.ClientRequest,
        *,
        account: str,
        url: str,
        given: Mapping[str, str],
        resting: deque[Connection],
    ) -> None:
        """`url` and `given` are as the dialect asked; `resting` are the connections that go there."""
        lines = [f"{made.method} {made.url.raw_path_qs} HTTP/1.1"]
        lines += (f"{name}: {value}" for name, value in made.headers.items() if name.lower() != "content-length")
        if any(sign in line for line in lines for sign in "\r\n\0"):
            raise ValueError("a header of the request contains a line break")
        self.head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()
        """All that stands before the length of the body."""
        self.made = made
        """For the connector, which learns from it where to connect to."""
        self.resting = resting
        self.account = account
        self.url = url
        self.given = given

    def __repr__(self) -> str:
        return f"<Prepared {self.made.method} {self.url}>"


class DirectReplies(Replies):
    """Takes whole chunks out of a body before the parser sees them: see `chunks`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, reuse: KeepAlive, heads: Heads, turns: Turns | None = None
    ) -> None:
        super().__init__(loop, reuse=reuse, heads=heads, turns=turns)
        self._chunks: Chunks | None = None
        """Of the body under way, as long as they are cut out."""

    def body_begins(self) -> None:
        """As of `Replies`."""
        payload, self._chunks = self._payload, None
        if type(payload) is aiohttp.StreamReader and self._buffer and self._buffer[-1][0][0].chunked:
            payload.begin_http_chunk_receiving()  # it is called for some only, and must know from the start
            self._chunks = Chunks()

    def body_received(self, data: bytes) -> None:
        """As of `Replies`."""
        payload, chunks = self._payload, self._chunks
        if chunks is None:
            self._take(data)
            return
        if not data:
            return
        assert payload is not None, "there is a body"
        if payload._size + len(data) > payload._high_water:  # the parser knows how to make a server wait
            self._chunks = None
            self._take(data)
            return
        first, body, end = chunks.cut(data)
        if first:
            self._take(data[:first])
        if body:
            payload.feed_data(body)
        if end < len(data):
            self._take(data[end:])
        if chunks.lost or self._reading_paused:
            self._chunks = None


class ReadyHead(ResponseHead):
    """A head whose headers are made into what decoders read when one of them asks: most answers are asked for two."""

    __slots__ = ("_made", "_raw")

    def __init__(self, status: int, raw: CIMultiDictProxy[str], received_at: float) -> None:
        self.status = status
        self.received_at = received_at
        self._raw = raw
        self._made: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]  # read like the field that it stands for
        """As of `ResponseHead`."""
        if self._made is None:
            self._made = readable_headers(self._raw)
        return self._made

    def header(self, name: str) -> str:
        """As of `ResponseHead`."""
        values = self._raw.getall(name, None)
        return "" if values is None else readable(values[-1])

    def has_names_with(self, word: str) -> bool:
        """As of `ResponseHead`."""
        return word in "\n".join(self._raw).lower()


def readable_headers(raw: CIMultiDictProxy[str]) -> dict[str, str]:
    """By lower-case names; of repeated ones the last stands."""
    return {name.lower(): readable(value) for name, value in raw.items()}


def readable(value: str) -> str:
    """Header bytes that are no UTF-8 come as lone surrogates, which no file could take later."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class DirectReply:
    """A reply whose head is there, as far as its reader needs an `aiohttp.ClientResponse`."""

    __slots__ = ("_connection", "_replies", "content", "headers", "status")

    closed: Final = False
    """Its reader has to close it."""

    def __init__(
        self,
        status: int,
        headers: CIMultiDictProxy[str],
        content: aiohttp.StreamReader,
        *,
        connection: Connection,
        replies: Replies,
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection = connection
        self._replies = replies

    def __repr__(self) -> str:
        return f"<DirectReply {self.status}>"

    def whole(self, reservation: Reservation) -> bytes | None:
        """The body if all of it is there as it was written, and there is room for it; None: it is read in steps."""
        content = self.content
        if (
            type(content) is aiohttp.StreamReader
            and content.is_eof()
            and 0 < (size_bytes := content._size) <= WHOLE_BYTES
            and content._exception is None
            and not self._replies.behind
            and content._buffer[0][0] != GZIP_MAGIC[0]
            and "Content-Encoding" not in self.headers
            and reservation.grow_now(size_bytes)
        ):
            return content.read_nowait(-1)
        return None

    def close(self) -> None:
        """The connection goes back to the pool if the reply was complete, and is closed otherwise."""
        if self.content.is_eof():
            self._connection.release()
            _connector_of(self._connection).reuse.is_over(self._replies)
        else:
            self._connection.close()


class DirectWay:
    """Sends the requests of one session."""

    __slots__ = ("_connector", "_last", "_loop", "_prepared", "_session")

    def __init__(self, session: aiohttp.ClientSession, connector: Connector) -> None:
        self._session = session
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._prepared: dict[tuple[object, ...], Prepared] = {}
        self._last: Prepared | None = None

    def __repr__(self) -> str:
        return f"<DirectWay with {len(self._prepared)} heads>"

    def prepared(self, request: Request, account: str, addressed: Addressed) -> Prepared | None:
        """What is the same for all requests like this one; None when it is not one for the short way.

        Raises:
            Exception: what aiohttp raises of a URL or headers that it cannot send.
        """
        body = request.body
        if body is None or len(body) > DIRECT_BYTES or request.method != "POST":
            return None
        last = self._last
        if last is not None and last.given is request.headers and last.url == request.url and last.account == account:
            return last
        if "@" in request.url:
            return None
        self._last = prepared = self._prepare(request, account, addressed)
        prepared.given = request.headers  # equal ones, which the next request is likely to share
        return prepared

    async def send(
        self, prepared: Prepared, body: bytes, *, deadlines: Deadlines, gate: Gate | None
    ) -> DirectReply | tuple[KnownHead, bytes]:
        """Send a POST with this body, and read the head of its reply; an ordinary one that is all there is given whole.

        Raises:
            asyncio.CancelledError: as ever; the connection is closed.
            Exception: what connecting, sending and reading raise; the gate's own exception when it refused.
        """
        connector = self._connector
        connection = connector.at_rest(prepared.resting, deadlines.began) if prepared.resting else None
        replies: Replies | None = cast("Replies", connection._protocol) if connection is not None else None
        if connection is None or replies is None or not connector.reuse.allows_at_once(replies):
            connection, replies = await self._connected(prepared, connection, deadlines)
        try:
            deadlines.replies = replies
            if replies._parser is None:
                replies.set_response_params(read_until_eof=True, **READING)
            asked: asyncio.Future[Any] = self._loop.create_future()
            replies._waiter = replies.asked = asked  # woken by whatever comes, be it an ordinary reply or not
            data = b"%b%d\r\n\r\n%b" % (prepared.head, len(body), body)
            if gate is None:
                _let_go(None, deadlines, replies, data)
            else:
                gate(_let_go, deadlines, replies, data)
            whole: tuple[KnownHead, bytes] | None = await asked
            replies.came = False
            if whole is not None:
                if connector.keeps and not replies._should_close:
                    connector.keep(prepared.resting, connection)
                else:
                    connection.release()
                connector.reuse.is_over(replies)
                return whole
            while True:
                message, content = await replies.read()
                if not 100 <= message.code < 200 or message.code == 101:  # noqa: PLR2004 - what goes before a reply
                    break
        except BaseException as error:
            connection.close()
            if deadlines.refused is not None and isinstance(error, Exception):
                raise deadlines.refused from None
            raise
        return DirectReply(message.code, message.headers, content, connection=connection, replies=replies)

    async def _connected(
        self, prepared: Prepared, connection: Connection | None, deadlines: Deadlines
    ) -> tuple[Connection, Replies]:
        """This connection if it may be used again, or another one. None is waited for as long as the watch lets it."""
        connector = self._connector
        deadlines.connects()
        if connection is not None:
            replies = connection.protocol
            assert isinstance(replies, Replies), "the session's factory makes them"
            if await connector.reuse.allows(connection, replies):
                deadlines.held_back()
                return connection, replies
        connection, replies = await connector.lasting(prepared.made, [], _NO_TIMEOUT)
        deadlines.held_back()
        return connection, replies

    def _prepare(self, request: Request, account: str, addressed: Addressed) -> Prepared:
        known = account, request.url, *request.headers.items()
        prepared = self._prepared.get(known)
        if prepared is None:
            session = self._session
            url, headers = addressed(request.url, account)
            all_headers = CIMultiDict(session.headers)
            all_headers.update(request.headers)
            all_headers.update(headers)
            made = aiohttp.ClientRequest(
                request.method, URL(url), headers=all_headers, loop=asyncio.get_running_loop(), session=session
            )
            if len(self._prepared) >= _PREPARED_MOST:
                self._prepared.clear()
            resting = self._connector.resting.setdefault(made.connection_key, deque())
            prepared = self._prepared[known] = Prepared(
                made, account=account, url=request.url, given=request.headers, resting=resting
            )
        return prepared


def direct_way(session: aiohttp.ClientSession) -> DirectWay | None:
    """The short way of a session; None where this aiohttp is not built as the short way needs it.

    Everything it uses is tried on a reply that no network brought.
    """
    try:
        connector = session.connector
        if not isinstance(connector, Connector) or not _fits(session, connector):
            return None
        made = partial(
            DirectReplies,
            loop=asyncio.get_running_loop(),
            reuse=connector.reuse,
            heads=connector.heads,
            turns=connector.turns,
        )
        connector._factory = cast("partial[ResponseHandler]", made)
    except Exception:  # noqa: BLE001 - whatever another version of aiohttp may raise here
        return None
    return DirectWay(session, connector)


def _fits(session: aiohttp.ClientSession, connector: Connector) -> bool:
    made = aiohttp.ClientRequest(
        "POST", URL("http://127.0.0.1/a"), headers={}, loop=asyncio.get_running_loop(), session=session
    )
    Prepared(made, account="", url="", given={}, resting=deque())
    loop = asyncio.get_running_loop()
    replies = Replies(loop, reuse=connector.reuse, heads=connector.heads)
    names = {"_parser", "transport"}
    if any(getattr(replies, name) is not None for name in (*names, "_waiter")) or replies._should_close:
        return False
    connection = Connection(connector, made.connection_key, replies, loop)
    held, connection._protocol = connection._protocol, None  # it is one of no pool
    if held is not replies or not all(callable(getattr(connection, name)) for name in ("close", "release")):
        return False
    replies.set_response_params(read_until_eof=True, **READING)
    whole: asyncio.Future[Any] = loop.create_future()
    replies._waiter = replies.asked = whole
    replies.data_received(b"".join(_TRIAL))
    piecemeal: asyncio.Future[Any] = loop.create_future()
    replies._waiter = replies.asked = piecemeal
    for piece in _TRIAL:
        replies.data_received(piece)
    try:
        replies.read().send(None)
    except StopIteration as read:
        message, content = read.value
    else:
        return False
    return (
        whole.result()[1].endswith(_TRIAL[1])
        and piecemeal.result() is None
        and "_parser" not in {name for name in names if getattr(replies, name) is None}
        and not replies.should_close
        and message.code == 200  # noqa: PLR2004 - what the trial says
        and message.headers.get("content-length") == "2"
        and type(content) is aiohttp.StreamReader
        and content.is_eof()
        and content._exception is None
        and content._size == 2  # noqa: PLR2004 - as above
        and content._buffer[0][0] == _TRIAL[1][0]
        and content.read_nowait(-1) == b"ok"
        and _fits_chunks(connector)
    )


def _fits_chunks(connector: Connector) -> bool:
    """Whether a parser that never sees some of the chunks reads the others, and what follows the body."""
    replies = DirectReplies(asyncio.get_running_loop(), reuse=connector.reuse, heads=connector.heads)
    replies.set_response_params(read_until_eof=True, **READING)
    for _ in range(2):
        for piece in _CHUNKED:
            replies.data_received(piece)
        try:
            replies.read().send(None)
        except StopIteration as read:
            _, content = read.value
        else:
            return False
        if not (content.is_eof() and content._size < content._high_water and content.read_nowait(-1) == b"abcdefghi"):
            return False
    return not replies.should_close


def _let_go(refused: BaseException | None, deadlines: Deadlines, replies: Replies, data: bytes) -> None:
    """What the gate calls: write the request, unless its exchange or its connection is over by now."""
    transport = replies.transport
    if refused is not None:
        deadlines.refused = refused
        replies.set_exception(
            aiohttp.ClientConnectionError("the request was not allowed to be sent")
        )  # who waits is woken by it
    elif transport is not None and not transport.is_closing():
        deadlines.request_leaves()
        transport.write(data)


def _connector_of(connection: Connection) -> Connector:
    connector = connection._connector
    assert isinstance(connector, Connector), "the connection is one of this session"
    return connector
