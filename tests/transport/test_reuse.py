"""Connections are used again, but never those of a server that was seen to close them behind its replies."""

import asyncio
from collections import Counter

import pytest

from batchrunner.core.http import Completed
from tests.support.virtual_time import run_virtual
from tests.transport.servers import ACCOUNT, Kept, Server, Talk, api, chunked, post, reply, sends, serve

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

STREAM = chunked(b'data: {"choices": []}\n\n', b"data: [DONE]\n\n", headers="Keep-Alive: timeout=5, max=100\r\n")


def ask(talk: Talk, *, often: int, at_once: int = 1) -> tuple[Counter[str], Server]:
    """How so many requests ended, so many of them at a time, and the server that was asked."""

    async def main() -> tuple[Counter[str], Server]:
        slots = asyncio.Semaphore(at_once)
        async with serve(talk) as server, api(server.url("/v1")) as transport:

            async def once() -> str:
                async with slots:
                    kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
                    return "whole" if kept.ending == Completed() else repr(kept.ending)

            return Counter(await asyncio.gather(*(once() for _ in range(often)))), server

    return run_virtual(main)


def test_a_server_that_keeps_connections_is_asked_on_those_it_has() -> None:
    endings, server = ask(sends(STREAM), often=40, at_once=4)
    assert endings == {"whole": 40}
    assert server.connections == 4


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.03])
def test_no_request_crosses_with_the_closing_of_a_server_that_closes_behind_its_replies(delay_s: float) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        await writer.drain()
        await asyncio.sleep(delay_s)  # it reads nothing more, as llama.cpp does
        writer.close()

    endings, server = ask(talk, often=60, at_once=4)
    assert endings == {"whole": 60}
    assert len(server.requests) == 60
    assert server.connections == 60


def test_one_that_keeps_connections_at_first_is_found_out_at_its_first_closing() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM if b"stream" in request else reply())
        await writer.drain()
        if b"stream" in request:
            writer.close()

    async def main() -> int:
        async with serve(talk) as server, api(server.url("/v1")) as transport:
            for body in (b"{}", b"{}", b"{}", b"stream"):
                await transport.exchange(post(server.url(), body), Kept(), account=ACCOUNT)
            assert server.connections == 1
            reuse = transport._session.connector.reuse  # type: ignore[union-attr] # the session is open
            while not reuse._cautious:  # noqa: ASYNC110 - what the program looks at has no event
                await asyncio.sleep(0.001)
            for _ in range(20):
                kept = await transport.exchange(post(server.url(), b"stream"), Kept(), account=ACCOUNT)
                assert kept.ending == Completed()
            return server.connections

    assert run_virtual(main) == 21


def test_a_deadline_that_passes_while_a_connection_is_watched_closes_it_and_sends_nothing() -> None:
    async def main() -> int:
        async with serve(sends(STREAM)) as server, api(server.url("/v1")) as transport:
            await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            second = asyncio.ensure_future(transport.exchange(post(server.url()), Kept(), account=ACCOUNT))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            assert second.cancelled()
            await server.lost.wait()
            return len(server.requests)

    assert run_virtual(main) == 1
