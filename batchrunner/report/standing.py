"""Where a run stands, from its files alone, also while another process works on it. Changes nothing."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

import msgspec

from batchrunner.core.budget import Amounts, Budget, BudgetLine, budget_lines
from batchrunner.core.errors import WrongDirectoryError
from batchrunner.core.job import PRESETS, Json, Kind
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.plan import Totals, count_items
from batchrunner.core.schedule import Window, opening
from batchrunner.core.state import LedgerState
from batchrunner.core.status import ItemCounts, RunState, Status, Wait
from batchrunner.engine.budget_guard import spent_so_far
from batchrunner.engine.run_schedule import outside_words
from batchrunner.engine.run_status import (
    going_on,
    held_groups,
    lost_words,
    park_status,
    resting_state,
    send_counts,
    shown_time,
    usage_counts,
)
from batchrunner.report.causes import failure_groups
from batchrunner.report.stock import refuse_missing_ledger, replay_into, stock_notes, take_stock
from batchrunner.stores import ledger_line
from batchrunner.stores.checkpoint import Restored, restored
from batchrunner.stores.files import DISK, InspectedFiles
from batchrunner.stores.inspection import Inspection
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.lock import holder_of
from batchrunner.stores.run_file import RUN_FILE, RunFile, read_run_file, run_file_or_refuse
from batchrunner.stores.unreadable import UNREADABLE
from batchrunner.stores.zones import offset_of_zone

LEDGER: Final = ledger_line.LEDGER
"""The ledger's folder in a run's directory."""
_NOTHING_KNOWN: Final = Totals(
    total=0, labels="", shared={}, vanished={}, hold=False, task_s=0.0, concurrency=0, synced_intents=True
)


def replay(
    folder: Path,
    *,
    day_offset_s: float,
    running: bool = False,
    say: Callable[[str], None] | None = None,
    adopt_rows: bool = False,
    files: InspectedFiles = DISK,
) -> LedgerState:
    """What the ledger in a run's directory remembers; nothing when there is none yet.

    Args:
        folder: the run's directory.
        day_offset_s: where daily counters turn, seconds east of UTC.
        running: another process is writing; what it sends is under way, not unknown.
        say: told of torn tails that were left out.
        adopt_rows: go on although the ledger, or its newest segment, is gone.
        files: the file system.

    Raises:
        LedgerMissingError: the ledger, or its newest segment, is gone.
        LedgerDamagedError: a segment is damaged below what was durable.
        StoreBrokenError: the disk refused to be read.
    """
    if not adopt_rows:
        refuse_missing_ledger(folder, files=files)
    known = _checkpoint(folder, day_offset_s=day_offset_s, files=files)
    if known is not None:
        state, reading = known.state, read_ledger(folder / LEDGER, files=files, after=known.segment)
        replay_into(state, reading, vouched=known.vouched)
    else:
        state, reading = LedgerState(day_offset_s=day_offset_s), read_ledger(folder / LEDGER, files=files)
        replay_into(state, reading)
    if not running:
        state.segment_ended()
    for torn in reading.left_out if say is not None else ():
        assert say is not None, "there is something to say only to somebody"
        if torn.bytes:
            say(f"{torn.file}: {torn.bytes} bytes at its end were cut off by a crash and are left out ({torn.problem})")
    return state


def _checkpoint(folder: Path, *, day_offset_s: float, files: InspectedFiles) -> Restored | None:
    try:
        there = read_run_file(folder, files=files)
    except WrongDirectoryError:  # the ledger is there to be read
        return None
    newest = there.checkpointed if there is not None else None
    return restored(files, folder / LEDGER, newest, day_offset_s=day_offset_s)


def status_of_directory(folder: Path) -> Status:
    """See the module.

    Raises:
        WrongDirectoryError: there is no run in this directory, or its run.json is damaged.
        LedgerDamagedError, StoreBrokenError: see `replay`.
    """
    there = run_file_or_refuse(folder)
    running = holder_of(folder) is not None
    offset_s = day_offset_of(there)
    state = replay(folder, day_offset_s=offset_s, running=running)
    totals = _totals(folder, there)
    now = time.time()
    stock = None if running else take_stock(folder, state)
    if stock is not None:
        _forget_vanished(state, stock, vanished=totals.vanished.get(ItemState.DONE.name, 0))
    items = count_items(state, totals, now=now)
    if items.pending < 0:  # rows of items that were never this job's
        items = replace(items, done=items.done + items.pending, pending=0)
    if running:
        items = replace(items, done=items.done - totals.lost, lost=totals.lost)
    cut_off = not running and not state.closed and not totals.synced_intents
    parks = [
        park_status(account, model, park, offset_s=offset_s, now=now) for (account, model), park in state.parks.items()
    ]
    return Status(
        job=there.job_name,
        state="running" if running else _resting_state(there, items),
        items=items,
        sends=send_counts(state),
        usage=usage_counts(state),
        lanes=tuple(parks),
        unaccounted_max=max(totals.concurrency, state.most_sending) if cut_off else None,
        dir=str(folder),
        simulated=there.simulated,
        failures=failure_groups(folder),
        held=held_groups(state),
        next_command=None if running else going_on(items, there.command_here()),
        message=None if running else lost_words(items.lost) if items.lost else there.message,
        notes=tuple(stock_notes(folder, stock)),
        waiting=_waiting(there.job, now=now) if running else None,
        budget=_budget(there.job, state),
    )


def _resting_state(there: RunFile, items: ItemCounts) -> RunState:
    """What the last run called its own end; after a kill, and in what earlier versions wrote, what the items say."""
    if items.lost:  # removed since
        return resting_state(items)
    states: tuple[RunState, ...] = get_args(RunState)
    ended = next((state for state in states if state == there.ended), None)
    return ended or (resting_state(items) if there.totals is not None else "pending")


def _forget_vanished(state: LedgerState, stock: Inspection, *, vanished: int) -> None:
    """Rows of items that the job has no more are not missed: so many of the lost as rows are missing there."""
    for _ in range(min(len(state.lost), max(0, vanished - stock.set_aside))):
        state.lost.pop()


def _totals(folder: Path, there: RunFile) -> Totals:
    try:
        return msgspec.convert(there.totals, Totals) if there.totals is not None else _NOTHING_KNOWN
    except UNREADABLE as error:
        raise WrongDirectoryError(
            f"{folder / RUN_FILE}: its totals are damaged ({error}); run the job again, or put the right file back"
        ) from error


class _NightKeys(msgspec.Struct):
    """What `run.json` says of the window."""

    window: Window | None = None
    timezone: str | None = None


class _PointsKeys(msgspec.Struct):
    points_per_call: dict[str, float] = {}


class _BudgetKeys(msgspec.Struct):
    """What `run.json` says of the budget; earlier versions say nothing."""

    kind: Kind
    provider: _PointsKeys
    budget: Budget | None = None


def _waiting(job: dict[str, Json], *, now: float) -> Wait | None:
    """Whether the process that works here waits for its window."""
    try:
        keys = msgspec.convert(job, _NightKeys)
        offset_at = offset_of_zone(keys.timezone)
    except (msgspec.MsgspecError, LookupError):  # written by a later version, or where more zones are known
        return None
    if keys.window is None:
        return None
    found = opening(keys.window, wall=now, offset_at=offset_at)
    if found.opens_at <= now:
        return None
    until = shown_time(found.opens_at, offset_s=offset_at(found.opens_at))
    return Wait(reason=outside_words(keys.window, keys.timezone), until=until)


def _budget(job: dict[str, Json], state: LedgerState) -> tuple[BudgetLine, ...]:
    try:
        keys = msgspec.convert(job, _BudgetKeys)
    except msgspec.MsgspecError:  # as above
        return ()
    if keys.budget is None:
        return ()
    spent = spent_so_far(
        state.tallies, kind=keys.kind, prices=keys.budget.prices, points_per_call=keys.provider.points_per_call
    )
    return tuple(budget_lines(keys.budget, spent, Amounts()))


def day_offset_of(run: RunFile) -> float:
    """Where the daily counters of this run's provider turn, seconds east of UTC."""
    provider = run.job.get("provider")
    preset = provider.get("preset") if isinstance(provider, dict) else None
    return next((known.day_offset_s for name, known in PRESETS.items() if name == preset), 0.0)
