"""The loop of rehearsals does what the stock loop does, in fewer steps."""

import asyncio
import os
import random
import signal
import socket
from collections.abc import Callable, Coroutine

import pytest

from batchrunner.simulator.light_loop import LightLoop
from batchrunner.simulator.virtual_time import OneThreadLoop, StandstillError, VirtualClock

Trace = list[tuple[str, float]]


def on(
    loop: Callable[[random.Random], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[object, object, Trace]]
) -> Trace:
    with asyncio.Runner(loop_factory=lambda: loop(random.Random(1))) as runner:
        return runner.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_tasks_timers_futures_and_cancellations_come_in_the_order_of_the_standard_loop(seed: int) -> None:
    async def program() -> Trace:
        loop, random_source, trace = asyncio.get_running_loop(), random.Random(seed), Trace()

        def note(name: str) -> None:
            trace.append((name, round(loop.time(), 6)))

        async def walk(name: str) -> None:
            try:
                for step in range(random_source.randrange(1, 6)):
                    await asyncio.sleep(random_source.choice((0.0, random_source.random() * 5)))
                    note(f"{name}.{step}")
                    if random_source.random() < 0.2:
                        async with asyncio.timeout(random_source.random()):
                            await asyncio.sleep(random_source.random())
                    if random_source.random() < 0.2:
                        loop.call_later(random_source.random(), note, f"{name} later").cancel()
                    if random_source.random() < 0.3:
                        await loop.run_in_executor(None, note, f"{name} job")
            except TimeoutError:
                note(f"{name} too late")
            except asyncio.CancelledError:
                note(f"{name} cancelled")
                raise

        walks = [asyncio.ensure_future(walk(f"{number}")) for number in range(12)]
        loop.call_later(random_source.random() * 3, walks[0].cancel)
        await asyncio.gather(*walks, return_exceptions=True)
        note("end")
        return trace

    assert on(LightLoop, program) == on(OneThreadLoop, program)


def test_timers_of_one_instant_fire_in_the_order_in_which_they_were_set() -> None:
    async def program() -> Trace:
        loop, trace = asyncio.get_running_loop(), Trace()
        for number in range(50):
            loop.call_at(7.0, trace.append, (f"{number}", 7.0))
        await asyncio.sleep(8.0)
        return trace

    assert [name for name, _ in on(LightLoop, program)] == [f"{number}" for number in range(50)]


def test_timers_that_were_cancelled_are_forgotten_long_before_their_time() -> None:
    async def program() -> Trace:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LightLoop)
        for _ in range(10_000):
            loop.call_later(600.0, print).cancel()
            await asyncio.sleep(0)
        return [("timers", len(loop._timers))]

    assert on(LightLoop, program)[0][1] < 300


def test_a_call_that_fails_is_reported_to_the_loop_and_the_others_go_on() -> None:
    async def program() -> Trace:
        loop, trace = asyncio.get_running_loop(), Trace()
        loop.set_exception_handler(lambda _, context: trace.append((str(context["exception"]), 0.0)))

        def fails() -> None:
            raise ValueError("mine")

        loop.call_soon(fails)
        loop.call_later(1.0, trace.append, ("after", 1.0))
        await asyncio.sleep(2.0)
        return trace

    assert on(LightLoop, program) == [("mine", 0.0), ("after", 1.0)]


def test_waiting_for_nothing_is_an_error_and_no_hang() -> None:
    async def program() -> Trace:
        await asyncio.get_running_loop().create_future()
        return []

    def short(rng: random.Random) -> LightLoop:
        loop = LightLoop(rng)
        loop._jumper._stall_s = 0.01
        return loop

    with pytest.raises(StandstillError):
        on(short, program)


def test_bytes_of_a_socket_arrive_before_a_timer_that_is_due_later() -> None:
    async def program() -> Trace:
        loop, trace = asyncio.get_running_loop(), Trace()
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(0.0)
            loop.call_later(0.5, far.send, b"x")
            loop.call_later(900.0, trace.append, ("late", 0.0))
            trace.append(("got " + (await loop.sock_recv(near, 1)).decode(), loop.time()))
        await asyncio.sleep(1000.0)
        return trace

    assert on(LightLoop, program) == [("got x", 0.5), ("late", 0.0)]


def test_ctrl_c_ends_a_loop_that_jumps_for_ever() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it

    async def program() -> Trace:
        asyncio.get_running_loop().call_later(5.0, os.kill, os.getpid(), signal.SIGINT)
        for _ in range(10**6):
            await asyncio.sleep(1.0)
        return []

    with pytest.raises(KeyboardInterrupt):
        on(LightLoop, program)


def test_its_clock_reports_the_loops_time_and_the_date() -> None:
    async def program() -> Trace:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LightLoop)
        clock = VirtualClock(loop, wall_at_zero=1000.0)
        await asyncio.sleep(2.5)
        return [("monotonic", clock.monotonic()), ("wall", clock.wall())]

    assert on(LightLoop, program) == [("monotonic", 2.5), ("wall", 1002.5)]
