"""Waits, budgets and the notified command as people meet them: real processes, real files, a real server."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batchrunner.cli.block import View, block
from batchrunner.core.status import ItemCounts, SendCounts, Status, UsageCounts, Wait
from batchrunner.core.values import replace
from batchrunner.report.pace import RunPace
from tests.support.command_line import CommandLine

THREE = "prompts: [A red cat, A blue cat, A green cat]\n"
TELL = "import json, os, sys\njson.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))\n"


def with_environment(
    batchrunner: CommandLine, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        batchrunner.argv(*arguments),
        cwd=batchrunner.folder,
        env={**batchrunner.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_notified_command_gets_the_closing_json_and_no_key(batchrunner: CommandLine) -> None:
    (batchrunner.folder / "tell.py").write_text(TELL)
    job = batchrunner.job("cats", THREE + f"budget: {{calls: 2}}\nnotify: [{sys.executable}, tell.py, told.json]\n")
    ran = with_environment(batchrunner, "run", job, "--json", MODELSCOPE_API_KEY="ms-canary", MAILBOX="me")
    assert ran.returncode == 3
    closing, environment = json.loads((batchrunner.folder / "told.json").read_text())
    assert closing == json.loads(ran.stdout)
    assert (closing["state"], environment["BATCHRUNNER_STATE"]) == ("paused", "paused")
    assert closing["budget"] == [{"unit": "calls", "limit": 2, "spent": 2.0, "in_flight": 0.0, "currency": None}]
    assert environment["MAILBOX"] == "me"
    assert "ms-canary" not in environment.values()


def test_a_command_that_fails_is_reported_and_changes_no_exit_status(batchrunner: CommandLine) -> None:
    ran = batchrunner("run", batchrunner.job("cats", THREE + "notify: ./nowhere --now\n"), "--json")
    assert ran.status == 0
    assert ran.json["state"] == "done"
    assert "notify: ./nowhere could not be started" in ran.err
    assert any("notify" in note for note in ran.json["notes"])


def test_a_spent_budget_is_3_and_the_last_line_goes_on(batchrunner: CommandLine) -> None:
    job = batchrunner.job("cats", THREE)
    ran = batchrunner("run", job, "--set", "budget.calls=2")
    assert ran.status == 3
    assert "reason    the budget of 2 calls is used up" in ran.err
    assert "budget    2 of 2 calls" in ran.err
    assert ran.last_line.endswith(f"-m batchrunner run {job} --set budget.calls=2")
    told = batchrunner("status", "outputs/cats.simulated", "--json").json
    assert told["budget"] == [{"unit": "calls", "limit": 2, "spent": 2.0, "in_flight": 0.0, "currency": None}]
    assert batchrunner("run", job, "--set", "budget.calls=3").status == 0


def test_a_wait_for_the_window_is_seen_in_progress_and_in_status(batchrunner: CommandLine) -> None:
    opens, closes = (datetime.now(UTC) + timedelta(hours=hours) for hours in (2, 3))
    window = f"{opens:%H:%M}-{closes:%H:%M}"
    job = batchrunner.job("cats", THREE + f"window: {window}\ntimezone: UTC\n")
    process = batchrunner.start("run", job)
    assert process.stderr is not None
    line = ""
    while "waiting" not in line:
        line = process.stderr.readline()
        assert line, "the run ended without a wait"
    assert f"{opens:%H:%M} (1 h 5" in line.replace("(2 h)", "(1 h 59 min)")
    assert f"): outside the window {window} (UTC)" in line
    told = batchrunner("status", "outputs/cats.simulated", "--json").json
    assert told["state"] == "running"
    assert told["waiting"]["until"] == f"{opens:%Y-%m-%dT%H:%M}:00+00:00"
    process.terminate()
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "3 still to send" in rest
    assert batchrunner("status", "outputs/cats.simulated", "--json").json["waiting"] is None


def test_a_window_without_a_zone_names_the_zone_that_is_meant(batchrunner: CommandLine) -> None:
    noon = datetime.now(UTC) + timedelta(hours=4)
    job = batchrunner.job("cats", THREE + f"window: {noon:%H:%M}-{noon + timedelta(hours=1):%H:%M}\ndeadline: 1h\n")
    assert "`window` and `deadline` are in this machine's local time (UTC+00:00)" in batchrunner("plan", job).err
    ran = batchrunner("run", job)
    assert ran.status == 3
    assert "in this machine's local time (UTC+00:00)" in ran.err
    assert "is before the window opens" in ran.err


class _ModelScope(BaseHTTPRequestHandler):
    """Knows a balance, and refuses every call."""

    balance: str = '{"success": true, "data": {"available_balance": 12.5, "frozen_amount": 2}}'
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self._answer(200, self.balance)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(401, '{"errors": {"message": "Authentication failed, invalid token"}}')

    def _answer(self, status: int, text: str) -> None:
        self.asked.append((f"{self.command} {self.path}", self.headers["Authorization"]))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        return


@pytest.fixture
def modelscope() -> Iterator[tuple[str, type[_ModelScope]]]:
    """A base URL, and what was asked there."""
    handler = type("Handler", (_ModelScope,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler
        server.shutdown()
        thread.join()


def balanced(batchrunner: CommandLine, base_url: str) -> str:
    text = f"provider: {{preset: modelscope, base_url: '{base_url}', balance: true}}\nmodel: m\n{THREE}"
    (batchrunner.folder / "points.yaml").write_text(text)
    return "points.yaml"


def test_plan_and_run_show_the_balance_of_points(
    batchrunner: CommandLine, modelscope: tuple[str, type[_ModelScope]]
) -> None:
    base_url, server = modelscope
    job = balanced(batchrunner, base_url)
    planned = with_environment(batchrunner, "plan", job, MODELSCOPE_API_KEY="canary-key")
    assert planned.returncode == 0
    assert server.asked == [("GET /openapi/v1/magicubes/balance", "Bearer canary-key")]
    assert "MODELSCOPE_API_KEY: 12.5 points, 2 more reserved by running tasks" in planned.stderr
    assert "about 3; at most 200 can be claimed per day" in planned.stderr
    assert "assumed; set provider.points_per_call" in planned.stderr
    assert "Log in daily to claim points; they expire" in planned.stderr
    ran = with_environment(batchrunner, "run", job, MODELSCOPE_API_KEY="canary-key")
    assert ran.returncode == 5
    assert "MODELSCOPE_API_KEY: 12.5 points" in ran.stderr
    assert server.asked[1][0] == "GET /openapi/v1/magicubes/balance", "it was not asked before the first call"


def test_a_balance_that_cannot_be_learnt_stops_nothing_and_is_not_zero(
    batchrunner: CommandLine, modelscope: tuple[str, type[_ModelScope]]
) -> None:
    base_url, server = modelscope
    server.balance = '{"success": true, "data": {}}'
    job = balanced(batchrunner, base_url)
    planned = with_environment(batchrunner, "plan", job, "--json", MODELSCOPE_API_KEY="canary-key")
    assert planned.returncode == 0
    (balance,) = json.loads(planned.stdout)["balances"]
    assert (balance["available"], balance["why"]) == (None, "the reply has no balance")
    told = with_environment(batchrunner, "plan", job, MODELSCOPE_API_KEY="canary-key")
    assert "points balance unknown (the reply has no balance)" in told.stderr


def test_a_terminal_shows_what_the_whole_run_waits_for_and_what_will_pause_it() -> None:
    moment = datetime(2026, 11, 22, 20, tzinfo=UTC)
    wait = Wait(reason="outside the window 22:00-07:00 (UTC)", until="2026-11-22T22:00:00+00:00")
    status = Status(
        job="cats", state="running", items=ItemCounts(), sends=SendCounts(), usage=UsageCounts(), timezone="UTC"
    )
    end = Wait(reason="the deadline 07:00", until="2026-11-23T07:00:00+00:00")
    drawn = [
        "".join(text for text, _ in line)
        for shown in (replace(status, waiting=wait), replace(status, ends=end))
        for line in block(shown, RunPace(), now=moment, elapsed_s=0.0, view=View(width=120, height=20))
    ]
    assert "waiting until 22:00 (2 h): outside the window 22:00-07:00 (UTC)" in drawn
    assert "pauses at Mon 07:00 (11 h): the deadline 07:00" in drawn
