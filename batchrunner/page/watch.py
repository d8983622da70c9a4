"""`batchrunner watch`: the page of a run over HTTP, while it goes on and afterwards. Reads only.

    GET /            the page, without rows
    GET /rows        its `meta` and the index from a row on: a JSON text with its length in front, then the columns
    GET /c/N         chunk N, as gzip
    GET /p/SHA256    a picture that a row names; /t/SHA256 its thumbnail. No path comes from outside
    GET /events      server-sent events: `rows`, `status`, `reset`, each with the generation and the number of rows

On a loopback address only requests to a loopback name and this port are answered (a name of somebody else's may be
made to lead here). On any other address everything lies below /k/ and 32 characters that nobody can guess.
"""

import asyncio
import gzip
import ipaddress
import json
import os
import re
import secrets
import webbrowser
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files as resources
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field
from batchrunner.page.live_run import LiveRun, picture_bytes
from batchrunner.page.report_file import page_pieces, policy, run_totals
from batchrunner.stores.images import make_thumbnail, thumbnail_path
from batchrunner.stores.picture_formats import format_of
from batchrunner.stores.threads import Threads

POLL_S: Final = 0.25
BEAT_S: Final = 15.0
STREAMS_MAX: Final = 64
_PICTURE_BYTES_MAX: Final = 64 << 20
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SHA256: Final = re.compile("[0-9a-f]{64}")
_TYPES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Server": "batchrunner",
}
_FOR_EVER: Final = {"Cache-Control": "private, max-age=31536000, immutable"}
_NEVER: Final = {"Cache-Control": "no-store"}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class WatchServer:
    """Serves one run. `start` gives the address; `close` at the end."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    address: str = ""
    _run: LiveRun = field(init=False)
    _reader: Threads = field(default_factory=lambda: Threads("watch", count=1))
    """All that touches the run happens here, one after the other."""
    _pictures: Threads = field(default_factory=lambda: Threads("watch pictures", count=2))
    _seen: tuple[str, int, int] = ("", 0, 0)
    """(generation, rows, version of the status) as of the last look."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _streams: int = 0
    _prefix: str = ""
    _web: web.AppRunner | None = None
    _poller: "asyncio.Task[None] | None" = None

    async def start(self) -> str:
        """Read the run, listen, and return the page's address.

        Raises:
            JobMistakesError: the address cannot be listened on.
            WrongDirectoryError, LedgerDamagedError, StoreBrokenError: there is no run to show.
        """
        self._run = LiveRun(self.folder)
        await self._reader.run(self._run.open)
        self._seen = self._now()
        self._prefix = "" if _is_loopback(self.host) else f"/k/{secrets.token_urlsafe(24)}"
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get(f"{self._prefix}/", self._page),
                web.get(f"{self._prefix}/rows", self._rows),
                web.get(f"{self._prefix}/c/{{number:[0-9]{{1,7}}}}", self._chunk),
                web.get(f"{self._prefix}/p/{{sha256}}", self._picture),
                web.get(f"{self._prefix}/t/{{sha256}}", self._thumbnail),
                web.get(f"{self._prefix}/events", self._events),
            ]
        )
        self._web = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._web.setup()
        site = web.TCPSite(self._web, self.host, self.port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            problem = f"cannot listen on {self.host}, port {self.port}: {why}"
            raise JobMistakesError((Mistake(problem=problem, hint="choose another --port or --host"),)) from error
        self.port = self._web.addresses[0][1]
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"http://{shown}:{self.port}{self._prefix}/"
        self._poller = asyncio.create_task(self._poll())
        return self.address

    async def close(self) -> None:
        """Stop listening."""
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
        if self._web is not None:
            await self._web.cleanup()
        await self._reader.run(self._run.close)
        self._reader.close()
        self._pictures.close()

    async def _poll(self) -> None:
        while True:
            await self._reader.run(self._run.poll)
            now = self._now()
            if now != self._seen:
                async with self._changed:
                    self._seen = now
                    self._changed.notify_all()
            await asyncio.sleep(POLL_S)

    def _now(self) -> tuple[str, int, int]:
        return self._run.generation, self._run.rows.rows, self._run.version

    # -- who may ask

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not self._may_ask(request):
            answer: web.StreamResponse = web.Response(status=403, text="403: not from here\n", headers=_NEVER)
        else:
            try:
                answer = await handler(request)
            except web.HTTPException as refusal:
                answer = web.Response(status=refusal.status, text=f"{refusal.status}: {refusal.reason}\n")
        if not answer.prepared:
            answer.headers.update(_HEADERS)
        return answer

    def _may_ask(self, request: web.Request) -> bool:
        site = request.headers.get("Sec-Fetch-Site", "none")
        navigates = request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site == "cross-site" or (site == "same-site" and not navigates):
            return False
        if self._prefix:
            return True  # who knows the address may ask; no other name leads to it by chance
        try:
            asked = urlsplit(f"//{request.headers.get('Host', '')}")
            name, port = asked.hostname, asked.port or 80
        except ValueError:
            return False
        return name in {*_LOOPBACK, self.host} and port == self.port

    # -- the page

    async def _page(self, _: web.Request) -> web.Response:
        meta, title, totals = await self._reader.run(self._facts)
        source = live_source()
        body = b"".join(page_pieces(meta, title=title, totals=totals, source=source, live=True))
        headers = {"Content-Security-Policy": policy(source, live=True), **_NEVER}
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)

    def _facts(self) -> tuple[dict[str, Json], str, tuple[tuple[str, str], ...]]:
        meta = self._run.meta()
        totals = tuple(run_totals(self._run.status, self._run.rows.rows))
        return {**meta, "rows": 0, "chunks": 0}, self._run.title, totals

    async def _rows(self, request: web.Request) -> web.Response:
        """The rows from `from` on; all of them for a page of another generation."""
        query = request.query
        body = await self._reader.run(
            self._rows_body, query.get("g", ""), _number(query.get("from", "")), query.get("v", "")
        )
        return _packed(body, "application/octet-stream")

    def _rows_body(self, generation: str, first: int, version: str) -> bytes:
        rows = self._run.rows
        if generation != self._run.generation or first > rows.rows:
            first = 0
        facts = self._run.row_facts() if version == str(self._run.version) else self._run.meta()
        told = msgspec.json.encode({**facts, "from": first, "version": self._run.version})
        told += b" " * (-len(told) % 4)  # so that the columns begin where an Int32Array may begin
        return gzip.compress(len(told).to_bytes(4, "little") + told + rows.columns_from(first), 1, mtime=0)

    async def _chunk(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        generation, body = await self._reader.run(lambda: (self._run.generation, self._run.chunk(number)))
        if request.query.get("g") != generation:
            return web.Response(status=204, headers=_NEVER)  # a 4xx would be an error in the browser's console
        if body is None:
            raise web.HTTPNotFound
        return _packed(body, "text/plain")

    # -- pictures

    async def _picture(self, request: web.Request) -> web.Response:
        data = await self._pictures.run(self._picture_data, request.match_info["sha256"])
        return _shown(data)

    async def _thumbnail(self, request: web.Request) -> web.Response:
        sha256 = request.match_info["sha256"]
        data = await self._pictures.run(self._thumbnail_data, sha256)
        return _shown(data)

    def _picture_data(self, sha256: str) -> bytes | None:
        path = self._run.picture_path(sha256) if _SHA256.fullmatch(sha256) else None
        return None if path is None else picture_bytes(self.folder, path, most_bytes=_PICTURE_BYTES_MAX)

    def _thumbnail_data(self, sha256: str) -> bytes | None:
        if not _SHA256.fullmatch(sha256) or self._run.picture_path(sha256) is None:
            return None
        there = picture_bytes(self.folder, thumbnail_path(sha256), most_bytes=_PICTURE_BYTES_MAX)
        if there:
            return there
        data = self._picture_data(sha256)
        return None if data is None else make_thumbnail(data)

    # -- what happens

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._streams >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable
        known = request.headers.get("Last-Event-ID") or request.query.get("last", "")
        generation, _, count = known.rpartition(".")
        sent = (generation, _number(count), -1)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **_NEVER, **_HEADERS})
        await response.prepare(request)
        self._streams += 1
        try:
            while True:
                text, sent = self._news(sent)
                await response.write(text or b": beat\n\n")
                await asyncio.sleep(POLL_S if text else 0)
                async with self._changed:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(BEAT_S):
                            await self._changed.wait_for(lambda sent=sent: self._seen != sent)  # type: ignore[misc]
        except (ConnectionError, asyncio.CancelledError):
            return response  # the page was closed, or this server is
        finally:
            self._streams -= 1

    def _news(self, sent: tuple[str, int, int]) -> tuple[bytes, tuple[str, int, int]]:
        """The events that lead from what was sent to what is."""
        generation, rows, version = now = self._seen
        told = b""
        if sent[0] != generation:
            told += _event("reset", now, {"rows": rows})
        elif sent[1] != rows:
            told += _event("rows", now, {"from": sent[1], "to": rows})
        if sent[2] != version:
            told += _event("status", now, {"version": version})
        return told, now


