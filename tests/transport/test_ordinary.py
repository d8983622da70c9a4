"""Replies that need no parser mean what the parser would say; their connections rest for no longer than others."""

import asyncio
from itertools import pairwise, product

import pytest
from hypothesis import given, strategies

from batchrunner.core.http import Completed, Request
from batchrunner.transport import ApiTransport
from batchrunner.transport import session as session_module
from batchrunner.transport.deadlines import Deadlines, TimeoutPolicy
from batchrunner.transport.direct import ReadyHead
from batchrunner.transport.keepalive import Heads, KeepAlive, OrdinaryHead
from batchrunner.transport.session import AT_ONCE, READING, Connector, Replies, Turns
from tests.support.virtual_time import run_virtual
from tests.transport.servers import ACCOUNT, KEYS, PATIENT, Kept, api, post, provider, reply, sends, serve

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

LINES = [
    *(
        b"Content-Length: 2",
        b"content-length:2",
        b"Content-Length: 02 ",
        b"Content-Length: +2",
        b"Content-Length: 2, 2",
    ),
    *(b"Content-Length: 3", b"X-Content-Length: 2", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    *(b"Content-Encoding: gzip", b"content-encoding:", b"Vary: Accept-Encoding", b"Connection: keep-alive"),
    *(b"Connection: close", b"connection:keep-alive", b"Connection: keep-alive, close", b"Connection: upgrade"),
    *(b"Upgrade: h2c", b"Proxy-Connection: close", b"Keep-Alive: timeout=5", b"Server: nginx", b"no line", b" goes on"),
    *(
        b"Name : value",
        b"\xe9: a",
        b"a: \xe9",
        b"a:",
        b"a:\t b \t",
        b"A: c",
        b": b",
        b"a: \x01",
        b"a: b\x00",
        b"a: b\rc",
    ),
    *(b"X-RateLimit-Remaining: 4", b"x-note: ratelimit", b"Date: now", b"Trailer: a", b"a: " + b"b" * 70_000, b""),
]
STARTS = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 ",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 204 No",
    b"HTTP/1.1 2000",
]


class ItemState(asyncio.Transport):
    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


BODIES = [b"{}", b"ok", b"o", b"oks", b"\x1f\x8b", b"\r\n", b""]


async def compare(start: bytes, lines: list[bytes], body: bytes) -> None:
    """Where a reply is recognised, the parser has to read the same; elsewhere nothing is claimed."""
    piece = b"\r\n".join([start, *lines, b"", body])
    known = Heads().of(piece)
    if known is None:
        return
    replies = Replies(asyncio.get_running_loop(), reuse=KeepAlive(), heads=Heads())
    replies.set_response_params(read_until_eof=True, **READING)
    replies.transport = ItemState()
    replies.data_received(piece)
    message, content = await replies.read()
    assert content.is_eof()
    assert (await content.read(), replies.behind) == (piece[known.head_bytes :], b"")
    assert not replies.should_close
    found, read = OrdinaryHead(known, 1.0), ReadyHead(message.code, message.headers, 1.0)
    assert found.status == read.status
    names = {line.partition(b":")[0].decode("latin-1").lower() for line in lines}
    # the oldest aiohttp that is allowed leaves blanks at the end of a value, which are no part of it
    assert {name: found.header(name) for name in names} == {name: read.header(name).strip(" \t") for name in names}
    assert found.has_names_with("ratelimit") == read.has_names_with("ratelimit")
    assert found.headers == {name: value.strip(" \t") for name, value in read.headers.items()}


def test_each_line_beside_a_length_means_what_the_parser_reads() -> None:
    async def scene() -> None:
        for start, line, body in product(STARTS, LINES, BODIES):
            for lines in ([line], [LINES[0], line], [line, LINES[0]]):
                await compare(start, lines, body)

    asyncio.run(scene())


