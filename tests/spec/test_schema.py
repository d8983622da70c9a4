"""The JSON Schema describes every key and agrees with the checker; the answer schema of a job is read and checked."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from batchrunner.core.errors import Mistake
from batchrunner.core.job import Job, Json
from batchrunner.spec import job_schema, starter_job
from batchrunner.spec.models import PARTS, keys_of

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
CHAT = "provider: simulator\nmodel: m\nprompts: [a]\n"


def properties(tree: Json) -> Iterator[tuple[str, dict[str, Json]]]:
    match tree:
        case dict():
            own = tree.get("properties")
            for name, part in own.items() if isinstance(own, dict) else ():
                assert isinstance(part, dict)
                yield name, part
            for part in tree.values():
                yield from properties(part)
        case list():
            for part in tree:
                yield from properties(part)
        case _:
            return


def test_every_key_has_a_description_that_is_a_sentence() -> None:
    found = list(properties(job_schema()))
    assert {name for name, _part in found} == {key for part in PARTS.values() for key in keys_of(part)}
    for name, part in found:
        assert str(part.get("description", "")).rstrip(")").endswith((".", '".')), name


def test_the_schema_is_a_schema_and_takes_the_example_jobs() -> None:
    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    for text in (starter_job(), *(path.read_text() for path in JOBS)):
        checker.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "provider: simulator\nprompts: [a]",
        CHAT + "models: [b]",
        CHAT + "limit: 3",
        CHAT + "kind: x",
        CHAT + "replicas: 0",
    ],
)
def test_the_schema_refuses_what_the_checker_refuses(mistakes: Mistakes, text: str) -> None:
    assert mistakes(text)
    assert not jsonschema.Draft202012Validator(job_schema()).is_valid(yaml.safe_load(text))


def test_an_answer_schema_is_read_from_the_job_or_from_a_file_beside_it(load: Load, tmp_path: Path) -> None:
    schema: dict[str, Json] = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "number"}},
    }
    (tmp_path / "a.schema.json").write_text(json.dumps(schema))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(schema))
    assert load(CHAT + "schema: a.schema.json").schema == schema
    assert load(CHAT + "schema: b.yaml").schema == schema
    assert load(CHAT + f"schema: {json.dumps(schema)}").schema == schema


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", "{\n nope", "a.json:2: is not valid JSON"),
        ("a.json", '{"const": NaN}', "is not valid JSON"),
        ("a.json", "[1]", "contains no schema"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.yaml", "type: object\ntype: string", "a.yaml:2: type is given twice"),
        ("a.json", '{"properties": {"x": {"type": 3}}}', "properties.x.type is not valid JSON Schema"),
        ("a.json", '{"pattern": "("}', "pattern is not valid JSON Schema"),
        ("a.json", '{"$ref": "#/nowhere"}', "refers to"),
        ("a.json", '{"$ref": "file:///etc/passwd"}', "refers to"),
        ("a.json", '{"$ref": "b/properties/x", "properties": {"x": {}}}', "refers to"),
    ],
)
def test_a_bad_schema_file_is_a_mistake_on_the_line_of_its_key(
    mistakes: Mistakes, tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    (mistake,) = mistakes(CHAT + f"schema: {name}")
    assert (mistake.line, mistake.key) == (4, "schema")
    assert problem in mistake.problem
