"""A harness for engine tests: real stores in a folder, the simulated world behind the ports, virtual time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from batchrunner import api, wiring
from batchrunner.core.job import Job
from batchrunner.core.status import Report
from batchrunner.core.upstream import RunRows
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.profiles import FaultRates, Latency
from batchrunner.simulator.requests import Stats
from batchrunner.simulator.world import World
from tests.support.json_lines import json_lines
from tests.support.slow_source import SlowItems
from tests.support.virtual_time import run_virtual

MONDAY_EVENING = 1_795_000_000.0


@dataclass
class RunHarness:
    """One job's folder and one provider, over as many runs as a test wants."""

    folder: Path
    world: World = field(default_factory=World)
    began: float = MONDAY_EVENING
    """Wall clock at which the next run begins; each run moves it on."""
    said: list[str] = field(default_factory=list)
    simulate: bool = True
    """False: the job's own provider decides what words mean; the world answers for it all the same."""
    item_s: Callable[[int], float] = lambda _: 0.0
    """Seconds until the source gives the item with that index."""
    source: SlowItems | None = None
    """Of the last run."""

    def run(self, job: str, *, overrides: tuple[str, ...] = (), **options: Any) -> Report:
        """Write the job file, run it in virtual time against the same world."""
        path = self.folder / "job.yaml"
        path.write_text(job, "utf-8")
        out = str(self.folder / "out")
        loaded = api.load_job(str(path), simulate=self.simulate, out=out, overrides=overrides)

        async def main() -> Report:
            clock = LoopClock(wall_at_zero=self.began)
            network = (
                SimulatedTransport(self.world, clock, timeouts=loaded.timeouts),
                SimulatedDownloads(self.world, clock, timeouts=loaded.timeouts),
            )
            with patch.object(wiring, "items_of", self._items_of):
                report = await api.run(loaded, clock=clock, network=network, say=self.said.append, **options)
            self.began = clock.wall() + 1.0
            return report

        return run_virtual(main)

    def _items_of(self, job: Job, upstream: RunRows | None = None) -> SlowItems:
        self.source = SlowItems(job, self.item_s, upstream)
        return self.source

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def stats(self) -> Stats:
        return self.world.stats()

    def rows(self, name: str = "results.jsonl") -> list[dict[str, Any]]:
        return json_lines(self.out / name)

    def events(self, *names: str) -> list[dict[str, Any]]:
        segments = sorted((self.out / "ledger").glob("*.jsonl"))
        records = [json.loads(line) for path in segments for line in path.read_text("ascii").splitlines()]
        return [record for record in records if not names or record["e"] in names]


def chat(*prompts: str, model: str = "sim/chat", more: str = "") -> str:
    """A chat job with these prompts."""
    listed = "\n".join(f"  - {json.dumps(prompt)}" for prompt in prompts)
    return f"name: job\nprovider: simulator\nmodel: {json.dumps(model)}\nprompts:\n{listed}\n{more}\n"


def image(*prompts: str, model: str = "Qwen/Qwen-Image", more: str = "") -> str:
    """An image job with these prompts."""
    return chat(*prompts, model=model, more=f"kind: image\nparams: {{size: 64x64}}\n{more}")


__all__ = ["FaultRates", "Latency", "RunHarness", "World", "chat", "image"]


@pytest.fixture
def harness(tmp_path: Path) -> RunHarness:
    """One harness for each test."""
    return RunHarness(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Shutdown]:
    """The run's own shutdown, as a signal would reach it."""
    made: list[Shutdown] = []

    class Reachable(Shutdown):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("batchrunner.wiring.Shutdown", Reachable)
    return made
