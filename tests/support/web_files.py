"""A web server of files that can fail as servers do: real sockets, each answer as the test says."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class WebFiles:
    """Its files, by path, and how it answers. Change it between requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    """Another one refuses everything."""
    gives_ranges: bool = True
    gives_states: bool = True
    cuts_after: int | None = None
    """Each answer breaks off after so many bytes of its body."""
    cuts: int = 1_000_000
    """So many answers break off; those after them do not."""
    stalls_after: int | None = None
    """After so many bytes of a body nothing follows, and the connection stays open."""
    redirects_to: str | None = None
    """Every answer leads there."""
    closes: bool = False
    """Every connection is closed without an answer."""
    ended: threading.Event = field(default_factory=threading.Event)
    changes_after: int | None = None
    """After so many bodies the files count as replaced."""
    root: str = ""
    bodies: int = 0


@contextmanager
def web_files(**options: Any) -> Iterator[WebFiles]:  # noqa: C901 - one handler, which closes over its state
    """A server on a free port of this machine."""
    state = WebFiles(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            if state.closes:
                self.close_connection = True
            elif state.redirects_to is not None:
                self._redirect(state.redirects_to)
            else:
                self._give(with_body=with_body)

        def _redirect(self, to: str) -> None:
            self.send_response(302)
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _give(self, *, with_body: bool) -> None:
            content = state.files.get(self.path.partition("?")[0])
            status = 404 if content is None and state.status == 200 else state.status
            body = content = content if content is not None and status == 200 else b""
            asked = self.headers.get("Range", "") if status == 200 and state.gives_ranges else ""
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                body, status = content[int(first) : int(last) + 1 if last else None], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in _headers(state, content, asked).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                state.bodies += 1
                self._write(body)

        def _write(self, body: bytes) -> None:
            if state.stalls_after is not None and len(body) > state.stalls_after:
                self.wfile.write(body[: state.stalls_after])
                self.wfile.flush()
                state.ended.wait()
                self.close_connection = True
                return
            if state.cuts_after is None or not state.cuts or len(body) <= state.cuts_after:
                self.wfile.write(body)
                return
            state.cuts -= 1
            self.wfile.write(body[: state.cuts_after])
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.root = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _headers(state: WebFiles, content: bytes, asked: str) -> dict[str, str]:
    headers = {"Accept-Ranges": "bytes"} if state.gives_ranges else {}
    if asked:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        headers["Content-Range"] = f"bytes {first}-{last or len(content) - 1}/{len(content)}"
    if state.gives_states:
        generation = int(state.changes_after is not None and state.bodies > state.changes_after)
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:16]}-{generation}"'
    return headers
