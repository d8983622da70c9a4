"""Memory of an item is bounded (invariant 22): a whole run with its ledger and its results, read from a long source."""

import gc
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.core.http import Decoder, Request
from batchrunner.core.job import Job
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.world import World
from tests.support.torture import Tried, at_size
from tests.support.virtual_time import run_virtual

T = TypeVar("T")

FEW = at_size(300, 2_000)
MANY = at_size(1_500, 20_000)
BYTES_PER_ITEM = 500
"""A key in two tables and a packed integer come to about 150 bytes; an object graph would be thousands."""
KINDS = {
    "answers": "model: sim/chat",
    "failures": "model: sim/chat#5xx:9\nretry: {attempts: 1}\nbreaker: 1000000",
}
_NOT_OURS = (tracemalloc.Filter(False, "*/simulator/*"), tracemalloc.Filter(False, tracemalloc.__file__))  # noqa: FBT003


@dataclass
class LastLook:
    """A transport that looks at all memory when the n-th request leaves."""

    inner: SimulatedTransport
    left: int
    kept: list[bytes] | None = None
    """A leak: an answer of that size is kept for every request."""
    size_bytes: int = 0

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        self.left -= request.method == "POST"
        if self.kept is not None:
            self.kept.append(bytes(4 * BYTES_PER_ITEM))
        if self.left == 0:
            self.left = -1
            gc.collect()
            statistics = tracemalloc.take_snapshot().filter_traces(_NOT_OURS).statistics("filename")
            self.size_bytes = sum(statistic.size for statistic in statistics)
        return await self.inner.exchange(request, decoder, account=account)


def bytes_held(folder: Path, items: int, *, kind: str, kept: list[bytes] | None = None) -> int:
    """What stands in memory when the last of the items is sent."""
    folder.mkdir()
    (folder / "prompts.txt").write_text("".join(f"prompt number {number}\n" for number in range(items)), "utf-8")
    (folder / "job.yaml").write_text(
        f"name: job\nprovider: simulator\n{kind}\nprompts: {{file: prompts.txt}}\nlimits: {{concurrency: 8}}\n", "utf-8"
    )
    job = api.load_job(str(folder / "job.yaml"), simulate=True, out=str(folder / "out"))
    tracemalloc.start()
    try:
        size_bytes: int = run_virtual(lambda: _watched_run(job, items, kept))
    finally:
        tracemalloc.stop()
    return size_bytes


async def _watched_run(job: Job, items: int, kept: list[bytes] | None) -> int:
    clock, world = LoopClock(wall_at_zero=1_795_000_000.0), World(log_size=10)
    transport = LastLook(SimulatedTransport(world, clock, timeouts=job.timeouts), items, kept)
    network = transport, SimulatedDownloads(world, clock, timeouts=job.timeouts)
    report = await api.run(job, clock=clock, network=network, say=lambda _: None)
    assert report.exit_status in {ExitStatus.DONE, ExitStatus.FAILED}
    assert not report.status.items.pending
    return transport.size_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_an_item_is_bounded_over_a_whole_run(tmp_path: Path, kind: str, tried: Tried) -> None:
    """Invariant 22: from few items to many, each adds less than BYTES_PER_ITEM."""
    bytes_held(tmp_path / "warm", 40, kind=KINDS[kind])  # loads what is loaded late
    few = bytes_held(tmp_path / "few", FEW, kind=KINDS[kind])
    many = bytes_held(tmp_path / "many", MANY, kind=KINDS[kind])
    tried("items: whole runs whose memory was weighed", FEW + MANY)
    each = (many - few) / (MANY - FEW)
    assert each < BYTES_PER_ITEM, f"{each:.0f} bytes an item"


def test_a_leak_is_seen(tmp_path: Path) -> None:
    """The scales work: whoever keeps every answer is far above the bound."""
    few, many = (bytes_held(tmp_path / str(items), items, kind=KINDS["answers"], kept=[]) for items in (50, 250))
    assert (many - few) / 200 > 2 * BYTES_PER_ITEM
