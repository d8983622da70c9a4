"""What llmock, LiteLLM's proxy and llama.cpp's server say when something is wrong, and what follows from it."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.runs import KEY_NAME, run_job
from tests.servers.llama import Options, free_port, llama
from tests.servers.mocks import litellm, llmock, needs_litellm, needs_llmock
from tests.servers.model import write_model
from tests.servers.runs import answers, audit, failures, intents, ledger, needs_llama, refusals

pytestmark = pytest.mark.servers
MODERATION = {
    "error": {
        "message": "Your request was blocked: the input was flagged by the provider's moderation",
        "type": "invalid_request_error",
        "code": "403",
    },
    "status": 403,
}
WORDLESS = {"error": {"message": ""}, "status": 503}
GOOD_MODEL = {
    "model_name": "good",
    "litellm_params": {"model": "openai/any", "api_key": "none", "mock_response": "yes"},
}
GOOD = {"match": {"userMessage": "p"}, "response": {"content": "hello world"}}


def job_for(
    root: str, folder: Path, *, prompts: list[Any], model: str = "m", path: str = "/v1", rest: str = ""
) -> Path:
    """A chat job, answers in one piece; YAML reads JSON."""
    job = folder / "faults.yaml"
    listed = json.dumps(prompts)
    job.write_text(
        f"provider: {{dialect: openai-chat, base_url: '{root}{path}', api_key_env: {KEY_NAME}}}\n"
        f"model: {model}\nprompts: {listed}\nstream: false\n{rest}\n"
    )
    return job


def kinds(job: Path) -> Counter[str]:
    """Classes of the failed items."""
    return Counter(row["error"]["class"] for row in failures(job))


@needs_llmock
def test_moderation_of_three_items_in_a_row_fails_those_and_no_others(tmp_path: Path) -> None:
    refused = [{"match": {"userMessage": f"p{number}"}, "response": MODERATION} for number in (5, 6, 7)]
    prompts = [f"p{number}" for number in range(10)]
    with llmock([*refused, GOOD], port=free_port(), folder=tmp_path) as root:
        job = job_for(root, tmp_path, prompts=prompts, rest="limits: {concurrency: 1}")
        ended = run_job(job)
    assert ended.status == 1, ended.stderr
    assert kinds(job) == {"content_filter": 3}
    assert len(answers(job)) == 7
    assert intents(job) == 10
    audit(job)


@needs_llmock
def test_a_503_without_words_is_refused_costs_no_try_and_is_not_paid(tmp_path: Path) -> None:
    busy = [{"match": {"userMessage": f"p{n}", "sequenceIndex": 0}, "response": WORDLESS} for n in range(6)]
    with llmock([*busy, GOOD], port=free_port(), folder=tmp_path) as root:
        job = job_for(root, tmp_path, prompts=[f"p{n}" for n in range(6)], rest="limits: {concurrency: 2}")
        ended = run_job(job)
    assert ended.status == 0, ended.stderr
    assert {row["attempts"] for row in answers(job)} == {1}
    sends = ended.report["sends"]
    assert (sends["refused"], sends["possible_duplicates"]) == (6, 0)
    audit(job)


@needs_litellm
def test_a_path_that_the_server_does_not_know_is_a_mistake_of_the_job_and_fails_no_item(tmp_path: Path) -> None:
    prompts = [f"p{n}" for n in range(20)]
    with litellm([GOOD_MODEL], port=free_port(), folder=tmp_path) as root:
        job = job_for(root, tmp_path, prompts=prompts, model="good", path="/nowhere")
        ended = run_job(job)
        assert ended.status == 2, ended.stderr
        assert "base_url" in ended.stderr
        assert failures(job) == []
        assert intents(job) <= 8
        job = job_for(root, tmp_path, prompts=prompts, model="good")
        ended = run_job(job)
    assert ended.status == 0, ended.stderr
    assert len(answers(job)) == 20


@needs_litellm
def test_a_model_that_the_proxy_does_not_list_is_unknown_and_the_rest_is_not_sent(tmp_path: Path) -> None:
    prompts = [f"p{n}" for n in range(12)]
    with litellm([GOOD_MODEL], port=free_port(), folder=tmp_path) as root:
        job = job_for(root, tmp_path, prompts=prompts, model="unknown", rest="limits: {concurrency: 2}")
        ended = run_job(job)
        assert ended.status == 1, ended.stderr
        assert kinds(job) == {"model_not_found": 12}
        assert intents(job) <= 4
        job = job_for(root, tmp_path, prompts=prompts, model="good")
        ended = run_job(job)
    assert ended.status == 0, ended.stderr
    assert {row["output"]["text"] for row in answers(job)} == {"yes"}


@needs_llama
def test_a_server_that_can_read_no_pictures_stops_the_job_in_its_own_words(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    (tmp_path / "red.png").write_bytes(picture.getvalue())
    prompts = [{"prompt": f"What is this? {n}"} for n in range(40)]
    options = Options(model=str(write_model(tmp_path / "random.gguf")), port=free_port())
    with llama(options, tmp_path) as server:
        server.wait_until(200)
        job = job_for(server.root, tmp_path, prompts=prompts, model="random", rest='images: ["red.png"]')
        ended = run_job(job, timeout_s=120)
    assert ended.status != 0
    assert "image" in ended.stderr
    assert intents(job) <= 30
    assert answers(job) == []
    assert not any(record["e"] == "parked" and record.get("until") for record in ledger(job)[-1:]), refusals(job)
