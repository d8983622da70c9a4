"""`notify` tells a person's command how a run ended, without keys, without a shell, in time, and hurts nobody."""

import asyncio
import json
import os
import select
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from batchrunner.core.control import ControlState
from batchrunner.core.job import Job
from batchrunner.core.status import (
    FailureGroup,
    ItemCounts,
    LaneActivity,
    LaneStatus,
    RunState,
    SendCounts,
    Status,
    UsageCounts,
)
from batchrunner.core.values import replace
from batchrunner.report.notify import Watcher, all_parked, notifications, notify, run_environment
from batchrunner.spec import load_job
from tests.support.engine import RunHarness, chat
from tests.support.waiting import PATIENCE_S

TELL = "import json, os, sys\njson.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))\n"
Notified = Callable[..., str | None]


def ended(state: RunState) -> Status:
    return Status(job="cats", state=state, items=ItemCounts(), sends=SendCounts(), usage=UsageCounts())


@pytest.fixture
def notified(tmp_path: Path) -> Notified:
    """Run a Python program as the job's command."""
    path = tmp_path / "job.yaml"
    path.write_text("provider: {preset: openai, api_key_env: [MINE, OTHER]}\nmodel: m\nprompts: [a]\n")
    job: Job = load_job(str(path))

    def notify_with(program: str, *arguments: str, state: RunState = "done", time_limit_s: float = 20.0) -> str | None:
        command = (sys.executable, "-c", program, *arguments)
        return asyncio.run(
            notify(replace(job, notify=command, notify_on=("ended",)), ended(state), time_limit_s=time_limit_s)
        )

    return notify_with


@pytest.mark.parametrize("state", ["done", "paused", "failed", "refused", "stopped"])
def test_it_gets_the_closing_json_and_the_state(notified: Notified, tmp_path: Path, state: RunState) -> None:
    assert notified(TELL, str(tmp_path / "told"), state=state) is None
    closing, environment = json.loads((tmp_path / "told").read_text())
    assert (closing["job"], closing["state"], environment["BATCHRUNNER_STATE"]) == ("cats", state, state)


def test_a_person_who_interrupts_needs_no_message(notified: Notified, tmp_path: Path) -> None:
    assert notified(TELL, str(tmp_path / "told"), state="interrupted") is None
    assert not (tmp_path / "told").exists()


def test_keys_are_not_in_its_environment() -> None:
    environ = {"MINE": "k", "OTHER": "k", "MODELSCOPE_API_KEY": "k", "OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    notify_with = run_environment({**environ, "PATH": "/bin"}, keys=("MINE", "OTHER"), state="done", event="ended")
    assert notify_with == {"PATH": "/bin", "BATCHRUNNER_STATE": "done", "BATCHRUNNER_EVENT": "ended"}


def test_its_failure_is_reported_with_its_last_words(notified: Notified) -> None:
    trouble = notified("import sys; print('trying'); sys.exit('no \\x1b[31mroute')")
    assert trouble is not None
    assert "exited with status 1: no \\x1b[31mroute" in trouble


def test_what_it_prints_is_no_concern_of_ours(notified: Notified, capfd: pytest.CaptureFixture[str]) -> None:
    assert notified("import sys; print('noise'); print('more', file=sys.stderr)") is None
    assert capfd.readouterr() == ("", "")


def test_one_that_reads_nothing_is_no_trouble(notified: Notified) -> None:
    assert notified("pass") is None


def test_one_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("provider: simulator\nmodel: m\nprompts: [a]\nnotify: ./not-there\n")
    trouble = asyncio.run(notify(load_job(str(path)), ended("done")))
    assert trouble == "notify: ./not-there could not be started: No such file or directory"


def test_one_that_hangs_is_ended_with_all_that_it_started(notified: Notified, tmp_path: Path) -> None:
    """A limit so short that a busy machine has started nothing by then shows nothing: a longer one is tried."""
    fifo = tmp_path / "line"
    os.mkfifo(fifo)
    child = f"import time; line = open({str(fifo)!r}, 'w'); line.write('here'); line.flush(); time.sleep(600)"
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for limit_s in (2.0, 10.0, 60.0):
            trouble = notified(program, time_limit_s=limit_s)
            assert trouble is not None
            assert f"was killed after {limit_s:g} s" in trouble
            if os.read(reader, 4) == b"here":
                break
        assert select.select([reader], [], [], PATIENCE_S)[0], "what it had started lives on"
        assert os.read(reader, 4) == b""
    finally:
        os.close(reader)


LANE = LaneStatus(account="", model="m", state="open")


@pytest.mark.parametrize(
    ("activities", "parked"),
    [
        (("parked", "parked"), True),
        (("parked", "done", "closed"), True),
        (("parked", "working"), False),
        (("parked", "retrying"), False),
        (("done", "closed"), False),
        ((), False),
    ],
)
def test_all_lanes_are_parked_when_nothing_is_sent_before_a_park_ends(
    activities: tuple[LaneActivity, ...], *, parked: bool
) -> None:
    assert all_parked(replace(LANE, activity=activity) for activity in activities) is parked


def test_what_begins_is_reported_once_and_a_first_failure_once_a_run() -> None:
    watcher = Watcher(failed=2)
    fine = replace(ended("running"), items=ItemCounts(failed=2))
    failing = replace(fine, items=ItemCounts(failed=3))
    parked = replace(failing, lanes=(replace(LANE, activity="parked"),))
    paused = replace(parked, control=ControlState(paused=True))
    seen = [watcher.news(status) for status in (fine, failing, failing, parked, parked, paused, failing, parked)]
    assert seen == [(), ("first_failure",), (), ("all_parked",), (), ("paused",), (), ("all_parked",)]


EVENTS = "cat > /dev/null; echo $BATCHRUNNER_EVENT >> FOLDER/told"


@pytest.mark.parametrize(
    ("on", "notify_with"),
    [
        ("", ["first_failure", "ended"]),
        ("on: [first_failure]", ["first_failure"]),
        ("on: [paused]", []),
        ("on: [ended]", ["ended"]),
    ],
)
def test_a_run_reports_what_it_was_asked_to_report(harness: RunHarness, on: str, notify_with: list[str]) -> None:
    command = json.dumps(["sh", "-c", EVENTS.replace("FOLDER", str(harness.folder))])
    more = f"limits: {{requests_per_minute: 60}}\nretry: {{attempts: 1}}\nnotify: {{command: {command}, {on}}}"
    harness.run(chat(*map(str, range(12)), model="sim/chat#content-filter", more=more))
    path = harness.folder / "told"
    assert (path.read_text().split() if path.exists() else []) == notify_with


def test_a_run_whose_command_takes_long_has_all_its_rows(harness: RunHarness) -> None:
    more = (
        'limits: {requests_per_minute: 60}\nretry: {attempts: 1}\nnotify: {command: [sleep, "1"], on: [first_failure]}'
    )
    report = harness.run(chat(*map(str, range(10)), model="sim/chat#content-filter", more=more))
    assert report.status.items.failed == 10


class PausedRun:
    """A run that is paused at the second look, in real time, whose command is a script of sh with a folder as `$0`."""

    def __init__(self, folder: Path, script: str) -> None:
        path = folder / "job.yaml"
        path.write_text("provider: simulator\nmodel: m\nprompts: [a]\n")
        self.folder = folder
        self.said: list[str] = []
        self._job = replace(load_job(str(path)), notify=("sh", "-c", script, str(folder)), notify_on=("paused",))

    async def while_it_works(self, then: Callable[[], Coroutine[None, None, None]]) -> None:
        statuses = iter([ended("running")])
        paused = replace(ended("running"), control=ControlState(paused=True))
        async with notifications(self._job, lambda: next(statuses, paused), self.said.append):
            await then()

    async def until_there_is(self, name: str) -> None:
        async with asyncio.timeout(60):
            while not (self.folder / name).exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)


