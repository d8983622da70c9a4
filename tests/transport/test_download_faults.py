"""Whatever goes wrong with a download is a value with its cause, and never shows the address's signature."""

import asyncio
import gzip
from dataclasses import dataclass

import pytest

from batchrunner.core.job import Timeouts
from tests.support.virtual_time import run_virtual
from tests.transport.download_scenes import PICTURE, SIGNED, failed, fetch
from tests.transport.servers import (
    NEVER,
    PATIENT,
    Talk,
    chunked,
    downloads,
    drips,
    endless,
    reply,
    reset,
    sends,
    serve,
    silent,
)


async def reset_in_the_body(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(PICTURE)[:-100])
    await writer.drain()
    reset(writer)


@dataclass(frozen=True, kw_only=True)
class Fault:
    talk: Talk
    words: str
    timeouts: Timeouts = PATIENT


NO_HEAD = Timeouts(connect_s=NEVER, first_byte_s=0.15, idle_s=NEVER, download_s=NEVER)
NO_BODY = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=0.15, download_s=NEVER)
SLOW = Timeouts(connect_s=NEVER, first_byte_s=NEVER, idle_s=NEVER, download_s=2)

FAULTS = {
    "half the length": Fault(talk=sends(reply(PICTURE)[:-100], then="close"), words="before the reply was complete"),
    "reset in the body": Fault(talk=reset_in_the_body, words="before the reply was complete"),
    "chunks without an end": Fault(talk=sends(chunked(PICTURE, end=False), then="close"), words="before the reply was"),
    "not HTTP": Fault(talk=sends(b"220 ftp ready\r\n"), words="did not send valid HTTP"),
    "an empty body": Fault(talk=sends(reply(b"")), words="is empty"),
    "no reply": Fault(talk=silent, words="no reply within", timeouts=NO_HEAD),
    "silence in the body": Fault(talk=sends(reply(PICTURE)[:-1]), words="sent nothing for", timeouts=NO_BODY),
    "a drip": Fault(talk=drips(b"\n", every_s=0.02), words="less than 128 bytes in 0.5 s", timeouts=SLOW),
    "a great length": Fault(
        talk=sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"), words="more than 1048576 bytes"
    ),
    "an endless body": Fault(talk=endless, words="more than 1048576 bytes"),
    "half a gzip": Fault(
        talk=sends(reply(gzip.compress(PICTURE)[:-9], headers="Content-Encoding: gzip\r\n")), words="middle"
    ),
    "no gzip": Fault(talk=sends(reply(b"\x1f\x8b" + PICTURE, headers="Content-Encoding: gzip\r\n")), words="damaged"),
    "brotli": Fault(
        talk=sends(reply(b"\x0b\x05" + PICTURE, headers="Content-Encoding: br\r\n")), words="not requested"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_problem_that_shows_host_and_path_and_never_the_signature(name: str) -> None:
    fault = FAULTS[name]

    async def scene() -> None:
        async with serve(fault.talk) as server:
            problem = failed(await fetch(server.url("/img/a.png" + SIGNED), downloads(timeouts=fault.timeouts)))
            assert fault.words in problem.message
            assert f"127.0.0.1:{server.port}/img/a.png" in problem.message
            await server.lost.wait()

    run_virtual(scene)


def test_a_steady_drip_of_many_bytes_ends_at_the_total_deadline() -> None:
    """Threat 9, for pictures."""

    async def scene() -> None:
        async with serve(drips(b"x" * 100, every_s=0.01)) as server:
            loader = downloads(timeouts=Timeouts(download_s=0.3))
            assert "longer than 0.3 s" in failed(await fetch(server.url("/a.png"), loader)).message

    run_virtual(scene)


@pytest.mark.parametrize(("status", "wait_s"), [("404 Not Found", None), ("403 No", None), ("503 Busy", 7.0)])
def test_a_refusal_has_its_status_and_its_wait(status: str, wait_s: float | None) -> None:
    headers = f"Retry-After: {int(wait_s)}\r\n" if wait_s else ""

    async def scene() -> None:
        async with serve(sends(reply(b"<Error/>", status=status, headers=headers))) as server:
            problem = failed(await fetch(server.url("/a.png" + SIGNED)))
            assert (problem.status, problem.wait_s) == (int(status[:3]), wait_s)

    asyncio.run(scene())
