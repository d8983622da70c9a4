"""`batchrunner cancel` of remote tasks: asked for by the table's word, once each; said where a server has no word."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import pytest

from batchrunner.cli.main import main
from tests.e2e.judging import ledger_records
from tests.e2e.lives import life
from tests.e2e.test_cancel import batchrunner, run_cli

TABLE = """
source: made up for this test
base: {base}
auth: {{key_env: TASK_KEY}}
submit: {{path: /orders, body: {{prompt: $prompt}}, id: [id]}}
poll: {{path: "/orders/{{id}}", state: [status]}}
states: {{running: [running], done: [ready], cancelled: [canceled]}}
result: {{urls: [url]}}
"""
CANCEL = 'cancel: {path: "/orders/{id}/cancel"}\n'


class Orders(BaseHTTPRequestHandler):
    """A task server on which nothing ever ends by itself."""

    asked: ClassVar[list[str]] = []
    cancelled: ClassVar[set[str]] = set()
    ready: ClassVar[bool] = False

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self, status: int, value: Any) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
        if self.path == "/orders":
            self._answer(200, {"id": f"task-{len(self.asked)}"})
        elif self.path.split("/")[2] in self.cancelled:
            self._answer(409, {"error": {"message": "it has ended already"}})
        else:
            self.cancelled.add(self.path.split("/")[2])
            self._answer(204, None)

    def do_GET(self) -> None:
        task = self.path.split("/")[-1]
        status = "canceled" if task in self.cancelled else "ready" if self.ready else "running"
        self._answer(200, {"id": task, "status": status, "url": "https://files.example/1.png"})


@contextmanager
def serving() -> Iterator[str]:
    Orders.asked, Orders.cancelled, Orders.ready = [], set(), False
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Orders)
    listening.daemon_threads = True
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def with_open_tasks(folder: Path, base: str, *, more: str = CANCEL, keys: str = "") -> Path:
    """The run's directory of a job with two accepted tasks."""
    (folder / "server.yaml").write_text(TABLE.format(base=base) + more)
    (folder / "job.yaml").write_text(
        f"name: job\nkind: image\nprovider: {{dialect: task, task: server.yaml{keys}}}\nmodel: m\n"
        "prompts: [{prompt: a, id: red-kite}, {prompt: b, id: blue-kite}]\ndeadline: 10m\n"
    )
    out = folder / "outputs" / "job"
    with life(folder, "run", "job.yaml") as living:
        assert living.watch(until=lambda: sum(one["e"] == "accepted" for one in ledger_records(out)) == 2)
        living.send(signal.SIGTERM)
        assert living.end().status == 143
    assert len(Orders.asked) == 2
    return out


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK_KEY", "a-key-of-nobody")


@pytest.mark.real
def test_accepted_tasks_are_cancelled_all_or_by_the_item_and_once_each(tmp_path: Path) -> None:
    with serving() as base:
        out = with_open_tasks(tmp_path, base)
        ledgers = {path: path.read_bytes() for path in (out / "ledger").iterdir()}
        ended = batchrunner("cancel", str(out), "red-kite", "--json")
        (one,) = json.loads(ended.stdout)["tasks"]
        assert (ended.status, one["item"], one["problem"]) == (0, "red-kite", None)
        assert Orders.asked[2:] == [f"POST /orders/{one['id']}/cancel Bearer a-key-of-nobody"]
        said = run_cli("cancel", str(out))
        assert "cancelled before, at 20" in said
        assert "blue-kite" in said
        assert len(Orders.cancelled) == 2
        asked = len(Orders.asked)
        assert run_cli("cancel", str(out)).count("not asked again") == len(Orders.asked) - asked + 2
        assert "not cancelled: it has ended already" in run_cli("cancel", str(out), "red-kite", status=1)
        assert "no open task is 'green-kite'" in run_cli("cancel", str(out), "green-kite", status=2)
        assert {path: path.read_bytes() for path in (out / "ledger").iterdir()} == ledgers
        assert batchrunner("run", str(tmp_path / "job.yaml")).status == 1
        failures = [
            json.loads(line)["error"]["class"] for line in (out / "failures.jsonl").read_text("utf-8").splitlines()
        ]
        assert failures == ["task_cancelled"] * 2
        assert sum(order.startswith("POST /orders ") for order in Orders.asked) == 2, "nothing is ordered again"


