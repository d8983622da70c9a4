"""The official Anthropic SDK drives the simulator's message batches, and our decoders read the same bytes alike."""

import asyncio
import json

import anthropic
import httpx2
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse

from batchrunner.core.outcome import Answer
from batchrunner.core.remote_batch import BatchLook
from batchrunner.core.values import replace
from batchrunner.providers.anthropic_batches import AnthropicBatches
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider, requests_of, whole_body
from tests.sdk_compat.recorder import Reply, with_world

SIMULATOR = provider("simulator", "anthropic-messages")
OURS = AnthropicBatches(SIMULATOR, AnthropicMessages(SIMULATOR))
ITEMS = [replace(item(f"question {number}", model="M/m"), id=str(number), key=f"{number:032x}") for number in range(5)]


def answers_to(scenario: str) -> tuple[list[MessageBatch], list[MessageBatchIndividualResponse], tuple[Reply, ...]]:
    """A batch from its order to its results, as the SDK reads it, and all replies."""
    looks: list[MessageBatch] = []
    results: list[MessageBatchIndividualResponse] = []

    async def use(url: str, http: httpx2.AsyncClient) -> None:
        client = anthropic.AsyncAnthropic(base_url=url, api_key="ms-key", http_client=http, max_retries=0)
        file = requests_of([OURS.line(each) for each in ITEMS], OURS.between)
        order = json.loads(whole_body(OURS.create("", key="", model="", requests=file)))
        looks.append(await client.messages.batches.create(requests=order["requests"]))
        while looks[-1].processing_status != "ended":
            await asyncio.sleep(0.05)
            looks.append(await client.messages.batches.retrieve(looks[-1].id))
        page = await client.messages.batches.list(limit=5)
        assert [batch.id for batch in page.data] == [looks[0].id]
        results.extend([result async for result in await client.messages.batches.results(looks[0].id)])

    _, replies = with_world(World(scenario=scenario, latency=Latency(task_s=0.2)), use)
    return looks, results, replies


@pytest.mark.parametrize("scenario", ["ok", "batch-expires:60", "batch-all-errors"])
def test_the_sdk_and_our_decoders_agree_on_a_message_batch(scenario: str) -> None:
    looks, results, replies = answers_to(scenario)
    ours = replies[len(looks) - 1].read_with(OURS.looked())
    assert isinstance(ours, BatchLook)
    assert (ours.batch_id, ours.state, ours.word) == (looks[-1].id, "ended", looks[-1].processing_status)
    assert ours.outputs == (("out", looks[-1].results_url),)
    assert ours.expires_at == looks[-1].expires_at.timestamp()
    written: list[bytes] = []
    assert replies[-1].read_with(OURS.downloaded(written.append)) is None
    lines = [OURS.read(line) for line in b"".join(written).splitlines()]
    assert [line.key for line in lines] == [result.custom_id for result in results] == [each.key for each in ITEMS]
    for line, result, each in zip(lines, results, ITEMS, strict=True):
        match result.result.type:
            case "succeeded":
                answer = OURS.answer(each, line, received_at=0.0)
                assert isinstance(answer, Answer)
                blocks = [block.text for block in result.result.message.content if block.type == "text"]
                assert answer.text == "".join(blocks)
            case "errored":
                assert line.problem is not None
                assert result.result.error.error.message in line.problem.message
            case kind:
                assert line.unanswered, kind
