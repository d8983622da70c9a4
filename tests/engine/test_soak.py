"""Many virtual days with everything on: nothing lost, nothing paid twice in silence, and nothing that piles up.

The job grows every day. A night's process works in its window until that closes, until the day's quota or the budget is
spent, until it is asked to end, or until it is cancelled in the middle; the server throttles, breaks and forgets.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import batchrunner
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import Status
from batchrunner.engine.shutdown import Shutdown
from batchrunner.simulator.quotas import Quota
from tests.support.engine import FaultRates, Latency, RunHarness, World
from tests.support.torture import Tried, at_size

DAYS = at_size(12, 150)
ITEMS_A_DAY = 12
MOST_DAYS = 3 * DAYS + 20
MOST_TASKS = 80
"""Far more than two lanes of four requests and eight remote tasks need, far fewer than there are items."""
WORLDS = {
    "chat": FaultRates(throttle=0.05, server_error=0.04, reset=0.03, cut=0.02, shell=0.02, hang=0.01),
    "image": FaultRates(
        throttle=0.05,
        server_error=0.03,
        reset=0.02,
        task_fail=0.03,
        task_slow=0.03,
        poll_throttle=0.03,
        poll_error=0.03,
        download_html=0.02,
        download_truncated=0.02,
        download_missing=0.02,
    ),
}
LATENCY = Latency(first_byte_s=2.0, chunk_s=0.1, task_s=60.0, poll_s=0.1, download_s=0.5, spread=0.5)
KINDS = {"chat": "models: [sim/a, sim/b]", "image": "kind: image\nmodel: Qwen/Qwen-Image\nparams: {size: 64x64}"}
EACH = {"chat": 2, "image": 1}
"""Items of a prompt: one for each model."""


@dataclass
class Soak:
    """A harness over many nights, and what was seen in each of them."""

    harness: RunHarness
    kind: str
    asked: list[Shutdown]
    random_source: random.Random
    prompts: int = 0
    most_tasks: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    ends: list[ExitStatus] = field(default_factory=list)

    def job(self, *, calls: int) -> str:
        """As the person has left it this evening."""
        lines = (json.dumps({"prompt": f"{number}: what is it?"}) for number in range(self.prompts))
        (self.harness.folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return (
            f"name: job\nprovider: simulator\n{KINDS[self.kind]}\nprompts: {{file: prompts.jsonl}}\n"
            "window: 22:00-07:00\ntimezone: Asia/Shanghai\nretry: {attempts: 40}\nbreaker: 40\n"
            f"limits: {{concurrency: 4, requests_per_minute: 2, requests_per_day: {3 * ITEMS_A_DAY}}}\n"
            f"budget: {{calls: {calls}}}\n"
        )

    def one_day(self, *, interrupted: int) -> None:
        """One process, from some time of the evening on."""
        self.harness.began += self.random_source.uniform(0.0, 20_000.0)
        spent = self.harness.stats.sends
        budget = spent + ITEMS_A_DAY // 2 if self.random_source.random() < 0.2 else 1_000_000
        self.most_tasks.append(0)
        report = self.harness.run(self.job(calls=budget), progress=self.watching(interrupted))
        self.ends.append(report.exit_status)
        self.descriptors.append(len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0)

    def watching(self, interrupted: int) -> Callable[[Callable[[], Status]], Awaitable[None]]:
        """Counts tasks every minute; asks for the end so many times, some hours after the start."""
        moment = self.random_source.uniform(1_000.0, 40_000.0)

        async def watch(_: Callable[[], Status]) -> None:
            left = interrupted
            while True:
                self.most_tasks[-1] = max(self.most_tasks[-1], len(asyncio.all_tasks()))
                await asyncio.sleep(60.0)
                if left and asyncio.get_running_loop().time() > moment:
                    left -= 1
                    self.asked[-1].request(2)

        return watch


def is_honest(harness: RunHarness) -> None:
    """What holds after every night, however it ended."""
    audit = batchrunner.verify(str(harness.out))
    assert [finding for finding in audit.findings if finding.level != "note"] == []
    sends = batchrunner.status(str(harness.out)).sends
    assert harness.stats.paid_twice <= sends.possible_duplicates
    assert harness.stats.sends == len(harness.events("intent"))


@pytest.mark.parametrize("kind", ["chat", "image"])
def test_many_runs_with_everything_on_lose_nothing_and_pile_nothing_up(
    tmp_path: Path, kind: str, asked: list[Shutdown], tried: Tried
) -> None:
    quota = Quota(model_per_day=2 * ITEMS_A_DAY, account_per_day=3 * ITEMS_A_DAY)
    harness = RunHarness(tmp_path, World(seed=7, faults=WORLDS[kind], latency=LATENCY, quota=quota))
    soak = Soak(harness, kind, asked, random.Random(11))
    for day in range(MOST_DAYS):
        soak.prompts = ITEMS_A_DAY * min(DAYS, day + 1) // EACH[kind]
        soak.one_day(interrupted=soak.random_source.choice((0, 0, 0, 1, 2)) if day < DAYS else 0)
        is_honest(harness)
        if day >= DAYS and soak.ends[-1] is ExitStatus.DONE:
            break
    items = soak.prompts * EACH[kind]
    rows = harness.rows()
    tried("virtual days with everything on", len(soak.ends), lost=items - len(rows))
    assert soak.ends[-1] is ExitStatus.DONE, soak.ends
    assert {ExitStatus.PAUSED, ExitStatus.INTERRUPTED} <= set(soak.ends), "not everything was on"
    assert len({row["id"] for row in rows}) == len(rows) == items
    assert harness.rows("failures.jsonl") == []
    assert max(soak.most_tasks) < MOST_TASKS
    third = len(soak.ends) // 3
    assert max(soak.descriptors[-third:]) <= max(soak.descriptors[:third]), "descriptors pile up"
