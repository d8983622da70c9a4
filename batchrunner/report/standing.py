"""Where a run stands, from its files alone, also while another process works on it. Changes nothing."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from batchrunner.core.errors import WrongDirectoryError
from batchrunner.core.plan import Totals, count_items
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.core.status import Status
from batchrunner.engine.snapshot import park_status, resting_state, send_counts, usage_counts
from batchrunner.report.causes import failure_groups
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.lock import holder_of
from batchrunner.stores.run_file import RunFile, read_run_file

LEDGER: Final = "ledger"
"""The ledger's folder in a run's directory."""
_NOTHING_KNOWN: Final = Totals(
    total=0, labels="", shared={}, vanished={}, hold=False, task_s=0.0, concurrency=0, synced_intents=True
)


def replay(
    folder: Path, *, day_offset_s: float, running: bool = False, say: Callable[[str], None] | None = None
) -> LedgerState:
    """What the ledger in a run's directory remembers; nothing when there is none yet.

    Args:
        folder: the run's directory.
        day_offset_s: where daily counters turn, seconds east of UTC.
        running: another process is writing; what it sends is under way, not unknown.
        say: told of torn tails that were left out.

    Raises:
        LedgerDamagedError: a segment is damaged below what was durable.
        StoreBrokenError: the disk refused to be read.
    """
    state = LedgerState(day_offset_s=day_offset_s)
    reading = read_ledger(folder / LEDGER)
    segment = 0
    for record in reading:
        if record.segment != segment:
            state.segment_ended()
            segment = record.segment
        state.apply(record.event, at=record.at)
    if not running:
        state.segment_ended()
    for torn in reading.left_out if say is not None else ():
        assert say is not None, "there is something to say only to somebody"
        if torn.bytes:
            say(f"{torn.file}: {torn.bytes} bytes at its end were cut off by a crash and are left out ({torn.problem})")
    return state


def status_of_directory(folder: Path) -> Status:
    """See the module.

    Raises:
        WrongDirectoryError: there is no run in this directory.
        LedgerDamagedError, StoreBrokenError: see `replay`.
    """
    there = read_run_file(folder)
    if there is None:
        raise WrongDirectoryError(f"{folder}: no run has been here (there is no run.json); is it the right directory?")
    running = holder_of(folder) is not None
    offset_s = day_offset_of(there)
    state = replay(folder, day_offset_s=offset_s, running=running)
    totals = msgspec.convert(there.totals, Totals) if there.totals is not None else _NOTHING_KNOWN
    now = time.time()
    items = count_items(state, totals, now=now)
    cut_off = not running and not state.closed and not totals.synced_intents
    parks = [
        park_status(account, model, park, offset_s=offset_s, now=now) for (account, model), park in state.parks.items()
    ]
    return Status(
        job=there.job_name,
        state="running" if running else resting_state(items),
        items=items,
        sends=send_counts(state),
        usage=usage_counts(state),
        lanes=tuple(parks),
        unaccounted_max=totals.concurrency if cut_off else None,
        dir=str(folder),
        simulated=there.simulated,
        failures=failure_groups(folder),
    )


def day_offset_of(run: RunFile) -> float:
    """Where the daily counters of this run's provider turn, seconds east of UTC."""
    provider = run.job.get("provider")
    preset = provider.get("preset") if isinstance(provider, dict) else None
    return next((known.day_offset_s for name, known in PRESETS.items() if name == preset), 0.0)
