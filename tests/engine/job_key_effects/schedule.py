"""Keys that decide how a run goes: each with a job, a change, and what is seen without and with it."""

import json
from pathlib import Path

from tests.engine.job_key_effects.bench import Bench, Effect, chat, image, paid
from tests.support.engine import Latency, World

MANY = [f"q{number}" for number in range(12)]
ONE_BY_ONE = {"concurrency": 1}
WINDOW = {"window": "22:00-07:00", "timezone": "Asia/Shanghai"}
PRICES = {"m/One": {"call": 1}}
HOUR_S = 3600.0


def world(scenario: str | None = None, **latency: float) -> World:
    """A provider with one trouble, or slow."""
    return World(scenario=scenario, latency=Latency(**{"task_s": 0.2, **latency}))


def ended(bench: Bench) -> tuple[int, int]:
    """Exit status, and how many rows there are."""
    return int(bench.report.exit_status), len(bench.rows)


def hours(bench: Bench) -> int:
    """How long it takes, in whole hours."""
    return int(bench.seconds / HOUR_S)


def first_sent(bench: Bench) -> int:
    """Whole hours from the run's beginning to its first send."""
    assert bench.report is not None
    return int((bench.harness.events("intent")[0]["t"] - bench.began) / HOUR_S)


def synced_before_done(bench: Bench) -> bool:
    """Whether the intent was known to be on the disk before the next record was written."""
    assert bench.report is not None
    (segment,) = (bench.harness.out / "ledger").glob("*.jsonl")
    end = 0
    for line in segment.read_bytes().splitlines(keepends=True):
        end += len(line)
        if b'"e":"intent"' in line:
            break
    later = [json.loads(line) for line in segment.read_bytes()[end:].splitlines()]
    return bool(next(record["d"] for record in later if "d" in record) >= end)


def spent(bench: Bench) -> float:
    """What the first line of the budget has counted."""
    return bench.report.status.budget[0].spent


def written_to_a_cache(bench: Bench) -> list[float]:
    """What ten million tokens of input would cost, a million of which went into a cache."""
    assert bench.job.budget is not None
    return [price.input_cost(10e6, 0, 1e6) for price in bench.job.budget.prices.values()]


def notified_files(bench: Bench) -> list[Path]:
    """Files that a command of the job has written."""
    assert bench.report is not None
    return [path.relative_to(bench.folder) for path in bench.folder.glob("told.json")]


def noted(bench: Bench) -> tuple[str, ...]:
    """What the run has remarked."""
    assert bench.report is not None
    return bench.report.status.notes


