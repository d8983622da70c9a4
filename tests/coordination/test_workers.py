"""Workers as real processes: killed, stopped and woken, with a server that counts what it is paid for."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import batchrunner as package
from batchrunner.coordination.address import Address
from batchrunner.coordination.desk import Desk
from batchrunner.coordination.server import CoordinatorServer
from batchrunner.core.coordination import Coordinator
from batchrunner.core.job import Job
from batchrunner.stores.run_directory import digest_of_job
from batchrunner.stores.shard_claims import ClaimFiles
from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines
from tests.support.metered_server import Meter, metered_server
from tests.support.waiting import PATIENCE_S, wait_until

JOB = """
name: words
provider: {{preset: openai, base_url: '{root}/v1', api_key_env: [], auth: none}}
model: m
stream: false
prompts: {{file: words.txt}}
limits: {{{limits}}}
{more}
"""


def write(batchrunner: CommandLine, root: str, items: int, *, limits: str, more: str = "") -> Job:
    (batchrunner.folder / "words.txt").write_text("".join(f"word {number}\n" for number in range(items)))
    (batchrunner.folder / "job.yaml").write_text(JOB.format(root=root, limits=limits, more=more))
    return package.load_job(str(batchrunner.folder / "job.yaml"))


@contextmanager
def coordinated(job: Job, *, shards: int, expires_s: float) -> Iterator[tuple[Coordinator, str]]:
    """A coordinator in a thread; with its address."""
    base, digest = Path(job.output.dir), digest_of_job(job)
    coordinator = Coordinator(job, digest=digest, shards=shards, now=time.monotonic(), expires_s=expires_s)
    desk = Desk(coordinator, ClaimFiles(base, shards=shards, job=digest))
    path = f"/tmp/{os.getpid()}-{time.monotonic_ns()}.socket"
    loop = asyncio.new_event_loop()
    server = CoordinatorServer(desk, Address(path=path), secret="")
    loop.run_until_complete(server.__aenter__())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield coordinator, f"unix:{path}"
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()


def start(batchrunner: CommandLine, address: str) -> "subprocess.Popen[str]":
    return batchrunner.start("run", "job.yaml", "--coordinator", address, "--quiet")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit status and what it said."""
    _, said = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in said, said
    return process.returncode, said


def all_have_ended(
    batchrunner: CommandLine, coordinator: Coordinator, address: str, workers: "list[subprocess.Popen[str]]"
) -> None:
    """Every shard is finished. A worker that this machine kept from its beats is followed by another one."""
    for worker in workers:  # which grows
        status, said = ended(worker)
        if status == 4 and not coordinator.is_finished:
            assert "no beat was answered" in said or "has given it away" in said or "does not answer" in said, said
            workers.append(start(batchrunner, address))
        else:
            assert status in {0, 4}, said
    assert coordinator.is_finished


def is_free(coordinator: Coordinator, shard: int) -> bool:
    """Whether nobody has it any more; asked while no worker speaks to the coordinator."""
    coordinator.expire(time.monotonic())
    return not coordinator.shards[shard].is_held


def merged(batchrunner: CommandLine, meter: Meter, items: int) -> None:
    """All rows are there, and what was paid beyond them is flagged."""
    ran = batchrunner("merge", "outputs/words", "--json")
    assert ran.status == 0, ran.err
    base = batchrunner.folder / "outputs" / "words"
    rows = json_lines(base / "results.jsonl")
    assert [row["index"] for row in rows] == list(range(1, items + 1))
    assert batchrunner("verify", "outputs/words", "--json").json["findings"] == []
    status = batchrunner("status", "outputs/words", "--json").json
    assert status["items"]["done"] == items
    assert meter.paid.total() - items <= status["sends"]["possible_duplicates"]
    assert len(meter.paid) == items


def test_two_workers_share_one_pace_and_one_job(batchrunner: CommandLine) -> None:
    items = 120  # with a pace each, 66 a second would leave: 28 of these were refused
    with metered_server(per_second=40, burst=20) as (root, meter):
        job = write(batchrunner, root, items, limits="requests_per_minute: 2000, concurrency: 20")
        with coordinated(job, shards=4, expires_s=6.0) as (coordinator, address):
            workers = [start(batchrunner, address) for _ in range(2)]
            all_have_ended(batchrunner, coordinator, address, workers)
            lost = sum(shard.epoch - 1 for shard in coordinator.shards)
        assert meter.refused == 0
        assert meter.paid.total() - items <= lost * 20
        merged(batchrunner, meter, items)


