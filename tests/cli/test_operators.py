"""What a run tells programs: figures for Prometheus, a file of them, and JSON on stderr. None has a prompt or a key."""

import json
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchrunner.cli.main import main
from batchrunner.cli.metrics import Metrics
from batchrunner.core.budget import BudgetLine
from batchrunner.core.errors import ExitStatus, JobMistakesError
from batchrunner.core.status import ItemCounts, LaneStatus, SendCounts, Status, UsageCounts
from batchrunner.stores.appender import CommitTimes

CANARY = "canary-zebra-9231"
JOB = f"name: night\nprovider: simulator\nmodel: sim/talker\nprompts: [{CANARY} one, {CANARY} two, three]\n"
LANE = LaneStatus(account="A_KEY", model="m", state="open", concurrency=4, in_flight=2)
RUNNING = Status(
    job="night",
    state="running",
    items=ItemCounts(total=9, done=5, pending=4),
    sends=SendCounts(total=10, refused=1, ambiguous=2, unknown=0, possible_duplicates=2),
    usage=UsageCounts(input_tokens=70, output_tokens=30),
    lanes=(LANE,),
    budget=(
        BudgetLine(unit="money", limit=None, spent=1.25, currency="USD"),
        BudgetLine(unit="calls", limit=9, spent=1),
    ),
)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and the labels' values, in the labels' order of names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def job_in(folder: Path, *, more: str = "") -> str:
    (folder / "job.yaml").write_text(JOB + more)
    return str(folder / "job.yaml")


def scraped(metrics: Metrics) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=60) as reply:
        return samples(reply.read().decode())


def see(metrics: Metrics, status: Status) -> None:
    """As `follow` does, without a loop: an end of no consequence."""
    metrics.ended(status.job, ExitStatus.PAUSED, status=status)


def test_a_scrape_reads_the_figures_of_the_last_look() -> None:
    with Metrics(address="127.0.0.1:0", file=None) as metrics:
        see(metrics, RUNNING)
        found = scraped(metrics)
    assert found["batchrunner_items", "night", "done"] == 5
    assert found["batchrunner_items", "night", "pending"] == 4
    assert found["batchrunner_sends_total", "night", "answered"] == 5, "two of ten are in flight"
    assert found["batchrunner_sends_total", "night", "refused"] == 1
    assert found["batchrunner_sends_total", "night", "ambiguous"] == 2
    assert found["batchrunner_lane_concurrency", "A_KEY", "night", "m"] == 4
    assert found["batchrunner_lane_in_flight", "A_KEY", "night", "m"] == 2
    assert found["batchrunner_tokens_total", "input", "night"] == 70
    assert found["batchrunner_tokens_total", "output", "night"] == 30
    assert found["batchrunner_cost_total", "USD", "night"] == 1.25
    assert found["batchrunner_exit_status", "night"] == 3
    assert not [name for name, *_ in found if name == "batchrunner_lane_parked"]


def test_a_lane_that_sends_nothing_is_reported_with_its_reason_until_it_sends_again() -> None:
    with Metrics(address="127.0.0.1:0", file=None) as metrics:
        for activity, kind, told in (("parked", "daily_quota", "daily_quota"), ("closed", None, "closed")):
            lane = LaneStatus(account="A_KEY", model="m", state="parked", activity=activity, kind=kind)  # type: ignore[arg-type]
            see(
                metrics,
                Status(
                    job="n", state="running", items=ItemCounts(), sends=SendCounts(), usage=UsageCounts(), lanes=(lane,)
                ),
            )
            assert scraped(metrics)["batchrunner_lane_parked", "A_KEY", "n", "m", told] == 1
        see(metrics, RUNNING)
        assert ("batchrunner_lane_parked", "A_KEY", "night", "m", "closed") not in scraped(metrics)


def test_counters_only_grow_although_requests_in_flight_are_no_answers_yet(tmp_path: Path) -> None:
    metrics = Metrics(address=None, file=str(tmp_path / "a.prom"))
    answered = []
    for flying in (0, 6, 1):
        lane = LaneStatus(account="A", model="m", state="open", in_flight=flying)
        see(
            metrics,
            Status(
                job="n",
                state="running",
                items=ItemCounts(),
                sends=SendCounts(total=8),
                usage=UsageCounts(),
                lanes=(lane,),
            ),
        )
        answered.append(samples((tmp_path / "a.prom").read_text())["batchrunner_sends_total", "n", "answered"])
    assert answered == [8, 8, 8]


