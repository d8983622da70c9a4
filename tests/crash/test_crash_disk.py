"""The whole engine on a disk that dies, refuses and forgets: at every call, and by seed.

`BATCHRUNNER_SEEDS=20000` tries more seeds, `BATCHRUNNER_SEED=123` tells one story again. The invariants have the
numbers of RELIABILITY section 4; the doors of `crash_house` and the functions of `invariants` check them.
"""

import asyncio
import os
from pathlib import Path

import pytest
from crash_house import JOBS, CrashHouse, IntentNotSynced, NoIntent, Wrap
from crash_stories import Ending, story
from invariants import Violation, check, check_end
from past_bugs import PAST_BUGS, PastBug

from batchrunner.core.errors import ExitStatus, StoreBrokenError
from batchrunner.engine.record import shielded
from batchrunner.simulator.crashing_disk import Refusal, Trouble
from batchrunner.simulator.faults import NO_FAULTS, Latency
from batchrunner.simulator.virtual_time import run_virtual
from batchrunner.simulator.world import World

SEEDS = int(os.environ.get("BATCHRUNNER_SEEDS", "400"))
ONE_SEED = os.environ.get("BATCHRUNNER_SEED")
BATCHES = 8
MUTANT_SEEDS = 200
HERE = Path("tests/crash") / Path(__file__).name


def calls_of(kind: str, items: int) -> int:
    """How often a life without trouble changes something on the disk."""
    house = CrashHouse(1, kind=kind, items=items)
    assert house.live() is ExitStatus.DONE
    return house.disk.calls


def told_again(seed: int) -> None:
    """A story, or its command."""
    try:
        story(seed)
    except BaseException as error:
        error.add_note(f"to tell it again: BATCHRUNNER_SEED={seed} .venv/bin/python -m pytest {HERE} -k by_seed")
        raise


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("trouble", ["crash", "enospc", "eio", "short"])
@pytest.mark.parametrize("kind", JOBS)
def test_every_call_may_be_the_last_one(kind: str, trouble: Refusal, *, power: bool) -> None:
    """Invariants 1 to 11, 16, 19 and 20 after trouble at the n-th call to the disk, for every n."""
    for call in range(1, calls_of(kind, items=2) + 1):
        house = CrashHouse(call, kind=kind, items=2)
        try:
            house.live(trouble=Trouble(at_call=call, kind=trouble))
            house.wake(power_was_lost=power)
            check(house)
            ended = house.live()
            check_end(house, ended)
            house.wake(power_was_lost=power)
            check_end(house, ended)
        except BaseException as error:
            error.add_note(f"{kind}, {trouble} at call {call}, power={power}")
            raise


@pytest.mark.parametrize("batch", range(BATCHES if ONE_SEED is None else 1))
def test_nights_that_end_badly_by_seed(batch: int) -> None:
    """Invariants 1 to 12, 16, 19 and 20 over several lives, with faults of the server too."""
    for seed in range(batch, SEEDS, BATCHES) if ONE_SEED is None else [int(ONE_SEED)]:
        told_again(seed)


@pytest.mark.parametrize("bug", PAST_BUGS, ids=lambda bug: str(bug.seed))
def test_past_bugs_stay_away(bug: PastBug) -> None:
    told_again(bug.seed)


@pytest.mark.parametrize("kind", ["chat", "image"])
@pytest.mark.parametrize("mutant", [IntentNotSynced, NoIntent])
def test_a_ledger_that_lies_about_intents_is_caught(mutant: Wrap, kind: str) -> None:
    """Invariants 1 and 2 are checked by something that can see their breach."""
    caught = None
    for seed in range(MUTANT_SEEDS):
        try:
            story(seed, kinds=(kind,), wrap=mutant)
        except Violation as violation:
            caught = seed, violation.number
            break
    assert caught is not None, f"no seed below {MUTANT_SEEDS} saw it"
    assert caught[1] in {1, 2}


def test_a_power_loss_with_posts_under_way_catches_unsynced_intents_by_the_ledger_alone() -> None:
    """Invariant 2 from the bytes that are left, without a look at the moment of the POST."""
    caught = 0
    for seed in range(20):
        house = CrashHouse(seed, kind="chat", wrap=IntentNotSynced, world=World(latency=Latency(first_byte_s=5.0)))
        house.live(dies_at_post=4)
        house.witness.posts_too_early = 0
        house.wake(power_was_lost=True)
        try:
            check(house)
        except Violation as violation:
            caught += violation.number == 2
    assert caught


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    """Invariant 21."""
    first, second = story(seed), story(seed)
    assert first.disk.trace == second.disk.trace
    assert [entry.at for entry in first.world.log.ring] == [entry.at for entry in second.world.log.ring]
    assert first.witness == second.witness


def test_a_disk_that_stays_full_ends_every_life_with_4_and_sends_nothing_more() -> None:
    """Invariant 16 over lives: the items wait for room."""
    house = CrashHouse(5, kind="image", items=6)
    house.disk.capacity_bytes = 6000
    assert house.live() is ExitStatus.STOPPED
    check(house)
    posts = house.witness.posts.total()
    house.disk.wake(power_was_lost=False)
    assert house.live() is ExitStatus.STOPPED
    assert house.witness.posts.total() == posts
    house.wake(power_was_lost=False)
    check_end(house, house.live())
    assert max(house.witness.posts.values()) == 1


def test_answers_that_a_full_disk_does_not_take_are_told_as_a_last_resort() -> None:
    """An answer that was paid for goes to stderr rather than nowhere, also when its task was cancelled meanwhile."""
    lost = 0
    for call in range(20, 60):
        house = CrashHouse(call, kind="chat", items=5, world=World(latency=Latency(first_byte_s=1.0)))
        house.live(trouble=Trouble(at_call=call, kind="enospc"))
        house.wake(power_was_lost=False)
        told = sum("did not take this answer" in line for line in house.said)
        house.live()
        again = house.world.stats().paid_twice
        assert again <= told
        lost += again
    assert lost, "the sweep met no answer that the disk did not take"


def test_a_record_that_fails_while_its_task_is_cancelled_is_heard() -> None:
    """Else an answer that the disk did not take would be lost without a word."""

    async def record() -> None:
        await asyncio.sleep(2.0)
        raise StoreBrokenError("full")

    async def main() -> None:
        task = asyncio.create_task(shielded(record()))
        for _ in range(2):
            await asyncio.sleep(0.5)
            task.cancel()
        with pytest.raises(StoreBrokenError, match="full"):
            await task

    run_virtual(main)


def test_nothing_befalls_a_story_without_trouble() -> None:
    houses = [story(seed, endings=lambda _: Ending()) for seed in range(10)]
    quiet = [house for house in houses if house.world.faults == NO_FAULTS]
    assert quiet
    assert all(set(house.witness.posts.values()) == {1} for house in quiet)
