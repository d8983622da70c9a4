"""The short way of a POST beside the public one: the same promises, fewer steps, and none of it without its trial."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from unittest.mock import patch

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from hypothesis import given, strategies

from batchrunner.core.http import Completed, Interrupted, Request
from batchrunner.transport import ApiTransport, keepalive
from batchrunner.transport import api_transport as api_module
from batchrunner.transport.direct import DIRECT_BYTES, direct_way
from tests.support.virtual_time import run_virtual
from tests.transport.servers import ACCOUNT, Kept, Server, api, post, provider, reply, sends, serve

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

REAL_DIRECT_WAY = direct_way


def asked_in_public(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the requests that take the public way."""
    methods: list[str] = []
    request = aiohttp.ClientSession._request

    async def counted(self: aiohttp.ClientSession, method: str, *args: object, **options: object) -> object:
        methods.append(method)
        return await request(self, method, *args, **options)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(aiohttp.ClientSession, "_request", counted)
    return methods


def test_small_posts_take_the_short_way_and_all_else_the_public_one(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = asked_in_public(monkeypatch)

    async def scene() -> None:
        async with serve(sends(reply(b"hello"))) as server, api(server.url("/v1")) as transport:
            for request in (
                post(server.url()),
                post(server.url(), b"x" * DIRECT_BYTES),
                post(server.url(), b"x" * (DIRECT_BYTES + 1)),
                Request(method="GET", url=server.url("/v1/tasks/a")),
            ):
                kept = await transport.exchange(request, Kept(), account=ACCOUNT)
                assert (kept.body, kept.ending) == (b"hello", Completed())
            assert server.connections == 1, "both ways share one pool"
        assert methods == (["POST", "GET"] if way == "direct" else ["POST", "POST", "POST", "GET"])

    asyncio.run(scene())


def test_both_ways_send_the_same_head(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server:
            job = provider(server.url("/v1"), headers={"X-Title": "caf\xe9", "x-team": "evals"})
            headers = {"content-type": "application/json", "accept": "text/event-stream"}
            async with api(job) as transport:
                await transport.exchange(post(server.url("/v1/a%2Fb?c=d"), headers=headers), Kept(), account=ACCOUNT)
                transport._direct = None
                await transport.exchange(post(server.url("/v1/a%2Fb?c=d"), headers=headers), Kept(), account=ACCOUNT)
            first, second = (request.partition(b"\r\n\r\n") for request in server.requests)
            assert first[0].split(b"\r\n")[0] == second[0].split(b"\r\n")[0] == b"POST /v1/a%2Fb?c=d HTTP/1.1"
            lines = [sorted(line.lower() for line in head.split(b"\r\n")[1:]) for head in (first[0], second[0])]
            assert lines[0] == lines[1]
            assert first[2] == second[2]

    asyncio.run(scene())


def test_what_goes_before_a_reply_is_not_taken_for_it() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    async def scene() -> None:
        async with serve(sends(early + reply(b"hello"))) as server, api(server.url("/v1")) as transport:
            for _ in range(3):
                kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
                assert kept.head is not None
                assert (kept.head.status, kept.body, kept.ending) == (200, b"hello", Completed())

    asyncio.run(scene())


def test_a_reply_that_nobody_asked_for_is_nobodys_answer() -> None:
    """A second reply on a connection at rest would else be read as the answer to the next request."""

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"hello"))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(reply(b"of nobody"))

    async def scene() -> None:
        async with serve(talk) as server, api(server.url("/v1")) as transport:
            for _ in range(3):
                kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
                assert (kept.body, kept.ending) == (b"hello", Completed())
                await asyncio.sleep(0.15)

    run_virtual(scene)


def test_a_connection_that_is_lost_before_the_gate_opens_is_proof_that_nothing_left(way: str) -> None:
    if way == "public":
        return  # there the gate comes first, and the connection after it

    async def scene() -> None:
        open_it: list[Callable[[BaseException | None], None]] = []

        def gate(call: Callable[..., None], /, *args: object) -> None:
            open_it.append(lambda refused: call(refused, *args))

        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            asked = asyncio.ensure_future(transport.exchange(post(server.url()), Kept(), account=ACCOUNT, gate=gate))
            while not open_it:  # noqa: ASYNC110 - a gate has no event
                await asyncio.sleep(0)
            for line in transport._session.connector._acquired:  # type: ignore[union-attr]  # the session is open
                line.transport.abort()  # type: ignore[union-attr]  # as is the connection
            open_it[0](None)
            kept = await asked
            assert isinstance(kept.ending, Interrupted)
            assert (kept.ending.cause, kept.ending.sent) == ("connect", False)
            assert server.requests == []

    asyncio.run(scene())


