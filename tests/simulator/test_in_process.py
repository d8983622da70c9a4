"""The transport without a network reports what a real transport would report."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest

from batchrunner.core.http import Completed, Ending, Interrupted, Request, ResponseHead
from batchrunner.core.job import Json, Timeouts
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.answers import expected_text
from batchrunner.simulator.drawing import draw
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport, simulated_network
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from tests.simulator.calls import ASYNC, NOW, POLL
from tests.support.virtual_time import run_virtual

T = TypeVar("T")
TIMEOUTS = Timeouts(first_byte_s=100, idle_s=50, total_s=400, download_s=80)
CLOCK = LoopClock(wall_at_zero=NOW)


class Listener:
    """Keeps what it hears; `stops_at` bytes are enough for it."""

    def __init__(self, *, stops_at: int | None = None) -> None:
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.ending: Ending | None = None
        self._stops_at = stops_at

    def begin(self, head: ResponseHead) -> None:
        self.head = head

    def feed(self, data: bytes) -> bool:
        self.pieces.append(data)
        return self._stops_at is not None and sum(map(len, self.pieces)) >= self._stops_at

    def end(self, ending: Ending) -> "Listener":
        self.ending = ending
        return self

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def order(scenario: str = "ok", *, stream: bool = False, **more: Json) -> Request:
    body = {"model": f"M/m#{scenario}", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    return Request(method="POST", url="http://simulator.invalid/v1/chat/completions", body=json.dumps(body).encode())


def exchange(
    world: World, request: Request, *, account: str = "", stops_at: int | None = None
) -> tuple[Listener, float]:
    """What was heard, and after how many virtual seconds."""

    async def main() -> tuple[Listener, float]:
        transport = SimulatedTransport(world, CLOCK, timeouts=TIMEOUTS)
        record_outcome = await transport.exchange(request, Listener(stops_at=stops_at), account=account)
        return record_outcome, asyncio.get_running_loop().time()

    return run_virtual(main)


def test_an_answer_comes_with_its_head_and_to_its_end() -> None:
    record_outcome, _ = exchange(World(), order())
    assert record_outcome.head is not None
    assert (record_outcome.head.status, record_outcome.head.received_at, record_outcome.ending) == (
        200,
        NOW,
        Completed(),
    )
    assert record_outcome.head.headers["content-type"] == "application/json"
    assert json.loads(record_outcome.body)["choices"][0]["message"]["content"] == expected_text("M/m", "hi")


def test_a_stream_comes_in_pieces_over_time() -> None:
    record_outcome, seconds = exchange(World(latency=Latency(first_byte_s=2, chunk_s=1)), order(stream=True))
    assert len(record_outcome.pieces) > 5
    assert seconds == 2 + len(record_outcome.pieces)


def test_a_decoder_that_has_enough_gets_no_more() -> None:
    record_outcome, _ = exchange(World(), order("sse-onebyte", stream=True), stops_at=10)
    assert (len(record_outcome.pieces), record_outcome.ending) == (10, Completed())


@pytest.mark.parametrize(
    ("scenario", "cause", "seconds", "headed"),
    [
        ("reset-before-headers", "reset", 0.0, False),
        ("reset-mid-stream", "reset", 0.0, True),
        ("hang-headers", "timeout", 100.0, False),
        ("hang-mid-stream", "timeout", 50.0, True),
    ],
)
def test_breaks_and_hangs_reach_the_decoder_as_broken(
    scenario: str, cause: str, seconds: float, *, headed: bool
) -> None:
    record_outcome, took_s = exchange(World(), order(scenario, stream=True))
    assert isinstance(record_outcome.ending, Interrupted)
    assert (record_outcome.ending.cause, record_outcome.ending.sent, record_outcome.head is not None) == (
        cause,
        True,
        headed,
    )
    assert took_s == seconds


@pytest.mark.parametrize("prompt", ["a", "b", "c", "d", "e", "f"])
def test_the_time_to_the_head_has_one_deadline_however_it_passes(prompt: str) -> None:
    turns: Json = [{"role": "user", "content": prompt}]
    record_outcome, seconds = exchange(World(latency=Latency(first_byte_s=30)), order("hang-headers", messages=turns))
    assert isinstance(record_outcome.ending, Interrupted)
    assert seconds == 100.0


def test_a_slow_stream_ends_at_the_total_deadline() -> None:
    record_outcome, seconds = exchange(World(latency=Latency(chunk_s=45)), order(stream=True))
    assert isinstance(record_outcome.ending, Interrupted)
    assert (record_outcome.ending.cause, seconds) == ("timeout", 400.0)


def test_the_accounts_name_is_the_token_and_a_call_leaves_when_it_is_over() -> None:
    world = World()
    exchange(world, order(), account="KEY_A")
    exchange(world, order(), account="KEY_A")
    exchange(world, order(), account="KEY_B")
    stats = world.stats()
    assert (stats.paid, stats.paid_twice, stats.in_flight, stats.max_in_flight) == (3, 1, 0, 1)


def test_a_cancelled_call_leaves_too() -> None:
    world = World()

    async def main() -> None:
        transport = SimulatedTransport(world, CLOCK)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await transport.exchange(order("hang-headers"), Listener(), account="")

    run_virtual(main)
    assert world.stats().in_flight == 0


def with_picture(
    scenario: str, use: Callable[[SimulatedDownloads, str], Coroutine[object, object, T]], *, task_s: float = 12.0
) -> T:
    """Submit, wait, poll, and use the picture's URL."""
    world = World(latency=Latency(task_s=task_s))

    async def main() -> T:
        transport = SimulatedTransport(world, CLOCK, timeouts=TIMEOUTS)
        body = json.dumps({"model": f"Qwen/Qwen-Image#{scenario}", "prompt": "a cat", "size": "96x64"}).encode()
        base = "http://simulator.invalid/v1"
        submitted = Request(method="POST", url=f"{base}/images/generations", headers=ASYNC, body=body)
        task = json.loads((await transport.exchange(submitted, Listener(), account="A")).body)["task_id"]
        await asyncio.sleep(task_s)
        polled = Request(
            method="GET", url=f"{base}/tasks/{task}", headers={"X-ModelScope-Task-Type": POLL["x-modelscope-task-type"]}
        )
        url = json.loads((await transport.exchange(polled, Listener(), account="A")).body)["output_images"][0]
        return await use(SimulatedDownloads(world, CLOCK, timeouts=TIMEOUTS), url)

    return run_virtual(main)


