"""Every check can fail: programs that break one rule are noticed within 200 nights, by the number of that rule."""

from collections import Counter

import pytest

from batchrunner.core.events import Intent
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from tests.crash.invariant_error import Violation
from tests.crash.invariants import Look, every_post_has_its_intent
from tests.crash.lives import CrashHarness
from tests.crash.mutants import MUTANTS, Broken, below
from tests.crash.seeded_runs import seeded_run
from tests.support.torture import Tried

MUTANT_SEEDS = 200


@pytest.mark.parametrize("broken", MUTANTS, ids=lambda broken: broken.name.replace(" ", "-"))
def test_a_broken_program_is_noticed(broken: Broken, tried: Tried) -> None:
    """Invariants 1 to 6, 9 to 16, 18 to 20 and 23 are checked by something that can see their breach."""
    seen: Counter[int] = Counter()
    for seed in range(broken.first_seed, broken.first_seed + MUTANT_SEEDS):
        try:
            seeded_run(seed, kinds=broken.kinds, mutant=broken.mutant)
        except Violation as violation:
            seen[violation.number] += 1
        if broken.numbers & seen.keys():
            tried("mutants: nights until they were noticed", seed - broken.first_seed + 1)
            return
    pytest.fail(f"none of {MUTANT_SEEDS} seeds saw it; others saw {seen}")


def test_a_power_loss_catches_unsynced_intents_by_the_ledger_alone() -> None:
    """Invariant 2 from the bytes that are left, without a look at the moment of the POST."""
    caught = 0
    for seed in range(20):
        harness = CrashHarness(seed, kind="chat", world=World(latency=Latency(first_byte_s=5.0)))
        harness.turn(durability="result")  # as whoever watches the POSTs believes: intents need not be synced
        harness.mutant = below(unsynced=(Intent,))
        harness.live(dies_at_post=4)
        harness.turn(durability="full")
        harness.wake(power_was_lost=True)
        try:
            every_post_has_its_intent(Look(harness))
        except Violation as violation:
            caught += violation.number == 2
    assert caught
