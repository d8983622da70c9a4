"""Three jobs use every key that the JSON Schema has; each of those keys has a test that it does something."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from batchrunner.core.job import Json
from batchrunner.prompts import check_items
from batchrunner.spec import job_schema, load_job
from tests.engine.job_key_effects import EFFECTS

JOBS = sorted(Path(__file__).parent.glob("whole_vocabulary*.yaml"))
OF_ANY_NAME = ("budget.prices", "prompts.draw")
FREE = frozenset({"params", "vars", "matrix", "headers", "schema", "points_per_call"})
"""Mappings whose names are the person's own."""


def resolved(schema: dict[str, Json], part: Json) -> dict[str, Json]:
    """The part, or what it refers to."""
    assert isinstance(part, dict)
    reference = part.get("$ref")
    if not isinstance(reference, str):
        return part
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    return resolved(schema, definitions[reference.rpartition("/")[2]])


def known(schema: dict[str, Json], part: Json, path: str = "") -> Iterator[str]:
    """Every key path below a part of the schema: `[]` is any place of a list, `{}` any name."""
    part = resolved(schema, part)
    for word in ("anyOf", "oneOf", "allOf"):
        branches = part.get(word, [])
        assert isinstance(branches, list)
        for branch in branches:
            yield from known(schema, branch, path)
    properties = part.get("properties", {})
    assert isinstance(properties, dict)
    for name, below in properties.items():
        here = f"{path}.{name}".removeprefix(".")
        yield here
        yield from known(schema, below, here)
    if isinstance(part.get("items"), dict):
        yield from known(schema, part["items"], f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from known(schema, part["additionalProperties"], f"{path}{{}}")


def used(tree: Json, path: str = "") -> Iterator[str]:
    """Every key path of a job file, in the same words."""
    match tree:
        case dict():
            for name, below in tree.items():
                here = f"{path}{{}}" if path in OF_ANY_NAME else f"{path}.{name}".removeprefix(".")
                yield here
                if name not in FREE:
                    yield from used(below, here)
        case list():
            for below in tree:
                yield from used(below, f"{path}[]")
        case _:
            return


KEYS = frozenset(known(job_schema(), job_schema()))


def test_the_walk_finds_keys_at_every_depth() -> None:
    assert {
        "name",
        "provider.ca_file",
        "prompts.file",
        "prompts[].vars",
        "messages[].role",
        "limits.concurrency",
    } <= KEYS
    assert {"budget.prices", "budget.prices{}.input"} <= KEYS
    assert len(KEYS) > 75


def test_the_jobs_together_use_every_key() -> None:
    found = {key for path in JOBS for key in used(yaml.safe_load(path.read_text()))}
    assert KEYS - found == set()
    assert found - KEYS == {"budget.prices{}", "prompts.draw{}"}, "a key of these jobs that the schema does not have"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_such_a_job_is_valid(path: Path) -> None:
    job = load_job(str(path))
    assert asyncio.run(check_items(job)) == ()


def test_every_key_has_a_test_that_it_does_something() -> None:
    assert EFFECTS.keys() - KEYS == set(), "effects of keys that are no more"
    assert KEYS - EFFECTS.keys() == set(), "keys that nobody has seen to do anything"
