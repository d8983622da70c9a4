"""`run JOB --processes N`, and `coordinate` with workers: real processes, real kills, and a server that counts."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines
from tests.support.waiting import PATIENCE_S, wait_until

ITEMS = 120


class PaidServer(ThreadingHTTPServer):
    """Answers every chat request after a moment, and counts what was paid for each prompt."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.paid: Counter[str] = Counter()
        self.counting = threading.Lock()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PaidServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.counting:
            self.server.paid[asked["messages"][-1]["content"]] += 1
        time.sleep(0.1)
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        reply = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        is_bad = "bad" in asked["messages"][-1]["content"]
        if is_bad:
            reply = b'{"error": {"message": "invalid prompt", "type": "invalid_request_error"}}'
        self.send_response(400 if is_bad else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)


@pytest.fixture
def server() -> Iterator[PaidServer]:
    with PaidServer() as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture
def words(batchrunner: CommandLine, server: PaidServer) -> CommandLine:
    rows = "".join(json.dumps({"word": f"w{n}"}) + "\n" for n in range(ITEMS))
    (batchrunner.folder / "words.jsonl").write_text(rows)
    (batchrunner.folder / "job.yaml").write_text(f"""
name: words
provider: {{base_url: "http://127.0.0.1:{server.server_address[1]}/v1", dialect: openai-chat}}
model: m
limits: {{requests_per_minute: 1200, concurrency: 12}}
prompts: {{file: words.jsonl, template: "Explain {{{{ word }}}}."}}
""")
    return batchrunner


