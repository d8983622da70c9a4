"""What was acknowledged survives kill -9 and power loss at any call to the disk.

Played on the simulator's disk, which forgets by seed.
"""

import asyncio
import json
import random
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Done, Intent
from batchrunner.core.ports import Place
from batchrunner.core.row import ChatOutput, ResultRow
from batchrunner.core.state import LedgerState
from batchrunner.simulator.virtual_time import OneThreadLoop
from batchrunner.stores.inspection import inspect
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.results import ResultsFile
from tests.support.crashing_disk import CrashingDisk, Trouble

RUN = Path("/run")
LEDGER = RUN / "ledger"


class Wall:
    def wall(self) -> float:
        return 1.0

    def monotonic(self) -> float:
        return 1.0


def row(number: int) -> ResultRow:
    output = ChatOutput(
        text="x" * (number % 90), reasoning=None, tool_calls=None, parsed=None, finish_reason=None, truncated=False
    )
    return ResultRow(
        id=str(number),
        prompt_id=str(number),
        index=number,
        model="m",
        prompt="p",
        vars={},
        params={},
        output=output,
        task_id=None,
        usage=None,
        attempts=1,
        ambiguous=0,
        recovered=False,
        started_at="",
        seconds=0.0,
        key=f"{number:032x}",
    )


def done(number: int, place: Place) -> Done:
    return Done(i=str(number), k=f"{number:032x}", n=1, a=1, crc=place.crc, length=place.length)


@dataclass
class Acknowledged:
    """What the stores acknowledged, over all lives."""

    intents: set[str] = field(default_factory=set)
    done: dict[str, Place] = field(default_factory=dict)
    rows: dict[str, Place] = field(default_factory=dict)
    replayed: set[str] = field(default_factory=set)
    """Intents that a later process has seen and goes on from."""


async def live(disk: CrashingDisk, told: Acknowledged, numbers: range) -> None:
    """One process: start as a run does, work with several tasks, until the disk is gone or all is done."""
    seen = [record.event for record in read_ledger(LEDGER, files=disk)]
    known = [event for event in seen if isinstance(event, Done)]
    results = ResultsFile(RUN, files=disk)
    recovered = results.recover(max((event.length for event in known), default=0))
    assert not recovered.realigned
    ledger = LedgerWriter.open(LEDGER, run="r", job="j", program="p", clock=Wall(), files=disk)
    told.replayed |= {event.i for event in seen if isinstance(event, Intent)}
    state = LedgerState()
    for event in seen:
        state.apply(event, at=0.0)
    for adopted in inspect(disk, RUN, state).adopted(state):
        assert isinstance(adopted, Done)
        place = Place(crc=adopted.crc, length=adopted.length)
        await ledger.commit(done(int(adopted.i), place))
        told.done[adopted.i] = place
    queue = iter(numbers)

    async def worker() -> None:
        for number in queue:
            event = Intent(i=str(number), k=f"{number:032x}", n=1, a=0, model="m", account="a")
            await ledger.commit(event)
            told.intents.add(str(number))
            ledger.note(event)
            place = await results.add(row(number))
            told.rows[str(number)] = place
            await ledger.commit(done(number, place))
            told.done[str(number)] = place

    ends = await asyncio.gather(*(worker() for _ in range(7)), return_exceptions=True)
    assert all(end is None or isinstance(end, StoreBrokenError) for end in ends), ends
    await results.close()
    await ledger.close()


def check(disk: CrashingDisk, told: Acknowledged) -> None:
    events = [record.event for record in read_ledger(LEDGER, files=disk)]
    assert told.intents | told.replayed <= {event.i for event in events if isinstance(event, Intent)}
    finished = {event.i: event for event in events if isinstance(event, Done)}
    assert set(told.done) <= set(finished)
    path = RUN / "results.jsonl"
    text = disk.bytes_of(path, on_the_disk=False) if disk.exists(path) else b""
    for name, place in [
        *told.rows.items(),
        *((name, Place(crc=e.crc, length=e.length)) for name, e in finished.items()),
    ]:
        start = text.rfind(b"\n", 0, place.length - 1) + 1
        line = text[start : place.length - 1]
        assert f"{zlib.crc32(line):08x}" == place.crc
        assert json.loads(line)["id"] == name


def play(disk: CrashingDisk, told: Acknowledged, numbers: range) -> None:
    with asyncio.Runner(loop_factory=lambda: OneThreadLoop(disk.rng)) as runner:
        runner.run(live(disk, told, numbers))


@pytest.mark.parametrize("losses", [0.0, 0.5, 1.0], ids=["kill", "both", "power"])
@pytest.mark.parametrize("seed", range(15))
def test_what_was_acknowledged_survives_the_end_of_a_process_at_any_call(seed: int, losses: float) -> None:
    """Invariant 6."""
    rng = random.Random(seed)
    disk, told = CrashingDisk(seed), Acknowledged()
    disk.make_folder(RUN, 0o700)
    disk.fsync_folder(RUN.parent)
    for life in range(5):
        disk.trouble = Trouble(at_call=disk.calls + rng.randint(1, 120), kind="crash")
        with suppress(StoreBrokenError):
            play(disk, told, range(1000 * life + 1, 1000 * life + 60))
        disk.wake(power_was_lost=rng.random() < losses)
        check(disk, told)
    play(disk, told, range(9001, 9020))
    check(disk, told)
    finished = {record.event.i for record in read_ledger(LEDGER, files=disk) if isinstance(record.event, Done)}
    assert set(told.rows) <= finished, "every row that reached the disk was adopted in the end"
