"""Everything that can go wrong with an exchange: which ending it has, whether it was sent, and what it never says."""

import asyncio
import gzip
import itertools
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from batchrunner.core.http import Completed, Interrupted
from batchrunner.core.job import Timeouts
from batchrunner.transport.coding import CodingError
from batchrunner.transport.error_messages import wrong_key
from tests.support.virtual_time import run_virtual
from tests.transport.servers import (
    ACCOUNT,
    CANARY,
    NEVER,
    PATIENT,
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
    reset,
    reset_at_once,
    sends,
    serve,
    silent,
)

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

NO_HEAD = Timeouts(connect_s=NEVER, first_byte_s=0.15, idle_s=NEVER, total_s=NEVER)
NO_BODY = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=0.15, total_s=NEVER)
SLOW = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=0.6, total_s=NEVER)
LONG = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=NEVER, total_s=0.3)
NO_TLS = Timeouts(connect_s=0.15, first_byte_s=NEVER, idle_s=NEVER, total_s=NEVER)
MB = 1_000_000


async def echo_as_garbage(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(request.replace(b"POST", b"JUNK") + b"\r\n\r\n")
    writer.close()


async def echo_in_a_bad_header(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + CANARY.encode() + b"\x00 \r\n\r\n")
    writer.close()


@dataclass(frozen=True, kw_only=True)
class Fault:
    talk: Talk
    cause: str
    words: str
    timeouts: Timeouts = PATIENT


FAULTS = {
    "reset before the head": Fault(talk=reset_at_once, cause="reset", words="broke"),
    "closed before the head": Fault(talk=sends(b"", then="close"), cause="reset", words="without a reply"),
    "closed in the head": Fault(talk=sends(b"HTTP/1.1 200 OK\r\nX", then="close"), cause="reset", words="closed"),
    "reset in the head": Fault(talk=sends(b"HTTP/1.1 200 OK\r\nX", then="reset"), cause="reset", words="broke"),
    "half a body": Fault(talk=sends(reply(b"x" * 99)[:-50], then="close"), cause="reset", words="before the reply was"),
    "reset in the body": Fault(talk=sends(reply(b"x" * 99)[:-50], then="reset"), cause="reset", words="before"),
    "chunks without an end": Fault(talk=sends(chunked(b"abc", end=False), then="close"), cause="reset", words="before"),
    "a bad chunk": Fault(talk=sends(chunked(b"abc", end=False) + b"zz\r\n"), cause="reset", words="before"),
    "not HTTP": Fault(talk=sends(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), cause="reset", words="valid HTTP"),
    "garbage that echoes": Fault(talk=echo_as_garbage, cause="reset", words="valid HTTP"),
    "a bad header that echoes": Fault(talk=echo_in_a_bad_header, cause="reset", words="valid HTTP"),
    "endless header": Fault(talk=sends(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 999_999), cause="reset", words="valid HTTP"),
    "no reply": Fault(talk=silent, cause="timeout", words="no reply within 0.15 s", timeouts=NO_HEAD),
    "half a head for ever": Fault(
        talk=drips(b"X: y\r\n", every_s=0.02, first=b"HTTP/1.1 200 OK\r\n"),
        cause="timeout", words="no reply within", timeouts=NO_HEAD,
    ),
    "silence in the body": Fault(talk=sends(reply(b"x" * 99)[:-5]), cause="timeout", words="middle", timeouts=NO_BODY),
    "silence after a head": Fault(talk=sends(reply(b"x" * 9)[:-9]), cause="timeout", words="middle", timeouts=NO_BODY),
    "a drip after a good start": Fault(
        talk=drips(b"x", every_s=0.1, first=b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 99),
        cause="timeout", words="less than", timeouts=SLOW,
    ),
    "a drip": Fault(talk=drips(b"x", every_s=0.1), cause="timeout", words="less than", timeouts=SLOW),
    "keep-alives for ever": Fault(talk=drips(b": \n\n", every_s=0.05), cause="timeout", words="longer", timeouts=LONG),
    "a great length": Fault(talk=sends(b"HTTP/1.1 200 OK\r\nContent-Length: 48000001\r\n\r\n"), cause="too_large",
                            words="more than 48000000 bytes"),
    "an endless body": Fault(talk=endless, cause="too_large", words="more than 48000000 bytes"),
    "a gzip bomb": Fault(talk=sends(reply(gzip.compress(b"\0" * 49 * MB, 1), headers="Content-Encoding: gzip\r\n")),
                         cause="too_large", words="more than"),
    "half a gzip": Fault(talk=sends(reply(gzip.compress(b"x" * 99)[:-9], headers="Content-Encoding: gzip\r\n")),
                         cause="reset", words="middle of its compressed data"),
    "no gzip at all": Fault(talk=sends(reply(b"\x1f\x8bplain, more or less", headers="Content-Encoding: gzip\r\n")),
                            cause="reset", words="damaged"),
    "a coding nobody asked for": Fault(talk=sends(reply(b"\x0b\x05\x80x", headers="Content-Encoding: br\r\n")),
                                       cause="reset", words="not requested"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_after_the_request_left_reports_it_in_words_without_the_key(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Threat 2, and the streams of threat 9 that a deadline ends."""
    fault = FAULTS[name]
    caplog.set_level(logging.DEBUG)

    async def scene() -> None:
        async with serve(fault.talk) as server:
            kept = await one(server.url("/v1"), server.url(), timeouts=fault.timeouts)
            assert isinstance(kept.ending, Interrupted), kept.ending
            assert (kept.ending.cause, kept.ending.sent) == (fault.cause, True), kept.ending
            assert fault.words in kept.ending.message
            assert CANARY not in repr(kept.ending)
            await server.lost.wait()
            assert len(server.requests) == 1, "a POST is never sent again here"

    run_virtual(scene)
    assert CANARY not in caplog.text


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that nobody listens on, held so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_refused_connection_was_not_sent() -> None:
    with refusing_port() as port:
        kept = asyncio.run(one(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v1/x"))
    assert kept.head is None
    assert kept.ending == Interrupted(
        cause="connect", message=f"could not connect to 127.0.0.1:{port}: Connection refused", sent=False
    )


def test_an_unknown_name_was_not_sent() -> None:
    kept = asyncio.run(one("https://nowhere.invalid/v1", "https://nowhere.invalid/v1/chat/completions"))
    assert isinstance(kept.ending, Interrupted)
    assert (kept.ending.cause, kept.ending.sent) == ("connect", False)
    # a machine without a name server knows no better than that it cannot be looked up, which may pass
    assert (kept.ending.message, kept.ending.look_at) in {
        ("could not connect to nowhere.invalid:443: unknown host name", "provider.base_url"),
        ("could not connect to nowhere.invalid:443: the DNS server did not answer", None),
    }


def test_a_proxy_that_is_not_there_is_named_with_its_cause() -> None:
    with refusing_port() as port:
        job = provider("https://api.invalid/v1", proxy=f"http://127.0.0.1:{port}")
        kept = asyncio.run(one(job, "https://api.invalid/v1/x"))
    assert isinstance(kept.ending, Interrupted)
    assert kept.ending.message == f"could not connect to the proxy 127.0.0.1:{port}: Connection refused"


def test_a_proxy_whose_name_is_unknown_is_not_taken_for_the_server() -> None:
    job = provider("https://api.example.com/v1", proxy="http://nowhere.invalid:3128")
    kept = asyncio.run(one(job, "https://api.example.com/v1/x"))
    assert isinstance(kept.ending, Interrupted)
    assert (kept.ending.message, kept.ending.look_at) in {
        ("could not connect to the proxy nowhere.invalid:3128: unknown host name", "provider.proxy"),
        ("could not connect to the proxy nowhere.invalid:3128: the DNS server did not answer", None),
    }


def test_a_key_in_the_wrong_place_is_masked() -> None:
    kept = asyncio.run(one(f"https://{CANARY}.invalid/v1", f"https://{CANARY}.invalid/v1/x"))
    assert isinstance(kept.ending, Interrupted)
    assert kept.ending.message.startswith("could not connect to ***.invalid:443: ")


def test_a_url_that_cannot_be_used_was_not_sent() -> None:
    kept = asyncio.run(one("https://h/v1", f"ftp://{CANARY}@h/"))
    assert isinstance(kept.ending, Interrupted)
    assert (kept.ending.cause, kept.ending.sent) == ("connect", False)
    assert CANARY not in repr(kept.ending)


def test_tls_with_a_server_that_has_none_was_not_sent() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scene() -> Kept:
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return await one(url, f"{url}/v1/x")

    kept = asyncio.run(scene())
    assert isinstance(kept.ending, Interrupted)
    assert (kept.ending.cause, kept.ending.sent) == ("connect", False)
    assert "TLS handshake with" in kept.ending.message


def test_a_handshake_that_takes_too_long_was_not_sent() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    async def scene() -> Kept:
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return await one(url, f"{url}/v1/x", timeouts=NO_TLS)

    kept = run_virtual(scene)
    assert isinstance(kept.ending, Interrupted)
    assert (kept.ending.cause, kept.ending.sent) == ("connect", False)
    assert "within 0.15 s" in kept.ending.message


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_proxy_that_refuses_the_tunnel_was_not_sent_and_shows_no_key(then: str) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"

    async def scene() -> None:
        async with serve(sends(refusal, then=then)) as proxy:
            job = provider("https://api.invalid/v1", proxy=f"http://user:pass-canary@127.0.0.1:{proxy.port}")
            kept = await one(job, "https://api.invalid/v1/x")
            assert isinstance(kept.ending, Interrupted)
            assert (kept.ending.cause, kept.ending.sent) == ("connect", False)
            assert kept.ending.look_at == "provider.proxy"
            assert "pass-canary" not in repr(kept.ending)
            assert all(CANARY.encode() not in request for request in proxy.requests)

    asyncio.run(scene())


def test_what_came_before_a_break_reached_the_decoder() -> None:
    async def scene() -> None:
        async with serve(sends(chunked(b"first ", b"second", end=False), then="close")) as server:
            kept = await one(server.url("/v1"), server.url())
            assert kept.body == b"first second"
            assert isinstance(kept.ending, Interrupted)

    asyncio.run(scene())


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_kept_connection_that_the_server_drops_under_a_post_is_ambiguous_and_not_sent_again(then: str) -> None:
    turn = itertools.count(1)

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        if next(turn) == 1:
            writer.write(reply(b"first"))
        elif then == "reset":
            reset(writer)
        else:
            writer.close()

    async def scene() -> None:
        async with serve(talk) as server, api(server.url("/v1")) as transport:
            first = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            assert first.ending == Completed()
            second = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            assert isinstance(second.ending, Interrupted)
            assert (second.ending.cause, second.ending.sent) == ("reset", True)
            assert server.connections == 1
            assert len(server.requests) == 2

    asyncio.run(scene())


def test_keep_alive_lines_are_progress_however_few_their_bytes() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(6):
            writer.write(b":\n\n")
            await writer.drain()
            await asyncio.sleep(0.25)
        writer.write(b"data: [DONE]\n\n")
        writer.close()

    async def scene() -> None:
        async with serve(talk) as server:
            patient = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=1, total_s=NEVER)
            kept = await one(server.url("/v1"), server.url(), timeouts=patient)
            assert kept.ending == Completed()
            assert kept.body.endswith(b"[DONE]\n\n")

    run_virtual(scene)


def test_cancellation_passes_through_and_closes_the_connection() -> None:
    async def scene() -> None:
        async with serve(silent) as server, api(server.url("/v1")) as transport:
            kept = Kept()
            task = asyncio.create_task(transport.exchange(post(server.url()), kept, account=ACCOUNT))
            await server.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert kept.ending is None

    async def scene_in_the_body() -> None:
        started = asyncio.Event()

        class Watching(Kept):
            def feed(self, data: bytes) -> bool:
                started.set()
                return super().feed(data)

        async with serve(sends(reply(b"x" * 99)[:-5])) as server, api(server.url("/v1")) as transport:
            task = asyncio.create_task(transport.exchange(post(server.url()), Watching(), account=ACCOUNT))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scene())
    asyncio.run(scene_in_the_body())


def broken_reader(method: str, error: Exception) -> Kept:
    """A decoder whose method fails."""

    def broken(*_: object) -> bool:
        raise error

    made = Kept()
    setattr(made, method, broken)
    return made


@pytest.mark.parametrize("method", ["begin", "feed", "end"])
@pytest.mark.parametrize(
    "error",
    [RecursionError("deep"), RuntimeError("ours"), OSError("ours"), aiohttp.ClientError("ours"), CodingError("ours")],
    ids=lambda error: type(error).__name__,
)
def test_what_a_decoder_raises_is_no_fault_of_the_network(method: str, error: Exception) -> None:
    async def scene() -> None:
        async with serve(sends(reply(b"{}"))) as server:
            await one(server.url("/v1"), server.url(), decoder=broken_reader(method, error))

    with pytest.raises(type(error)) as raised:
        asyncio.run(scene())
    assert raised.value is error


def test_a_recursion_while_the_network_is_read_is_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deep(_: aiohttp.StreamReader) -> bytes:
        raise RecursionError

    async def scene() -> None:
        async with serve(sends(chunked(b"{}", end=False))) as server:
            monkeypatch.setattr(aiohttp.StreamReader, "readany", deep)
            await one(server.url("/v1"), server.url())

    with pytest.raises(RecursionError):
        asyncio.run(scene())


def test_a_connection_that_uvloop_calls_gone_is_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_: aiohttp.StreamReader) -> bytes:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    async def scene() -> Kept:
        async with serve(sends(chunked(b"{}", end=False))) as server:
            monkeypatch.setattr(aiohttp.StreamReader, "readany", gone)
            return await one(server.url("/v1"), server.url())

    kept = asyncio.run(scene())
    assert isinstance(kept.ending, Interrupted)
    assert (kept.ending.cause, kept.ending.sent) == ("reset", True)


def test_a_name_that_does_not_exist_is_distinguished_from_a_name_server_that_is_silent() -> None:
    key = aiohttp.client_reqrep.ConnectionKey(
        host="api.invalid", port=443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )

    def failed(number: int) -> aiohttp.ClientConnectorDNSError:
        return aiohttp.ClientConnectorDNSError(key, socket.gaierror(number, "x"))

    assert wrong_key(failed(socket.EAI_NONAME)) == "provider.base_url"
    assert wrong_key(failed(socket.EAI_AGAIN)) is None
    assert wrong_key(failed(socket.EAI_FAIL)) is None
    assert wrong_key(aiohttp.ClientProxyConnectionError(key, failed(socket.EAI_NONAME))) == "provider.proxy"
    assert wrong_key(aiohttp.ClientProxyConnectionError(key, ConnectionRefusedError())) is None
    assert wrong_key(aiohttp.ClientConnectorError(key, ConnectionRefusedError())) is None
