"""llama.cpp's server answers real questions: every answer is read, in both dialects, streamed and whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import CANARY, each_item_ended_once, no_byte_holds, run_job
from tests.servers.llama import Llama, Options, free_port, llama
from tests.servers.model import write_model
from tests.servers.runs import DIALECTS, audit, intents, needs_llama, outputs, write_job
from tests.support.torture import Tried

pytestmark = [pytest.mark.servers, needs_llama]
_TOKENS = 16
SIZES = {True: 200, False: 20}
"""Items by whether the answers are streamed."""
FINISHED = {"openai-chat": {"length", "stop"}, "anthropic-messages": {"max_tokens", "end_turn"}}
CUT_SHORT = {"length", "max_tokens"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    folder = tmp_path_factory.mktemp("llama")
    options = Options(model=str(write_model(folder / "random.gguf")), port=free_port())
    with llama(options, folder) as started:
        started.wait_until(200)
        yield started


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", list(SIZES))
def test_every_question_is_answered_once_and_reported_in_full(
    server: Llama, tmp_path: Path, tried: Tried, dialect: str, *, stream: bool
) -> None:
    items = SIZES[stream]
    rest = f"stream: {str(stream).lower()}\nlimits: {{concurrency: auto}}"
    job = write_job(tmp_path, server.root, dialect=dialect, items=items, params=f"max_tokens: {_TOKENS}", rest=rest)
    ended = run_job(job)
    assert ended.status == 0, ended.stderr
    results = each_item_ended_once(outputs(job), items=items)
    beginnings_lost = 0
    for row in results:
        holds_an_answer(row, dialect)
        beginnings_lost += lost_its_beginning(row)
    assert (beginnings_lost > 0) is (stream and dialect == "anthropic-messages")
    assert ended.report["sends"] == {
        "total": items,
        "refused": 0,
        "ambiguous": 0,
        "unknown": 0,
        "possible_duplicates": 0,
    }
    assert {row["attempts"] for row in results} == {1}
    audit(job)
    no_byte_holds(outputs(job), CANARY)
    assert run_job(job).status == 0
    assert intents(job) == items, "a second run sent something"
    tried(f"items: answered by llama.cpp, {dialect}, {'streamed' if stream else 'whole'}", items)


def holds_an_answer(row: dict[str, Any], dialect: str) -> None:
    """The answer has its text, its end and what it cost, as far as the server told."""
    output, usage = row["output"], row["usage"]
    assert output["text"]
    assert output["finish_reason"] in FINISHED[dialect]
    assert output["truncated"] is (output["finish_reason"] in CUT_SHORT)
    assert 0 < usage["output_tokens"] <= _TOKENS
    assert (usage["input_tokens"] is None) is lost_its_beginning(row), "message_start alone tells the input's size"


def lost_its_beginning(row: dict[str, Any]) -> bool:
    """llama.cpp leaves `message_start` out when the first token is no whole character, and the answer is sound."""
    return "no_message_start" in row["output"].get("flags", ())


SCHEMA = """
schema:
  type: object
  properties:
    verdict: {enum: [right, wrong, unclear]}
    steps: {type: array, items: {enum: [1, 2, 3]}, minItems: 1, maxItems: 3}
    sure: {type: boolean}
  required: [verdict, steps, sure]
  additionalProperties: false
"""


@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_is_kept_by_the_server_so_every_answer_is_valid(
    server: Llama, tmp_path: Path, *, stream: bool
) -> None:
    rest = f"stream: {str(stream).lower()}\n{SCHEMA}"
    job = write_job(tmp_path, server.root, items=10, params="max_tokens: 256", rest=rest)
    ended = run_job(job)
    assert ended.status == 0, ended.stderr
    results = each_item_ended_once(outputs(job), items=10)
    for row in results:
        assert row["output"]["parsed"]["verdict"] in {"right", "wrong", "unclear"}
        assert row["output"]["finish_reason"] == "stop"
        assert row["attempts"] == 1
