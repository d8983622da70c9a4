"""Whole runs by seed: several lives that end badly, then some that may finish. The same seed gives the same run."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from batchrunner.core.errors import ExitStatus
from batchrunner.core.part import RunRequest
from batchrunner.core.values import replace
from batchrunner.simulator.profiles import NO_FAULTS, FaultRates, Latency
from batchrunner.simulator.quotas import NO_LIMITS, Quota, RateLimits
from batchrunner.simulator.scenarios import parse_scenarios
from batchrunner.simulator.world import World
from tests.crash.invariant_error import Violation
from tests.crash.invariants import ENDS, check, check_end
from tests.crash.jobs import JOBS, PLAIN, Shape, shape_of
from tests.crash.lives import CrashHarness, Mutant
from tests.crash.regression_seeds import PAST_BUGS
from tests.support.crashing_disk import Refusal, Trouble

TROUBLES: tuple[Refusal, ...] = ("crash", "crash", "crash", "enospc", "eio", "short")
STORM = FaultRates(server_error=0.6, reset=0.2)
MOST_LAST_LIVES = 40
DAY_S = 86_400.0
SLOWNESS_S = (0.05, 1.0, 20.0, 600.0)
SCENARIOS = (
    "throttle:3", "retry-after:7", "retry-after:200", "retry-after-ms:500", "tpm", "empty429:2", "quota-noheader:2",
    "retired:2", "retired:9", "auth-bad:1", "should-retry-false:2", "burst:2", "5xx:2", "5xx:4", "5xx:9", "shell200:1",
    "cut-mid-stream:1", "reset-before-headers:1", "hang-headers:1", "noprovider", "forbidden", "content-filter",
    "so-unsupported", "think-needs-stream", "sse-error-mid", "an-529:3", "an-overloaded-mid", "img-fail:2",
    "img-slow:900", "img-notfound-grace:20", "img-gone", "img-poll-429:5", "img-sync-result", "img-no-urls",
    "dl-404-once", "dl-404", "dl-cut", "oi-empty", "oi-moderation",
)  # fmt: skip

FIELD_RUN_EVERY = 5
"""Every so many seeds, one of them; seeds that once found a bug, or find a mutant, stay as they were."""
KEPT_SEEDS = frozenset(bug.seed for bug in PAST_BUGS)
FIELD = (
    "sse-quoted-done", "sse-junk-after-finish", "sse-single-newlines", "sse-error-after-finish", "sse-code-msg-mid",
    "sse-finish-network", "sse-finish-model-length", "sse-only-reasoning", "sse-picture", "sse-two-choices",
    "sse-data-twice", "sse-two-in-one", "sse-words-mid", "sse-usage-after-done", "sse-sound", "sse-markdown-picture",
    "sse-logprobs", "sse-content-parts", "sse-tools-same-index", "sse-own-fields", "an-single-newlines",
    "an-error-after-end", "an-own-fields", "an-picture", "an-search", "head-many", "coding-not-there", "coding-gzip",
    "coding-gzip-wrong-sum", "body-raw-control", "body-empty-error", "body-bytes-behind", "body-utf-16",
    "body-comments-before", "body-stays-open", "moderated-403:2", "page-403:2", "unpaid-403:3", "quota-window:30",
    "error-in-200:3", "odd-499:2", "bare-503:4", "limit-conn:2", "same-500:2",
)  # fmt: skip
"""What the field sends, for runs of their own: the draws of all others stay as they were."""


@dataclass(frozen=True)
class Ending:
    """How a life is to end."""

    trouble: Trouble | None = None
    dies_at_s: float | None = None
    dies_at_post: int = 0
    asked_at_s: tuple[float, ...] = ()
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


def any_ending(rng: random.Random) -> Ending:
    """Or because somebody asked, once or twice; or late in the night."""
    match rng.choice(("asked", "late", *["else"] * 6)):
        case "asked":
            first_s = rng.choice((0.5, 5.0, 60.0)) * rng.random()
            asked_at_s = (first_s, first_s + 3.0 * rng.random()) if rng.random() < 0.5 else (first_s,)
            return Ending(asked_at_s=asked_at_s, power_is_lost=rng.random() < 0.3)
        case "late":
            return Ending(dies_at_s=rng.choice((600.0, DAY_S)) * rng.random(), power_is_lost=rng.random() < 0.5)
        case _:
            return ending_of(rng)


def faults_of(rng: random.Random) -> FaultRates:
    """Half of the worlds are well."""
    if rng.random() < 0.5:
        return NO_FAULTS
    return FaultRates(
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


def world_of(seed: int, rng: random.Random, extra: random.Random | None) -> World:
    """`extra` adds scenarios, quotas and limits that the job does not know."""
    latency = Latency(first_byte_s=rng.choice((0.0, 0.3, 3.0)), task_s=5.0, poll_s=0.1, download_s=0.2, spread=0.5)
    faults = faults_of(rng)
    if extra is None:
        return World(seed, faults=faults, latency=latency)
    if extra.random() < 0.12:
        faults = STORM
    elif faults != NO_FAULTS:
        faults = replace(faults, schema_break=0.3)
    few = Quota(model_per_day=extra.randint(2, 6)), Quota(account_per_day=extra.randint(2, 6))
    tight = RateLimits(concurrent=2), RateLimits(per_minute=20.0, hint=True), RateLimits(per_minute=6.0, burst=2.0)
    return World(
        seed,
        faults=faults,
        latency=latency,
        scenario=extra.choice(SCENARIOS) if extra.random() < 0.4 else None,
        quota=extra.choice(few) if extra.random() < 0.2 else None,
        limits=extra.choice(tight) if extra.random() < 0.2 else NO_LIMITS,
    )


def item_s_of(rng: random.Random) -> Callable[[int], float]:
    """Most sources take time, and some stop in the middle for as long as anything else takes."""
    match rng.choice(("at once", "steady", "steady", "halting")):
        case "at once":
            return lambda _: 0.0
        case "steady":
            slowness_s = rng.choice(SLOWNESS_S)
            return lambda _: slowness_s * rng.random()
        case _:
            slowness_s, halts = rng.choice(SLOWNESS_S), rng.choice((0.2, 0.5))
            return lambda _: slowness_s * rng.random() if rng.random() < halts else 0.0


def calm(world: World) -> None:
    """Faults stop: whatever went wrong by chance, by a scenario or for want of quota goes wrong no more."""
    world.faults = world.tasks._faults = world._storage._faults = NO_FAULTS
    world._scenario = {}
    world.quota = Quota()
    for task in world.tasks._tasks.values():
        task.chosen = {}


# -- runs

Endings = Callable[[random.Random], Ending]


def plain_seeded_run(seed: int, *, endings: Endings = ending_of) -> CrashHarness:
    """As the first runs were: one lane, settings of the kind, faults that never stop."""
    rng = random.Random(f"story {seed}")  # the word is part of every kept seed
    world = world_of(seed, rng, None)
    harness = CrashHarness(seed, kind=rng.choice(tuple(PLAIN)), items=rng.randint(1, 6), world=world)
    changes = rng.random() < 0.4
    for _ in range(rng.randint(1, 4)):
        if changes:
            harness.change(rng.randint(1, 7))
        bad_life(harness, endings(rng))
    return run_to_completion(harness, rng, changes=changes)


def seeded_run(
    seed: int,
    *,
    kinds: tuple[str, ...] = tuple(JOBS),
    mutant: Mutant | None = None,
    endings: Endings = any_ending,
) -> CrashHarness:
    """A whole night; raises `Violation` when an invariant does not hold."""
    rng, extra = random.Random(f"night {seed}"), random.Random(f"shape {seed}")
    shape = shape_of(extra, kinds=kinds)
    world = world_of(seed, rng, extra)
    kept = mutant is not None or seed in KEPT_SEEDS or world._scenario
    if seed % FIELD_RUN_EVERY == FIELD_RUN_EVERY - 1 and not kept:
        world._scenario = parse_scenarios(random.Random(f"field {seed}").choice(FIELD))
    items = rng.choice((1, 2, 3, 4, 6, 12, 12))
    harness = CrashHarness(seed, shape=shape, items=items, world=world)
    harness.mutant = mutant or harness.mutant
    harness.item_s = item_s_of(random.Random(f"source {seed}"))
    changes = rng.random() < 0.4
    for _ in range(rng.randint(1, 4)):
        if changes:
            harness.change(rng.randint(1, 7))
        if rng.random() < 0.2:
            harness.turn(attempts=rng.randint(1, 5), hold=rng.random() < 0.5)
        bad_life(harness, endings(rng), retry_failed=rng.random() < 0.15)
    harness.turn(hold=shape.hold, budget_calls=None)
    calm(world)
    slow_s = harness.item_s
    harness.item_s = lambda index: min(slow_s(index), 1.0)  # the whole source fits into a window of five minutes
    return run_to_completion(harness, rng, changes=changes and rng.random() < 0.5)


def bad_life(harness: CrashHarness, ending: Ending, *, retry_failed: bool = False) -> None:
    harness.live(
        trouble=ending.trouble,
        dies_at_s=ending.dies_at_s,
        dies_at_post=ending.dies_at_post,
        asked_at_s=ending.asked_at_s,
        run_request=RunRequest(retry_failed=retry_failed),
    )
    harness.wake(power_was_lost=ending.power_is_lost)
    check(harness)


def run_to_completion(harness: CrashHarness, rng: random.Random, *, changes: bool) -> CrashHarness:
    """Lives without trouble until the job is finished; then some that have nothing to do."""
    ended: ExitStatus | None = None
    for _ in range(MOST_LAST_LIVES):
        ended = harness.live(run_request=RunRequest(resend_held=True))
        if ended in ENDS:
            break
        check(harness)
        if ended is not ExitStatus.STOPPED:
            harness.wall += DAY_S / 3  # somebody looks at it again in a while
    check_end(harness, ended)
    if changes and harness.items > 1:  # what is taken out and put back costs nothing
        items = harness.items
        for prompts in (items - 1, items):
            harness.change(prompts)
            idle_life(harness, "an item that came back was sent again")
    harness.wake(power_was_lost=rng.random() < 0.5)
    idle_life(harness, "a finished job was sent again")
    return harness


def idle_life(harness: CrashHarness, otherwise: str) -> None:
    posts = harness.witness.posts.total()
    check_end(harness, harness.live())
    if harness.witness.posts.total() != posts:
        raise Violation(11, otherwise)


__all__ = ["Ending", "Shape", "any_ending", "ending_of", "plain_seeded_run", "seeded_run"]