NIGHT: dict[str, Effect] = {
    "name": Effect(
        base=chat(),
        change={"name": "cats"},
        look=lambda bench: (bench.report.status.job, bench.results),
        was=("job", "outputs/job.simulated"),
        now=("cats", "outputs/cats.simulated"),
    ),
    "durability": Effect(base=chat(), change={"durability": "full"}, look=synced_before_done, was=False, now=True),
    "on_ambiguous": Effect(
        base=chat(),
        change={"on_ambiguous": "hold"},
        look=lambda bench: (ended(bench), bench.report.status.items.held),
        was=((0, 1), 0),
        now=((3, 0), 1),
        world=lambda: world("reset-before-headers:1"),
    ),
    "on_quota": Effect(
        base=chat("a", "b"),
        change={"on_quota": "stop"},
        look=lambda bench: (ended(bench), hours(bench) > 0),
        was=((0, 2), True),
        now=((3, 1), False),
        world=lambda: world("quota-model:1"),
    ),
    "breaker": Effect(
        base=chat(*MANY, *map(str, range(20)), limits=ONE_BY_ONE),
        change={"breaker": 3},
        look=lambda bench: bench.sends_before("parked"),
        was=20,
        now=3,
        world=lambda: world("html502"),
    ),
    "output": Effect(
        base=paid(),
        change={"output": {"dir": "mine"}},
        look=lambda bench: bench.results,
        was="outputs/job",
        now="mine",
    ),
    "output.dir": Effect(
        base=paid(output={"dir": "mine"}),
        change={"output.dir": "yours/x"},
        look=lambda bench: bench.results,
        was="mine",
        now="yours/x",
    ),
    "output.each": Effect(
        base=chat({"prompt": "a", "id": "x"}),
        change={"output.each": "answers/{{ id }}.md"},
        look=lambda bench: (bench.rows[0]["output"].get("path"), (bench.harness.out / "answers" / "x.md").exists()),
        was=(None, False),
        now=("answers/x.md", True),
    ),
    "window": Effect(
        base=chat(timezone="Asia/Shanghai", deadline="8h"),
        change={"window": "22:00-07:00"},
        look=first_sent,
        was=0,
        now=2,
    ),
    "window[].days": Effect(
        base=chat(timezone="Asia/Shanghai", window=[{"days": "mon-sun", "hours": "22:00-07:00"}]),
        change={"window": [{"days": "thu", "hours": "22:00-07:00"}]},
        look=first_sent,
        was=2,
        now=26,
    ),
    "window[].hours": Effect(
        base=chat(timezone="Asia/Shanghai", window=[{"days": "wed,thu", "hours": "22:00-07:00"}]),
        change={"window": [{"days": "wed,thu", "hours": "23:00-07:00"}]},
        look=first_sent,
        was=2,
        now=3,
    ),
    "timezone": Effect(base=chat(**WINDOW), change={"timezone": "UTC"}, look=first_sent, was=2, now=10),
    "deadline": Effect(
        base=chat(*MANY, limits={"requests_per_minute": 0.1, "concurrency": 1}),
        change={"deadline": "1h"},
        look=lambda bench: (ended(bench)[0], hours(bench)),
        was=(0, 1),
        now=(3, 1),
    ),
    "notify": Effect(
        base=chat(),
        change={"notify": ["sh", "-c", "cat > FOLDER/told.json"]},
        look=notified_files,
        was=[],
        now=[Path("told.json")],
    ),
    "notify.command": Effect(
        base=chat(notify={"apprise_env": "NOBODY"}),
        change={"notify": {"command": ["sh", "-c", "cat > FOLDER/told.json"]}},
        look=notified_files,
        was=[],
        now=[Path("told.json")],
    ),
    "notify.apprise_env": Effect(
        base=chat(notify={"command": ["true"]}),
        change={"notify": {"apprise_env": "NOBODY"}},
        look=lambda bench: any("NOBODY" in line for line in noted(bench)),
        was=False,
        now=True,
    ),
    "notify.on": Effect(
        base=chat(notify={"command": ["sh", "-c", "cat > FOLDER/told.json"], "on": ["first_failure"]}),
        change={"notify": {"command": ["sh", "-c", "cat > FOLDER/told.json"], "on": ["ended"]}},
        look=notified_files,
        was=[],
        now=[Path("told.json")],
    ),
    "scenario": Effect(
        base=chat(),
        change={"scenario": "ok-reasoning"},
        look=lambda bench: bool(played(bench)["reasoning"]),
        was=False,
        now=True,
    ),
    "budget": Effect(base=chat(*MANY), change={"budget": {"calls": 4}}, look=ended, was=(0, 12), now=(3, 4)),
    "budget.calls": Effect(
        base=chat(*MANY, budget={"calls": 4}), change={"budget.calls": 7}, look=ended, was=(3, 4), now=(3, 7)
    ),
    "budget.tokens": Effect(
        base=chat(*MANY, params={"max_tokens": 400}, limits=ONE_BY_ONE, budget={"calls": 100}),
        change={"budget.tokens": 500},
        look=lambda bench: (ended(bench)[0], ended(bench)[1] < 12),
        was=(0, False),
        now=(3, True),
    ),
    "budget.points": Effect(
        base=chat(*MANY, provider={"preset": "simulator", "points_per_call": 2}, budget={"calls": 100}),
        change={"budget.points": 7},
        look=ended,
        was=(0, 12),
        now=(3, 3),
    ),
    "budget.money": Effect(
        base=chat(*MANY, budget={"prices": PRICES}), change={"budget.money": 5}, look=ended, was=(0, 12), now=(3, 5)
    ),
    "budget.currency": Effect(
        base=chat(budget={"prices": PRICES}),
        change={"budget.currency": "CNY"},
        look=lambda bench: bench.report.status.budget[0].currency,
        was=None,
        now="CNY",
    ),
    "budget.prices": Effect(
        base=chat(*MANY, budget={"prices": {"m/One": {"call": 1}}}),
        change={"budget.prices": {"m/One": {"call": 3}}},
        look=spent,
        was=12.0,
        now=36.0,
    ),
    "budget.prices_from": Effect(
        base=chat(*MANY, budget={"calls": 100}),
        change={"budget.prices_from": "prices.json"},
        look=lambda bench: [line.spent for line in bench.report.status.budget],
        was=[12.0],
        now=[12.0, 24.0],
        files={"prices.json": b'{"m/One": {"input_cost_per_request": 2}}'},
    ),
    "budget.prices{}.call": Effect(
        base=chat(budget={"prices": {"m/One": {"call": 1}}}),
        change={"budget.prices.m/One.call": 2.5},
        look=spent,
        was=1.0,
        now=2.5,
    ),
    "budget.prices{}.input": Effect(
        base=chat(budget={"prices": {"m/One": {"call": 1}}}),
        change={"budget.prices.m/One.input": 1_000_000},
        look=lambda bench: spent(bench) - bench.rows[0]["usage"]["input_tokens"],
        was=1.0 - 7,
        now=1.0,
    ),
    "budget.prices{}.output": Effect(
        base=chat(budget={"prices": {"m/One": {"call": 1}}}),
        change={"budget.prices.m/One.output": 1_000_000},
        look=lambda bench: spent(bench) - bench.rows[0]["usage"]["output_tokens"] == 1.0,
        was=False,
        now=True,
    ),
    "budget.prices{}.cache_read": Effect(
        base=chat(budget={"prices": {"m/One": {"input": 1_000_000}}}),
        change={"budget.prices.m/One.cache_read": 0},
        look=lambda bench: bench.rows[0]["usage"]["input_tokens"] - spent(bench),
        was=0.0,
        now=4.0,
        world=lambda: world("sse-usage-cached"),
    ),
    "budget.prices{}.cache_write": Effect(
        base=chat(budget={"prices": {"m/One": {"input": 2}}}),
        change={"budget.prices.m/One.cache_write": 3},
        look=written_to_a_cache,
        was=[20.0],
        now=[21.0],
    ),
    "budget.prices{}.picture": Effect(
        base=image(budget={"prices": {"Qwen/Qwen-Image": {"call": 1}}}),
        change={"budget.prices.Qwen/Qwen-Image.picture": 4},
        look=spent,
        was=1.0,
        now=5.0,
    ),
}


def played(bench: Bench) -> dict[str, object]:
    """The output of a run by the program's own simulator, which plays the job's scenario."""
    from batchrunner import api  # noqa: PLC0415 - for one look

    path = bench.folder / "own.yaml"
    path.write_text(json.dumps(bench.tree))
    job = api.load_job(str(path), out=str(bench.folder / "own"))
    api.run_sync(job, say=lambda _: None)
    (row,) = api.results(str(bench.folder / "own"))
    output = row["output"]
    assert isinstance(output, dict)
    return dict(output)