def test_a_command_that_hangs_holds_up_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for what the run does next: one that waited for the command would wait for ever."""
    monkeypatch.setattr("batchrunner.report.notify._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("batchrunner.report.notify._GRACE_S", 60.0)
    script = 'touch "$0/began"; until [ -e "$0/next" ]; do sleep 0.01; done; touch "$0/ended"'
    run = PausedRun(tmp_path, script)

    async def next_step() -> None:
        await run.until_there_is("began")
        (tmp_path / "next").touch()
        await run.until_there_is("ended")

    asyncio.run(run.while_it_works(next_step))
    assert run.said == []


def test_a_command_that_hangs_when_the_run_ends_is_ended_before_its_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrunner.report.notify._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("batchrunner.report.notify._GRACE_S", 0.1)
    run = PausedRun(tmp_path, 'echo $$ > "$0/new"; mv "$0/new" "$0/began"; exec sleep 1000')
    asyncio.run(run.while_it_works(lambda: run.until_there_is("began")))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "began").read_text()), 0)
    assert run.said == [], "as would be said of one that reached its limit"


def test_an_end_that_is_a_pause_is_reported_to_who_asked_for_pauses_only(harness: RunHarness) -> None:
    command = json.dumps(["sh", "-c", EVENTS.replace("FOLDER", str(harness.folder))])
    more = f"budget: {{calls: 3}}\nnotify: {{command: {command}, on: [paused]}}"
    assert harness.run(chat(*map(str, range(10)), more=more)).status.state == "paused"
    assert (harness.folder / "told").read_text().split() == ["ended"]


# -- through Apprise


class Inbox(BaseHTTPRequestHandler):
    """What a messaging service would get."""

    got: ClassVar[list[dict[str, str]]] = []
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def inbox() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Inbox)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Inbox.got.clear()
    Inbox.status = 200
    yield f"json://127.0.0.1:{server.server_port}/secret-token"
    server.shutdown()
    server.server_close()


def message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, addresses: str | None) -> str | None:
    if addresses is not None:
        monkeypatch.setenv("MY_PHONE", addresses)
    path = tmp_path / "job.yaml"
    path.write_text("provider: simulator\nmodel: m\nprompts: [a]\nnotify: {apprise_env: MY_PHONE}\n")
    failed = FailureGroup(kind="content_filter", message="not allowed", count=2, example="q1")
    status = replace(ended("failed"), items=ItemCounts(total=9, done=7, failed=2), failures=(failed,))
    return asyncio.run(notify(load_job(str(path)), status))


def test_a_phone_gets_the_state_the_counts_and_the_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inbox: str
) -> None:
    assert message(monkeypatch, tmp_path, inbox) is None
    (got,) = Inbox.got
    assert got["title"] == "cats: failed"
    assert got["message"].splitlines() == ["7 of 9 done, 2 failed", "2 × content_filter: not allowed"]


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        (None, "its environment variable is not set"),
        ("nonsense", "knows no address in the variable"),
        ("INBOX", "could not send to one of the addresses"),
    ],
)
def test_what_keeps_a_message_from_a_phone_is_reported_without_its_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inbox: str, addresses: str | None, words: str
) -> None:
    Inbox.status = 500
    trouble = message(monkeypatch, tmp_path, inbox if addresses == "INBOX" else addresses)
    assert trouble is not None
    assert trouble.startswith("notify: apprise (MY_PHONE) exited with status 1: ")
    assert words in trouble
    assert "secret-token" not in trouble
