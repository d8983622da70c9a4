"""A file of requests is in memory once while it is on its way, however large it is and however often it is tried.

Short, for it measures what no other test of batches does.
"""

import asyncio
import random
import tracemalloc
from pathlib import Path
from typing import TypeVar

import pytest

from batchrunner.core.http import Completed, Decoder, Request, ResponseHead
from batchrunner.core.job import DialectName
from batchrunner.core.remote_batch import RemoteBatch
from batchrunner.engine.batch_requests import BatchRequests
from batchrunner.providers import batches_for, dialect_for
from batchrunner.stores.batch_files import BatchFolder
from tests.sdk_compat.items import provider

T = TypeVar("T")
LINE, LINES = b"x" * 9_999 + b"\n", 800
SIZE = len(LINE) * LINES


class Measuring:
    """A transport that says what is held while a request is on its way, and answers the third one."""

    held: list[int]

    def __init__(self) -> None:
        self.held = []

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        self.held.append(tracemalloc.get_traced_memory()[0])
        assert len(request.body or b"") >= SIZE
        status = 503 if len(self.held) < 3 else 200
        decoder.begin(ResponseHead(status=status, headers={"content-type": "application/json"}, received_at=0.0))
        decoder.feed(b'{"id": "file-1", "processing_status": "in_progress"}')
        return decoder.end(Completed())


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
def test_requests_are_in_memory_once_while_they_are_sent(tmp_path: Path, dialect: DialectName) -> None:
    transport = Measuring()
    server = provider("simulator", dialect)
    batches = batches_for(server, dialect_for(server))
    assert batches is not None

    async def no_wait(_: float) -> None:
        """The next try."""

    requests = BatchRequests(
        dialect=batches, transport=transport, files=BatchFolder(tmp_path), sleep=no_wait, random_source=random.Random(1)
    )
    tracemalloc.start()
    try:
        lines = [LINE[:-1] + b"\n" for _ in range(LINES)]
        batch = RemoteBatch(number=1, key="k", file="f", model="m")
        way = requests.upload if batches.uploads else requests.order
        asyncio.run(way(batch, lines))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == []
    assert max(transport.held) < 1.2 * SIZE
    assert peak < (2.5 if batches.uploads else 3.5) * SIZE
