"""The official OpenAI SDK drives the simulator's files and batches, and our decoders read the same bytes alike."""

import asyncio
import json
from email import message_from_bytes

import httpx2
import openai
import pytest
from openai.types import Batch
from openai.types.chat import ChatCompletion

from batchrunner.core.outcome import Answer, Problem
from batchrunner.core.remote_batch import BatchLook, BatchPage
from batchrunner.core.values import replace
from batchrunner.providers.openai_batches import OpenAiBatches
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider, requests_of, whole_body
from tests.sdk_compat.recorder import Reply, with_world

SIMULATOR = provider("simulator", "openai-chat")
OURS = OpenAiBatches(SIMULATOR, OpenAiChat(SIMULATOR))
ITEMS = [replace(item(f"question {number}", model="M/m"), id=str(number), key=f"{number:032x}") for number in range(5)]
KEY = "f" * 32


def answers_to(scenario: str) -> tuple[list[Batch], list[bytes], tuple[Reply, ...]]:
    """A batch from its upload to its results: (what the SDK read of it, its result files, all replies)."""
    looks: list[Batch] = []
    files: list[bytes] = []

    async def use(url: str, http: httpx2.AsyncClient) -> None:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="ms-key", http_client=http, max_retries=0)
        lines = b"".join(OURS.line(each) for each in ITEMS)
        uploaded = await client.files.create(file=("requests.jsonl", lines), purpose="batch")
        looks.append(
            await client.batches.create(
                input_file_id=uploaded.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"batchrunner": KEY},
            )
        )
        while looks[-1].status not in {"completed", "expired", "failed"}:
            await asyncio.sleep(0.05)
            looks.append(await client.batches.retrieve(looks[-1].id))
        page = await client.batches.list(limit=5)
        assert [batch.id for batch in page.data] == [looks[0].id]
        names = filter(None, (looks[-1].output_file_id, looks[-1].error_file_id))
        files.extend([(await client.files.content(name)).content for name in names])

    _, replies = with_world(World(scenario=scenario, latency=Latency(task_s=0.2)), use)
    return looks, files, replies


@pytest.mark.parametrize("scenario", ["ok", "batch-expires:60", "batch-too-much:2", "batch-all-errors"])
def test_the_sdk_and_our_decoders_agree_on_a_batch(scenario: str) -> None:
    sdk, files, replies = answers_to(scenario)
    assert isinstance(replies[0].read_with(OURS.uploaded()), str)
    ours = [reply.read_with(OURS.looked()) for reply in replies[1 : 1 + len(sdk)]]
    for theirs, our in zip(sdk, ours, strict=True):
        assert isinstance(our, BatchLook)
        assert (our.batch_id, our.word, our.input_file) == (theirs.id, theirs.status, theirs.input_file_id)
        assert our.key == (theirs.metadata or {})["batchrunner"] == KEY
        outputs = {"out": theirs.output_file_id, "err": theirs.error_file_id}
        assert dict(our.outputs) == {kind: name for kind, name in outputs.items() if name}
        assert our.expires_at == theirs.expires_at
    page = replies[1 + len(sdk)].read_with(OURS.listed())
    assert isinstance(page, BatchPage)
    assert page.batches == (ours[-1],)
    assert page.after is None
    states = {"completed": "ended", "expired": "ended", "failed": "failed"}
    last = ours[-1]
    assert isinstance(last, BatchLook)
    assert last.state == states[sdk[-1].status]
    assert last.too_much is (scenario == "batch-too-much:2")
    written: list[bytes] = []
    for reply, content in zip(replies[2 + len(sdk) :], files, strict=True):
        assert reply.read_with(OURS.downloaded(written.append)) is None
        assert b"".join(written) == content
        written.clear()
    by_key = {each.key: each for each in ITEMS}
    for line in b"".join(files).splitlines():
        raw, found = json.loads(line), OURS.read(line)
        assert found.key == raw["custom_id"]
        if found.unanswered:
            assert raw["error"]["code"] == "batch_expired"
            continue
        outcome = OURS.answer(by_key[found.key], found, received_at=0.0)
        if raw["response"]["status_code"] == 200:
            completion = ChatCompletion.model_validate(raw["response"]["body"])
            assert isinstance(outcome, Answer)
            assert outcome.text == completion.choices[0].message.content
            assert outcome.usage is not None
            assert completion.usage is not None
            assert outcome.usage.output_tokens == completion.usage.completion_tokens
        else:
            assert isinstance(outcome, Problem)


def test_our_upload_and_order_are_what_the_sdk_would_send() -> None:
    sent: list[httpx2.Request] = []

    def keep(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(500)

    http = httpx2.Client(transport=httpx2.MockTransport(keep))
    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="k", http_client=http, max_retries=0)
    lines = [OURS.line(each) for each in ITEMS]
    with pytest.raises(openai.InternalServerError):
        client.files.create(file=("requests.jsonl", b"".join(lines)), purpose="batch")
    with pytest.raises(openai.InternalServerError):
        client.batches.create(
            input_file_id="file-1",
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"batchrunner": KEY},
        )
    file = requests_of(lines)
    upload = OURS.upload(file, name="requests.jsonl")
    order = OURS.create("file-1", key=KEY, model="sim/chat", requests=file)
    assert (str(sent[0].url), str(sent[1].url)) == (upload.url, order.url)
    assert json.loads(sent[1].content) == json.loads(order.body or b"")
    ours, theirs = (
        _fields(upload.headers["content-type"], whole_body(upload)),
        _fields(sent[0].headers["content-type"], sent[0].read()),
    )
    assert ours == theirs


def _fields(content_type: str, body: bytes) -> dict[str, bytes]:
    """Form data by the names of its fields, read by the standard library."""
    message = message_from_bytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    return {
        str(part.get_param("name", header="content-disposition")): bytes(part.get_payload(decode=True) or b"")
        for part in parts
        if not isinstance(part, str)
    }
