"""A key that a server repeats in the results of a batch is in no file of the run, and in nothing that the program says.

`batches/` keeps what the server sent, and rows are read from there: both are masked.
"""

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.runs import CANARY, KEY_NAME, no_byte_holds, run_job, simulator
from tests.support.json_lines import json_lines

pytestmark = pytest.mark.real
ITEMS = 20
FORMS = (CANARY, quote(CANARY, safe=""), base64.b64encode(CANARY.encode()).decode())


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
@pytest.mark.parametrize("scenario", ["body-echo-key", "body-echo-key+batch-strings"])
def test_a_key_in_the_results_of_a_batch_is_masked_everywhere(tmp_path: Path, dialect: str, scenario: str) -> None:
    job, out = tmp_path / "night.yaml", tmp_path / "out"
    with simulator(tmp_path, "--latency", "task=0.5") as server:
        base_url = server.base_url.removesuffix("/v1" if dialect == "anthropic-messages" else "")
        job.write_text(
            f"provider: {{base_url: {base_url}, dialect: {dialect}, api_key_env: {KEY_NAME}}}\n"
            f"model: sim/chat#{scenario}\noutput: {{dir: {out}}}\nparams: {{max_tokens: 200}}\n"
            f"prompts: {json.dumps([f'question {number}' for number in range(ITEMS)])}\n"
            "batch: {use: always, look_every: 1s}\n"
        )
        ended = run_job(job)
        assert (ended.status, server.stats()["batches"]) == (0, 1), ended.stderr
    rows = json_lines(out / "results.jsonl")
    assert len(rows) == ITEMS
    assert all("***" in row["output"]["text"] for row in rows)
    assert (out / "batches" / "000001.out.jsonl").stat().st_size > 0
    for form in FORMS:
        no_byte_holds(out, form)
        assert form not in ended.stdout + ended.stderr
