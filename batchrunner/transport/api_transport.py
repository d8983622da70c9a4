"""Sends API requests of one provider and lets a decoder read the replies.

The account's key goes to the origin of the configured base URL and nowhere else; no redirect is followed. Whatever
the network does becomes a `Interrupted` ending with the truth about whether the request may have been executed.
Threats 1, 2, 4, 14 and 16: see docs/reliability.md#threats.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.http import Completed, Decoder, Ending, Gate, Interrupted, Request, ResponseHead
from batchrunner.core.job import AuthScheme, DialectName, Provider, Timeouts
from batchrunner.core.task_table import is_keyed
from batchrunner.core.values import replace
from batchrunner.transport.addresses import is_loopback_name
from batchrunner.transport.coding import ACCEPTED, GZIP_MAGIC, CodingError, Unpacker, unpacker
from batchrunner.transport.deadlines import SILENT_S, UNDER_WAY, Deadlines, DeadlineTimer, TimeoutPolicy, passed
from batchrunner.transport.direct import DirectReply, DirectWay, Prepared, ReadyHead, direct_way
from batchrunner.transport.error_messages import explain, explain_late, of_the_proxy, wrong_key
from batchrunner.transport.keepalive import KnownHead, OrdinaryHead
from batchrunner.transport.memory_budget import HELD_FROM_BYTES, MemoryBudget, Reservation
from batchrunner.transport.request_bodies import IN_ONE_PIECE_BYTES, large_body
from batchrunner.transport.secrets import Masker, Secret, hidden_of, mask
from batchrunner.transport.session import left_in, new_session, tls_context

T = TypeVar("T")

_MB = 1_000_000
# Pictures in a JSON answer are base64; it is in memory as bytes, as text and as pictures for a moment.
REPLY_CAP_BYTES: Final[dict[DialectName, int]] = {
    "openai-chat": 48 * _MB,
    "openai-responses": 48 * _MB,
    "anthropic-messages": 16 * _MB,
    "modelscope-images": 48 * _MB,
    "openai-images": 48 * _MB,
    "task": 48 * _MB,
    "openai-embeddings": 48 * _MB,
    "openai-transcriptions": 48 * _MB,
}
"""Most bytes of a reply, on the wire and decoded alike."""

LEAST_BYTES_PER_S: Final = 16.0
"""Below this, without a single line end in `idle_s`, a reply counts as a drip. Keep-alives are lines, so they pass."""

_GET_TOTAL_S = 30.0
_BULK_TOTAL_S = 6 * 3600.0
_BULK_CAP_BYTES: Final = 4_000 * _MB
_LINGER_S = 0.25
_LINGER_BYTES = 64 * 1024
_WHOLE = Completed()
_NO_HEADERS: Final[Mapping[str, str]] = {}
# What the network can raise while a reply is read; uvloop says RuntimeError of a connection that is gone. Only the
# reading itself is guarded: what a decoder raises is a fault of this program, and no reason to send again.
_OUTSIDE = (aiohttp.ClientError, OSError, RuntimeError, CodingError)

Response: TypeAlias = aiohttp.ClientResponse | DirectReply
Cause: TypeAlias = Literal["connect", "timeout", "reset", "too_large"]

_CREDENTIALS: dict[AuthScheme, Callable[[str], dict[str, str]]] = {
    "bearer": lambda key: {"Authorization": f"Bearer {key}"},
    "x-api-key": lambda key: {"x-api-key": key},
    "api-key": lambda key: {"api-key": key},
    "none": lambda _: {},
}


class ApiTransport:
    """The `core.ports.Transport` of one provider; an async context manager that owns its connections.

    `keys` are by account (the name of the key's variable). `limit` bounds connections, 0 does not: the lanes do that,
    and waiting for a connection of the pool counts as connecting. `wall` is the clock of `ResponseHead.received_at`;
    `memory_budget` is shared with whoever else reads replies.

    Raises:
        JobMistakesError: a key would go over plain http to another machine, the base URL carries a password or cannot
            be read, or `ca_file` cannot be used.
    """

    takes_gates = True
    held_from_bytes = HELD_FROM_BYTES

    def __init__(
        self,
        provider: Provider,
        *,
        timeouts: Timeouts,
        keys: Mapping[str, Secret],
        limit: int = 0,
        wall: Callable[[], float] = time.time,
        memory_budget: MemoryBudget | None = None,
        say: Callable[[str], None] | None = None,
        proxy_auth: Secret | None = None,
    ) -> None:
        self._say = say
        self._silence_reported_at = -math.inf
        self._where, self._origin = _origin(provider)
        _refuse_open_keys(provider, keys)
        self._provider = provider
        self._keys = dict(keys)
        self._proxy_auth = proxy_auth
        self._hidden = (*keys.values(), *hidden_of(proxy_auth))
        self._masker = Masker(self._hidden)
        self._version = f"api-version={provider.api_version}" if provider.api_version else ""
        self._limit = limit
        self._memory_budget = memory_budget or MemoryBudget()
        self._wall = wall
        self._paces = {"POST": _pace(timeouts, timeouts.total_s), "GET": _pace(timeouts, _GET_TOTAL_S)}
        self._bulk_pace = replace(self._paces["POST"], total_s=_BULK_TOTAL_S)
        self._cap_bytes = REPLY_CAP_BYTES[provider.dialect]
        self._context = tls_context(provider.ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._timer: DeadlineTimer | None = None
        self._direct: DirectWay | None = None
        """None where every request takes aiohttp's public way."""
        self._on_silence = self._silent if say is not None else None
        self._headers = {account: account_headers(provider, self._keys, account) for account in ("", *keys)}

    def __repr__(self) -> str:
        state = "closed" if self._session is None else "open"
        return f"<ApiTransport {self._where} {state} accounts={len(self._keys)}>"

    def hold(self, size_bytes: int) -> AbstractContextManager[object]:
        """Count an answer as held until it is kept elsewhere; replies that are being read wait for that."""
        return self._memory_budget.hold(size_bytes)

    async def __aenter__(self) -> Self:
        self._session = new_session(
            limit=self._limit,
            headers={"Accept-Encoding": ACCEPTED},
            proxy=self._provider.proxy,
            proxy_auth=self._proxy_auth,
            context=self._context,
        )
        self._timer = DeadlineTimer()
        self._direct = direct_way(self._session) if self._provider.proxy is None else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session, self._direct = self._session, None, None
        if self._timer is not None:
            self._timer.close()
        if session is not None:
            await session.close()

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        """Send, let the decoder read, and give what it makes of it, without the keys that the server may have echoed.

        Network faults reach the decoder as `Interrupted`. Once it needs nothing more the ending is `Completed`,
        whatever the connection does afterwards. Nothing leaves before `gate` lets it.

        Raises:
            asyncio.CancelledError: the connection is closed; what had not left by then never leaves.
            Exception: whatever the decoder raised, when it may have been sent; what the gate refused with, when not.
        """
        session = self._session
        if session is None or account not in self._headers:
            why = f"the API key of {account} is not set" if session is not None else "the transport is closed"
            return decoder.end(Interrupted(cause="connect", message=why, sent=False))
        direct = self._direct
        prepared = self._prepared(direct, request, account) if direct is not None else None
        if isinstance(prepared, Interrupted):
            return decoder.end(prepared)
        if prepared is None and gate is not None:
            await passed(gate)
        pace = self._bulk_pace if request.bulk else self._paces["GET" if request.method == "GET" else "POST"]
        deadlines = Deadlines(pace, timer=self._timer, on_silence=self._on_silence, connects=prepared is None)
        reservation: Reservation | None = None
        ending: Ending | None = None
        whole: tuple[KnownHead, bytes] | None = None
        try:
            with deadlines:
                try:
                    reply: Response | tuple[KnownHead, bytes]
                    if direct is not None and prepared is not None:
                        reply = await direct.send(prepared, request.body or b"", deadlines=deadlines, gate=gate)
                    else:
                        reply = await self._ask(session, request, account, deadlines)
                except Exception as error:  # noqa: BLE001 - aiohttp, TLS, uvloop and the system: without a common root
                    ending = self._fault(error, deadlines)
                else:
                    budget = self._memory_budget
                    if type(reply) is tuple and budget.held_bytes + len(reply[1]) <= budget.size_bytes:
                        whole = reply  # it is decoded before any other, and takes no share
                    else:
                        reservation = self._memory_budget.reservation()
                        ending = await self._converse(reply, decoder, deadlines, reservation, bulk=request.bulk)
            if whole is not None:
                return self._masker.masked(_read_whole(decoder, OrdinaryHead(whole[0], self._wall()), whole))
            return self._masker.masked(decoder.end(ending or self._too_late(deadlines, pace)))
        finally:
            if reservation is not None and reservation.held_bytes:
                reservation.release()

    def _prepared(self, direct: DirectWay, request: Request, account: str) -> Prepared | Interrupted | None:
        """What the short way needs for a request; None when it has to take the public one."""
        try:
            return direct.prepared(request, account, self._addressed)
        except Exception as error:  # noqa: BLE001 - of URLs and headers aiohttp and yarl raise without a common root
            return self._fault(error, None)

    def _silent(self, limit_s: float) -> None:
        """One of the requests gets no reply: reported once for all that wait with it."""
        now = asyncio.get_running_loop().time()
        if self._say is not None and now - self._silence_reported_at >= limit_s:
            self._silence_reported_at = now
            self._say(f"nothing received for {SILENT_S:g} s from {self._where}; waiting up to {limit_s:g} s")

    async def _ask(
        self, session: aiohttp.ClientSession, request: Request, account: str, deadlines: Deadlines
    ) -> aiohttp.ClientResponse:
        """Send by aiohttp's public way, and read the head of the reply."""
        headers = CIMultiDict(request.headers)
        headers.update(self._headers_to(request.url, account))
        UNDER_WAY.set(deadlines)
        ask = partial(session.request, request.method, self._versioned(request.url), allow_redirects=False)
        if request.streamed is None and len(request.body or b"") <= IN_ONE_PIECE_BYTES:
            return await ask(headers=headers, data=request.body)
        with large_body(request, headers, deadlines) as body:
            return await ask(headers=headers, data=body)

    async def _converse(
        self,
        reply: Response | tuple[KnownHead, bytes],
        decoder: Decoder[T],
        deadlines: Deadlines,
        reservation: Reservation,
        *,
        bulk: bool,
    ) -> Ending:
        """Let the decoder read a reply whose head is there."""
        deadlines.head_came(getattr(decoder, "settled", None))
        if isinstance(reply, tuple):
            known, data = reply
            await reservation.grow(len(data), waiting=deadlines.pause)
            decoder.begin(OrdinaryHead(known, self._wall()))
            decoder.feed(data[known.head_bytes :])
            return _WHOLE
        try:
            decoder.begin(ReadyHead(reply.status, reply.headers, self._wall()))
            whole = reply.whole(reservation) if type(reply) is DirectReply else None
            if whole is not None:
                decoder.feed(whole)
                return _WHOLE
            ending = await self._pour(reply, decoder, deadlines, None if bulk else reservation)
            if deadlines.replies is not None and deadlines.replies.behind and isinstance(ending, Completed):
                decoder.feed(deadlines.replies.behind)  # a server that counts characters cuts its own answer off
            return ending
        finally:
            if not reply.closed:
                reply.close()

    def _addressed(self, url: str, account: str) -> tuple[str, Mapping[str, str]]:
        return self._versioned(url), self._headers_to(url, account)

    def _headers_to(self, url: str, account: str) -> Mapping[str, str]:
        """What the account adds to the dialect's own headers: its key and the job's headers, for the origin only."""
        if url.startswith(self._origin) or self._is_named(url):
            return self._headers[account]
        return _NO_HEADERS

    def _is_named(self, url: str) -> bool:
        """Whether the table of a task server names the address's host as one that takes the key."""
        task = self._provider.task
        return task is not None and is_keyed(url, self._provider.base_url, task)

    def _versioned(self, url: str) -> str:
        if not self._version:
            return url
        return f"{url}{'&' if '?' in url else '?'}{self._version}"

    def _unpacker(self, response: Response, deadlines: Deadlines, cap_bytes: int) -> Unpacker | Interrupted | None:
        headers = response.headers
        if int(headers.get("Content-Length", 0)) > cap_bytes:
            return self._too_large(deadlines, cap_bytes)
        if (coding := headers.get("Content-Encoding")) is None:
            return None
        try:
            return unpacker(coding)
        except CodingError as error:
            return self._fault(error, deadlines)

    async def _read(self, content: aiohttp.StreamReader, deadlines: Deadlines) -> bytes | Interrupted:
        try:
            return await content.readany()
        except _OUTSIDE as error:
            return left_in(content) or self._fault(error, deadlines)

    def _plain(self, undo: Unpacker | None, coded: bytes, deadlines: Deadlines) -> Iterator[bytes | Interrupted]:
        """Without its content coding; what whoever takes the pieces raises does not come here."""
        if undo is None:
            yield coded
            return
        try:
            yield from undo.feed(coded)
        except CodingError as error:
            yield self._fault(error, deadlines)

    async def _pour(
        self, response: Response, decoder: Decoder[T], deadlines: Deadlines, reservation: Reservation | None
    ) -> Ending:
        """Feed the body to the decoder, within the caps, until it or the reply is at an end.

        Without a reservation it is a file, which the decoder does not hold.
        """
        content, cap_bytes = response.content, self._cap_bytes if reservation is not None else _BULK_CAP_BYTES
        grow = _held_nowhere if reservation is None else reservation.grow
        wire_bytes = plain_bytes = 0
        undo = self._unpacker(response, deadlines, cap_bytes)
        if isinstance(undo, Interrupted):
            return undo
        while not content.at_eof():
            coded = await self._read(content, deadlines)
            if isinstance(coded, Interrupted):
                return coded
            undo = undo or _undeclared_coding(coded, is_first=not wire_bytes)
            wire_bytes += len(coded)
            deadlines.piece_came(len(coded), line=b"\n" in coded)
            if wire_bytes > cap_bytes:
                return self._too_large(deadlines, cap_bytes)
            for plain in self._plain(undo, coded, deadlines):
                if isinstance(plain, Interrupted):
                    return plain
                plain_bytes += len(plain)
                if plain_bytes > cap_bytes:
                    return self._too_large(deadlines, cap_bytes)
                await grow(len(plain), waiting=deadlines.pause)
                if plain and decoder.feed(plain):
                    deadlines.disarm()
                    await _linger(content, None if undo is not None else decoder.feed)
                    return _WHOLE
        if undo is not None and wire_bytes and not undo.is_complete():
            return self._broken(
                "reset", f"the reply of {self._where} ends in the middle of its compressed data", sent=deadlines.sent
            )
        return _WHOLE

    def _fault(self, error: Exception, deadlines: Deadlines | None) -> Interrupted:
        """Raises the error again where the gate refused the request with it, and where no connection raises such."""
        if deadlines is not None and error is deadlines.refused:
            raise error
        sent = deadlines is not None and deadlines.sent
        if isinstance(error, RecursionError | NotImplementedError | StoreBrokenError):  # no connection raises such
            raise error
        if self._provider.proxy is not None:
            error = of_the_proxy(error)
        broken = self._broken("reset" if sent else "connect", explain(error, self._where), sent=sent)
        return replace(broken, look_at=wrong_key(error)) if not sent else broken

    def _too_late(self, deadlines: Deadlines, pace: TimeoutPolicy) -> Interrupted:
        cause: Cause = "timeout" if deadlines.sent else "connect"
        return self._broken(cause, explain_late(deadlines, pace, self._where), sent=deadlines.sent)

    def _too_large(self, deadlines: Deadlines, cap_bytes: int) -> Interrupted:
        message = f"the reply of {self._where} has more than {cap_bytes} bytes"
        return self._broken("too_large", message, sent=deadlines.sent)

    def _broken(self, cause: Cause, message: str, *, sent: bool) -> Interrupted:
        return Interrupted(cause=cause, message=mask(message, self._hidden), sent=sent)


def account_headers(provider: Provider, keys: Mapping[str, Secret], account: str) -> CIMultiDict[str]:
    """What goes to the configured origin besides the dialect's own headers; the credential has the last word."""
    headers = CIMultiDict(provider.headers)
    if account in keys and provider.key_header:
        headers[provider.key_header] = f"{provider.key_prefix}{keys[account].reveal()}"
    elif account in keys:
        headers.update(_CREDENTIALS[provider.auth](keys[account].reveal()))
    return headers


async def _held_nowhere(_size_bytes: int, **_waiting: object) -> None:
    """As `Reservation.grow`, for what goes to the disk at once."""


def _undeclared_coding(coded: bytes, *, is_first: bool) -> Unpacker | None:
    """What undoes a coding that the head forgot to name."""
    return unpacker("gzip") if is_first and coded.startswith(GZIP_MAGIC) else None


def _read_whole(decoder: Decoder[T], head: OrdinaryHead, reply: tuple[KnownHead, bytes]) -> T:
    """What the decoder makes of a complete reply, in one call if it has one for that."""
    body = reply[1][reply[0].head_bytes :]
    read: Callable[[ResponseHead, bytes], T] | None = getattr(decoder, "whole", None)
    if read is not None:
        return read(head, body)
    decoder.begin(head)
    decoder.feed(body)
    return decoder.end(_WHOLE)


async def _linger(content: aiohttp.StreamReader, feed: Callable[[bytes], bool] | None) -> None:
    """Read what little may follow, so that the connection can be used again; give up soon, it is only a connection."""
    size_bytes = 0
    with suppress(*_OUTSIDE):
        async with asyncio.timeout(_LINGER_S):
            while not content.at_eof() and size_bytes <= _LINGER_BYTES:
                piece = await content.readany()
                size_bytes += len(piece)
                if feed is not None:
                    feed(piece)


def _pace(timeouts: Timeouts, total_s: float) -> TimeoutPolicy:
    return TimeoutPolicy(
        connect_s=timeouts.connect_s,
        first_byte_s=timeouts.first_byte_s,
        idle_s=timeouts.idle_s,
        total_s=min(total_s, timeouts.total_s),
        window_s=timeouts.idle_s,
        least_bytes=LEAST_BYTES_PER_S * timeouts.idle_s,
    )


def _origin(provider: Provider) -> tuple[str, str]:
    """`host:port` for messages, and `scheme://authority/`, which every URL of the provider begins with."""
    problem = None
    try:
        parts = urlsplit(provider.base_url)
        where = f"{parts.hostname}:{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"
        problem = "it holds a user name or password" if "@" in parts.netloc else None
    except (ValueError, KeyError):
        problem = "it is not an http or https URL"
    else:
        problem = problem or ("it names no host" if not parts.hostname else None)
        origin = provider.base_url[: len(parts.scheme) + len("://") + len(parts.netloc)] + "/"
        if problem is None:
            return where, origin
    mistake = Mistake(
        problem=f"the base URL cannot be used: {problem}", key="provider.base_url", expected="https://HOST/PATH"
    )
    raise JobMistakesError((mistake,))


def _refuse_open_keys(provider: Provider, keys: Mapping[str, Secret]) -> None:
    """A key over plain http is readable by everyone on the way: only to this machine, or where the job says so."""
    parts = urlsplit(provider.base_url)
    stays_here = provider.proxy is None and is_loopback_name(parts.hostname or "")
    if parts.scheme == "http" and keys and provider.auth != "none" and not (stays_here or provider.allow_http):
        mistake = Mistake(
            problem=f"the key would go over plain http to {parts.hostname}",
            key="provider.base_url",
            expected="https, or a server on this machine",
            hint="for a server in your own network write `allow_http: true`",
        )
        raise JobMistakesError((mistake,))
