"""Models that are asked one after another, and a process that may die at any call.

Nothing is asked twice unreported, nothing is lost, and no prompt goes to the next model twice.
"""

from collections import Counter

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.events import Intent, ReplacedBy
from tests.crash.invariants import Look, check, check_end, rows_of
from tests.crash.lives import CrashHarness
from tests.crash.seeded_runs import seeded_run
from tests.support.crashing_disk import Trouble
from tests.support.torture import Tried, at_size

KINDS = ("filtered", "chain", "spent", "overloaded", "misses")


def judged(harness: CrashHarness) -> None:
    """By the ledger's bytes and by the world's own count, and not by what the engine believes."""
    look = Look(harness)
    events = [record.event for record in look.records]
    replaced = [event for event in events if isinstance(event, ReplacedBy)]
    assert len({event.k for event in replaced}) == len(replaced), "a prompt went to the next model twice"
    asked = {event.k for event in events if isinstance(event, Intent)}
    first = {item.key for item in harness.known_items.values() if not item.fallback_keys}
    called = {event.by for event in replaced}
    assert asked <= first | called, "a model was asked without its turn"
    answered = Counter(row["prompt_id"] for row in rows_of(harness))
    assert not [prompt for prompt, rows in answered.items() if rows > harness.job.replicas], "answered by two models"


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("kind", ["filtered", "spent"])
def test_a_death_at_every_call_to_the_disk_loses_and_repeats_nothing(kind: str, tried: Tried, *, power: bool) -> None:
    items = at_size(2, 4)
    calm = CrashHarness(1, kind=kind, items=items)
    assert calm.live() is ExitStatus.DONE
    sends, calls = calm.witness.posts.total(), calm.disk.calls
    replaced = len(calm.witness.replaced)
    assert calm.world.stats().verdicts["answered"] == len(rows_of(calm)) + (replaced if kind == "filtered" else 0)
    for call in range(1, calls + 1):
        harness = CrashHarness(call, kind=kind, items=items)
        try:
            harness.live(trouble=Trouble(at_call=call, kind="crash"))
            harness.wake(power_was_lost=power)
            check(harness)
            ended = harness.live()
            check_end(harness, ended)
            judged(harness)
            assert ended is ExitStatus.DONE
            assert harness.status is not None
            more = harness.witness.posts.total() - sends
            refused = harness.status.sends.refused - (calm.status.sends.refused if calm.status else 0)
            told = harness.status.sends.possible_duplicates + harness.witness.unaccounted
            assert more <= told + max(0, refused)
        except BaseException as error:
            error.add_note(f"{kind}, crash at call {call}, power={power}")
            raise
    tried("calls to the disk that were the last one", calls)


@pytest.mark.parametrize("kind", KINDS)
def test_seeded_runs_keep_every_invariant(kind: str, tried: Tried) -> None:
    seeds = at_size(8, 400)
    for seed in range(seeds):
        try:
            judged(seeded_run(seed, kinds=(kind,)))
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
    tried(f"nights of {kind}", seeds)


@pytest.mark.parametrize("seed", [21, 34])
def test_items_that_wait_for_a_second_try_go_to_the_next_model_once_the_day_is_spent(seed: int) -> None:
    """They kept their turn at a model that sends nothing more today, and every run ended without them."""
    judged(seeded_run(seed, kinds=("overloaded",)))
