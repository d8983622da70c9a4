"""Whole nights by seed: several lives that end badly, then one that may finish. The same seed tells the same story."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from crash_house import JOBS, CrashHouse, WatchedLedger, Wrap
from invariants import Violation, check, check_end

from batchrunner.core.errors import ExitStatus
from batchrunner.simulator.crashing_disk import Refusal, Trouble
from batchrunner.simulator.faults import NO_FAULTS, Faults, Latency
from batchrunner.simulator.world import World

TROUBLES: tuple[Refusal, ...] = ("crash", "crash", "crash", "enospc", "eio", "short")
MOST_LAST_LIVES = 12
ENDS = frozenset({ExitStatus.DONE, ExitStatus.FAILED})


@dataclass(frozen=True)
class Ending:
    """How a life is to end."""

    trouble: Trouble | None = None
    dies_at_s: float | None = None
    dies_at_post: int = 0
    power_is_lost: bool = False


def ending_of(rng: random.Random) -> Ending:
    """At a call to the disk, at a moment, or with a request under way."""
    power = rng.random() < 0.5
    match rng.choice(("call", "call", "call", "moment", "post")):
        case "moment":
            return Ending(dies_at_s=rng.choice((0.5, 5.0, 60.0)) * rng.random(), power_is_lost=power)
        case "post":
            return Ending(dies_at_post=rng.randint(1, 6), power_is_lost=power)
        case _:
            trouble = Trouble(at_call=rng.randint(1, rng.choice((25, 50, 120))), kind=rng.choice(TROUBLES))
            return Ending(trouble=trouble, power_is_lost=power)


def faults_of(rng: random.Random) -> Faults:
    """Half of the worlds are well."""
    if rng.random() < 0.5:
        return NO_FAULTS
    return Faults(
        throttle=0.1,
        server_error=0.1,
        reset=0.1,
        cut=0.05,
        hang=0.03,
        task_fail=0.1,
        task_slow=0.1,
        poll_throttle=0.1,
        poll_error=0.1,
        download_html=0.05,
        download_truncated=0.05,
        download_missing=0.05,
    )


def house_of(seed: int, *, kinds: tuple[str, ...], wrap: Wrap = WatchedLedger) -> tuple[CrashHouse, random.Random]:
    rng = random.Random(f"story {seed}")
    latency = Latency(first_byte_s=rng.choice((0.0, 0.3, 3.0)), task_s=5.0, poll_s=0.1, download_s=0.2, spread=0.5)
    world = World(seed, faults=faults_of(rng), latency=latency)
    house = CrashHouse(seed, kind=rng.choice(kinds), items=rng.randint(1, 6), world=world, wrap=wrap)
    return house, rng


def story(
    seed: int,
    *,
    kinds: tuple[str, ...] = tuple(JOBS),
    wrap: Wrap = WatchedLedger,
    endings: Callable[[random.Random], Ending] = ending_of,
) -> CrashHouse:
    """A whole night; raises `Violation` when an invariant does not hold."""
    house, rng = house_of(seed, kinds=kinds, wrap=wrap)
    changes = rng.random() < 0.4
    for _ in range(rng.randint(1, 4)):
        if changes:
            house.change(rng.randint(1, 7))
        ending = endings(rng)
        house.live(trouble=ending.trouble, dies_at_s=ending.dies_at_s, dies_at_post=ending.dies_at_post)
        house.wake(power_was_lost=ending.power_is_lost)
        check(house)
    ended = None
    for _ in range(MOST_LAST_LIVES):
        ended = house.live()
        if ended in ENDS:
            break
        check(house)
    check_end(house, ended)
    if changes and house.items > 1:  # what is taken out and put back costs nothing
        posts, items = house.witness.posts.total(), house.items
        house.change(items - 1)
        check_end(house, house.live())
        house.change(items)
        check_end(house, house.live())
        if house.witness.posts.total() != posts:
            raise Violation(11, "an item that came back was sent again")
    house.wake(power_was_lost=rng.random() < 0.5)
    posts = house.witness.posts.total()
    check_end(house, house.live())
    if house.witness.posts.total() != posts:
        raise Violation(11, "a finished job was sent again")
    return house