def _event(name: str, now: tuple[str, int, int], data: dict[str, int]) -> bytes:
    generation, rows, _ = now
    return f"event: {name}\nid: {generation}.{rows}\ndata: {json.dumps(data)}\n\n".encode()


def _packed(body: bytes, kind: str) -> web.Response:
    return web.Response(body=body, content_type=kind, headers={"Content-Encoding": "gzip", **_NEVER})


def _shown(data: bytes | None) -> web.Response:
    """Pictures of the four known formats; nothing else of a run is served."""
    shape = format_of(data) if data else None
    if shape is None:
        raise web.HTTPNotFound
    return web.Response(body=data, content_type=_TYPES[shape], headers=_FOR_EVER)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0  # noqa: PLR2004 - fits an int32


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def live_source() -> str:
    """The script that defines the page's source."""
    return resources("batchrunner.page").joinpath("js/live.js").read_text("utf-8")


async def watch(
    dir: str | Path,  # noqa: A002 - the word of the command
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    say: Callable[[str], None],
    opens: bool = False,
) -> None:
    """Serve the page of a run until it is cancelled; `say` is told the address once.

    Raises:
        JobMistakesError: the address cannot be listened on.
        WrongDirectoryError, LedgerDamagedError, StoreBrokenError: there is no run to show.
    """
    server = WatchServer(Path(dir), host=host, port=port)
    address = await server.start()
    try:
        say(address)
        if opens:
            await asyncio.to_thread(webbrowser.open, address)
        await asyncio.Event().wait()
    finally:
        await server.close()
