"""Structured output over real sockets: a fifth of the first answers breaks the schema, and no row does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.runs import CANARY, KEY_NAME, each_item_ended_once, no_byte_holds, run_job, shared_file, simulator

pytestmark = pytest.mark.real
QUESTIONS = 200
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "number"}, "reasoning": {"type": "string"}},
    "required": ["answer", "reasoning"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("preset", ["openai", "anthropic"])
def test_two_hundred_answers_fit_their_schema_and_their_re_asks_are_counted(tmp_path: Path, preset: str) -> None:
    (tmp_path / "answer.schema.json").write_text(json.dumps(SCHEMA))
    job = tmp_path / "answers.yaml"
    with simulator(tmp_path, "--faults", "schema-break=0.2", "--seed", "5") as server:
        job.write_text(f"""
provider: {{preset: {preset}, base_url: "{server.base_url}", api_key_env: {KEY_NAME}}}
model: sim/chat
prompts: {{file: "{shared_file("gsm8k_test.jsonl")}", template: "{{{{ question }}}}", limit: {QUESTIONS}}}
schema: answer.schema.json
limits: {{concurrency: 32}}
""")
        ended = run_job(job)
        stats = server.stats()
    assert ended.status == 0, ended.stderr
    rows = each_item_ended_once(tmp_path / "outputs" / "answers", items=QUESTIONS)
    fits = jsonschema.Draft202012Validator(SCHEMA)
    for row in rows:
        fits.validate(row["output"]["parsed"])
    again = sum(row["attempts"] - 1 for row in rows)
    assert again == stats["verdicts"]["answered, schema broken"] > 0
    assert ended.report["sends"] == {
        "total": QUESTIONS + again,
        "refused": 0,
        "ambiguous": 0,
        "unknown": 0,
        "possible_duplicates": 0,
    }
    assert (stats["sends"], stats["paid_twice"]) == (QUESTIONS + again, 0)
    no_byte_holds(tmp_path, CANARY)
