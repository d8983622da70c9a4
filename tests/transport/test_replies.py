"""How a reply is read: to its end, within caps, and no further than the decoder needs."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest

from batchrunner.core.http import Completed, Interrupted
from batchrunner.core.job import Timeouts
from tests.transport.servers import (
    ACCOUNT,
    Kept,
    Talk,
    api,
    chunked,
    drips,
    endless,
    one,
    post,
    provider,
    reply,
    reset_at_once,
    sends,
    serve,
    silent,
)

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

MB = 1_000_000


def test_a_decoder_that_has_enough_keeps_the_connection_when_the_reply_ends_soon() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(b"data: [DONE]\n\n", end=False))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async def scene() -> None:
        async with serve(talk) as server, api(server.url("/v1")) as transport:
            for _ in range(2):
                kept = await transport.exchange(post(server.url()), Kept(enough=b"[DONE]"), account=ACCOUNT)
                assert kept.ending == Completed()
            assert server.connections == 1

    asyncio.run(scene())


@pytest.mark.parametrize("after", [drips(b"more", every_s=0.01), endless, reset_at_once, silent])
def test_a_decoder_that_has_enough_has_its_answer_whatever_the_connection_does(after: Talk) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: [DONE]\n\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        await after(request, writer)

    async def scene() -> None:
        async with serve(talk) as server:
            kept = await one(server.url("/v1"), server.url(), decoder=Kept(enough=b"[DONE]"))
            assert kept.ending == Completed()
            assert kept.body.startswith(b"data: [DONE]\n\n")

    asyncio.run(scene())


def test_a_decoder_is_fed_no_more_once_it_has_enough() -> None:
    async def scene() -> None:
        async with serve(sends(chunked(b"enough", end=False) + b"4\r\nmore\r\n0\r\n\r\n")) as server:
            kept = await one(server.url("/v1"), server.url(), decoder=Kept(enough=b"e"))
            assert kept.body in {b"enough", b"enoughmore"}, "one feed, however the pieces came"

    asyncio.run(scene())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate"])
def test_a_bomb_needs_little_memory_and_ends_at_the_cap(coding: str) -> None:
    """Threat 4: a bomb per coding, memory measured."""
    bits = {"gzip": 31, "deflate": 15, "raw deflate": -15}[coding]
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    bomb = b"".join(packer.compress(b"\0" * MB) for _ in range(60)) + packer.flush()
    whole = reply(bomb, headers=f"Content-Encoding: {coding.removeprefix('raw ')}\r\n")

    async def scene() -> tuple[Kept, int]:
        async with serve(sends(whole)) as server, api(server.url("/v1")) as transport:
            tracemalloc.start()
            try:
                kept = await transport.exchange(post(server.url()), Kept(keep=False), account=ACCOUNT)
                return kept, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    kept, peak_bytes = asyncio.run(scene())
    assert isinstance(kept.ending, Interrupted)
    assert kept.ending.cause == "too_large"
    assert 47 * MB < kept.size <= 48 * MB
    assert peak_bytes < 800_000


def test_bytes_on_the_wire_count_too() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"all there is")

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        await sends(head)(request, writer)
        await drips(b"\0" * 99_999, every_s=0, first=b"")(request, writer)

    async def scene() -> None:
        async with serve(talk) as server:
            kept = await one(server.url("/v1"), server.url())
            assert kept.body == b"all there is"
            assert isinstance(kept.ending, Interrupted)
            assert kept.ending.cause == "too_large"

    asyncio.run(scene())


def test_image_dialects_take_pictures_in_base64() -> None:
    body = b"a" * 20 * MB

    async def scene() -> None:
        async with serve(sends(reply(body))) as server:
            job = provider(server.url("/v1"), dialect="openai-images")
            kept = await one(job, server.url(), decoder=Kept(keep=False))
            assert (kept.ending, kept.size) == (Completed(), len(body))

    asyncio.run(scene())


def test_a_poll_is_given_up_sooner_than_a_paid_request() -> None:
    paces = api("https://h/v1", timeouts=Timeouts())._paces
    assert (paces["GET"].total_s, paces["POST"].total_s) == (30, 600)