async def fetched(downloads: SimulatedDownloads, url: str) -> bytes | Problem:
    return await downloads.fetch(url)


@pytest.mark.parametrize("scenario", ["img-ok", "dl-redirect", "dl-slow:20", "dl-wrong-ext"])
def test_a_picture_is_fetched_whole(scenario: str) -> None:
    assert with_picture(scenario, fetched) == draw("a cat", (96, 64), 0)


@pytest.mark.parametrize(
    ("scenario", "said"),
    [("dl-404", "answered 404"), ("dl-cut", "ended before"), ("dl-huge", "more than 67108864"), ("dl-slow:500", " s")],
)
def test_a_failed_download_is_a_problem_that_states_why(scenario: str, said: str) -> None:
    problem = with_picture(scenario, fetched)
    assert isinstance(problem, Problem)
    assert problem.kind is ProblemKind.DOWNLOAD_FAILED
    assert said in problem.message


def test_what_is_no_picture_is_passed_on_as_it_came() -> None:
    body = with_picture("dl-html", fetched)
    assert isinstance(body, bytes)
    assert body.startswith(b"<!DOCTYPE")


def test_a_network_of_ones_own_has_both_ports() -> None:
    async def main() -> tuple[int, bytes | Problem]:
        transport, downloads = simulated_network(clock=CLOCK, timeouts=TIMEOUTS, scenario="throttle")
        record_outcome = await transport.exchange(order(), Listener(), account="")
        assert record_outcome.head is not None
        return record_outcome.head.status, await downloads.fetch("http://files.simulator.invalid/files/none.png")

    status, missing = run_virtual(main)
    # The model's own scenario overrules the world's
    assert status == 200
    assert isinstance(missing, Problem)


def test_a_request_reaches_the_world_once_its_gate_opens() -> None:
    waiting: list[Callable[..., None]] = []

    def gate(call: Callable[..., None], /, *args: object) -> None:
        waiting.append(call)

    async def main() -> None:
        world = World()
        transport = SimulatedTransport(world, CLOCK, timeouts=TIMEOUTS)
        asked = asyncio.ensure_future(transport.exchange(order(), Listener(), account="", gate=gate))
        await asyncio.sleep(1)
        assert world.stats().sends == 0
        waiting[0](None)
        assert (await asked).ending == Completed()
        refused = asyncio.ensure_future(transport.exchange(order(), Listener(), account="", gate=gate))
        await asyncio.sleep(1)
        waiting[1](OSError("the disk is full"))
        with pytest.raises(OSError, match="the disk is full"):
            await refused
        assert world.stats().sends == 1

    run_virtual(main)
