"""SIGINT and SIGTERM, once and twice, and kill -9 in the drain and in the last rewrite: the next run goes on."""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.jobs import chat_job, image_job
from tests.e2e.judging import (
    account_of,
    is_intact,
    ledger_records,
    nothing_is_wrong,
    pictures_are_what_was_sent,
    texts_are_what_was_sent,
    write_prompts,
)
from tests.e2e.lives import Life, Progress, run
from tests.e2e.runs import CANARY, Simulator, no_byte_holds, simulator
from tests.support.json_lines import json_lines, json_lines_so_far
from tests.support.torture import Tried, at_size

pytestmark = pytest.mark.real
ANSWERS, PICTURES, FEW, MANY = 600, 150, 90, 2_000
MOMENTS = at_size(6, 60)
REWRITES = at_size(4, 40)


def until_lines(living: Life, out: Path, lines: int) -> bool:
    progress = Progress(out / "ledger")
    before = progress.lines()
    return living.watch(until=lambda: progress.lines() >= before + lines)


def goes_on_to_the_end(job: Path, out: Path, server: Simulator, prompts: list[str]) -> None:
    with run(job) as last:
        ended = last.end()
    assert ended.status == 0, ended.stderr
    nothing_is_wrong(account_of(out, server.stats(), items=len(prompts)))
    texts_are_what_was_sent(out, prompts)
    is_intact(out)
    no_byte_holds(job.parent, CANARY)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_and_nothing_is_in_doubt(tmp_path: Path, number: int, status: int) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=ANSWERS)
    out = tmp_path / "outputs" / "answers"
    with simulator(tmp_path, "--latency", "first=0.3,spread=0.5") as server:
        job = chat_job(tmp_path, server.base_url)
        with run(job) as living:
            assert until_lines(living, out, 200)
            living.send(number)
            ended = living.end()
        assert ended.status == status, ended.stderr
        assert ended.report["state"] == "interrupted"
        assert ended.report["sends"]["possible_duplicates"] == 0
        assert ledger_records(out)[-1]["e"] == "close"
        assert len(json_lines(out / "results.jsonl")) == server.stats()["sends"] < ANSWERS
        goes_on_to_the_end(job, out, server, prompts)
        assert server.stats()["sends"] == ANSWERS, "something was sent twice"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_remote_tasks_accepted_and_the_next_run_takes_them_up(
    tmp_path: Path, number: int, status: int
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=PICTURES)
    out = tmp_path / "outputs" / "pictures"
    with simulator(tmp_path, "--latency", "task=1.5,spread=0.5") as server:
        job = image_job(tmp_path, server.base_url, in_flight=50)
        with run(job) as living:
            assert until_lines(living, out, 120)
            living.send(number)
            ended = living.end()
        assert ended.status == status, ended.stderr
        assert ended.report["items"]["accepted"] > 0
        assert ledger_records(out)[-1]["e"] == "close"
        with run(job) as last:
            assert last.end().status == 0
        stats = server.stats()
    account = account_of(out, stats, items=PICTURES)
    nothing_is_wrong(account)
    assert (stats["sends"], account.reported) == (PICTURES, 0)
    pictures_are_what_was_sent(out, prompts)


def drained(living: Life, server: Simulator) -> None:
    """Ask for the end while the server is at work, and come back when the program has heard it."""
    assert living.watch(until=lambda: server.stats()["in_flight"] >= 20)
    living.send(signal.SIGINT)
    assert living.watch(until=living.has_taken_its_signals)


def test_a_second_interruption_in_the_drain_ends_at_once_and_leaves_an_intact_ledger(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=FEW)
    out = tmp_path / "outputs" / "answers"
    with simulator(tmp_path, "--latency", "first=4,spread=0.5") as server:
        job = chat_job(tmp_path, server.base_url)
        with run(job) as living:
            drained(living, server)
            living.send(signal.SIGINT)
            ended = living.end()
        assert ended.status == 130, ended.stderr
        assert "Traceback" not in ended.stderr
        assert ledger_records(out)[-1]["e"] == "close"
        assert len(json_lines(out / "results.jsonl")) < server.stats()["sends"], "it waited for the answers"
        is_intact(out)
        goes_on_to_the_end(job, out, server, prompts)


def test_a_kill_in_the_drain_leaves_an_intact_ledger(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=FEW)
    out = tmp_path / "outputs" / "answers"
    with simulator(tmp_path, "--latency", "first=4,spread=0.5") as server:
        job = chat_job(tmp_path, server.base_url)
        with run(job) as living:
            drained(living, server)
            assert living.kill()
        is_intact(out)
        goes_on_to_the_end(job, out, server, prompts)


def test_a_signal_at_any_moment_is_reported_in_words_and_costs_nothing(tmp_path: Path, tried: Tried) -> None:
    """From the first instruction on: before there is a ledger, while work is taken up, and in the middle of it."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=ANSWERS)
    out = tmp_path / "outputs" / "answers"
    random_source = random.Random(3)
    with simulator(tmp_path, "--latency", "first=0.5,spread=0.5") as server:
        job = chat_job(tmp_path, server.base_url)
        for turn in range(MOMENTS):
            number, status = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[turn % 2]
            moment = time.monotonic() + random_source.uniform(0.0, 1.5)
            with run(job, "--limit", str(ANSWERS * (turn + 1) // MOMENTS)) as living:
                living.watch(until=lambda: time.monotonic() >= moment)  # noqa: B023 - called within this turn
                asked = living.send(number)
                ended = living.end()
            if asked and not ended.stderr.startswith("Fatal Python error: init_import_site"):  # Python's own start
                assert ended.status in {status, -number, 0}, ended
            assert "batchrunner/cli" not in ended.stderr, "a traceback"
            is_intact(out)
        tried("signals at random moments", MOMENTS)
        goes_on_to_the_end(job, out, server, prompts)
        assert server.stats()["sends"] == ANSWERS, "something was sent twice"


def test_a_kill_in_the_last_rewrite_loses_no_row(tmp_path: Path, tried: Tried) -> None:
    """A job shrinks and grows again: each time its rows change their file, and the process is killed over it."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=MANY)
    lines = (tmp_path / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(lines[: MANY // 2]), "utf-8")
    out = tmp_path / "outputs" / "answers"
    random_source, killed = random.Random(4), 0
    with simulator(tmp_path) as server:
        whole = chat_job(tmp_path, server.base_url)
        half = chat_job(tmp_path, server.base_url, prompts="fewer.jsonl", name="fewer.yaml")
        with run(whole) as living:
            assert living.end().status == 0
        for turn in range(5 * REWRITES):  # on a busy machine a kill may come when the rewrite is over
            if killed >= REWRITES:
                break
            with run(whole if turn % 2 else half) as living:
                if living.watch(until=lambda: any(out.glob("*.tmp"))):
                    moment = time.monotonic() + random_source.uniform(0.0, 0.03)
                    living.watch(until=lambda: time.monotonic() >= moment)  # noqa: B023 - called within this turn
                killed += living.kill()
            is_intact(out)
            kept = Counter(
                row["key"] for name in ("results", "superseded") for row in json_lines_so_far(out / f"{name}.jsonl")
            )
            assert len(kept) == MANY, "a row is lost"
        tried("kills: rewrites", killed)
        assert killed >= REWRITES
        with run(half) as living:
            assert living.end().status == 0
        assert len(json_lines(out / "results.jsonl")) == MANY // 2
        assert len({row["key"] for row in json_lines(out / "superseded.jsonl")}) == MANY // 2
        goes_on_to_the_end(whole, out, server, prompts)
        assert server.stats()["sends"] == MANY, "something was sent again"
