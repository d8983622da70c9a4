"""Keys that hold a run back or let it go on: limits, tries, deadlines. What is seen without and with each."""

from collections import Counter

from tests.engine.job_key_effects.bench import Bench, Effect, chat, image, vectors
from tests.engine.job_key_effects.schedule import MANY, ONE_BY_ONE, ended, hours, world


def most_tasks(bench: Bench) -> int:
    """The most accepted tasks at a time."""
    assert bench.report is not None
    steps = [{"accepted": 1, "done": -1}[event["e"]] for event in bench.harness.events("accepted", "done")]
    return max(sum(steps[:place]) for place in range(1, len(steps) + 1))


def polls_a_second(bench: Bench) -> int:
    """The most polls within one second."""
    assert bench.report is not None
    polls = [entry for entry in bench.harness.world.log.ring if entry.kind == "poll"]
    return max(Counter(int(entry.at) for entry in polls).values())


LIMITS: dict[str, Effect] = {
    "limits": Effect(
        base=chat(*MANY),
        change={"limits": {"requests_per_minute": 1, "concurrency": 1}},
        look=lambda bench: round(bench.seconds / 60.0),
        was=0,
        now=11,
    ),
    "limits.concurrency": Effect(
        base=chat(*MANY, limits={"concurrency": 1}),
        change={"limits.concurrency": 5},
        look=lambda bench: (ended(bench), bench.harness.stats.max_in_flight)[1],
        was=1,
        now=5,
        world=lambda: world(first_byte_s=1.0),
    ),
    "limits.requests_per_minute": Effect(
        base=chat(*MANY, limits=ONE_BY_ONE),
        change={"limits.requests_per_minute": 2},
        look=lambda bench: round(bench.seconds / 60.0, 1),
        was=0.0,
        now=5.5,
    ),
    "limits.tokens_per_minute": Effect(
        base=chat(*MANY, limits=ONE_BY_ONE),
        change={"limits.tokens_per_minute": 100},
        look=lambda bench: bench.seconds > 120.0,
        was=False,
        now=True,
    ),
    "limits.requests_per_day": Effect(
        base=chat(*MANY),
        change={"limits.requests_per_day": 5},
        look=lambda bench: hours(bench) // 24,
        was=0,
        now=1,
    ),
    "limits.in_flight_tasks": Effect(
        base=image(*MANY, limits={"concurrency": 12}),
        change={"limits.in_flight_tasks": 3},
        look=most_tasks,
        was=12,
        now=3,
        world=lambda: world(task_s=10.0),
    ),
    "limits.poll_per_second": Effect(
        base=image(*MANY, limits={"concurrency": 12}),
        change={"limits.poll_per_second": 1},
        look=lambda bench: polls_a_second(bench) <= 2,
        was=False,
        now=True,
        world=lambda: world(task_s=10.0),
    ),
    "limits.inputs_per_request": Effect(
        base=vectors(*MANY),
        change={"limits.inputs_per_request": 3},
        look=lambda bench: (ended(bench), bench.harness.stats.sends)[1],
        was=1,
        now=4,
    ),
    "retry": Effect(
        base=chat(),
        change={"retry": {"attempts": 1}},
        look=lambda bench: bench.sends_before("never"),
        was=5,
        now=1,
        world=lambda: world("5xx"),
    ),
    "retry.attempts": Effect(
        base=chat(retry={"attempts": 2}),
        change={"retry.attempts": 3},
        look=lambda bench: bench.sends_before("never"),
        was=2,
        now=3,
        world=lambda: world("5xx"),
    ),
    "retry.max_wait_s": Effect(
        base=chat(),
        change={"retry.max_wait_s": 10},
        look=lambda bench: (ended(bench), len(bench.harness.events("parked")))[1],
        was=0,
        now=1,
        world=lambda: world("retry-after:60"),
    ),
    "timeouts": Effect(
        base=chat(),
        change={"timeouts": {"first_byte_s": 7}},
        look=lambda bench: bench.until("intent", "retry"),
        was=120.0,
        now=7.0,
        world=lambda: world("hang-headers:1"),
    ),
    "timeouts.first_byte_s": Effect(
        base=chat(timeouts={"first_byte_s": 5}),
        change={"timeouts.first_byte_s": 7},
        look=lambda bench: bench.until("intent", "retry"),
        was=5.0,
        now=7.0,
        world=lambda: world("hang-headers:1"),
    ),
    "timeouts.idle_s": Effect(
        base=chat(),
        change={"timeouts.idle_s": 7},
        look=lambda bench: bench.until("intent", "retry"),
        was=120.0,
        now=7.0,
        world=lambda: world("hang-mid-stream:1"),
    ),
    "timeouts.total_s": Effect(
        base=chat(),
        change={"timeouts.total_s": 7},
        look=lambda bench: bench.until("intent", "retry") if bench.report.exit_status else bench.seconds > 8.0,
        was=True,
        now=7.0,
        world=lambda: world(chunk_s=2.0),
    ),
    "timeouts.task_s": Effect(
        base=image(),
        change={"timeouts.task_s": 7},
        look=lambda bench: (ended(bench), bench.report.status.items.timed_out),
        was=((0, 1), 0),
        now=((3, 0), 1),
        world=lambda: world("img-slow:60"),
    ),
    "timeouts.download_s": Effect(
        base=image(),
        change={"timeouts.download_s": 7},
        look=ended,
        was=(0, 1),
        now=(3, 0),
        world=lambda: world("dl-slow:60"),
    ),
}
