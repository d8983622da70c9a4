"""The loop whose clock jumps: fast where it waits, and never ahead of what is under way."""

import asyncio
import selectors
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest

from batchrunner.simulator.http_server import serve
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.virtual_time import GRACE_S, STALL_S, StandstillError, VirtualTimeLoop
from batchrunner.simulator.world import World
from tests.simulator.calls import CHAT, NOW
from tests.support.virtual_time import run_virtual


def slow_job() -> str:
    """Takes real time, in a thread."""
    threading.Event().wait(0.05)
    return "done"


@pytest.fixture
def real_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a loop lets the system wait in real time, but for what it waits for without a timer."""
    waits: list[float] = []
    select = selectors.DefaultSelector.select

    def noted(self: selectors.DefaultSelector, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is None or timeout <= STALL_S, "a timer is waited for in real time"
        waits.append(timeout if timeout and timeout < STALL_S else 0.0)
        return select(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", noted)
    return waits


def test_hours_of_sleep_take_no_time_and_arrive_exactly(real_waits: list[float]) -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        moments = []
        for hours in (1, 8, 100):
            await asyncio.sleep(3600 * hours)
            moments.append(loop.time())
        return moments

    assert run_virtual(main) == [3600.0, 9 * 3600.0, 109 * 3600.0]
    assert sum(real_waits) == 0.0


def test_timers_fire_in_their_order() -> None:
    async def race() -> list[float]:
        ends: list[float] = []

        async def runner(seconds: float) -> None:
            await asyncio.sleep(seconds)
            ends.append(seconds)

        async with asyncio.TaskGroup() as group:
            for seconds in (30.0, 0.001, 7.5, 86400.0 * 3):
                group.create_task(runner(seconds))
        return ends

    assert run_virtual(race) == [0.001, 7.5, 30.0, 86400.0 * 3]


def test_no_timer_fires_during_a_job_of_an_executor() -> None:
    async def job_with_deadline() -> tuple[str, float]:
        async with asyncio.timeout(30):
            answer = await asyncio.to_thread(slow_job)
        return answer, asyncio.get_running_loop().time()

    assert run_virtual(job_with_deadline) == ("done", 0.0)


def test_jobs_of_other_executors_and_failing_or_cancelled_ones_are_counted_down() -> None:
    async def jobs() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        gate = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            failing = loop.run_in_executor(pool, lambda: 1 // 0)
            blocked = loop.run_in_executor(pool, gate.wait)
            never = loop.run_in_executor(pool, gate.wait)
            with pytest.raises(ZeroDivisionError):
                await failing
            never.cancel()
            gate.set()
            await blocked
        await asyncio.sleep(60)
        return loop.under_way

    assert run_virtual(jobs) == 0


def test_a_cancelled_job_that_still_runs_holds_the_clock() -> None:
    async def cancelled() -> tuple[bool, float]:
        ended = threading.Event()

        def work() -> None:
            slow_job()
            ended.set()

        job = asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.sleep(0)
        job.cancel()
        await asyncio.sleep(1)
        return ended.is_set(), asyncio.get_running_loop().time()

    assert run_virtual(cancelled) == (True, 1.0)


def test_waiting_for_nothing_is_an_error_and_no_hang() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StandstillError, match="cannot advance"):
        run_virtual(forever)


def test_waiting_for_a_silent_socket_is_an_error_after_a_while() -> None:
    async def forever() -> None:
        server = await serve(World())
        try:
            await asyncio.Event().wait()
        finally:
            await server.close()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(stall_s=0.05)) as runner, pytest.raises(StandstillError):
        runner.run(forever())


def test_an_http_client_and_the_server_share_a_virtual_hour(real_waits: list[float]) -> None:
    async def hour() -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        world = World(latency=Latency(first_byte_s=60.0))
        server = await serve(world, wall=lambda: NOW + loop.time())
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        statuses = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=61)) as session:
            for _ in range(60):
                async with session.post(f"{server.api_url}{CHAT}", json=body) as response:
                    statuses.append(response.status)
                    await response.read()
        await server.close()
        return statuses, loop.time()

    statuses, virtual_s = run_virtual(hour)
    assert statuses == [200] * 60
    assert 3600.0 <= virtual_s < 3601.0
    assert sum(real_waits) < 60 * 10 * GRACE_S


def test_no_timeout_fires_while_bytes_are_on_their_way() -> None:
    async def many() -> int:
        server = await serve(World())
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        timeout = aiohttp.ClientTimeout(total=0.001)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def one() -> int:
                async with session.post(f"{server.api_url}{CHAT}", json={**body, "stream": True}) as response:
                    await response.read()
                    return response.status

            statuses = await asyncio.gather(*(one() for _ in range(100)))
        await server.close()
        return statuses.count(200)

    assert run_virtual(many) == 100


def test_a_jump_is_preceded_by_a_real_wait_for_late_bytes() -> None:
    async def late() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.settimeout(0)

            def work() -> None:
                slow_job()
                there.send(b"late")

            threading.Thread(target=work).start()
            async with asyncio.timeout(1):
                return await loop.sock_recv(here, 10), loop.time()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(grace_s=5.0)) as runner:
        assert runner.run(late()) == (b"late", 0.0)


def test_a_deadline_fires_at_its_time_when_the_server_hangs() -> None:
    async def hang() -> float:
        loop = asyncio.get_running_loop()
        server = await serve(World(scenario="hang-headers"))
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.post(f"{server.api_url}{CHAT}", json=body)
        ended = loop.time()
        await server.close()
        return ended

    assert run_virtual(hang) == pytest.approx(600.0, abs=1.0)


def test_the_same_program_takes_the_same_virtual_time() -> None:
    async def program() -> float:
        async with asyncio.TaskGroup() as group:
            for at in range(50):
                group.create_task(asyncio.sleep(at / 7))
        return asyncio.get_running_loop().time()

    assert run_virtual(program()) == run_virtual(program())
