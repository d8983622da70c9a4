"""Keys of a source that is a run, or that choose among its rows: what is asked for without and with each."""

from batchrunner import api
from batchrunner.core.errors import BatchrunnerError
from batchrunner.core.item import Item
from tests.engine.job_key_effects.bench import Bench, Effect, Tree, chat, put
from tests.support.engine import RunHarness
from tests.support.engine import chat as chat_yaml
from tests.support.engine import image as image_yaml

OVER_RUN: Tree = {**chat(), "prompts": {"run": "up", "template": "About {{ id }}"}}
"""Of a run with three items, the prompts `one`, `two` and `three`."""
OVER_PICTURES: Tree = {**chat(), "prompts": {"run": "up", "template": "What is this?"}}


def finished(bench: Bench, *, limit: int | None = None, yaml: str = chat_yaml("one", "two", "three")) -> None:
    """The run that the job reads, beside the job file."""
    harness = RunHarness(bench.folder)
    harness.run(yaml, limit=limit)
    harness.out.rename(bench.folder / "up.simulated")


def items(bench: Bench) -> list[Item]:
    """What is asked for, once the other run is there."""
    finished(bench)
    return bench.items


def asked(bench: Bench) -> list[str]:
    """The prompts, without what makes the other run's ids unlike."""
    return [item.prompt.rpartition("-")[0] for item in items(bench)]


def attempt(bench: Bench) -> object:
    """How many are done of a run that reads two of three items."""
    finished(bench, limit=2)
    try:
        return api.run_sync(bench.job, say=lambda _: None).status.items.done
    except BatchrunnerError as error:
        return int(error.exit_status)


def taken(bench: Bench) -> tuple[int, int]:
    """Answers that were taken from another run with two of the three, and requests."""
    finished(bench, yaml=chat_yaml("one", "two", model="m/One"))
    assert bench.report is not None
    return bench.report.status.reused, bench.report.status.sends.total


def kept(bench: Bench) -> list[str]:
    """The names of the pictures that go along."""
    finished(bench, yaml=image_yaml("a cat"))
    return [picture.name.partition("/images/")[0] for item in bench.items for picture in item.pictures]


def over_run(**more: object) -> Tree:
    """The job with more keys of its source."""
    tree = {**OVER_RUN, "prompts": dict(OVER_RUN["prompts"])}
    for key, value in more.items():
        put(tree, f"prompts.{key}", value)
    return tree


ALL = ["About one", "About two", "About three"]
TOPICS = b"topic,who\nfrogs,Ann\ntides,Bob\nbread,Cid\n"
DRAWN: Tree = {**chat(), "prompts": {"count": 3, "draw": {"x": ["a", "b"]}, "template": "{{ x }}"}}
FROM_FILE: Tree = {
    **chat(),
    "prompts": {"count": 1, "draw": {"x": {"file": "topics.csv", "column": "topic"}}, "template": "{{ x }}"},
}
TEXTS: Tree = {**chat(), "prompts": {"file": "rows.jsonl", "template": "{{ list }}"}}


def drawn(**changes: object) -> Tree:
    """The job that draws from a file, with these keys of its source."""
    tree = {**FROM_FILE, "prompts": {**FROM_FILE["prompts"], **changes}}
    return dict(tree)


def prompts(bench: Bench) -> list[str]:
    """What each item says."""
    return [item.prompt for item in bench.items]