def workers_of(parent: "subprocess.Popen[str]") -> list[int]:
    """Pids of its children, which are workers: copies of it, or programs that were started."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if ppid == parent.pid and _lives(int(folder.name)):
            found.append(int(folder.name))
    return found


def in_the_middle(server: PaidServer, running: "subprocess.Popen[str]", *, workers: int = 2) -> None:
    wait_until(
        lambda: sum(server.paid.values()) >= 20 and len(workers_of(running)) >= workers,
        "twenty answers are paid and the workers are at work",
        process=running,
    )


def rows_of(words: CommandLine, folder: str = "outputs/words") -> list[dict[str, Any]]:
    return json_lines(words.folder / folder / "results.jsonl")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_the_directory_is_as_after_one_process_and_each_prompt_was_paid_once(
    words: CommandLine, server: PaidServer
) -> None:
    ran = words("run", "job.yaml", "--processes", "2", "--json", "--quiet")
    assert (ran.status, ran.json["state"], ran.json["items"]["done"], ran.json["shards"]) == (0, "done", ITEMS, [])
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == ITEMS
    rows = rows_of(words)
    assert [row["index"] for row in rows] == list(range(1, ITEMS + 1))
    assert (words.folder / "outputs/words/report.html").exists()
    assert words("verify", "outputs/words").status == 0
    again = words("run", "job.yaml", "--processes", "2", "--quiet")
    assert (again.status, sum(server.paid.values())) == (0, ITEMS)
    assert "one process goes on" in again.err
    assert words("run", "job.yaml", "--out", "alone", "--quiet").status == 0
    compared = ("id", "index", "prompt", "params", "output", "key")
    alone = [[row.get(name) for name in compared] for row in rows_of(words, "alone")]
    assert [[row.get(name) for name in compared] for row in rows] == sorted(alone, key=lambda row: int(str(row[1])))


def test_a_worker_that_is_killed_is_started_again_and_nothing_is_paid_twice_unseen(
    words: CommandLine, server: PaidServer
) -> None:
    running = words.start("run", "job.yaml", "--processes", "2", "--json", "--progress", "none")
    in_the_middle(server, running)
    os.kill(workers_of(running)[0], signal.SIGKILL)
    status, out, err = ended(running)
    assert status == 0, err
    assert "it is started again" in err
    assert [row["index"] for row in rows_of(words)] == list(range(1, ITEMS + 1))
    doubtful = json.loads(out)["sends"]["possible_duplicates"]
    assert sum(server.paid.values()) - ITEMS <= doubtful
    assert words("verify", "outputs/words").status == 0


def test_a_signal_ends_all_workers_in_order_and_the_same_command_goes_on(
    words: CommandLine, server: PaidServer
) -> None:
    running = words.start("run", "job.yaml", "--processes", "2", "--json", "--progress", "none")
    in_the_middle(server, running, workers=0)
    running.send_signal(signal.SIGINT)
    status, out, _ = ended(running)
    told = json.loads(out)
    assert (status, told["sends"]["possible_duplicates"]) == (130, 0)
    assert "--processes 2" in told["next_command"]
    assert words("status", "outputs/words").status == 0
    refused = words("run", "job.yaml", "--quiet")
    assert (refused.status, "--processes" in refused.err) == (4, True)
    assert words("run", "job.yaml", "--processes", "2", "--quiet").status == 0
    assert (len(server.paid), set(server.paid.values())) == (ITEMS, {1})


def test_when_the_parent_is_killed_the_workers_stop_and_the_same_command_goes_on(
    words: CommandLine, server: PaidServer
) -> None:
    running = words.start("run", "job.yaml", "--processes", "2", "--progress", "none")
    in_the_middle(server, running)
    children = workers_of(running)
    running.kill()
    running.communicate(timeout=PATIENCE_S)
    wait_until(lambda: not any(_lives(child) for child in children), "both workers have stopped")
    before = sum(server.paid.values())
    assert before < ITEMS
    told = words("status", "outputs/words", "--json").json["next_command"]
    assert told.endswith("run job.yaml --processes 2"), told
    ran = words("run", "job.yaml", "--processes", "2", "--json", "--quiet")
    assert ran.status == 0, ran.err
    assert sum(server.paid.values()) - ITEMS <= ran.json["sends"]["possible_duplicates"]


def test_a_budget_that_is_used_up_ends_each_run_and_a_higher_one_goes_on(
    words: CommandLine, server: PaidServer
) -> None:
    run = ("run", "job.yaml", "--processes", "2", "--quiet", "--json", "--set", "limits.requests_per_minute=6000")
    for _ in range(2):
        ran = words(*run, "--set", "budget.calls=11")
        assert (ran.status, sum(server.paid.values())) == (3, 11), ran.err
    assert words(*run, "--set", "budget.calls=1000").status == 0
    assert (len(server.paid), set(server.paid.values())) == (ITEMS, {1})


def test_the_command_that_retries_failed_items_after_the_merge_is_one_that_is_taken(words: CommandLine) -> None:
    (words.folder / "words.jsonl").write_text('{"word": "bad"}\n{"word": "good"}\n')
    ran = words("run", "job.yaml", "--processes", "2", "--quiet", "--json")
    assert (ran.status, ran.json["items"]["failed"]) == (1, 1), ran.err
    assert ran.json["next_command"].endswith("run job.yaml --retry-failed")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def test_mistakes_of_a_source_are_reported_once_and_nothing_is_sent(words: CommandLine, server: PaidServer) -> None:
    with (words.folder / "words.jsonl").open("a") as file:
        file.write('{"other": 1}\n')
    ran = words("run", "job.yaml", "--processes", "2", "--json", "--quiet")
    assert (ran.status, server.paid) == (2, {})
    assert ran.err.count("words.jsonl:121") == 1


@pytest.mark.parametrize(
    "more", [("--shard", "0/2"), ("--limit", "3"), ("--retry-failed",), ("job.yaml",), ("--coordinator", "unix:c")]
)
def test_what_does_not_fit_together_is_a_mistake(words: CommandLine, more: tuple[str, ...]) -> None:
    ran = words("run", "job.yaml", "--processes", "2", *more)
    assert (ran.status, "--processes: cannot be combined" in ran.err) == (2, True)


def test_a_coordinator_that_is_killed_goes_on_where_it_was_and_ends_when_all_is_finished(
    words: CommandLine, server: PaidServer
) -> None:
    serve = ("coordinate", "job.yaml", "--listen", "unix:c.socket", "--shards", "4", "--json", "--quiet")
    work = ("run", "job.yaml", "--coordinator", "unix:c.socket", "--quiet")
    first = words.start(*serve)
    wait_until((words.folder / "c.socket").exists, "it listens", process=first)
    workers = [words.start(*work) for _ in range(2)]
    in_the_middle(server, first, workers=0)
    first.kill()
    first.communicate(timeout=PATIENCE_S)
    second = words.start(*serve)
    for worker in workers:
        assert ended(worker)[0] == 0
    status, out, err = ended(second)
    told = json.loads(out)
    assert (status, told["items"]["done"]) == (0, ITEMS), err
    assert re.search(r"batchrunner.* merge outputs/words", told["next_command"])
    assert words("merge", "outputs/words").status == 0
    assert [row["index"] for row in rows_of(words)] == list(range(1, ITEMS + 1))
    assert (len(server.paid), set(server.paid.values())) == (ITEMS, {1})


def test_an_address_that_is_none_is_a_mistake_with_the_option(words: CommandLine) -> None:
    ran = words("coordinate", "job.yaml", "--listen", "nowhere")
    assert (ran.status, "--listen" in ran.err) == (2, True)
    ran = words("coordinate", "job.yaml", "--listen", "127.0.0.1:0")
    assert (ran.status, "BATCHRUNNER_COORDINATOR_SECRET" in ran.err) == (2, True)
