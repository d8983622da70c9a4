"""Structured output at work: every answer fits at last, re-asks are counted, servers without schemas are met."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchrunner.report.summary import usage_line
from tests.support.engine import FaultRates, RunHarness, World, chat
from tests.support.torture import Tried, at_size

QUESTIONS = at_size(400, 1319)
GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k_test.jsonl"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "number"}, "reasoning": {"type": "string"}},
    "required": ["answer", "reasoning"],
    "additionalProperties": False,
}
WAYS = [
    pytest.param("openai-chat", "", id="chat"),
    pytest.param("openai-chat", "stream: false", id="chat-whole"),
    pytest.param("openai-responses", "", id="responses"),
    pytest.param("openai-responses", "stream: false", id="responses-whole"),
    pytest.param("anthropic-messages", "", id="messages"),
    pytest.param("anthropic-messages", "stream: false", id="messages-whole"),
]


def asked(
    prompts: str, *, dialect: str = "openai-chat", model: str = "sim/chat", at_once: int = 64, more: str = ""
) -> str:
    """A job whose answers must fit the schema."""
    return (
        f"name: job\nprovider: {{preset: simulator, dialect: {dialect}}}\nmodel: {json.dumps(model)}\n"
        f"prompts: {prompts}\nschema: {json.dumps(SCHEMA)}\nlimits: {{concurrency: {at_once}}}\n{more}\n"
    )


def broken(harness: RunHarness) -> int:
    """How many whole answers the simulator made that break their schema."""
    return harness.stats.verdicts.get("answered, schema broken", 0)


def all_fit(rows: list[dict[str, Any]]) -> None:
    """Asserts it by jsonschema itself, and that the text says the same."""
    fits = jsonschema.Draft202012Validator(SCHEMA)
    for row in rows:
        fits.validate(row["output"]["parsed"])
        assert json.loads(row["output"]["text"]) == row["output"]["parsed"]


@pytest.mark.parametrize(("dialect", "more"), WAYS)
def test_all_questions_fit_their_schema_though_every_fifth_first_answer_breaks_it(
    tmp_path: Path, tried: Tried, dialect: str, more: str
) -> None:
    if not GSM8K.exists():
        pytest.skip(f"real prompts are not here: {GSM8K.name} is expected in {GSM8K.parent}")
    harness = RunHarness(tmp_path, world=World(7, faults=FaultRates(schema_break=0.2)))
    source = f'{{file: "{GSM8K}", template: "{{{{ question }}}}", id: "q{{{{ row }}}}", limit: {QUESTIONS}}}'
    report = harness.run(asked(source, dialect=dialect, more=f"budget: {{tokens: 10000000}}\n{more}"))
    rows = harness.rows()
    tried("structured answers, a fifth of them broken first", len(rows), lost=QUESTIONS - len(rows))
    assert (report.exit_status, len(rows), harness.rows("failures.jsonl")) == (0, QUESTIONS, [])
    all_fit(rows)
    again = sum(row["attempts"] - 1 for row in rows)
    assert again == broken(harness)
    assert 0.15 < again / QUESTIONS < 0.25, "a fifth of the first answers"
    assert Counter(event["kind"] for event in harness.events("retry")) == {"schema_miss": again}
    assert report.status.sends.total == QUESTIONS + again == harness.stats.sends
    assert (report.status.sends.ambiguous, report.status.sends.possible_duplicates) == (0, 0)
    got = sum(row["usage"]["input_tokens"] + row["usage"]["output_tokens"] for row in rows)
    missed = sum(event["input_tokens"] + event["output_tokens"] for event in harness.events("retry"))
    (tokens,) = report.status.budget
    assert tokens.spent == got + missed, "answers that break the schema are paid for, too"


def test_a_re_ask_is_no_failure_of_the_server_and_waits_for_no_budget(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(faults=FaultRates(schema_break=1.0)))
    began = harness.began
    harness.run(asked(json.dumps([f"q{number}" for number in range(200)])))
    assert (len(harness.rows()), broken(harness)) == (200, 200)
    assert harness.began - began < 5.0


def test_the_re_ask_shows_the_model_its_own_answer_and_the_validators_words(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(faults=FaultRates(schema_break=1.0)))
    harness.run(asked(json.dumps([f"q{number}" for number in range(40)])))
    first, second = harness.world.log.since(0)[0], harness.world.log.since(0)[-1]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["verdict"], second["verdict"]) == ("answered, schema broken", "answered")
    assert first["content"] != second["content"]


def test_an_answer_that_never_fits_fails_with_the_validators_words_once_its_attempts_are_used_up(
    harness: RunHarness,
) -> None:
    never = json.dumps({"type": "object", "required": ["it"], "properties": {"it": {"pattern": "^never$"}}})
    report = harness.run(chat("one", more=f"schema: {never}\nretry: {{attempts: 3}}"))
    (failure,) = harness.rows("failures.jsonl")
    assert (report.exit_status, failure["attempts"], harness.stats.sends) == (1, 3, 3)
    usage = report.status.usage
    tokens = harness.events("retry") + harness.events("failed")
    assert usage.input_tokens is None
    assert usage.unanswered_input_tokens == sum(event["input_tokens"] for event in tokens) > 0
    assert f"{usage.unanswered_input_tokens:,} in and" in usage_line(usage)
    assert failure["error"]["class"] == "schema_miss"
    assert "$.it" in failure["error"]["message"]


def test_without_a_schema_nothing_breaks(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(faults=FaultRates(schema_break=1.0)))
    harness.run(chat("one", "two"))
    assert (broken(harness), [row["attempts"] for row in harness.rows()]) == (0, [1, 1])


def test_a_server_that_refuses_json_schema_is_asked_for_an_object_and_given_the_schema_in_words(
    harness: RunHarness,
) -> None:
    report = harness.run(asked('["one", "two", "three"]', model="sim/chat#schema-400", at_once=1))
    rows = harness.rows()
    all_fit(rows)
    assert [row["output"]["flags"] for row in rows] == [["json_object"]] * 3
    assert ([row["attempts"] for row in rows], report.exit_status) == ([1, 1, 1], 0)
    assert harness.stats.refused == 1, "the others are sent right at once"


def test_the_empty_shell_under_json_schema_is_recognised_and_left_behind(harness: RunHarness) -> None:
    slowly = "limits: {requests_per_minute: 2}"
    job = asked('["one", "two", "three"]', model="sim/chat#schema-shell").replace("limits: {concurrency: 64}", slowly)
    report = harness.run(job)
    rows = harness.rows()
    all_fit(rows)
    assert (report.exit_status, [row["output"]["flags"] for row in rows]) == (0, [["json_object"]] * 3)
    assert [row["attempts"] for row in rows] == [2, 1, 1], "one that came through tells how all are to be asked"
    assert harness.stats.verdicts["shell"] == 1


def test_an_empty_shell_for_ever_states_that_the_schema_may_be_the_cause(harness: RunHarness) -> None:
    harness.run(asked('["one"]', model="sim/chat#shell200"))
    (failure,) = harness.rows("failures.jsonl")
    assert failure["error"]["class"] == "empty_response"
    assert "json_schema" in failure["error"]["message"]


def test_a_format_of_the_persons_own_is_sent_as_it_is_and_a_refusal_of_it_stands(harness: RunHarness) -> None:
    own = "params: {response_format: {type: json_schema, json_schema: {name: own, schema: {type: object}}}}"
    harness.run(asked('["one"]', model="sim/chat#schema-400", more=own))
    (failure,) = harness.rows("failures.jsonl")
    assert (failure["error"]["class"], harness.stats.sends) == ("bad_request", 1)
