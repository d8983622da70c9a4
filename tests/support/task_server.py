"""A server of asynchronous tasks on a real socket: plays the replies of `tests/providers/task_servers.py`, and counts.

It runs in the test's own process, so that what it counted outlives the runs that are killed.
"""

import contextlib
import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from struct import pack
from typing import Any
from urllib.parse import unquote

from batchrunner.core.job import Json
from tests.providers.task_servers import API, PROMPT, TaskServer

FILES = "https://files.example"


@dataclass(kw_only=True)
class Played:
    """What one server was asked for, by a count of its own."""

    server: TaskServer
    key: str
    order_s: float = 0.0
    """How long the reply to an order takes, which is taken at once."""
    file: Callable[[BaseHTTPRequestHandler, str], None] | None = None
    """Sends the file of a task; without it that is a picture."""
    done_at_once: bool = False
    base_url: str = ""
    orders: list[str] = field(default_factory=list)
    """Prompts, in the order in which tasks were made of them."""
    tasks: dict[str, str] = field(default_factory=dict)
    """Task -> prompt."""
    polls: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    downloads: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Requests that this server does not know, or that carry what they must not."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def order(self, body: dict[str, Any]) -> tuple[int, Json]:
        prompt = next((text for text in _texts(body) if text.startswith("a ")), "")
        expected = json.loads(json.dumps(self.server.body).replace(json.dumps(PROMPT), json.dumps(prompt)))
        if {**body, "prompt_id": None} != {**expected, "prompt_id": None}:
            self.wrong.append(f"the order {body} instead of {expected}")
        with self.lock:
            task = body.get("prompt_id") or f"t{len(self.orders)}-é/{len(prompt)}"
            self.orders.append(prompt)
            self.tasks[task] = prompt
        return 200, self._of(task, self.server.submit)

    def poll(self, task: str) -> tuple[int, Json]:
        with self.lock:
            asked = self.polls[task]
            self.polls[task] += 1
        end = next(place for place, reply in enumerate(self.server.polls) if reply[2] == "done")
        status, value, _ = self.server.polls[end if self.done_at_once else min(asked, end)]
        return status, self._of(task, value)

    def waiting(self) -> Json:
        """All tasks, as if none of them had begun."""
        rows: list[Json] = [[number, task, {}, {}, ["9"]] for number, task in enumerate(self.tasks)]
        return {"queue_running": [], "queue_pending": rows}

    def result(self, task: str) -> tuple[int, Json]:
        with self.lock:
            self.results[task] += 1
        status, value, _ = self.server.results[0]
        return status, self._of(task, value)

    def _of(self, task: str, value: Json) -> Json:
        text = (
            json.dumps(value)
            .replace(API, self.base_url)
            .replace(f"{FILES}/", f"{self.base_url}/files/{_quoted(task)}/")
        )
        text = text.replace('"TASK"', json.dumps(task)).replace("TASK", _quoted(task))
        told: Json = json.loads(text)
        if self.server.queue and value == {}:
            return told
        return {**told, "echo": f"you sent {self.key}"} if isinstance(told, dict) else told


@contextmanager
def played(server: TaskServer, *, key: str, order_s: float = 0.0) -> Iterator[Played]:
    """Listen on a free port until the block ends."""
    state = Played(server=server, key=key, order_s=order_s)
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    listening.daemon_threads = True
    state.base_url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def _handler(state: Played) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"state": state})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Played

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != self.state.server.path:
            self._unknown()
            return
        self._check(self.state.server.headers)
        reply = self.state.order(body)
        time.sleep(self.state.order_s)  # a real server takes real time
        with contextlib.suppress(ConnectionError):  # who asked may have been killed
            self._answer(*reply)

    def do_GET(self) -> None:
        server = self.state.server
        for task in list(self.state.tasks):
            if self._is(server.poll_path, task):
                self._check(server.poll_headers)
                self._answer(*self.state.poll(task))
            elif server.result_path and self._is(server.result_path, task):
                self._check({})
                self._answer(*self.state.result(task))
            elif server.content_path and self._is(server.content_path, task):
                self._check({})
                self._file(task, keyed=True)
            elif self.path.startswith((f"/files/{_quoted(task)}/", f"/view?filename={task}")):
                self._file(task)
            else:
                continue
            return
        if server.queue and self.path == "/queue":
            self._answer(200, self.state.waiting())
        elif server.queue and self.path.startswith(server.poll_path.partition("TASK")[0]):
            self._answer(200, {})  # an order that a kill stopped on its way: the id was never heard of
        else:
            self._unknown()

    def _is(self, path: str, task: str) -> bool:
        """A slash in a query need not be quoted."""
        asked, wanted = self.path.partition("?"), path.replace("TASK", _quoted(task)).partition("?")
        return asked[0] == wanted[0] and unquote(asked[2]) == unquote(wanted[2])

    def _unknown(self) -> None:
        self.state.wrong.append(f"{self.command} {self.path}")
        self._answer(404, {"detail": "no such path"})

    def _check(self, headers: dict[str, str]) -> None:
        name, value = self.state.server.key
        for header, wanted in {name: value.replace("KEY", self.state.key), **headers}.items():
            if self.headers.get(header, "") != wanted:
                self.state.wrong.append(f"{self.command} {self.path}: {header} is {self.headers.get(header)!r}")

    def _file(self, task: str, *, keyed: bool = False) -> None:
        if not keyed and any(self.state.key in value for value in self.headers.values()):
            self.state.wrong.append("the key went to the storage")
        with self.state.lock:
            self.state.downloads[task] += 1
        if self.state.file is not None:
            with contextlib.suppress(ConnectionError):
                self.state.file(self, task)
            return
        self._send(200, "image/png", png_of(self.state.tasks[task]))

    def _answer(self, status: int, value: Json) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def png_of(prompt: str) -> bytes:
    """A picture of one dot, whose colour is the prompt's."""
    colour = pack(">I", zlib.crc32(prompt.encode()))[:3]
    chunks = (b"IHDR", pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" + colour)), (b"IEND", b"")
    parts = (pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _quoted(task: str) -> str:
    return task.replace("é", "%C3%A9").replace("/", "%2F")


def _texts(value: Json) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for entry in value:
                yield from _texts(entry)
        case dict():
            for entry in value.values():
                yield from _texts(entry)
        case _:
            return
