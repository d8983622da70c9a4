"""How much of replies is held at once: threat 4 for many replies, each of them within its own cap."""

import asyncio
from collections import Counter

import pytest

from batchrunner.core.http import Completed
from batchrunner.transport.memory_budget import MemoryBudget
from tests.transport.servers import ACCOUNT, Kept, api, post, reply, serve, silent

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

MB = 1 << 20


def nothing() -> None:
    """Nobody needs to be told of the waiting."""


def test_a_full_memory_budget_lets_the_oldest_go_on_and_the_others_when_it_left() -> None:
    """Threat 4: what is held ends at the room and one reply."""

    async def scene() -> None:
        memory_budget = MemoryBudget(size_bytes=100)
        first, second = memory_budget.reservation(), memory_budget.reservation()
        with first:
            await first.grow(60, waiting=nothing)
            with second:
                late = asyncio.ensure_future(second.grow(60, waiting=nothing))
                await asyncio.sleep(0)
                assert not late.done()
                await first.grow(500, waiting=nothing)
                assert memory_budget.held_bytes == 620
                first.__exit__(None, None, None)
                first.held_bytes = 0
                await late
        assert memory_budget.held_bytes == 0
        assert memory_budget.reservations == []

    asyncio.run(scene())


def test_one_that_goes_away_while_it_waits_leaves_nothing_behind() -> None:
    """Threat 4: a cancelled reply gives its room back."""

    async def scene() -> None:
        memory_budget = MemoryBudget(size_bytes=10)

        async def read(size_bytes: int) -> None:
            with memory_budget.reservation() as reservation:
                await reservation.grow(size_bytes, waiting=nothing)
                await asyncio.Event().wait()

        tasks = [asyncio.ensure_future(read(size)) for size in (8, 8, 8)]
        await asyncio.sleep(0)
        assert memory_budget.held_bytes == 24
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (memory_budget.held_bytes, memory_budget.reservations) == (0, [])

    asyncio.run(scene())


def test_replies_beyond_the_memory_budget_all_arrive_whole() -> None:
    """Threat 4: waiting for room is nobody's fault and nobody's end."""

    async def scene() -> None:
        memory_budget = MemoryBudget(size_bytes=MB)
        most = Counter[str]()

        async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
            most["held"] = max(most["held"], memory_budget.held_bytes)
            writer.write(reply(b"x" * MB))
            await writer.drain()

        async with serve(talk) as server, api(server.url("/v1"), memory_budget=memory_budget) as transport:
            asked = [transport.exchange(post(server.url()), Kept(), account=ACCOUNT) for _ in range(12)]
            replies = await asyncio.gather(*asked)
        assert [len(kept.body) for kept in replies] == [MB] * 12
        assert {kept.ending for kept in replies} == {Completed()}
        assert most["held"] < 3 * MB
        assert memory_budget.held_bytes == 0

    asyncio.run(scene())


def test_an_exchange_that_breaks_gives_its_memory_back() -> None:
    """Threat 4: also when nothing came."""

    async def scene() -> None:
        memory_budget = MemoryBudget()
        async with serve(silent) as server, api(server.url("/v1"), memory_budget=memory_budget) as transport:
            asked = asyncio.ensure_future(transport.exchange(post(server.url()), Kept(), account=ACCOUNT))
            await server.asked.wait()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        assert memory_budget.held_bytes == 0

    asyncio.run(scene())
