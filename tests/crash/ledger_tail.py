"""The ledger's present segment as bytes, read on as it grows: what stands in it, as the system or the platter has it.

Knows nothing of the engine, and costs what is new: it may be asked at every request.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from batchrunner.stores.ledger_line import LEDGER, is_intact, segment_numbers, segment_path
from batchrunner.stores.row_codec import name_of, row_lines
from tests.crash.jobs import RUN
from tests.support.crashing_disk import CrashingDisk


@dataclass
class LedgerTail:
    """One life's view; earlier segments are read when it is made."""

    disk: CrashingDisk
    on_the_disk: bool
    _intents: Counter[bytes] = field(default_factory=Counter)
    _tasks: set[str] = field(default_factory=set)
    _segment: int = 0
    _offset: int = 0

    def __post_init__(self) -> None:
        numbers = segment_numbers(self.disk.names(RUN / LEDGER))
        for number in numbers:
            self._segment, self._offset = number, 0
            self._read_on()

    def intents(self, keys: Iterable[bytes]) -> int:
        """Of these items, all together."""
        self._read_on()
        return sum(self._intents[key] for key in keys)

    def knows_task(self, task_id: str) -> bool:
        """Whether its acceptance is there."""
        if task_id not in self._tasks:
            self._read_on()
        return task_id in self._tasks

    def _read_on(self) -> None:
        path = segment_path(RUN / LEDGER, self._segment)
        text = self.disk.bytes_of(path, on_the_disk=self.on_the_disk, start=self._offset)
        end = text.rfind(b"\n") + 1
        for line in text[:end].splitlines():
            if not is_intact(line):
                continue
            record = json.loads(line)
            if record["e"] == "intent":
                self._intents[bytes.fromhex(record["k"])] += 1
            elif record["e"] == "accepted":
                self._tasks.add(record["task"])
        self._offset += end


def rows_on(disk: CrashingDisk, name: str = "results.jsonl") -> list[dict[str, Any]]:
    """The rows of a file as they stand on the disk."""
    return [
        json.loads(line.text) for line in row_lines(disk, RUN / name) if line.whole and name_of(line.text) is not None
    ]
