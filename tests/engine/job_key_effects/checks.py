"""Keys of `checks:`: for each a check without it and one with it, and the verdicts that a run ends with."""

import json
from typing import Any

from tests.engine.job_key_effects.bench import Bench, Effect, Tree, chat, image
from tests.engine.job_key_effects.schedule import world

ANSWERED = chat("one")
"""Answered with some forty words that begin with `Here is one way` and end with `from this.`"""
PAINTED = image("a cat")
"""Answered with a picture of 64 × 64."""
FUNCTION = {"mine.py": b"def yes(row):\n    return True\n\n\ndef no(row):\n    return False\n"}


def scores(bench: Bench) -> Tree:
    """The scores of the first row."""
    assert bench.report is not None
    return dict(json.loads((bench.harness.out / "scores.jsonl").read_text().splitlines()[0]))


def verdict(bench: Bench) -> str:
    """What the first check says."""
    return str(next(iter(scores(bench)["scores"].values()))["verdict"])


SUMMED = chat("Sum 1,5 and 42")
"""Answered with these numbers, and `#### 52` at the end."""
STRUCTURED = chat("one", schema={"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]})
"""Answered with `{"a": 1}`."""


def effect(before: Tree, after: Tree, *, was: str = "fail", now: str = "pass", base: Tree = ANSWERED) -> Effect:
    """A check that does not pass, and the same with the key changed."""
    return Effect(
        base={**base, "checks": [before]},
        change={"checks": [after]},
        look=verdict,
        was=was,
        now=now,
        files=FUNCTION,
        world=lambda: world(first_byte_s=2.0),
    )


ABSENT: Tree = {"contains": "no such words"}
KINDS: dict[str, Effect] = {
    "equals": effect({"regex": "Here is (one)", "equals": "two"}, {"regex": "Here is (one)", "equals": "one"}),
    "contains": effect(ABSENT, {"contains": ["one way", "cause"]}),
    "any": effect(ABSENT, {"any": ["nothing", "cause"]}),
    "regex": effect(ABSENT, {"regex": r"^Here\b"}),
    "ignore_case": effect({"contains": "HERE"}, {"contains": "HERE", "ignore_case": True}),
    "number": effect({"number": 41}, {"number": 52}, base=SUMMED),
    "take": effect({"number": 3}, {"number": 3, "take": "first"}, base=chat("Sum 3 and 4")),
    "decimal": effect(
        {"number": "1.5", "take": "first"},
        {"number": "1,5", "take": "first", "decimal": "comma"},
        was="error",
        base=SUMMED,
    ),
    "json": effect(ABSENT, {"json": "$"}, base=STRUCTURED),
    "json.path": effect({"json": "$.no"}, {"json": {"path": "$.a"}}, base=STRUCTURED),
    "json.equals": effect(
        {"json": {"path": "$.a", "equals": 2}}, {"json": {"path": "$.a", "equals": 1}}, base=STRUCTURED
    ),
    "json.present": effect({"json": "$.no"}, {"json": {"path": "$.no", "present": False}}, base=STRUCTURED),
    "json.schema": effect(
        {"json": {"schema": {"type": "array"}}}, {"json": {"schema": {"type": "object"}}}, base=STRUCTURED
    ),
    "length": effect(ABSENT, {"length": {"chars": [1, None]}}),
    "length.chars": effect({"length": {"chars": [None, 10]}}, {"length": {"chars": [None, 1000]}}),
    "length.words": effect({"length": {"words": [1000, None]}}, {"length": {"words": [1, 1000]}}),
    "length.tokens": effect({"length": {"tokens": [None, 1]}}, {"length": {"tokens": [1, None]}}),
    "within": effect(ABSENT, {"within": {"seconds": 60}}),
    "within.seconds": effect({"within": {"seconds": 0.5}}, {"within": {"seconds": 60}}),
    "within.output_tokens": effect({"within": {"output_tokens": 1}}, {"within": {"output_tokens": 999}}),
    "within.input_tokens": effect({"within": {"input_tokens": 1}}, {"within": {"input_tokens": 999}}),
    "python": effect({"python": "mine.py:no"}, {"python": "mine.py:yes"}),
    "picture": effect({"within": {"seconds": 0.1}}, {"picture": {"blank": False}}, base=PAINTED),
    "picture.blank": effect({"picture": {"blank": True}}, {"picture": {"blank": False}}, base=PAINTED),
    "picture.aspect": effect({"picture": {"aspect": False}}, {"picture": {"aspect": True}}, base=PAINTED),
    "picture.duplicate": effect({"picture": {"duplicate": True}}, {"picture": {"duplicate": False}}, base=PAINTED),
    "picture.duplicate_in_run": effect(
        {"picture": {"duplicate_in_run": True}}, {"picture": {"duplicate_in_run": False}}, base=PAINTED
    ),
}


TURNED = {"pass": "fail", "fail": "pass"}


def turned(one: Effect) -> Effect:
    """The same below `not`."""

    def below(checks: Any) -> Tree:
        return {"checks": [{"not": check} for check in checks]}

    return Effect(
        base={**one.base, **below(one.base["checks"])},
        change=below(one.change["checks"]),
        look=one.look,
        was=TURNED.get(str(one.was), one.was),
        now=TURNED[str(one.now)],
        files=one.files,
        world=one.world,
    )


def judge(score: float) -> bytes:
    """The file of a judge that gives this score to every answer."""
    schema = {"type": "object", "properties": {"score": {"const": score}}, "required": ["score"]}
    prompts = {"run": "outputs/any", "template": "Rate: {{ text }}"}
    job: Tree = {"provider": "simulator", "model": "sim/judge", "prompts": prompts, "schema": schema}
    return json.dumps(job).encode()


def better(winner: str) -> bytes:
    """The file of a judge that finds this one better whatever the order."""
    prompts = {"run": "outputs/any", "template": "{{ first }} or {{ second }}"}
    schema = {"type": "object", "properties": {"winner": {"const": winner}}, "required": ["winner"]}
    return json.dumps({"provider": "simulator", "model": "j", "prompts": prompts, "schema": schema}).encode()


JUDGES = {"low.yaml": judge(0.25), "high.yaml": judge(0.75), "first.yaml": better("first")}


def judged(before: Tree, after: Tree) -> Effect:
    """Two judges of a simulated run, the second of which passes the answer."""
    return Effect(
        base={**ANSWERED, "provider": "simulator", "checks": [before]},
        change={"checks": [after]},
        look=verdict,
        was="fail",
        now="pass",
        files=JUDGES,
    )


CHECKS: dict[str, Effect] = {
    "checks[].judge": judged(ABSENT, {"judge": {"use": "high.yaml"}}),
    "checks[].judge.use": judged({"judge": {"use": "low.yaml"}}, {"judge": {"use": "high.yaml"}}),
    "checks[].judge.pair": Effect(
        base={**ANSWERED, "provider": "simulator", "models": ["sim/a", "sim/b"], "model": None, "checks": [ABSENT]},
        change={"checks": [{"judge": {"use": "first.yaml", "pair": ["sim/a", "sim/b"]}}]},
        look=verdict,
        was="fail",
        now="none",  # what is shown first wins in both orders: a tie
        files=JUDGES,
    ),
    "checks[].judge.at_least": judged({"judge": {"use": "low.yaml"}}, {"judge": {"use": "low.yaml", "at_least": 0.2}}),
    "checks": Effect(
        base=ANSWERED,
        change={"checks": [{"any": "one"}]},
        look=lambda bench: int(bench.report.exit_status) == 0 and (bench.harness.out / "scores.jsonl").exists(),
        was=False,
        now=True,
    ),
    "checks[].not": effect({"not": {"any": "one"}}, {"not": {"any": "no such words"}}),
    "checks[].when": effect(ABSENT, {**ABSENT, "when": "{{ id == 'no such item' }}"}, now="none"),
    "checks[].of": effect(ABSENT, {**ABSENT, "of": "reasoning"}, now="none"),
    "checks[].name": Effect(
        base={**ANSWERED, "checks": [{"any": "one"}]},
        change={"checks": [{"any": "one", "name": "says-one"}]},
        look=lambda bench: list(scores(bench)["scores"]),
        was=["any"],
        now=["says-one"],
    ),
    "checks[].counts": Effect(
        base={**ANSWERED, "checks": [{"any": "one"}, ABSENT]},
        change={"checks": [{"any": "one"}, {**ABSENT, "counts": False}]},
        look=lambda bench: scores(bench)["pass"],
        was=False,
        now=True,
    ),
    **{f"checks[].{key}": one for key, one in KINDS.items()},
    **{f"checks[].not.{key}": turned(one) for key, one in KINDS.items()},
}