@pytest.mark.real
def test_where_an_ended_task_would_be_deleted_its_state_is_looked_at_first(tmp_path: Path) -> None:
    with serving() as base:
        more = 'cancel: {path: "/orders/{id}/cancel", only: [running]}\n'
        out = with_open_tasks(tmp_path, base, more=more)
        (kite,) = json.loads(batchrunner("cancel", str(out), "red-kite", "--json").stdout)["tasks"]
        assert (kite["problem"], Orders.cancelled) == (None, {kite["id"]})
        Orders.ready = True
        said = run_cli("cancel", str(out), status=1)
        assert "not cancelled: it has ended already; the next run reads what came of it" in said
        assert Orders.cancelled == {kite["id"]}


@pytest.mark.real
def test_a_silent_server_is_waited_for_a_bounded_while_and_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("batchrunner.cancelling._MOST_S", 0.3)
    monkeypatch.setattr("batchrunner.cancelling._SAID_AFTER_S", 0.0)
    with serving() as base:
        out = with_open_tasks(tmp_path, base)
        silent = Event()
        monkeypatch.setattr(Orders, "do_POST", lambda self: silent.wait(60) and self._answer(204, None))
        assert main(["cancel", str(out)]) == 1
        silent.set()
    said = capsys.readouterr().err
    assert f"waiting for {base}, which is asked to end 2 open batches and tasks; at most 0.3 s for each reply" in said
    assert said.count("not cancelled: ") == 2


@pytest.mark.real
def test_a_web_page_is_no_consent_to_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(self: Orders) -> None:
        if self.path == "/orders":
            return order(self)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b"<html></html>")
        return None

    order = Orders.do_POST
    monkeypatch.setattr(Orders, "do_POST", page)
    with serving() as base:
        out = with_open_tasks(tmp_path, base)
        assert run_cli("cancel", str(out), status=1).count("not cancelled: ") == 2


@pytest.mark.real
def test_a_server_without_a_word_for_it_is_not_asked_and_it_is_reported(tmp_path: Path) -> None:
    with serving() as base:
        out = with_open_tasks(tmp_path, base, more="")
        said = run_cli("cancel", str(out), status=1)
        assert said.count("this server is not known to end a task when it is asked") == 2
        assert len(Orders.asked) == 2


@pytest.mark.real
@pytest.mark.parametrize(
    ("source", "account"), [("api_key_file: a.key", "file:a.key"), ("api_key_cmd: ./give-key", "cmd:./give-key")]
)
def test_tasks_are_cancelled_with_the_key_of_the_file_or_command_that_ordered_them(
    tmp_path: Path, source: str, account: str
) -> None:
    """From whatever folder, and the key is in nothing that was written or said."""
    (tmp_path / "a.key").write_text("key-of-nobody\n")
    (tmp_path / "give-key").write_text("#!/bin/sh\necho key-of-nobody\n")
    (tmp_path / "give-key").chmod(0o700)
    job = str(tmp_path / "job.yaml")
    with serving() as base:
        out = with_open_tasks(tmp_path, base, keys=f", {source}")
        assert ("others may read it" in run_cli("check", job)) is account.startswith("file:")
        run_cli("cancel", str(out))
        assert {order.rpartition(" ")[2] for order in Orders.asked} == {"key-of-nobody"}
        assert len(Orders.cancelled) == 2
    (tmp_path / "a.key").unlink()
    (tmp_path / "give-key").unlink()
    assert f"waiting for the API key in {account}" in (said := run_cli("plan", job))
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert account.encode() in written
    assert b"key-of-nobody" not in written + said.encode()
