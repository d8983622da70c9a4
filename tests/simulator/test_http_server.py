"""The world behind real sockets, driven by the official SDK and by a plain client."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TypeVar

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionToolParam

from batchrunner import run_server
from batchrunner.simulator.answers import expected_text
from batchrunner.simulator.drawing import draw
from batchrunner.simulator.http_server import PortTakenError, SimulatorServer, serve
from batchrunner.simulator.profiles import FaultRates, Latency
from batchrunner.simulator.world import World
from tests.simulator.calls import ASYNC, CHAT, IMAGES, POLL
from tests.support.virtual_time import run_virtual

T = TypeVar("T")


@asynccontextmanager
async def open_server(world: World) -> AsyncIterator[SimulatorServer]:
    server = await serve(world)
    try:
        yield server
    finally:
        await server.close()


def with_sdk(world: World, use: Callable[[openai.AsyncOpenAI], Awaitable[T]], *, key: str = "ms-key") -> T:
    async def main() -> T:
        async with (
            open_server(world) as server,
            openai.AsyncOpenAI(base_url=f"{server.api_url}/v1", api_key=key, max_retries=0, timeout=60) as client,
        ):
            return await use(client)

    return asyncio.run(main())


def with_session(
    world: World,
    use: Callable[[aiohttp.ClientSession, SimulatorServer], Awaitable[T]],
    *,
    run: Callable[[Coroutine[object, object, T]], T] = asyncio.run,
) -> T:
    async def main() -> T:
        async with open_server(world) as server, aiohttp.ClientSession() as session:
            return await use(session, server)

    return run(main())


def chat(scenario: str = "ok", *, stream: bool = False) -> dict[str, object]:
    return {"model": f"M/m#{scenario}", "messages": [{"role": "user", "content": "hi"}], "stream": stream}


def test_the_official_sdk_gets_the_whole_answer_with_its_usage() -> None:
    async def use(client: openai.AsyncOpenAI) -> tuple[str | None, int]:
        answer = await client.chat.completions.create(model="M/m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        return answer.choices[0].message.content, answer.usage.total_tokens

    text, tokens = with_sdk(World(), use)
    assert text == expected_text("M/m", "hi")
    assert tokens > 10


@pytest.mark.parametrize(
    "scenario",
    [
        *("ok", "ok-reasoning", "sse-crlf", "sse-cr", "sse-nospace", "sse-multiline", "sse-comments", "sse-onebyte"),
        *("sse-split-utf8", "sse-no-done", "sse-no-finish", "sse-usage-only", "sse-usage-every-chunk"),
    ],
)
def test_the_official_sdk_reads_every_proper_stream(scenario: str) -> None:
    async def use(client: openai.AsyncOpenAI) -> tuple[str, int]:
        text, tokens = "", 0
        stream = await client.chat.completions.create(
            model=f"M/m#{scenario}",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            tokens = chunk.usage.total_tokens if chunk.usage else tokens
        return text, tokens

    text, tokens = with_sdk(World(), use)
    assert text == expected_text("M/m", "hi")
    assert tokens > 0


@pytest.mark.parametrize("stream", [True, False])
def test_the_official_sdk_gets_tool_calls(*, stream: bool) -> None:
    tool: ChatCompletionToolParam = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }

    async def whole(client: openai.AsyncOpenAI) -> tuple[str, str]:
        answer = await client.chat.completions.create(
            model="M/m", messages=[{"role": "user", "content": "Rain in Rome?"}], tools=[tool]
        )
        call = (answer.choices[0].message.tool_calls or [])[0]
        assert call.type == "function"
        return call.function.name, call.function.arguments

    async def pieces(client: openai.AsyncOpenAI) -> tuple[str, str]:
        name = arguments = ""
        answer = await client.chat.completions.create(
            model="M/m", messages=[{"role": "user", "content": "Rain in Rome?"}], tools=[tool], stream=True
        )
        async for chunk in answer:
            for call in chunk.choices[0].delta.tool_calls or []:
                assert call.function is not None
                name += call.function.name or ""
                arguments += call.function.arguments or ""
        return name, arguments

    name, arguments = with_sdk(World(), pieces if stream else whole)
    assert name == "weather"
    assert isinstance(json.loads(arguments)["city"], str)


def test_the_official_sdk_gets_json_that_fits_a_schema() -> None:
    async def use(client: openai.AsyncOpenAI) -> str | None:
        answer = await client.chat.completions.create(
            model="M/m",
            messages=[{"role": "user", "content": "2 + 2?"}],
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "sum",
                    "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
                },
            },
        )
        return answer.choices[0].message.content

    assert isinstance(json.loads(with_sdk(World(), use) or "")["n"], int)


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("throttle", openai.RateLimitError),
        ("auth-bad", openai.AuthenticationError),
        ("forbidden", openai.PermissionDeniedError),
        ("noprovider", openai.BadRequestError),
        ("5xx", openai.InternalServerError),
        ("html502", openai.InternalServerError),
        ("empty429", openai.RateLimitError),
        ("reset-before-headers", openai.APIConnectionError),
    ],
)
def test_the_official_sdk_raises_for_refusals(scenario: str, error: type[Exception]) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(error):
            await client.chat.completions.create(model=f"M/m#{scenario}", messages=[{"role": "user", "content": "hi"}])

    with_sdk(World(), use)


def test_the_official_sdk_raises_for_an_error_in_the_middle_and_for_a_bad_token() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="M/m#sse-error-mid", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass

    async def refused(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError, match="valid ModelScope token"):
            await client.chat.completions.create(model="M/m", messages=[{"role": "user", "content": "hi"}])

    with_sdk(World(), use)
    with_sdk(World(), refused, key="bad-key")


def test_the_official_sdk_lists_the_models() -> None:
    async def use(client: openai.AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    assert "Qwen/Qwen-Image" in with_sdk(World(), use)


def test_a_task_lives_from_submission_to_picture_on_two_ports() -> None:
    world = World(latency=Latency(task_s=0.0))

    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> bytes:
        order = {"model": "Qwen/Qwen-Image", "prompt": "a cat", "size": "128x64"}
        async with session.post(server.api_url + IMAGES, json=order, headers=ASYNC) as response:
            task = (await response.json())["task_id"]
        async with session.get(f"{server.api_url}/v1/tasks/{task}", headers=POLL) as response:
            url = (await response.json())["output_images"][0]
        assert url.startswith(server.files_url)
        async with session.get(url, headers={"Authorization": "Bearer leaked"}) as response:
            assert response.content_type == "image/png"
            return await response.read()

    assert with_session(world, use) == draw("a cat", (128, 64), 0)
    assert world.stats().storage_credentials == {"authorization": 1}


def test_a_reset_is_a_reset_and_a_cut_is_no_end() -> None:
    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(server.api_url + CHAT, json=chat("reset-before-headers"))
        for body in (chat("reset-mid-stream", stream=True), chat("reset-mid-stream"), chat("cut-mid-stream")):
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
                async with session.post(server.api_url + CHAT, json=body) as response:
                    await response.read()

    with_session(World(), use)


def test_a_cut_stream_ends_with_or_without_its_terminator() -> None:
    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> set[str]:
        ends = set()
        for at in range(12):
            body = {**chat(stream=True), "messages": [{"role": "user", "content": f"{at}"}]}
            try:
                async with session.post(server.api_url + CHAT, json=body) as response:
                    assert b"[DONE]" not in await response.read()
                    ends.add("orderly")
            except aiohttp.ClientPayloadError:
                ends.add("torn")
        return ends

    assert with_session(World(faults=FaultRates(cut=1.0)), use) == {"orderly", "torn"}


@pytest.mark.parametrize("scenario", ["hang-headers", "hang-mid-stream"])
def test_a_hang_lasts_until_the_client_leaves(scenario: str) -> None:
    world = World()

    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> None:
        with pytest.raises(asyncio.TimeoutError):
            async with session.post(
                server.api_url + CHAT, json=chat(scenario, stream=True), timeout=aiohttp.ClientTimeout(total=300)
            ) as response:
                await response.read()
        assert world.stats().max_in_flight == 1
        await asyncio.sleep(1)
        assert world.stats().in_flight == 0

    with_session(world, use, run=run_virtual)


def test_headers_of_refusals_arrive_and_lengths_are_stated() -> None:
    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> None:
        async with session.post(server.api_url + CHAT, json=chat("retry-after:7")) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        async with session.post(server.api_url + CHAT, json=chat()) as response:
            assert response.content_length == len(await response.read())
        async with session.post(server.api_url + CHAT, json=chat(stream=True)) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert response.content_type == "text/event-stream"

    with_session(World(), use)


def test_a_body_of_some_megabytes_is_taken() -> None:
    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> int:
        body = json.dumps({**chat(), "messages": [{"role": "user", "content": "x" * 5_000_000}]}).encode()
        async with session.post(server.api_url + CHAT, data=BytesIO(body)) as response:
            return response.status

    assert with_session(World(), use) == 200


def test_the_counters_are_read_and_reset_over_http() -> None:
    async def use(session: aiohttp.ClientSession, server: SimulatorServer) -> None:
        for _ in range(2):
            async with session.post(server.api_url + CHAT, json=chat()) as response:
                await response.read()
        async with session.get(f"{server.api_url}/_simulator/stats") as response:
            assert (await response.json())["paid_twice"] == 1
        async with session.post(f"{server.api_url}/_simulator/reset") as response:
            assert response.status == 200
        async with session.get(f"{server.api_url}/_simulator/log") as response:
            assert (await response.json())["requests"] == []

    with_session(World(), use)


def test_a_taken_port_is_reported_clearly() -> None:
    async def main() -> None:
        async with open_server(World()) as server:
            with pytest.raises(PortTakenError, match=f"127.0.0.1:{server.port}"):
                await serve(World(), port=server.port)

    asyncio.run(main())


def test_the_program_states_where_it_is_and_ends_when_cancelled() -> None:
    async def main() -> list[str]:
        said: list[str] = []
        ready = asyncio.Event()

        def collect(line: str) -> None:
            said.append(line)
            if len(said) == 2:
                ready.set()

        server = asyncio.create_task(run_server(port=0, scenario="throttle", latency=0.0, say=collect))
        await ready.wait()
        url = said[0].split()[-1]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/chat/completions", json={"model": "m"}) as r,
        ):
            assert r.status == 400
        server.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server
        return said

    said = asyncio.run(main())
    assert said[0].startswith("api    http://127.0.0.1:")
    assert said[1].startswith("files  http://127.0.0.1:")
