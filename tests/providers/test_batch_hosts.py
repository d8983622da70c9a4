"""What the table of hosts says of each is in the requests, and replies in the words of each are read."""

import json
from typing import Any

import pytest

from batchrunner.core.http import Completed, Decoder, ResponseHead
from batchrunner.core.job import DialectName, Json, Provider
from batchrunner.core.outcome import Problem
from batchrunner.core.remote_batch import BatchLook, BatchPage
from batchrunner.providers import dialect_for
from batchrunner.providers.batch_hosts import is_known
from batchrunner.providers.openai_batches import OpenAiBatches
from tests.sdk_compat.items import item, requests_of

OPENAI, MISTRAL = "https://api.openai.com/v1", "https://api.mistral.ai/v1"
DASHSCOPE = "https://dashscope.aliyuncs.com/compatible-mode/v1"


def batches(base_url: str, dialect: DialectName = "openai-chat") -> OpenAiBatches:
    provider = Provider(preset="openai", dialect=dialect, base_url=base_url, key_env=(), auth="bearer")
    return OpenAiBatches(provider, dialect_for(provider))


def order(of: OpenAiBatches, model: str) -> tuple[str, dict[str, Json]]:
    request = of.create("file-1", key="intent", model=model, requests=requests_of([]))
    return request.url, json.loads(request.body or b"")


def line(of: OpenAiBatches, model: str) -> dict[str, Any]:
    return dict(json.loads(of.line(item("hello", model=model))))


def read(decoder: Decoder[Any], value: Json) -> Any:
    decoder.begin(ResponseHead(status=200, headers={"content-type": "application/json"}, received_at=0.0))
    decoder.feed(json.dumps(value).encode())
    return decoder.end(Completed())


@pytest.mark.parametrize(
    ("base_url", "dialect", "model", "endpoint"),
    [
        (OPENAI, "openai-chat", "m", "/v1/chat/completions"),
        (OPENAI, "openai-responses", "m", "/v1/responses"),
        (OPENAI, "openai-embeddings", "m", "/v1/embeddings"),
        ("https://mine.openai.azure.com/openai/v1", "openai-responses", "m", "/v1/responses"),
        ("https://open.bigmodel.cn/api/paas/v4", "openai-embeddings", "m", "/v4/embeddings"),
        (DASHSCOPE, "openai-chat", "qwen-plus", "/v1/chat/completions"),
        (DASHSCOPE, "openai-chat", "batch-test-model", "/v1/chat/ds-test"),
    ],
)
def test_the_order_and_each_line_name_the_same_endpoint(
    base_url: str, dialect: DialectName, model: str, endpoint: str
) -> None:
    of = batches(base_url, dialect)
    assert line(of, model)["url"] == endpoint
    assert order(of, model)[1]["endpoint"] == endpoint
    assert of.is_known


def test_an_order_of_mistral_names_the_model_and_its_lines_do_not() -> None:
    of = batches(MISTRAL)
    url, body = order(of, "mistral-small-latest")
    assert url == f"{MISTRAL}/batch/jobs"
    assert body == {
        "input_files": ["file-1"],
        "endpoint": "/v1/chat/completions",
        "model": "mistral-small-latest",
        "timeout_hours": 24,
        "metadata": {"batchrunner": "intent"},
    }
    written = line(of, "mistral-small-latest")
    assert written.keys() == {"custom_id", "body"}
    assert "model" not in written["body"]
    assert written["body"]["messages"] == [{"role": "user", "content": "hello"}]
    assert of.look("j").url == f"{MISTRAL}/batch/jobs/j"
    assert of.cancel("j").url == f"{MISTRAL}/batch/jobs/j/cancel"


def mistral_job(**told: Json) -> dict[str, Json]:
    return {"id": "j", "object": "batch", "input_files": ["file-1"], "endpoint": "/v1/chat/completions", **told}


@pytest.mark.parametrize(
    ("told", "state", "outputs"),
    [
        ({"status": "QUEUED", "output_file": None}, "running", ()),
        ({"status": "RUNNING"}, "running", ()),
        ({"status": "CANCELLATION_REQUESTED"}, "running", ()),
        ({"status": "SUCCESS", "output_file": "o", "error_file": None}, "ended", (("out", "o"),)),
        ({"status": "SUCCESS", "output_file": "o", "error_file": "e"}, "ended", (("out", "o"), ("err", "e"))),
        ({"status": "TIMEOUT_EXCEEDED", "output_file": "o"}, "ended", (("out", "o"),)),
        ({"status": "CANCELLED"}, "ended", ()),
        ({"status": "FAILED", "errors": [{"message": "no such model", "count": 3}]}, "failed", ()),
    ],
)
def test_a_job_of_mistral_is_read_in_its_own_words(told: dict[str, Json], state: str, outputs: object) -> None:
    look = read(batches(MISTRAL).looked(), mistral_job(**told, metadata={"batchrunner": "intent"}))
    assert isinstance(look, BatchLook)
    assert (look.state, look.outputs, look.input_file, look.key) == (state, outputs, "file-1", "intent")
    assert look.message == ("no such model" if state == "failed" else "")


def test_pages_of_mistral_are_asked_for_by_number_until_one_is_not_full() -> None:
    of, after = batches(MISTRAL), None
    urls = []
    for count in (100, 100, 3):
        urls.append(of.listing(after).url.rpartition("?")[2])
        page = read(of.listed(after), {"object": "list", "data": [mistral_job(status="RUNNING")] * count, "total": 203})
        assert isinstance(page, BatchPage)
        assert len(page.batches) == count
        after = page.after
    assert after is None
    assert urls == ["page_size=100&page=0", "page_size=100&page=1", "page_size=100&page=2"]
    assert isinstance(read(of.listed("2"), {"object": "list"}), Problem)


@pytest.mark.parametrize(
    ("base_url", "dialect", "known"),
    [
        (OPENAI, "openai-embeddings", True),
        (MISTRAL, "openai-chat", True),
        (MISTRAL, "openai-responses", False),
        ("https://api.groq.com/openai/v1", "openai-embeddings", False),
        ("https://elsewhere.example/v1", "openai-chat", False),
    ],
)
def test_auto_uses_only_what_a_host_is_known_for(base_url: str, dialect: DialectName, *, known: bool) -> None:
    assert is_known(Provider(preset="openai", dialect=dialect, base_url=base_url, key_env=(), auth="bearer")) is known
