"""The whole engine on a disk that dies, refuses and forgets: at every call, and by seed.

`BATCHRUNNER_SEEDS=20000` tries more seeds, `BATCHRUNNER_SEED=123` repeats one run. The invariants have the
numbers of tests/README.md: `watch` checks them at every event, `invariants` after every life.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus, StoreBrokenError
from batchrunner.engine.recorder import uncancellable
from batchrunner.simulator.profiles import NO_FAULTS, Latency
from batchrunner.simulator.world import World
from tests.crash.invariants import check, check_end
from tests.crash.jobs import PLAIN
from tests.crash.lives import CrashHarness
from tests.crash.regression_seeds import PAST_BUGS, PastBug
from tests.crash.seeded_runs import Ending, plain_seeded_run, seeded_run
from tests.support.crashing_disk import Refusal, Trouble
from tests.support.torture import Tried, at_size
from tests.support.virtual_time import run_virtual

SEEDS = int(os.environ.get("BATCHRUNNER_SEEDS") or at_size(250, 10_000))
ONE_SEED = os.environ.get("BATCHRUNNER_SEED")
BATCHES = 16
"""So that several processes share the seeds."""
HERE = Path("tests/crash") / Path(__file__).name


def calls_of(kind: str, items: int) -> int:
    """How often a life without trouble changes something on the disk."""
    harness = CrashHarness(1, kind=kind, items=items)
    assert harness.live() is ExitStatus.DONE
    return harness.disk.calls


def run_again(seed: int, run_of: Callable[[int], CrashHarness], test: str) -> CrashHarness:
    """A run, or the command that repeats it."""
    try:
        return run_of(seed)
    except BaseException as error:
        error.add_note(f"to tell it again: BATCHRUNNER_SEED={seed} .venv/bin/python -m pytest {HERE} -k {test}")
        error.add_note("it then goes into tests/crash/regression_seeds.py, with its description")
        raise


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("trouble", ["crash", "enospc", "eio", "short"])
@pytest.mark.parametrize("kind", PLAIN)
def test_every_call_may_be_the_last_one(kind: str, trouble: Refusal, tried: Tried, *, power: bool) -> None:
    """Invariants 1 to 20 and 23 but 7 and 17, at every event; trouble at the n-th call to the disk, for every n.

    A process whose call is refused stops by itself, so that what comes after matters less: in `make test` the power is
    lost after every other refusal, and the process is killed after the rest.
    """
    items = at_size(2, 4)
    step = 1 if trouble == "crash" else at_size(2, 1)
    calls = range(1 + power * (step - 1), calls_of(kind, items=items) + 1, step)
    for call in calls:
        harness = CrashHarness(call, kind=kind, items=items)
        try:
            harness.live(trouble=Trouble(at_call=call, kind=trouble))
            harness.wake(power_was_lost=power)
            check(harness)
            ended = harness.live()
            check_end(harness, ended)
            harness.wake(power_was_lost=power)
            check_end(harness, ended)
        except BaseException as error:
            error.add_note(f"{kind}, {trouble} at call {call}, power={power}")
            raise
    tried("calls to the disk that were the last one", len(calls))


@pytest.mark.parametrize("batch", range(BATCHES if ONE_SEED is None else 1))
def test_runs_that_end_badly_by_seed(batch: int, tried: Tried) -> None:
    """Invariants 1 to 20 and 23 but 7 and 17, at every event of several lives, with faults of the server too."""
    seeds = range(batch, SEEDS, BATCHES) if ONE_SEED is None else [int(ONE_SEED)]
    events = sum(run_again(seed, seeded_run, "by_seed").witness.events for seed in seeds)
    tried("seeds: nights that end badly", len(seeds))
    tried("events: every invariant checked", events)


@pytest.mark.parametrize("bug", PAST_BUGS, ids=lambda bug: f"{'plain-' * bug.plain}{bug.seed}")
def test_past_bugs_stay_away(bug: PastBug, tried: Tried) -> None:
    run_again(bug.seed, plain_seeded_run if bug.plain else seeded_run, "past_bugs")
    tried("seeds: past bugs", 1)


@pytest.mark.parametrize("seed", range(at_size(4, 40)))
def test_the_same_seed_gives_the_same_trace(seed: int, tried: Tried) -> None:
    """Invariant 21."""
    first, second = seeded_run(seed), seeded_run(seed)
    assert first.disk.trace == second.disk.trace
    assert [entry.at for entry in first.world.log.ring] == [entry.at for entry in second.world.log.ring]
    assert first.witness == second.witness
    tried("seeds: the same trace twice", 1)


def test_a_disk_that_stays_full_ends_every_life_with_4_and_sends_nothing_more() -> None:
    """Invariant 16 over lives: the items wait for room."""
    harness = CrashHarness(5, kind="image", items=6)
    harness.disk.capacity_bytes = 6000
    assert harness.live() is ExitStatus.STOPPED
    check(harness)
    posts = harness.witness.posts.total()
    harness.disk.wake(power_was_lost=False)
    assert harness.live() is ExitStatus.STOPPED
    assert harness.witness.posts.total() == posts
    harness.wake(power_was_lost=False)
    check_end(harness, harness.live())
    assert max(harness.witness.posts.values()) == 1


def test_answers_that_a_full_disk_does_not_take_are_reported_as_a_last_resort() -> None:
    """An answer that was paid for goes to stderr rather than nowhere, also when its task was cancelled meanwhile."""
    lost = 0
    for call in range(20, 60):
        harness = CrashHarness(call, kind="chat", items=5, world=World(latency=Latency(first_byte_s=1.0)))
        harness.live(trouble=Trouble(at_call=call, kind="enospc"))
        harness.wake(power_was_lost=False)
        told = sum("could not save this answer" in line for line in harness.said)
        harness.live()
        again = harness.world.stats().paid_twice
        assert again <= told
        lost += again
    assert lost, "the sweep met no answer that the disk did not take"


def test_a_record_that_fails_while_its_task_is_cancelled_is_reported() -> None:
    """Else an answer that the disk did not take would be lost without a word."""

    async def record() -> None:
        await asyncio.sleep(2.0)
        raise StoreBrokenError("full")

    async def main() -> None:
        task = asyncio.create_task(uncancellable(record()))
        for _ in range(2):
            await asyncio.sleep(0.5)
            task.cancel()
        with pytest.raises(StoreBrokenError, match="full"):
            await task

    run_virtual(main)


def test_a_record_within_a_record_is_a_part_of_it() -> None:
    """It has no task of its own, and is finished all the same when whoever waits is cancelled."""
    tasks: set[object] = set()
    steps: list[str] = []

    async def inner() -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(1.0)
        steps.append("inner")

    async def outer() -> None:
        tasks.add(asyncio.current_task())
        await uncancellable(inner())
        steps.append("outer")

    async def main() -> None:
        task = asyncio.create_task(uncancellable(outer()))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["inner", "outer"]
        assert len(tasks) == 1
        assert task not in tasks

    run_virtual(main)


def test_nothing_happens_to_a_run_without_faults() -> None:
    harnesses = [plain_seeded_run(seed, endings=lambda _: Ending()) for seed in range(10)]
    quiet = [harness for harness in harnesses if harness.world.faults == NO_FAULTS]
    assert quiet
    assert all(set(harness.witness.posts.values()) == {1} for harness in quiet)
