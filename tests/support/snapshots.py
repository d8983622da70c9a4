"""What a kill before or after each exchange of a run would leave: copies of the directory and of the simulated world.

Short, since it is one fixture that tests of several kinds of batches share.
"""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import pytest

from batchrunner.core.http import Decoder, Gate, Request
from batchrunner.simulator.in_process import SimulatedTransport
from tests.support.engine import RunHarness, World

T = TypeVar("T")

Snapshots: TypeAlias = Callable[[str], list[tuple[Path, World, str]]]
"""Runs a job; gives for each moment the folder, the world, and which moment it was."""


class _Copying(SimulatedTransport):
    """Copies the directory and the world before and after each exchange: what a kill at that moment would leave."""

    folder: Path
    taken: list[tuple[Path, World, str]]

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        what = f"{request.method} {request.url.rpartition('/v1/')[2]}"
        self.take(f"before {what}")
        value = await super().exchange(request, decoder, account=account, gate=gate)
        self.take(f"after {what}")
        return value

    def take(self, when: str) -> None:
        copied = self.folder / f"snapshot-{len(self.taken)}"
        shutil.copytree(self.folder / "out", copied / "out")
        self.taken.append((copied, copy.deepcopy(self._world), when))


@pytest.fixture
def snapshots(harness: RunHarness, monkeypatch: pytest.MonkeyPatch) -> Snapshots:
    """Runs a job; what a kill before and after each of its exchanges would leave."""

    def taken(text: str) -> list[tuple[Path, World, str]]:
        _Copying.folder, _Copying.taken = harness.folder, []
        with monkeypatch.context() as patched:
            patched.setattr("tests.support.engine.SimulatedTransport", _Copying)
            harness.run(text)
        return _Copying.taken

    return taken
