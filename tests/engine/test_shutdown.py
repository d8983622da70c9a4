"""The first request to end drains, the second cancels; both leave a ledger that the next run goes on with."""

import asyncio
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import LaneSettings, Limits
from batchrunner.engine.lanes import Lane
from batchrunner.engine.shutdown import Shutdown, SteppedOutError
from batchrunner.engine.work_queue import LoopClock
from tests.support.engine import Latency, RunHarness, World, chat, image
from tests.support.virtual_time import run_virtual

MANY = tuple(f"q{number}" for number in range(50))


async def ask_after(asked: list[Shutdown], *seconds: float, number: int = 2) -> None:
    for pause in seconds:
        await asyncio.sleep(pause)
        asked[0].request(number)


def test_a_drain_records_what_is_in_flight_and_sends_nothing_new(tmp_path: Path, asked: list[Shutdown]) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=10.0)))
    job = chat(*MANY, more="limits: {concurrency: 5}")
    report = harness.run(job, progress=lambda _: ask_after(asked, 12.0))
    assert report.exit_status is ExitStatus.INTERRUPTED
    assert harness.stats.sends == len(harness.rows()) == 10
    assert report.status.sends.unknown == 0
    assert harness.events()[-1]["e"] == "close"
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 50


def test_sigterm_is_distinguished(tmp_path: Path, asked: list[Shutdown]) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=10.0)))
    report = harness.run(chat(*MANY), progress=lambda _: ask_after(asked, 1.0, number=15))
    assert report.exit_status is ExitStatus.TERMINATED


def test_a_second_request_cancels_and_what_was_in_flight_is_counted_as_unknown(
    tmp_path: Path, asked: list[Shutdown]
) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=100.0)))
    job = chat(*MANY, more="limits: {concurrency: 5}")
    began = harness.began
    report = harness.run(job, progress=lambda _: ask_after(asked, 5.0, 1.0))
    assert report.exit_status is ExitStatus.INTERRUPTED
    assert (
        "sending stopped; waiting for 5 requests in flight for up to 60 s; Ctrl-C or SIGTERM again to stop at once"
        in harness.said
    )
    assert harness.began - began < 10.0
    assert harness.events()[-1]["e"] == "close"
    assert (report.status.sends.unknown, report.status.sends.possible_duplicates) == (5, 5), "it is told at once"
    second = harness.run(job)
    assert second.exit_status is ExitStatus.DONE
    assert second.status.sends.unknown == 5
    assert harness.stats.sends == 55


def test_the_grace_of_a_drain_has_an_end(tmp_path: Path, asked: list[Shutdown]) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=10_000.0)))
    began = harness.began
    harness.run(
        chat("one", more="timeouts: {first_byte_s: 20000, total_s: 20000}"), progress=lambda _: ask_after(asked, 5.0)
    )
    assert harness.began - began < 100.0


def test_a_drain_leaves_remote_tasks_to_the_next_run(tmp_path: Path, asked: list[Shutdown]) -> None:
    harness = RunHarness(tmp_path, World(latency=Latency(task_s=50.0)))
    job = image("a boat", "a barn")
    report = harness.run(job, progress=lambda _: ask_after(asked, 10.0))
    assert report.exit_status is ExitStatus.INTERRUPTED
    assert report.status.items.accepted == 2
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 2


def test_waiters_of_a_parked_lane_leave_at_once(tmp_path: Path, asked: list[Shutdown]) -> None:
    harness = RunHarness(tmp_path)
    began = harness.began
    report = harness.run(chat(*MANY, model="sim/chat#retry-after-huge"), progress=lambda _: ask_after(asked, 30.0))
    assert report.exit_status is ExitStatus.INTERRUPTED
    assert harness.began - began < 40.0
    assert report.status.items.pending == 50


def lane(*, concurrency: int, **limits: float) -> Lane:
    settings = LaneSettings(
        concurrency=concurrency,
        adaptive=False,
        in_flight_tasks=None,
        limits=Limits(**limits),  # type: ignore[arg-type] # numbers by name
        breaker=20,
        day_offset_s=0.0,
    )
    return Lane("", "m", settings=settings, clock=LoopClock(wall_at_zero=0.0), sent_today=0)


def test_slots_are_conserved_when_waiters_are_cancelled() -> None:
    async def script() -> None:
        one = lane(concurrency=1)
        assert await one.acquire(fresh=True)
        waiters = [asyncio.create_task(one.acquire(fresh=bool(number % 2))) for number in range(6)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        waiters[3].cancel()
        one.release()
        await asyncio.sleep(0)
        assert one.in_flight == 1
        for _ in range(4):
            await asyncio.sleep(0)
            one.release()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert one.in_flight == 0

    run_virtual(script)


def test_a_slot_granted_to_a_waiter_that_is_cancelled_in_the_same_turn_comes_back() -> None:
    async def script() -> None:
        one = lane(concurrency=1)
        assert await one.acquire(fresh=True)
        waiter = asyncio.create_task(one.acquire(fresh=True))
        await asyncio.sleep(0)
        one.release()
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert one.in_flight == 0

    run_virtual(script)


def test_returning_items_go_before_fresh_ones() -> None:
    async def script() -> list[str]:
        one = lane(concurrency=1)
        order: list[str] = []

        async def wait(name: str, *, fresh: bool) -> None:
            assert await one.acquire(fresh=fresh)
            order.append(name)
            one.release()

        assert await one.acquire(fresh=True)
        tasks = [asyncio.create_task(wait("fresh", fresh=True)), asyncio.create_task(wait("back", fresh=False))]
        await asyncio.sleep(0)
        one.release()
        await asyncio.gather(*tasks)
        return order

    assert run_virtual(script) == ["back", "fresh"]


def test_sleep_ends_with_the_drain() -> None:
    async def script() -> float:
        shutdown = Shutdown()
        sleeping = asyncio.create_task(shutdown.sleep(1000.0))
        await asyncio.sleep(3.0)
        shutdown.request()
        with pytest.raises(SteppedOutError):
            await sleeping
        shutdown.over()
        return asyncio.get_running_loop().time()

    assert run_virtual(script) == 3.0
