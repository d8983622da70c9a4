"""A gate in front of a server with batches: forwards everything, counts orders, and keeps back replies to some of them.

An order whose reply is kept back has been taken by the server, and its client knows nothing of that: the very moment
in which a client has to be killed. The reply is dropped. The gate runs in the test's own process, so that what it
counted outlives the clients.
"""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.judging import is_intact
from tests.e2e.lives import Kills, kill_again_and_again, run
from tests.e2e.runs import KEY_NAME, Ended

ORDERS = ("/v1/batches", "/v1/messages/batches")
_PATIENCE_S = 120.0
_OF_THE_CONNECTION = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


@dataclass(slots=True, kw_only=True)
class Gate:
    """What went through. `kept` are the numbers, from 1, of the orders whose replies are kept back."""

    upstream: str
    kept: frozenset[int]
    base_url: str = ""
    orders: list[str] = field(default_factory=list)
    """The ids of batches that the server has made, in order."""
    ordinary: int = 0
    """Requests that are paid for one by one."""
    caught: threading.Event = field(default_factory=threading.Event)
    """An order was taken whose reply is kept back: the client is to be killed now."""
    killed: threading.Event = field(default_factory=threading.Event)
    between: int = 0
    """Kills between an order and the record of its reply."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_caught(self) -> bool:
        """Whether the client waits for a reply that it will never get."""
        return self.caught.is_set()

    def after_kill(self) -> None:
        """The client is dead: later orders of the next one may be kept back again."""
        if self.caught.is_set():
            self.between += 1
            self.caught.clear()
            self.killed.set()

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[Any], bytes]:
        """The server's reply, as (status, headers, body)."""
        target = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=_PATIENCE_S)
        try:
            connection.request(method, path, body=body or None, headers=headers)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            connection.close()

    def note(self, method: str, path: str, status: int, body: bytes) -> bool:
        """Count what was forwarded; whether its reply is kept back."""
        with self.lock:
            self.ordinary += method == "POST" and path.endswith("/chat/completions")
            if method != "POST" or path not in ORDERS or status >= 300:
                return False
            self.orders.append(json.loads(body)["id"])
            if len(self.orders) not in self.kept:
                return False
            self.killed.clear()
            self.caught.set()
            return True


def kill_ordering_runs(
    job: Path, out: Path, through: Gate, *, kills: int, items: int, seed: int
) -> tuple[Kills, Ended]:
    """Kill a job with batches at random moments and after each order that is kept back, then let it come to its end."""

    def after_kill() -> None:
        through.after_kill()
        is_intact(out)

    told = kill_again_and_again(
        job, out, kills=kills, lines=2 * items, seed=seed, after_each=after_kill, or_when=through.is_caught
    )
    while True:
        with run(job) as living:
            if not living.watch(until=through.is_caught):
                return told, living.end()
            told.hit += living.kill()
        after_kill()


@contextmanager
def gate(upstream: str, *, kept: frozenset[int]) -> Iterator[Gate]:
    """Open a gate in front of a server, given by its root or its base URL; jobs take the gate's `base_url`."""
    opened = Gate(upstream=upstream, kept=kept)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            status, given, reply = opened.forward(self.command, self.path, headers, body)
            if opened.note(self.command, urlsplit(self.path).path, status, reply):
                opened.killed.wait(_PATIENCE_S)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in given:
                if name.lower() not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = _pass  # noqa: N815 - the names of http.server

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # its client was killed

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
            """Nothing is told."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    opened.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield opened
    finally:
        opened.killed.set()
        server.shutdown()
        server.server_close()
        serving.join()


def write_job(folder: Path, base_url: str, *, items: int, in_a_batch: int, more: str = "") -> tuple[Path, Path]:
    """A job of so many questions in batches; (job file, run's directory)."""
    out, job = folder / "outputs" / "night", folder / "night.yaml"
    (folder / "questions.jsonl").write_text(
        "".join(json.dumps({"question": f"question number {number}"}) + "\n" for number in range(items))
    )
    job.write_text(
        f"name: night\nprovider: {{base_url: {base_url}, dialect: openai-chat, api_key_env: {KEY_NAME}}}\n"
        f"model: sim/chat\noutput: {{dir: {out}}}\nprompts: {{file: questions.jsonl, template: '{{{{ question }}}}'}}\n"
        f"batch: {{use: always, max_items: {in_a_batch}, look_every: 1s, max_wait: 10m}}\n{more}"
    )
    return job, out
