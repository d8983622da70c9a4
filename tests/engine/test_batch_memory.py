"""A batch's requests are on the disk, and memory does not grow with them, however often they are sent."""

import asyncio
import random
import tracemalloc
from pathlib import Path
from typing import Self

import pytest
from aiohttp import web

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.http import Request
from batchrunner.core.job import DialectName, Timeouts
from batchrunner.core.outcome import Problem
from batchrunner.core.remote_batch import BatchLook, RemoteBatch, RequestFile
from batchrunner.core.values import replace
from batchrunner.engine.batch_requests import BatchRequests
from batchrunner.providers import batches_for, dialect_for
from batchrunner.stores.batch_files import BatchFolder, RequestFileWriter
from batchrunner.transport.api_transport import ApiTransport
from tests.sdk_compat.items import provider

LINE = b"x" * 99_999 + b"\n"
MB = 1_000_000


class Server:
    """Takes uploads and orders and throws their bytes away; the first `cuts` of them it resets in the middle."""

    def __init__(self, cuts: int = 0) -> None:
        self.cuts = cuts
        self.lengths: list[int] = []
        self.declared: list[int | None] = []
        self.beginnings: list[bytes] = []
        self.port = 0

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        length, beginning = 0, b""
        async for piece in request.content.iter_chunked(1 << 16):
            beginning = beginning or bytes(piece[:64])
            length += len(piece)
            if self.cuts and length >= MB // 2:
                self.cuts -= 1
                assert request.transport is not None
                request.transport.close()
                return web.Response()
        self.lengths.append(length)
        self.declared.append(request.content_length)
        self.beginnings.append(beginning)
        return web.json_response({"id": "file-1", "processing_status": "in_progress"})

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self.take))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def written(folder: Path, size_bytes: int, between: bytes = b"") -> tuple[RequestFileWriter, RequestFile]:
    writer = BatchFolder(folder).begin_requests(between)
    for _ in range(size_bytes // len(LINE)):
        writer.add(LINE)
        if writer.is_due:
            writer.flush()
    return writer, writer.finish()


async def sent(folder: Path, server: Server, dialect: DialectName, file: RequestFile) -> str | BatchLook | Problem:
    """By a real connection."""
    kind = replace(provider("simulator", dialect), base_url=f"http://127.0.0.1:{server.port}/v1")
    batches = batches_for(kind, dialect_for(kind))
    assert batches is not None

    async def no_wait(_: float) -> None:
        """The next try."""

    async with ApiTransport(kind, timeouts=Timeouts(), keys={}) as transport:
        requests = BatchRequests(
            dialect=batches,
            transport=transport,
            files=BatchFolder(folder),
            sleep=no_wait,
            random_source=random.Random(1),
        )
        batch = RemoteBatch(number=1, key="k", file="f", model="m")
        return await (requests.upload(batch, file) if batches.uploads else requests.order(batch, file))


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
def test_memory_does_not_grow_with_the_file_of_requests(tmp_path: Path, dialect: DialectName) -> None:
    """Peak of building and sending 200 MB against 1 MB; what differs is a few buffers."""

    async def peak(size_bytes: int) -> int:
        tracemalloc.reset_peak()
        async with Server() as server:
            writer, file = written(tmp_path, size_bytes)
            outcome = await sent(tmp_path, server, dialect, file)
            writer.remove()
        assert not isinstance(outcome, Problem), outcome
        assert server.declared == server.lengths
        assert server.lengths[0] > size_bytes
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        asyncio.run(peak(MB))  # imports, caches
        small, large = asyncio.run(peak(MB)), asyncio.run(peak(200 * MB))
    finally:
        tracemalloc.stop()
    assert large - small < 8 * MB, (small, large)
    assert not list((tmp_path / "batches").iterdir())


def test_an_upload_that_is_cut_off_is_sent_again_from_the_beginning(tmp_path: Path) -> None:
    async def run() -> tuple[Server, str | BatchLook | Problem]:
        async with Server(cuts=2) as server:
            return server, await sent(tmp_path, server, "openai-chat", written(tmp_path, 3 * MB)[1])

    server, outcome = asyncio.run(run())
    assert outcome == "file-1"
    assert server.cuts == 0
    assert server.lengths == server.declared
    assert server.beginnings[0].startswith(b"--batchrunner-")


@pytest.mark.parametrize("damage", ["removed", "shorter", "other bytes", "longer"])
def test_a_file_that_is_no_longer_what_was_recorded_is_never_ordered(tmp_path: Path, damage: str) -> None:
    async def run() -> Server:
        async with Server() as server:
            file = written(tmp_path, MB)[1]
            (path,) = (tmp_path / "batches").iterdir()
            data = path.read_bytes()
            if damage == "removed":
                path.unlink()
            else:
                path.write_bytes(
                    {"shorter": data[:-5], "other bytes": data[:-5] + b"yyyyy", "longer": data + b"y"}[damage]
                )
            with pytest.raises(StoreBrokenError):
                await sent(tmp_path, server, "anthropic-messages", file)
            return server

    assert asyncio.run(run()).lengths == []


def test_lines_are_parted_by_what_the_order_needs(tmp_path: Path) -> None:
    writer = BatchFolder(tmp_path).begin_requests(b",")
    for line in (b"1\n", b"2\n", b"3\n"):
        writer.add(line)
    file = writer.finish()
    assert b"".join(file.body.pieces()) == b"1\n,2\n,3\n"
    assert file.body.size_bytes == writer.size_bytes == 8
    assert b"".join(file.body.between(b"[", b"]").pieces()) == b"[1\n,2\n,3\n]"


def test_the_request_holds_no_byte_of_the_file(tmp_path: Path) -> None:
    kind = provider("simulator", "openai-chat")
    batches = batches_for(kind, dialect_for(kind))
    assert batches is not None
    request: Request = batches.upload(written(tmp_path, MB)[1], name="a.jsonl")
    assert request.body is None
    assert request.streamed is not None
    assert len(b"".join(request.streamed.pieces())) == request.streamed.size_bytes > 0
