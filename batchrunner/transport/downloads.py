"""Fetches pictures from storage hosts: hostile URLs, no credential, no cookie, no address inside the network.

Redirects are followed by hand, each URL checked anew. Signed URLs are secrets for a while: messages show host and
path. Threats 1, 3 and 4: see docs/reliability.md#threats. The one address that gets a key is that of a file which the
API itself holds, as the job's table spells it.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from batchrunner.core.job import Timeouts
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.ports import Write
from batchrunner.core.values import dataclass, replace
from batchrunner.transport.addresses import Reach, literal, looks_internal, reach
from batchrunner.transport.coding import CodingError, unpacker
from batchrunner.transport.deadlines import UNDER_WAY, Deadlines, TimeoutPolicy
from batchrunner.transport.error_messages import AddressRefusedError, explain, explain_late
from batchrunner.transport.memory_budget import MemoryBudget, Reservation
from batchrunner.transport.secrets import Secret, hidden_of, masked
from batchrunner.transport.session import new_session, plain_socket, tls_context

MAX_REDIRECTS: Final = 3
CAP_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of a picture, on the wire and decoded alike."""

LEAST_BYTES_PER_S: Final = 256.0
_WINDOWS = 4
_SHOWN_CHARS = 200
_SHORT_KEPT = 256
_END_MARKS = (
    (b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"),
    (b"\xff\xd8\xff", b"\xff\xd9"),
    (b"GIF8", b"\x00;"),
)
"""How a picture begins and ends by its own format."""
_OK = 200
_PARTIAL = 206
_RESUMES: Final = 20
"""How often one download goes on where its connection broke."""
_RESUMES_IN_VAIN: Final = 3
"""Tries in a row that brought no byte."""
_PAUSE_S: Final = 1.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PRINTABLE = re.compile(r"[!-~]+")
_PRINTABLE_LINE = re.compile(r"[ -~]{0,1000}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(?:\d{1,18}|\*)")
_SECONDS = re.compile(r"\d{1,6}")


_STREAMED = b"."
"""Stands for a body that was passed on."""


@dataclass(slots=True)
class _SoFar:
    """A body that is passed on, across the connections that it takes."""

    length: int = 0
    """Bytes that were passed on."""
    tag: str = ""
    """By which the server knows the file again; empty where it gives it from its beginning only."""
    broken: bool = False
    """The connection ended before the body did."""
    writing: bool = False
    """Whether the last piece was passed on is not known."""

    @property
    def can_go_on(self) -> bool:
        """Whether the rest may be asked for."""
        return self.broken and not self.writing and bool(self.tag and self.length)

    def headers(self) -> dict[str, str]:
        """Of the request for the rest, or for all of it."""
        return {"Range": f"bytes={self.length}-", "If-Range": self.tag} if self.length else {}

    def begin(self, headers: Mapping[str, str]) -> None:
        """Remember how the file is known, if a part of it can be asked for."""
        tag, coding = headers.get("ETag", ""), headers.get("Content-Encoding", "identity")
        ranges = headers.get("Accept-Ranges", "bytes").strip().lower()
        weak = not tag or tag.startswith("W/")
        self.tag = (headers.get("Last-Modified", "") if weak else tag) if ranges == "bytes" else ""
        if coding.strip().lower() != "identity" or not _PRINTABLE_LINE.fullmatch(self.tag):
            self.tag = ""
        self.broken = True

    def goes_on(self, headers: Mapping[str, str]) -> bool:
        """Whether a part that came is the rest of the same file."""
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        tag = headers.get("ETag", self.tag)
        same = tag == self.tag or not self.tag.startswith('"')
        plain = headers.get("Content-Encoding", "identity").strip().lower() == "identity"
        return found is not None and int(found[1]) == self.length and same and plain


@dataclass(frozen=True, slots=True)
class _OneDownload:
    """One connection's part of a download: its deadlines and cap, and where its bytes go."""

    deadlines: Deadlines
    cap_bytes: int
    reservation: Reservation | None
    """Of memory, for a body that is kept in it."""
    taken: list[bytes]
    """What came so far, before an end that may be none."""
    account: str = ""
    """Whose key fetches a file that the API holds."""
    write: Write | None = None
    """Takes the bytes instead."""
    so_far: _SoFar | None = None
    """With `write`: what came on earlier connections."""

    async def take(self, plain: bytes) -> None:
        if self.write is not None and self.so_far is not None:
            if plain:
                self.so_far.writing = True
                await self.write(plain)
                self.so_far.length += len(plain)
                self.so_far.writing = False
                self.deadlines.pause()
            return
        self.taken.append(plain)
        if self.reservation is not None:
            await self.reservation.grow(len(plain), waiting=self.deadlines.pause)


class _Clean:
    """Takes keys out of a body that comes piece by piece: what may be a key's beginning waits for what follows."""

    def __init__(self, hide: Collection[Secret], write: Write) -> None:
        self._hide = hide
        self._write = write
        self._kept_back = max((len(form) for secret in hide for form in secret.coded), default=1) - 1
        self._rest = b""

    async def write(self, data: bytes) -> None:
        """The next bytes. Raises StoreBrokenError."""
        clean = masked(self._rest + data, self._hide)
        end = len(clean) - self._kept_back
        self._rest = clean[max(0, end) :]
        if end > 0:
            await self._write(clean[:end])

    async def end(self) -> None:
        """Nothing follows. Raises StoreBrokenError."""
        if self._rest:
            await self._write(self._rest)


class PictureDownloads:
    """The `core.ports.Downloads`; an async context manager that owns its connections.

    `allow_private` opens this machine and private networks, never link-local (cloud metadata), multicast or reserved
    addresses; the caller sets it when the API itself lies there (`is_private_host`). With a `proxy` the proxy looks
    names up, so only addresses in numbers and names that sound like the inside are refused. `keyed` gives the headers
    of an account's key for a URL at which the API itself holds a file, none for any other; a redirect is another URL.
    `hide` are keys that are taken out of what comes: a storage host may cooperate with the server that has them.

    Raises:
        JobMistakesError: `ca_file` cannot be used.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        allow_private: bool,
        allow_http: bool,
        proxy: str | None = None,
        proxy_auth: Secret | None = None,
        ca_file: str | None = None,
        cap_bytes: int = CAP_BYTES,
        stream_cap_bytes: int = CAP_BYTES,
        hide: Collection[Secret] = (),
        keyed: Callable[[str, str], Mapping[str, str]] | None = None,
        memory_budget: MemoryBudget | None = None,
    ) -> None:
        window_s = timeouts.download_s / _WINDOWS
        self._pace = TimeoutPolicy(
            connect_s=timeouts.connect_s,
            first_byte_s=min(timeouts.first_byte_s, window_s),
            idle_s=min(timeouts.idle_s, window_s),
            total_s=timeouts.download_s,
            window_s=window_s,
            least_bytes=LEAST_BYTES_PER_S * window_s,
        )
        self._reaches: frozenset[Reach] = frozenset({"public", "private"} if allow_private else {"public"})
        self._schemes = frozenset({"https", "http"} if allow_http else {"https"})
        self._proxy = proxy
        self._proxy_auth = proxy_auth
        self._context = tls_context(ca_file)
        self._cap_bytes = cap_bytes
        self._stream_cap_bytes = stream_cap_bytes
        self._keyed = keyed
        self._hide = (*hide, *hidden_of(proxy_auth))
        self._memory_budget = memory_budget or MemoryBudget()
        self._short: dict[str, int] = {}
        """URLs whose picture was at its end before the announced length, with the bytes that came."""
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        state = "closed" if self._session is None else "open"
        return f"<PictureDownloads {state} {'|'.join(sorted(self._schemes))} to {'|'.join(sorted(self._reaches))}>"

    async def __aenter__(self) -> Self:
        self._session = new_session(
            limit=0,
            headers={"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            proxy=self._proxy,
            proxy_auth=self._proxy_auth,
            context=self._context,
            socket_factory=plain_socket if self._proxy else self._gated_socket,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:
        """The whole body, at most 64 MiB; a DOWNLOAD_FAILED problem otherwise.

        Raises:
            asyncio.CancelledError: only; the connection is closed.
        """
        if self._session is None:
            return _problem("the downloads are closed")
        deadlines = Deadlines(self._pace)
        UNDER_WAY.set(deadlines)
        taken: list[bytes] = []
        fetched: bytes | Problem | None = None
        with deadlines, self._memory_budget.reservation() as reservation:
            fetched = await self._follow(
                self._session, url, _OneDownload(deadlines, self._cap_bytes, reservation, taken, account)
            )
        if fetched is None:
            fetched = _problem(explain_late(deadlines, self._pace, _shown(_parsed(url))))
        if isinstance(fetched, Problem) and taken:
            fetched = self._whole_all_the_same(url, b"".join(taken)) or fetched
        return masked(fetched, self._hide)

    async def fetch_into(self, url: str, write: Write, *, account: str = "") -> Problem | None:
        """Pass the whole body on piece by piece; a DOWNLOAD_FAILED problem if it does not come whole, or is too large.

        Where a connection breaks, the rest is asked for (RFC 9110, `Range` with `If-Range`) if the server said by
        what it knows the file again.

        Raises:
            asyncio.CancelledError: the connection is closed.
            StoreBrokenError: by `write`.
        """
        clock = asyncio.get_running_loop().time
        ends_at, so_far, clean = clock() + self._pace.total_s, _SoFar(), _Clean(self._hide, write)
        problem = await self._pass_on(url, clean, so_far, account, self._pace)
        in_vain = 0
        for _ in range(_RESUMES):
            if problem is None or not so_far.can_go_on or in_vain == _RESUMES_IN_VAIN or clock() >= ends_at:
                break
            had = so_far.length
            await asyncio.sleep(_PAUSE_S * in_vain)
            pace = replace(self._pace, total_s=max(0.001, ends_at - clock()))
            problem = await self._pass_on(url, clean, so_far, account, pace)
            in_vain = in_vain + 1 if so_far.length == had else 0
        if problem is not None:
            return masked(problem, self._hide)
        await clean.end()
        return None

    async def _pass_on(
        self, url: str, clean: _Clean, so_far: _SoFar, account: str, pace: TimeoutPolicy
    ) -> Problem | None:
        """What one connection brings, from where the last one broke."""
        if self._session is None:
            return _problem("the downloads are closed")
        deadlines = Deadlines(pace)
        UNDER_WAY.set(deadlines)
        fetched: bytes | Problem | None = None
        with deadlines:
            fetching = _OneDownload(deadlines, self._stream_cap_bytes, None, [], account, clean.write, so_far)
            fetched = await self._follow(self._session, url, fetching)
        if fetched is None:
            fetched = _problem(explain_late(deadlines, pace, _shown(_parsed(url))))
        return fetched if isinstance(fetched, Problem) else None

    def _whole_all_the_same(self, url: str, data: bytes) -> bytes | None:
        """A picture that comes to its own end mark before the length that its server announced, twice alike."""
        size_before = self._short.get(url)
        if not _has_its_end(data):
            return None
        self._short[url] = len(data)
        if len(self._short) > _SHORT_KEPT:
            del self._short[next(iter(self._short))]
        return data if size_before == len(data) else None

    async def _follow(
        self,
        session: aiohttp.ClientSession,
        url: str,
        fetching: "_OneDownload",
    ) -> bytes | Problem:
        target = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            if (objection := self._objection(target)) is not None:
                return _problem(f"{_shown(target)}: {objection}")
            assert target is not None
            headers = dict(self._keyed(str(target), fetching.account)) if self._keyed is not None else {}
            headers |= fetching.so_far.headers() if fetching.so_far is not None else {}
            try:
                response = await session.get(target, allow_redirects=False, headers=headers)
            except Exception as error:  # noqa: BLE001 - aiohttp, TLS, uvloop and the system raise without a common root
                return _problem(explain(error, _shown(target)))
            try:
                fetching.deadlines.head_came()
                if response.status not in _REDIRECTS:
                    return await self._take(response, target, fetching)
                target = _joined(target, response.headers.get("Location", ""))
            finally:
                if not response.closed:
                    response.close()
        return _problem(f"{_shown(_parsed(url))}: more than {MAX_REDIRECTS} redirects")

    async def _take(self, response: aiohttp.ClientResponse, target: URL, fetching: "_OneDownload") -> bytes | Problem:
        shown, so_far = _shown(target), fetching.so_far
        goes_on = so_far is not None and so_far.length > 0
        if so_far is not None:
            so_far.broken = False
        if response.status == _PARTIAL and so_far is not None and goes_on:
            if not so_far.goes_on(response.headers):
                return _problem(f"{shown} gave another part than the one that was missing", status=response.status)
            so_far.broken = True
        elif goes_on and response.status == _OK:
            return _problem(f"{shown} broke off, and gives the file from its beginning only", status=response.status)
        elif response.status != _OK:
            return _problem(
                f"{shown} answered {response.status}",
                status=response.status,
                wait_s=_wait_s(response.headers.get("Retry-After", "")),
            )
        elif so_far is not None:
            so_far.begin(response.headers)
        try:
            plain = await self._read(response, fetching)
        except (aiohttp.ClientError, OSError, RuntimeError, CodingError) as error:
            return _problem(explain(error, shown), status=response.status)
        if so_far is not None:
            so_far.broken = False
        if plain is None:
            return _problem(f"{shown} has more than {fetching.cap_bytes} bytes", status=response.status)
        return plain or _problem(f"{shown} is empty", status=response.status)

    async def _read(self, response: aiohttp.ClientResponse, fetching: "_OneDownload") -> bytes | None:
        """The body to its end, or `_STREAMED` for one that was passed on; None beyond the cap."""
        coding = response.headers.get("Content-Encoding")
        undo = None if coding is None else unpacker(coding)
        content, cap_bytes, taken = response.content, fetching.cap_bytes, fetching.taken
        before = fetching.so_far.length if fetching.so_far is not None else 0
        if before + (response.content_length or 0) > cap_bytes:
            return None
        wire_bytes = plain_bytes = before
        while not content.at_eof():
            coded = await content.readany()
            wire_bytes += len(coded)
            fetching.deadlines.piece_came(len(coded))
            for plain in undo.feed(coded) if undo is not None else (coded,):
                plain_bytes += len(plain)
                if max(wire_bytes, plain_bytes) > cap_bytes:
                    taken.clear()
                    return None
                await fetching.take(plain)
        if undo is not None and wire_bytes and not undo.is_complete():
            raise CodingError("it ends in the middle of its compressed data")
        whole = b"".join(taken) if fetching.write is None else _STREAMED * (plain_bytes > 0)
        taken.clear()
        return whole

    def _objection(self, target: URL | None) -> str | None:
        """Why a URL is not fetched, judged by its spelling; the connector checks the addresses of host names."""
        if target is None or not target.raw_host:
            return "it is not a URL that pictures are fetched from"
        if target.scheme not in self._schemes:
            return "only https is fetched" if target.scheme == "http" else "it is not an https URL"
        if target.raw_user is not None or target.raw_password is not None:
            return "it holds a user name or password"
        host = (target.host or "").partition("%")[0]
        if literal(host) is not None and reach(host) not in self._reaches:
            return f"pictures are not fetched from its address ({reach(host)})"
        if self._proxy and "private" not in self._reaches and looks_internal(host) and literal(host) is None:
            return "its host name belongs to a local network"
        return None

    def _gated_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """The last place before a connection, where IP literals and names are equal."""
        lies = reach(str(address[4][0]).partition("%")[0])
        if lies not in self._reaches:
            raise AddressRefusedError(lies)
        return plain_socket(address)


def _has_its_end(data: bytes) -> bool:
    """Whether the bytes are a picture that is complete by its own format's end mark."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    return any(data.startswith(start) and data.endswith(end) for start, end in _END_MARKS)


def _parsed(url: str) -> URL | None:
    """The URL as the server wrote it where that is safe: quoting anew could break a signature."""
    try:
        url.encode()  # half a character is in no address, and no message could show it
        quoted = URL(url)
        kept = URL(url, encoded=True) if _PRINTABLE.fullmatch(url) else quoted
        # yarl reads host and port of an encoded URL late: both readings have to agree on where it leads.
        same = (kept.host, kept.port, kept.raw_user) == (quoted.host, quoted.port, quoted.raw_user)
    except (ValueError, IndexError):  # the second over `https://[::1]@`
        return None
    return kept if same else quoted


def _joined(base: URL, location: str) -> URL | None:
    relative = _parsed(location) if location else None
    try:
        return _parsed(str(base.join(relative))) if relative is not None else None
    except (ValueError, IndexError):
        return None


def _shown(url: URL | None) -> str:
    """Host and path, never the query, which holds the signature."""
    if url is None or not url.raw_host:
        return "the picture's URL"
    port = "" if url.is_default_port() else f":{url.port}"
    shown = f"{url.raw_host}{port}{URL.build(path=url.path).raw_path}"
    return shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"


def _wait_s(retry_after: str) -> float | None:
    return float(retry_after) if _SECONDS.fullmatch(retry_after) else None


def _problem(message: str, *, status: int | None = None, wait_s: float | None = None) -> Problem:
    return Problem(kind=ProblemKind.DOWNLOAD_FAILED, message=message, status=status, wait_s=wait_s)
