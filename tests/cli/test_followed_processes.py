"""What programs are told of a job that processes share: events, metrics, the log, by the parent for all of them."""

import json
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchrunner.cli.main import _with_values
from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines
from tests.support.waiting import wait_until

ITEMS = 40
DIR = "outputs/words.simulated"


@pytest.fixture
def words(batchrunner: CommandLine) -> CommandLine:
    rows = "".join(json.dumps({"word": f"w{n}"}) + "\n" for n in range(ITEMS))
    (batchrunner.folder / "words.jsonl").write_text(rows)
    (batchrunner.folder / "job.yaml").write_text(
        "name: words\nprovider: simulator\nmodel: sim/words\n"
        'prompts: {file: words.jsonl, template: "Explain {{ word }}."}\n'
    )
    return batchrunner


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def figures(text: str) -> dict[tuple[str, str], float]:
    """Items by state, sends by outcome, exit status."""
    return {
        (sample.name, sample.labels.get("state", sample.labels.get("outcome", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in {"batchrunner_items", "batchrunner_sends_total", "batchrunner_exit_status"}
    }


def coordinator(words: CommandLine, *more: str) -> "subprocess.Popen[str]":
    """One that listens."""
    (words.folder / "c").unlink(missing_ok=True)
    serve = words.start("coordinate", "job.yaml", "--listen", "unix:c", "--shards", "3", "--progress", "plain", *more)
    wait_until((words.folder / "c").exists, "it listens")
    return serve


def items_reported(path: Path) -> list[int]:
    told = [event["items"]["total"] for event in json_lines(path) if "items" in event]
    assert told
    return told


def test_events_and_lines_of_processes_know_from_the_first_how_many_items_there_are(words: CommandLine) -> None:
    limits = ("--set", "limits.requests_per_minute=1200")
    ran = words("run", "job.yaml", "--processes", "2", "--events", "e.jsonl", "--progress", "plain", *limits)
    assert ran.status == 0
    events = json_lines(words.folder / "e.jsonl")
    assert [events[0]["event"], events[-1]["event"]] == ["started", "ended"]
    assert set(items_reported(words.folder / "e.jsonl")) == {ITEMS}
    assert "of 0 done" not in ran.err
    assert f"of {ITEMS} done" in ran.err


def test_a_coordinator_that_begins_again_knows_what_finished_shards_have(words: CommandLine) -> None:
    limits = ("--set", "limits.requests_per_minute=900")
    first = coordinator(words, *limits)
    worker = words.start("run", "job.yaml", "--coordinator", "unix:c", "--quiet", *limits)
    wait_until(
        lambda: any('"finished"' in claim.read_text() for claim in words.folder.glob(f"{DIR}/shards/*/claim-1.json")),
        "a shard is finished",
    )
    first.kill()
    first.communicate(timeout=60)
    second = coordinator(words, "--events", "e.jsonl", *limits)
    _, said = second.communicate(timeout=60)
    worker.communicate(timeout=60)
    assert (second.returncode, "of 0 done" in said) == (0, False), said
    assert items_reported(words.folder / "e.jsonl")[0] == ITEMS
    first_done = next(event["items"]["done"] for event in json_lines(words.folder / "e.jsonl") if "items" in event)
    assert first_done > 0


def test_one_address_of_metrics_has_the_figures_of_all_processes(words: CommandLine) -> None:
    port, found = free_port(), dict[tuple[str, str], float]()
    running = words.start(
        "run", "job.yaml", "--processes", "2", "--quiet", "--metrics", f"127.0.0.1:{port}", "--metrics-file", "m.prom",
        "--set", "limits.requests_per_minute=900",
    )  # fmt: skip

    def scraped() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
                found.update(figures(reply.read().decode()))
        except OSError:
            assert running.poll() is None
        return found.get(("batchrunner_items", "done"), 0) > 0 and ("batchrunner_sends_total", "answered") in found

    wait_until(scraped, "some are done")
    assert sum(number for (name, _), number in found.items() if name == "batchrunner_items") == ITEMS
    _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    last = figures((words.folder / "m.prom").read_text())
    assert last["batchrunner_items", "done"] == last["batchrunner_sends_total", "answered"] == ITEMS
    assert last["batchrunner_exit_status", ""] == 0


def test_a_coordinator_has_the_metrics_of_its_workers_and_a_worker_none(words: CommandLine) -> None:
    refused = words("run", "job.yaml", "--coordinator", "unix:c", "--metrics-file", "w.prom")
    assert (refused.status, "batchrunner coordinate" in refused.err) == (2, True)
    serve = coordinator(words, "--metrics-file", "m.prom")
    assert words("run", "job.yaml", "--coordinator", "unix:c", "--quiet").status == 0
    _, said = serve.communicate(timeout=60)
    assert serve.returncode == 0, said
    last = figures((words.folder / "m.prom").read_text())
    assert (last["batchrunner_items", "done"], last["batchrunner_exit_status", ""]) == (ITEMS, 0)


def test_the_log_of_processes_states_where_the_records_are_and_each_line_is_an_object(words: CommandLine) -> None:
    ran = words("run", "job.yaml", "--processes", "2", "--log-json", "--set", "limits.requests_per_minute=1200")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert any(f"2 shards are in their own ledgers below {DIR}" in str(line.get("text")) for line in lines)
    assert (lines[-1]["event"], lines[-1]["exit_status"], lines[-1]["items"]["done"]) == ("ended", 0, ITEMS)


def test_a_worker_logs_the_records_of_every_shard_that_it_has(words: CommandLine) -> None:
    serve = coordinator(words)
    ran = words("run", "job.yaml", "--coordinator", "unix:c", "--log-json")
    serve.communicate(timeout=60)
    done = [line["key"] for line in map(json.loads, ran.err.splitlines()) if line["event"] == "done"]
    assert len(set(done)) == ITEMS


def test_a_job_s_end_is_reported_where_no_process_could_work(words: CommandLine) -> None:
    (words.folder / "words.jsonl").write_text('{"other": 1}\n')
    ran = words("run", "job.yaml", "--processes", "2", "--events", "e.jsonl", "--quiet")
    assert ran.status == 2
    assert [event["event"] for event in json_lines(words.folder / "e.jsonl")] == ["ended"]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (("run", "--ray", "job.yaml"), ["run", "--ray=local", "job.yaml"]),
        (("run", "--ray", "other.yml", "--workers", "2"), ["run", "--ray=local", "other.yml", "--workers", "2"]),
        (("run", "job.yaml", "--ray"), ["run", "job.yaml", "--ray=local"]),
        (("run", "job.yaml", "--ray", "--json"), ["run", "job.yaml", "--ray=local", "--json"]),
        (("run", "job.yaml", "--ray", "10.0.0.5:6379"), ["run", "job.yaml", "--ray", "10.0.0.5:6379"]),
        (("run", "job.yaml", "--ray", "auto"), ["run", "job.yaml", "--ray", "auto"]),
    ],
)
def test_a_job_file_after_ray_is_no_address(typed: tuple[str, ...], read: list[str]) -> None:
    assert list(_with_values(typed)) == read
