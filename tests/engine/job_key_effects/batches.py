"""Keys of batches: each with a job, a change, and what is seen without and with it."""

from functools import partial

from tests.engine.job_key_effects.bench import Bench, Effect, chat
from tests.engine.job_key_effects.schedule import ended, hours, world

MANY = [f"q{number}" for number in range(40)]
ALWAYS = {"use": "always"}


def asked(bench: Bench, kind: str) -> int:
    """How many requests of this kind the run has made."""
    assert bench.report is not None
    return bench.harness.stats.requests.get(kind, 0)


orders = partial(asked, kind="batch")

BATCHES: dict[str, Effect] = {
    "batch": Effect(base=chat(*MANY), change={"batch": {"use": "auto"}}, look=orders, was=0, now=1),
    "batch.use": Effect(
        base=chat("a", "b", batch={"use": "auto"}), change={"batch.use": "always"}, look=orders, was=0, now=1
    ),
    "batch.max_items": Effect(
        base=chat(*MANY, batch=ALWAYS), change={"batch.max_items": 10}, look=orders, was=1, now=4
    ),
    "batch.max_wait": Effect(
        base=chat(*MANY, batch=ALWAYS),
        change={"batch.max_wait": "1h"},
        look=lambda bench: (ended(bench), hours(bench)),
        was=((0, 40), 2),
        now=((3, 0), 1),
        world=lambda: world("batch-slow:7200"),
    ),
    "batch.look_every": Effect(
        base=chat(*MANY, batch=ALWAYS),
        change={"batch.look_every": "10s"},
        look=partial(asked, kind="look"),
        was=8,
        now=100,
        world=lambda: world("batch-slow:1000"),
    ),
    "batch.rest": Effect(
        base=chat(*MANY, batch=ALWAYS),
        change={"batch.rest": "wait"},
        look=partial(asked, kind="chat"),
        was=10,
        now=0,
        world=lambda: world("batch-expires:75"),
    ),
    "batch.on_lost": Effect(
        base=chat(*MANY, batch=ALWAYS, retry={"attempts": 1}),
        change={"batch.on_lost": "resend"},
        look=lambda bench: (bench.report.status.items.held, bench.report.status.sends.ambiguous),
        was=(40, 0),
        now=(0, 40),
        world=lambda: world("batch-404"),
    ),
    "batch.give_up": Effect(
        base=chat(*MANY, batch=ALWAYS),
        change={"batch.give_up": "2h"},
        look=lambda bench: (bench.report.status.items.held, hours(bench)),
        was=(0, 24),
        now=(40, 2),
        world=lambda: world("batch-stuck"),
    ),
    "budget.prices{}.batch": Effect(
        base=chat("a", "b", batch=ALWAYS, budget={"prices": {"m/One": {"call": 1}}}),
        change={"budget.prices.m/One.batch": 0.25},
        look=lambda bench: bench.report.status.budget[0].spent,
        was=1.0,
        now=0.5,
    ),
}
