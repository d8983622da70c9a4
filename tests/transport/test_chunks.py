"""Chunks cut out before the parser sees them: the same bytes and the same end, whatever the framing and its cuts."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies

from batchrunner.transport.chunks import Chunks
from batchrunner.transport.direct import DirectReplies
from batchrunner.transport.keepalive import Heads, KeepAlive
from batchrunner.transport.session import READING, Replies

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[]}\n\n'


class FakeTransport(asyncio.Transport):
    """A connection that stands until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default


def read(kind: type[Replies], *bodies: Iterable[bytes]) -> list[list[object]]:
    """What a reader gets behind each piece of each body, and what its connection came to."""

    async def one(pieces: Iterable[bytes]) -> list[object]:
        replies = kind(asyncio.get_running_loop(), reuse=KeepAlive(), heads=Heads())
        replies.connection_made(FakeTransport())
        replies.set_response_params(read_until_eof=True, **READING)
        replies.data_received(HEAD)
        _, content = await replies.read()
        seen: list[object] = []
        for piece in pieces:
            if not replies.is_connected():
                break
            replies.data_received(piece)
            seen.append((b"".join(content._buffer), content.is_eof(), repr(content.exception()), replies.behind))
            while content._buffer:
                content._read_nowait(-1)
        if replies.is_connected():
            replies.connection_lost(None)
        left = b"".join(content._buffer)
        return [*seen, left, content.is_eof(), type(content.exception()), content.total_bytes]

    async def scene() -> list[list[object]]:
        return [await one(pieces) for pieces in bodies]

    return asyncio.run(scene())


def framed(data: bytes) -> bytes:
    """As servers do it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


ODD = (
    lambda data: b"%X;name=value\r\n%b\r\n" % (len(data), data),
    lambda data: b"%x \r\n%b\r\n" % (len(data), data),
    lambda data: b"%08x\r\n%b\r\n" % (len(data), data),
    lambda data: b"0x%x\r\n%b\r\n" % (len(data), data),
    lambda data: b"+%x\r\n%b\r\n" % (len(data), data),
    lambda data: b"%x\n%b\n" % (len(data), data),
    lambda data: b"%x\r\n%b\n" % (len(data), data),
    lambda data: b"%x\r\n%b\n\r\n" % (len(data), data),
    lambda data: b"%x\r\n%b\r\n" % (len(data) + 1, data),
    lambda data: b"%x\r\n%b\r\n" % (max(0, len(data) - 1), data),
    lambda data: b"\r\n%x\r\n%b\r\n" % (len(data), data),
    lambda data: data,
)
ENDS = (
    b"0\r\n\r\n",
    b"0\r\nTrailer: a\r\n\r\n",
    b"",
    b"0\r\n",
    b"000\r\n\r\n",
    b"0\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"0\n\n",
)
chunk = strategies.builds(
    lambda data, how: how(data),
    strategies.one_of(strategies.just(EVENT), strategies.binary(min_size=1, max_size=20)),
    strategies.one_of(strategies.just(framed), strategies.just(framed), strategies.sampled_from(ODD)),
)


@settings(max_examples=400, deadline=None)
@given(
    chunks=strategies.lists(chunk, max_size=8),
    end=strategies.sampled_from(ENDS),
    cuts=strategies.lists(strategies.integers(0, 300), max_size=8),
)
def test_a_body_comes_as_the_parser_alone_would_give_it(chunks: list[bytes], end: bytes, cuts: list[int]) -> None:
    body = b"".join(chunks) + end
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:stop] for start, stop in pairwise(places)]
    assert read(DirectReplies, pieces) == read(Replies, pieces)


@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"0\r\nTrailer: a\r\n\r\n"])
def test_a_body_cut_after_every_byte_comes_as_the_parser_alone_would_give_it(last: bytes) -> None:
    body = framed(EVENT) + framed(b"a") + framed(EVENT * 20) + last
    pieces = [body[place : place + 1] for place in range(len(body))]
    assert read(DirectReplies, pieces) == read(Replies, pieces)


def test_more_than_a_reader_may_hold_makes_the_server_wait_as_ever() -> None:
    pieces = [framed(b"x" * 50_000)] * 5 + [b"0\r\n\r\n"]

    async def held(kind: type[Replies]) -> tuple[list[tuple[bool, int]], bytes]:
        replies = kind(asyncio.get_running_loop(), reuse=KeepAlive(), heads=Heads())
        replies.connection_made(FakeTransport())
        replies.set_response_params(read_until_eof=True, **READING)
        replies.data_received(HEAD)
        _, content = await replies.read()
        seen = []
        for piece in pieces:
            replies.data_received(piece)
            seen.append((replies._reading_paused, content._size))
        return seen, await content.read()

    seen, body = asyncio.run(held(DirectReplies))
    assert (seen, body) == asyncio.run(held(Replies))
    assert True in [paused for paused, _ in seen]


def test_whole_chunks_are_cut_out_and_nothing_else_is() -> None:
    chunks = Chunks()
    assert chunks.cut(framed(b"abc") + framed(b"de") + b"2\r\nf") == (0, b"abcde", 15)
    assert chunks.cut(b"g\r\n" + framed(b"h")) == (3, b"h", 9)
    assert not chunks.lost
    assert chunks.cut(framed(b"i") + b"0\r\n\r\n") == (0, b"i", 6)
    assert chunks.lost


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("behind", [b"", b"a", b"\n", b"A\r\n"])
def test_a_chunk_framed_oddly_is_left_to_the_parser_wherever_it_is_cut(
    odd: Callable[[bytes], bytes], behind: bytes
) -> None:
    body = framed(EVENT) + odd(b"0123\r\n") + behind + framed(b"abcdefghij") + framed(EVENT) + ENDS[0]
    bodies = [[body[:cut], body[cut : cut + 3], body[cut + 3 :]] for cut in range(1, len(body))]
    assert read(DirectReplies, *bodies) == read(Replies, *bodies)