def _no_such_thing(self: object, *args: object, **options: object) -> object:
    raise AttributeError("another version of aiohttp")


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        (Connection, "__init__", lambda self, *_: setattr(self, "_protocol", None)),
        (ResponseHandler, "feed_data", lambda self, data, size=0: self._buffer.append((data, size))),
        (ResponseHandler, "set_response_params", _no_such_thing),
        (ResponseHandler, "should_close", True),
        (ResponseHandler, "read", _no_such_thing),
        (aiohttp.ClientRequest, "connection_key", property(_no_such_thing)),
        (aiohttp.StreamReader, "read_nowait", lambda self, n: b"ko"),
        (aiohttp.StreamReader, "is_eof", lambda self: False),
        (Connection, "release", None),
    ],
)
def test_an_aiohttp_of_another_build_is_used_by_its_public_way_alone(
    owner: type, name: str, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with serve(sends(reply(b"hello"))) as server:
            transport = api(server.url("/v1"))
            with monkeypatch.context() as changed:
                changed.setattr(owner, name, other)
                changed.setattr(api_module, "direct_way", REAL_DIRECT_WAY)
                await transport.__aenter__()
            assert transport._direct is None
            kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            assert (kept.body, kept.ending) == (b"hello", Completed())
            await transport.__aexit__(None, None, None)

    asyncio.run(scene())


def test_this_aiohttp_has_the_short_way(way: str) -> None:
    async def scene() -> None:
        async with api("http://127.0.0.1:9/v1") as transport:
            assert (transport._direct is not None) == (way == "direct")

    asyncio.run(scene())


async def _warm(server: Server, transport: ApiTransport) -> None:
    for _ in range(3):
        await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)


def test_an_exchange_makes_no_task_and_few_calls(way: str) -> None:
    """A budget of Python calls for one exchange, the loop's and the server's own left out."""
    calls = Counter[str]()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (
            "batchrunner/transport" in frame.f_code.co_filename or "aiohttp" in frame.f_code.co_filename
        ):
            calls[frame.f_code.co_qualname] += 1

    async def scene() -> None:
        async with serve(sends(reply(b'{"choices": []}'))) as server, api(server.url("/v1")) as transport:
            await _warm(server, transport)
            tasks = len(asyncio.all_tasks())
            request, kept = post(server.url()), Kept()
            sys.setprofile(count)
            try:
                for _ in range(20):
                    await transport.exchange(request, kept, account=ACCOUNT)
            finally:
                sys.setprofile(None)
            assert len(asyncio.all_tasks()) == tasks

    asyncio.run(scene())
    assert sum(calls.values()) / 20 < (110 if way == "direct" else 220), calls.most_common()


LINES = [
    *(b"Content-Length: 2", b"content-length:3", b"Content-Length: +2", b"Content-Length: 2, 2", b"Content-Length: x"),
    *(b"X-Content-Length: 9", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Server: nginx", b"no line"),
    *(b" goes on", b"Name : value", b"\xe9: a", b"a: \xe9", b"a:", b": b", b"", b"Date: now", b"a: " + b"b" * 70_000),
]


@given(
    lines=strategies.lists(
        strategies.tuples(strategies.sampled_from(LINES), strategies.sampled_from([b"\r\n", b"\n"]))
    ),
    rest=strategies.sampled_from([b"", b"2\r\nok\r\n", b"{}"]),
)
def test_a_head_that_is_left_as_it_is_states_what_the_repaired_one_would(
    lines: list[tuple[bytes, bytes]], rest: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(line + end for line, end in lines) + b"\r\n"
    head = head[: keepalive.end_of(head, 0)]
    with patch.object(keepalive, "_is_well_formed", lambda *_: False):
        careful = keepalive.repaired(head, rest)
    said = [
        sorted(line.replace(b" ", b"").lower() for line in found.split(b"\r\n"))
        for found in (careful, keepalive.repaired(head, rest))
    ]
    assert said[0] == said[1]