def test_syncs_are_counted_in_the_bucket_that_they_fit_in() -> None:
    times = CommitTimes()
    for seconds in (0.0005, 0.001, 0.02, 99.0):
        times.took(seconds)
    buckets, total_s = times.buckets()
    assert (buckets[0], buckets[1], buckets[3], buckets[-1]) == ((0.001, 2), (0.003, 2), (0.03, 3), (None, 4))
    assert total_s == pytest.approx(99.0215)


def test_a_run_leaves_its_figures_in_a_file_and_no_prompt_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "night.prom"
    assert main(["run", job_in(tmp_path), "--metrics-file", str(file), "--metrics", "127.0.0.1:0", "-q"]) == 0
    text = file.read_text()
    found = samples(text)
    assert found["batchrunner_items", "night", "done"] == 3
    assert found["batchrunner_sends_total", "night", "answered"] == 3
    assert found["batchrunner_exit_status", "night"] == 0
    assert found["batchrunner_ledger_commit_seconds_count",] >= 1
    assert CANARY not in text
    assert [path.name for path in tmp_path.iterdir() if ".prom." in path.name] == []
    assert main(["run", job_in(tmp_path), "--metrics-file", str(file), "-q"]) == 0, "its own file is written over"


@pytest.mark.parametrize("option", ["--metrics", "--metrics-file"])
def test_a_place_that_cannot_be_had_ends_the_command_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong: Mapping[str, tuple[str, ...]] = {
            "--metrics": (f"127.0.0.1:{taken.getsockname()[1]}", "9464x", "127.0.0.1:99999", "192.0.2.7:9464", "a b:1"),
            "--metrics-file": tuple(
                str(tmp_path / name) for name in ("gone/a.prom", "notes.txt", "results.jsonl", ".")
            ),
        }
        for place in wrong[option]:
            assert main(["run", job_in(tmp_path), option, place]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1, said
            assert said.startswith(f"error: {option}")
    assert not (tmp_path / "outputs").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_that_cannot_be_written_any_more_is_reported_once_and_harms_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    metrics = Metrics(address=None, file=str(tmp_path / "there" / "a.prom"))
    (tmp_path / "there" / "a.prom").unlink()
    (tmp_path / "there").rmdir()
    for _ in range(2):
        see(metrics, RUNNING)
    assert capsys.readouterr().err.count("no more figures are written") == 1


def test_without_the_library_the_option_states_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client.core", None)
    with pytest.raises(JobMistakesError, match=r"pip install 'batchrunner\[metrics\]'"):
        Metrics(address="127.0.0.1:0", file=None)


def test_with_log_json_every_line_of_stderr_is_an_event_and_the_ledger_is_among_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", job_in(tmp_path), "--log-json", "--json"]) == 0
    printed = capsys.readouterr()
    events = [json.loads(line) for line in printed.err.splitlines()]
    assert json.loads(printed.out)["state"] == "done"
    ledger = [
        json.loads(line) for line in (tmp_path / "outputs/night.simulated/ledger/000001.jsonl").read_text().splitlines()
    ]
    told = [event for event in events if event["event"] not in {"message", "ended"}]
    assert [event["event"] for event in told] == [record["e"] for record in ledger]
    assert [event.get("key") for event in told] == [record.get("k") for record in ledger]
    assert all(event["job"] == "night" and event["time"].endswith("Z") for event in told)
    assert events[-1]["event"] == "ended"
    assert (events[-1]["exit_status"], events[-1]["items"]["done"]) == (0, 3)
    assert CANARY not in printed.err


def test_with_log_json_errors_are_events_too_and_the_next_command_prints_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", job_in(tmp_path, more="breaker: no\n"), "--log-json"]) == 2
    (event,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (event["event"], event["level"]) == ("message", "error")
    assert "breaker" in event["text"]
    assert main(["check", job_in(tmp_path)]) == 0
    assert "no errors" in capsys.readouterr().err


def test_what_a_server_states_of_an_item_is_in_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may quote the prompt: the kind of the problem is told."""
    assert main(["run", job_in(tmp_path, more="scenario: content-filter\n"), "--log-json"]) in {1, 3}
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failed = [event for event in events if event["event"] == "failed"]
    assert failed
    assert {event["level"] for event in failed} == {"error"}
    assert all(event["kind"] and "message" not in event and "i" not in event for event in failed)