def test_killed_workers_lose_nothing_and_what_is_paid_twice_is_flagged(batchrunner: CommandLine) -> None:
    items = 200
    with metered_server(per_second=60, burst=10, latency_s=0.1) as (root, meter):
        job = write(batchrunner, root, items, limits="requests_per_minute: 3000, concurrency: 20")
        with coordinated(job, shards=4, expires_s=6.0) as (coordinator, address):
            workers = [start(batchrunner, address) for _ in range(2)]
            for threshold in (30, 90):
                wait_until(lambda least=threshold: meter.paid.total() >= least, "requests are paid for")  # type: ignore[misc]
                victim = next(one for one in workers if one.poll() is None)
                victim.kill()
                victim.communicate()
                workers.remove(victim)
                workers.append(start(batchrunner, address))
            all_have_ended(batchrunner, coordinator, address, workers)
            lost = sum(shard.epoch - 1 for shard in coordinator.shards)
        assert meter.paid.total() - items <= lost * 20, "what was in flight at a loss, and nothing else"
        merged(batchrunner, meter, items)


def test_a_stopped_worker_loses_its_shard_and_sends_nothing_more_once_it_wakes(batchrunner: CommandLine) -> None:
    items = 16
    with metered_server(per_second=1000, burst=1000, latency_s=1.0) as (root, meter):
        job = write(batchrunner, root, items, limits="concurrency: 4")
        with coordinated(job, shards=1, expires_s=6.0) as (coordinator, address):
            first = start(batchrunner, address)
            wait_until(lambda: meter.paid.total() >= 4, "the first requests are in flight", process=first)
            first.send_signal(signal.SIGSTOP)
            wait_until(lambda: is_free(coordinator, 0), "its claim has expired")
            coordinator.expires_s = PATIENCE_S  # so that the second one keeps its claim on a busy machine
            second = start(batchrunner, address)
            assert ended(second)[0] == 0
            assert coordinator.is_finished, "another has finished it meanwhile"
            assert coordinator.shards[0].epoch == 2
            paid = meter.paid.total()
            first.send_signal(signal.SIGCONT)
            status, said = ended(first)
            assert (status, "another worker may have taken it over" in said) == (4, True), said
        assert meter.paid.total() == paid, "it has sent nothing more"
        shard = batchrunner.folder / "outputs/words/shards/0-of-1"
        assert len(json_lines(shard / "epoch-2" / "results.jsonl")) == items
        late = len(json_lines(shard / "epoch-1" / "results.jsonl"))
        assert late > 0, "answers to what it had sent are kept in its own epoch"
        merged(batchrunner, meter, items)


def test_without_a_coordinator_a_worker_sends_nothing_and_reports_it(batchrunner: CommandLine) -> None:
    with metered_server(per_second=1000, burst=1000) as (root, meter):
        write(batchrunner, root, 3, limits="concurrency: 2")
        ran = batchrunner("run", "job.yaml", "--coordinator", "unix:/tmp/nobody-is-here.socket")
        assert (ran.status, "does not answer" in ran.err) == (4, True)
        assert not meter.paid


def test_a_coordinator_that_goes_away_leaves_its_workers_without_a_claim(batchrunner: CommandLine) -> None:
    with metered_server(per_second=30, burst=30) as (root, meter):
        job = write(batchrunner, root, 2000, limits="requests_per_minute: 1200, concurrency: 4")
        with coordinated(job, shards=1, expires_s=6.0) as (_, address):
            worker = start(batchrunner, address)
            wait_until(lambda: meter.paid.total() >= 10, "requests are paid for")
        status, said = ended(worker)
        assert (status, "no beat was answered" in said) == (4, True), said
        assert meter.paid.total() < 2000


def test_a_budget_is_kept_by_all_workers_together(batchrunner: CommandLine) -> None:
    with metered_server(per_second=200, burst=50) as (root, meter):
        job = write(batchrunner, root, 60, limits="concurrency: 4", more="budget: {calls: 25}")
        with coordinated(job, shards=4, expires_s=30.0) as (_, address):
            workers = [start(batchrunner, address) for _ in range(2)]
            assert {ended(worker)[0] for worker in workers} <= {3}
        assert meter.paid.total() == 25


@pytest.mark.parametrize(
    "more", [("--shard", "0/2"), ("--limit", "3"), ("--retry-failed",), ("--only", "x")], ids=" ".join
)
def test_what_a_worker_cannot_do_is_a_mistake(batchrunner: CommandLine, more: tuple[str, ...]) -> None:
    write(batchrunner, "http://127.0.0.1:9", 3, limits="concurrency: 2")
    ran = batchrunner("run", "job.yaml", "--coordinator", "unix:/tmp/nobody", *more)
    assert (ran.status, "--coordinator: cannot be combined with" in ran.err) == (2, True)
