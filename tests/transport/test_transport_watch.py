"""Deadlines end what they guard, and nothing else."""

import asyncio

import pytest

from batchrunner.transport.watch import Pace, Watch


def pace(*, total_s: float = 9, connect_s: float = 9) -> Pace:
    return Pace(connect_s=connect_s, first_byte_s=9, idle_s=9, total_s=total_s, window_s=9, least_bytes=1)


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_deadline_ends_the_block_and_leaves_the_task_uncancelled() -> None:
    async def scene() -> None:
        with Watch(pace(connect_s=0)) as watch:
            await forever()
        assert (watch.late, watch.sent) == ("connect", False)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(scene())


def test_a_cancellation_in_the_same_moment_wins() -> None:
    async def scene() -> None:
        watches: list[Watch] = []

        async def guarded() -> None:
            with Watch(pace(total_s=0)) as watch:
                watches.append(watch)
                await forever()

        task = asyncio.create_task(guarded())
        await asyncio.sleep(0)
        watches[0]._ring()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watches[0].late == "total"

    asyncio.run(scene())


def test_another_error_in_the_same_moment_passes_through() -> None:
    async def scene() -> None:
        async def guarded() -> None:
            with Watch(pace()) as watch:
                watch.late = "total"
                raise ValueError("ours")

        with pytest.raises(ValueError, match="ours"):
            await guarded()

    asyncio.run(scene())


def test_a_watch_at_rest_does_not_ring() -> None:
    async def scene() -> None:
        with Watch(pace(total_s=0)) as watch:
            watch.rest()
            await asyncio.sleep(0.01)
        assert watch.late is None

    asyncio.run(scene())


def test_quick_exchanges_cost_one_timer() -> None:
    async def scene() -> None:
        with Watch(pace()) as watch:
            timer = watch._handle
            watch.request_leaves()
            watch.head_came()
            for _ in range(100):
                watch.piece_came(10, line=True)
            assert watch._handle is timer
        assert timer is not None
        assert timer.cancelled()

    asyncio.run(scene())