@given(
    lines=strategies.lists(strategies.sampled_from(LINES), max_size=4).flatmap(
        lambda lines: strategies.permutations([LINES[0], *lines])
    )
)
def test_a_reply_that_needs_no_parser_is_what_the_parser_reads(lines: list[bytes]) -> None:
    asyncio.run(compare(STARTS[0], lines, BODIES[0]))


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 2\r\nConnection: keep-alive",
        b"Date: Fri, 27 Nov 2026 08:00:00 GMT\r\nContent-Length: 2\r\nVary: Accept-Encoding\r\nx-request-id: a",
    ],
)
def test_what_common_servers_send_needs_no_parser(lines: bytes) -> None:
    assert Heads().of(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n{}") is not None


def test_heads_that_differ_in_every_reply_are_not_kept_for_ever() -> None:
    heads = Heads()
    for number in range(1000):
        assert heads.of(reply(headers=f"X-Request-Id: {number}\r\n")) is not None
    assert len(heads._known) <= 64


def test_a_connection_in_hand_is_closed_when_it_has_rested_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_KEEPALIVE_S", 0.05)

    async def scene() -> None:
        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            await asyncio.gather(*(transport.exchange(post(server.url()), Kept(), account=ACCOUNT) for _ in range(3)))
            assert transport._session is not None
            connector = transport._session.connector
            assert isinstance(connector, Connector)
            while any(connector.resting.values()):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
            await server.lost.wait()
            kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            assert kept.ending == Completed()
            assert server.connections == 4

    asyncio.run(scene())


def test_one_that_rested_for_too_long_carries_no_request_even_before_it_is_closed(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "public":
        return  # there aiohttp keeps the connections

    async def scene() -> None:
        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            monkeypatch.setattr(session_module, "_KEEPALIVE_S", -1.0)
            for _ in range(2):
                await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            assert server.connections == 3
            monkeypatch.setattr(session_module, "_KEEPALIVE_S", 4.0)

    asyncio.run(scene())


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_one_in_hand_is_used_by_whatever_goes_there(method: str) -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            for number in range(6):
                request = post(server.url()) if number % 2 else Request(method=method, url=server.url(), body=None)  # type: ignore[arg-type]  # one of the two
                kept = await transport.exchange(request, Kept(), account=ACCOUNT)
                assert kept.ending == Completed()
            assert server.connections == 1

    asyncio.run(scene())


def test_where_connections_are_limited_whoever_waits_gets_one() -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server:
            source = provider(server.url("/v1"))
            async with ApiTransport(source, timeouts=PATIENT, keys=KEYS, limit=1) as transport:
                asked = (transport.exchange(post(server.url()), Kept(), account=ACCOUNT) for _ in range(8))
                assert all(kept.ending == Completed() for kept in await asyncio.gather(*asked))
            assert server.connections == 1

    asyncio.run(scene())


@pytest.mark.parametrize("more", [reply(b"of nobody"), b"HTTP/1.1 200 OK\r\nX: ", b"junk"])
@pytest.mark.parametrize("waits_s", [0.0, 0.02, 0.15])
def test_what_nobody_asked_for_is_no_part_of_the_next_answer(more: bytes, waits_s: float) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"hello"))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(more)

    async def scene() -> None:
        async with serve(talk) as server, api(server.url("/v1")) as transport:
            for _ in range(4 if waits_s else 2):  # a trusted connection is not watched: there it may cross a request
                kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
                assert (kept.body, kept.ending) == (b"hello", Completed())
                await asyncio.sleep(waits_s)

    run_virtual(scene)


def test_a_decoder_that_reads_whole_replies_is_asked_once_and_by_ordinary_ones_alone(way: str) -> None:
    class AtOnce(Kept):
        wholes = 0

        def whole(self, head: object, body: bytes) -> Kept:
            self.wholes += 1
            self.feed(body)
            self.ending = Completed()
            return self

    async def scene() -> None:
        for raw, wholes in (
            (reply(b"hello"), 1),
            (reply(b"hello", status="404 No"), 0),
            (reply(b"hello", headers="Content-Encoding: identity\r\n"), 0),
        ):
            async with serve(sends(raw)) as server, api(server.url("/v1")) as transport:
                kept = await transport.exchange(post(server.url()), decoder := AtOnce(), account=ACCOUNT)
                assert (kept.body, kept.ending) == (b"hello", Completed())
                assert decoder.wholes == (wholes if way == "direct" else 0)

    asyncio.run(scene())


@pytest.mark.parametrize(("connections", "turns"), [(AT_ONCE, [AT_ONCE]), (3 * AT_ONCE + 1, [AT_ONCE] * 3 + [1])])
def test_replies_that_come_all_at_once_are_handed_over_a_few_in_each_turn_of_the_loop(
    connections: int, turns: list[int]
) -> None:
    """So that the first are followed by their next requests, which leave at a turn's end, before the last are read."""

    async def scene() -> tuple[list[int], bool]:
        loop, together, piece = asyncio.get_running_loop(), Turns(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        asked = [loop.create_future() for _ in range(connections)]
        readers = [Replies(loop, reuse=KeepAlive(), heads=Heads(), turns=together) for _ in asked]
        for future, replies in zip(asked, readers, strict=True):
            replies.connection_made(ItemState())
            replies.asked = future
        for replies in readers:
            replies.data_received(piece)
        came, seen = all(replies.came for replies in readers), [sum(future.done() for future in asked)]
        while seen[-1] < connections:
            await asyncio.sleep(0)
            seen.append(sum(future.done() for future in asked))
        assert all(future.result()[1] == piece for future in asked)
        steps = [later - earlier for earlier, later in pairwise((0, *seen))]
        return [step for step in steps if step], came

    assert asyncio.run(scene()) == (turns, True)


def test_a_reply_that_came_in_time_is_not_late_while_it_waits_for_its_turn() -> None:
    async def scene() -> tuple[str | None, bool]:
        replies = Replies(asyncio.get_running_loop(), reuse=KeepAlive(), heads=Heads())
        replies.came = True
        pace = TimeoutPolicy(connect_s=9.0, first_byte_s=9.0, idle_s=9.0, total_s=0.5, window_s=9.0, least_bytes=1.0)
        with Deadlines(pace) as deadlines:
            deadlines.replies = replies
            deadlines.look(deadlines.began + 1.0)
            waits = deadlines.late
            replies.came = False
            deadlines.look(deadlines.began + 1.0)
            await asyncio.sleep(0)
        return waits, deadlines.late == "total"

    assert asyncio.run(scene()) == (None, True)