LISTS = {
    "rows.jsonl": b'{"list": ["a", "b"], "kind": "x"}\n{"list": ["A "], "kind": "y"}\n{"list": ["c"], "kind": "x"}\n'
}
RUNS: dict[str, Effect] = {
    "prompts.explode": Effect(
        base=TEXTS,
        change={"prompts.explode": "list", "prompts.template": "{{ item }}"},
        look=prompts,
        was=["['a', 'b']", "['A ']", "['c']"],
        now=["a", "b", "A ", "c"],
        files=LISTS,
    ),
    "prompts.dedupe": Effect(
        base={**chat(), "prompts": {**TEXTS["prompts"], "explode": "list", "template": "{{ item }}"}},
        change={"prompts.dedupe": "item"},
        look=prompts,
        was=["a", "b", "A ", "c"],
        now=["a", "b", "c"],
        files=LISTS,
    ),
    "prompts.group": Effect(
        base={**chat(), "prompts": {"file": "rows.jsonl", "template": "{{ kind }}"}},
        change={
            "prompts.group": {"by": "kind", "size": 2},
            "prompts.template": "{{ kind }}: {{ rows | map(attribute='list') | list }}",
        },
        look=prompts,
        was=["x", "y", "x"],
        now=["x: [['a', 'b'], ['c']]", "y: [['A ']]"],
        files=LISTS,
    ),
    "prompts.group.by": Effect(
        base={
            **chat(),
            "prompts": {"file": "rows.jsonl", "group": {"by": "kind", "size": 9}, "template": "{{ rows | length }}"},
        },
        change={"prompts.group.by": "list"},
        look=prompts,
        was=["2", "1"],
        now=["1", "1", "1"],
        files=LISTS,
    ),
    "prompts.group.size": Effect(
        base={
            **chat(),
            "prompts": {"file": "rows.jsonl", "group": {"by": "kind", "size": 9}, "template": "{{ rows | length }}"},
        },
        change={"prompts.group.size": 1},
        look=prompts,
        was=["2", "1"],
        now=["1", "1", "1"],
        files=LISTS,
    ),
    "prompts.draw": Effect(
        base=DRAWN,
        change={"prompts.draw": {"x": ["c"]}},
        look=lambda bench: set(prompts(bench)),
        was={"a", "b"},
        now={"c"},
    ),
    "prompts.count": Effect(
        base=DRAWN, change={"prompts.count": 5}, look=lambda bench: len(prompts(bench)), was=3, now=5
    ),
    "prompts.seed": Effect(
        base=DRAWN, change={"prompts.seed": 1}, look=prompts, was=["b", "a", "a"], now=["b", "b", "b"]
    ),
    "prompts.draw{}.file": Effect(
        base=drawn(),
        change={"prompts.draw.x.file": "others.csv"},
        look=prompts,
        was=["tides"],
        now=["salt"],
        files={"topics.csv": TOPICS, "others.csv": b"topic\nsalt\n"},
    ),
    "prompts.draw{}.column": Effect(
        base=drawn(),
        change={"prompts.draw.x.column": "who"},
        look=prompts,
        was=["tides"],
        now=["Bob"],
        files={"topics.csv": TOPICS},
    ),
    "prompts.draw{}.size": Effect(
        base=drawn(),
        change={"prompts.draw.x.size": 3, "prompts.template": "{{ x | sort }}"},
        look=prompts,
        was=["tides"],
        now=["['bread', 'frogs', 'tides']"],
        files={"topics.csv": TOPICS},
    ),
    "prompts.run": Effect(
        base={**chat(), "prompts": {"file": "rows.txt"}},
        change={"prompts": OVER_RUN["prompts"]},
        look=asked,
        was=["by"],
        now=ALL,
        files={"rows.txt": b"by-hand\n"},
    ),
    "reuse": Effect(
        base=chat("one", "two", "four"),
        change={"reuse": ["up"]},
        look=taken,
        was=(0, 3),
        now=(2, 1),
    ),
    "prompts.where": Effect(
        base=OVER_RUN, change={"prompts.where": "{{ prompt != 'two' }}"}, look=asked, was=ALL, now=[ALL[0], ALL[2]]
    ),
    "prompts.sample": Effect(
        base=OVER_RUN, change={"prompts.sample": {"n": 2}}, look=lambda bench: len(items(bench)), was=3, now=2
    ),
    "prompts.sample.n": Effect(
        base=over_run(sample={"n": 1}),
        change={"prompts.sample.n": 2},
        look=lambda bench: len(items(bench)),
        was=1,
        now=2,
    ),
    "prompts.sample.seed": Effect(
        base=over_run(sample={"n": 1, "seed": 0}),
        change={"prompts.sample.seed": 2},
        look=asked,
        was=["About one"],
        now=["About two"],
    ),
    "prompts.sample.by": Effect(
        base=over_run(sample={"n": 1}),
        change={"prompts.sample.by": "model"},
        look=lambda bench: len(items(bench)),
        was=1,
        now=3,
    ),
    "prompts.unfinished": Effect(base=OVER_RUN, change={"prompts.unfinished": "take"}, look=attempt, was=3, now=2),
    "prompts.images": Effect(
        base=OVER_PICTURES, change={"prompts.images": ["{{ image }}"]}, look=kept, was=[], now=["up.simulated"]
    ),
}
