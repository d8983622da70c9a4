"""Deadlines end what they guard, and nothing else."""

import asyncio

import pytest

from batchrunner.transport.deadlines import Deadlines, DeadlineTimer, TimeoutPolicy
from tests.support.virtual_time import run_virtual


def pace(*, total_s: float = 9, connect_s: float = 9) -> TimeoutPolicy:
    return TimeoutPolicy(connect_s=connect_s, first_byte_s=9, idle_s=9, total_s=total_s, window_s=9, least_bytes=1)


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_deadline_ends_the_block_and_leaves_the_task_uncancelled() -> None:
    async def scene() -> None:
        with Deadlines(pace(connect_s=0)) as deadlines:
            await forever()
        assert (deadlines.late, deadlines.sent) == ("connect", False)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(scene())


def test_a_cancellation_in_the_same_moment_wins() -> None:
    async def scene() -> None:
        watches: list[Deadlines] = []

        async def guarded() -> None:
            with Deadlines(pace(total_s=0)) as deadlines:
                watches.append(deadlines)
                await forever()

        task = asyncio.create_task(guarded())
        await asyncio.sleep(0)
        watches[0]._timer.ring()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watches[0].late == "total"

    asyncio.run(scene())


def test_another_error_in_the_same_moment_passes_through() -> None:
    async def scene() -> None:
        async def guarded() -> None:
            with Deadlines(pace()) as deadlines:
                deadlines.late = "total"
                raise ValueError("ours")

        with pytest.raises(ValueError, match="ours"):
            await guarded()

    asyncio.run(scene())


def test_a_watch_at_rest_does_not_ring() -> None:
    async def scene() -> None:
        with Deadlines(pace(total_s=0)) as deadlines:
            deadlines.disarm()
            await asyncio.sleep(0.01)
        assert deadlines.late is None

    asyncio.run(scene())


def test_quick_exchanges_share_one_timer_that_is_armed_once() -> None:
    async def scene() -> None:
        timer = DeadlineTimer()
        with Deadlines(pace(), timer=timer) as deadlines:
            handle = timer._handle
            for _ in range(100):
                with Deadlines(pace(), timer=timer) as other:
                    other.request_leaves()
                    other.head_came()
                    other.piece_came(10, line=True)
            deadlines.request_leaves()
            deadlines.head_came()
            assert timer._handle is handle
        assert not timer.watches
        timer.close()
        assert handle is not None
        assert handle.cancelled()

    asyncio.run(scene())


def test_a_watch_with_a_timer_of_its_own_leaves_none_behind() -> None:
    async def scene() -> None:
        with Deadlines(pace()) as deadlines:
            handle = deadlines._timer._handle
        assert handle is not None
        assert handle.cancelled()

    asyncio.run(scene())


@pytest.mark.parametrize("count", [1, 3, 400])
def test_each_of_many_is_ended_at_its_own_deadline(count: int) -> None:
    async def scene() -> None:
        timer, loop = DeadlineTimer(), asyncio.get_running_loop()
        ended: dict[int, float] = {}

        async def one(number: int) -> None:
            with Deadlines(pace(total_s=100.0 + number % 7, connect_s=100.0 + number % 7), timer=timer) as deadlines:
                await forever()
            assert deadlines.late == "total"
            ended[number] = loop.time()

        began = loop.time()
        await asyncio.gather(*(one(number) for number in range(count)))
        for number, at in ended.items():
            assert at - began == pytest.approx(100 + number % 7, abs=0.05)
        assert not timer.watches

    run_virtual(scene)


def test_one_that_only_waits_for_its_gate_is_late_by_the_total_alone() -> None:
    async def scene() -> None:
        with Deadlines(pace(connect_s=1, total_s=50)) as deadlines:
            deadlines.held_back()
            await forever()
        assert (deadlines.late, deadlines.sent) == ("total", False)

    run_virtual(scene)


def test_a_fault_of_whom_one_exchange_asks_leaves_the_others_their_deadlines() -> None:
    def faulty(_: float) -> bool:
        raise ValueError("ours")

    async def scene() -> None:
        timer, told = DeadlineTimer(), list[str]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(repr(context["exception"])))

        async def one(*, is_faulty: bool) -> str | None:
            with Deadlines(pace(total_s=30), timer=timer, settled=faulty if is_faulty else None) as deadlines:
                deadlines.request_leaves()
                deadlines.head_came()
                await forever()
            return deadlines.late

        assert tuple(await asyncio.gather(one(is_faulty=True), one(is_faulty=False))) == ("idle", "idle")
        assert told == ["ValueError('ours')"]

    run_virtual(scene)
