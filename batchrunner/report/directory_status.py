"""The status of a run from its files alone, also during a run, and what was changed since its last clean end.

A directory that is as its last clean end left it is trusted; any other is checked row by row. Every command uses this
module, so that all of them count the same items as lost. `inspect_directory` changes nothing on the disk.
"""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import msgspec

from batchrunner.core.budget import Amounts, Budget, BudgetLine, budget_lines
from batchrunner.core.errors import BatchrunnerError, ExitStatus, StoreBrokenError, WrongDirectoryError
from batchrunner.core.fallback import fallback_counts
from batchrunner.core.job import Job, Json, Kind
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.plan import Totals, count_items
from batchrunner.core.presets import PRESETS
from batchrunner.core.schedule import Window, opening
from batchrunner.core.state import LedgerState
from batchrunner.core.status import FailureGroup, ItemCounts, Report, RunState, Status, Wait
from batchrunner.core.values import replace
from batchrunner.engine.budget_guard import spent_so_far
from batchrunner.engine.run_schedule import outside_words
from batchrunner.engine.run_status import (
    batch_statuses,
    going_on,
    held_groups,
    lost_words,
    park_status,
    resting_state,
    resuming,
    send_counts,
    shown_time,
    usage_counts,
)
from batchrunner.report.summary import budget_line, control_lines, items_line, usage_line
from batchrunner.report.uploading import upload_notes
from batchrunner.report.wording import count as counted
from batchrunner.report.wording import printable
from batchrunner.stores.control_folder import state_in
from batchrunner.stores.files import RESULTS
from batchrunner.stores.inspection import Inspection
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_replay import inspect_directory, replay
from batchrunner.stores.lock import holder_of
from batchrunner.stores.row_codec import UNREADABLE, iter_failures
from batchrunner.stores.run_file import RUN_FILE, RunFile, run_file_or_refuse
from batchrunner.stores.score_file import ScoreFile
from batchrunner.stores.timezones import offset_of_zone

_NOTHING_KNOWN: Final = Totals(
    total=0, labels="", shared={}, vanished={}, hold=False, task_s=0.0, concurrency=0, synced_intents=True
)


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
    inspection = None if running else inspect_directory(folder, state)
    if inspection is not None:
        _forget_vanished(state, inspection, vanished=totals.vanished.get(ItemState.DONE.name, 0))
    items = count_items(state, totals, now=now)
    if items.pending < 0:  # rows of items that were never this job's
        items = replace(items, done=items.done + items.pending, pending=0)
    if running:
        items = replace(items, done=items.done - totals.lost, lost=totals.lost)
    cut_off = not running and not state.closed and not totals.synced_intents
    parks = [
        park_status(account, model, park, offset_s=offset_s, now=now) for (account, model), park in state.parks.items()
    ]
    control = state_in(folder)
    paused = control.paused and not running
    judges = tuple(judge_notes(folder, there.job))
    return Status(
        job=there.job_name,
        state="running" if running else _resting_state(there, items),
        items=items,
        sends=send_counts(state),
        usage=usage_counts(state),
        reused=state.reused,
        lanes=tuple(parks),
        unaccounted_max=max(totals.concurrency, state.most_sending) if cut_off else None,
        dir=str(folder),
        simulated=there.simulated,
        failures=failure_groups(folder, state),
        held=held_groups(state),
        fallbacks=fallback_counts(state),
        batches=batch_statuses(state, offset_s=offset_s),
        next_command=None
        if running
        else resuming(str(folder), there.command_here())
        if paused
        else (None if _is_part_done(there) else going_on(items, there.command_here()))
        or (there.command_here() if any(is_left for _, is_left in judges) else None),
        message=None
        if running
        else lost_words(items.lost)
        if items.lost
        else next(control_lines(control))
        if paused
        else there.message,
        control=control,
        notes=(
            *inspection_notes(folder, inspection),
            *scored_notes(folder, there.job, done=items.done),
            *(note for note, _ in judges),
            *upload_notes(folder),
        ),
        waiting=_waiting(there.job, now=now) if running else None,
        budget=_budget(there.job, state),
    )


def paused_report(folder: Path, command: str | None) -> Report:
    """What a run comes to that was started in a paused directory. `command` is the one that started it."""
    status = replace(status_of_directory(folder), state="paused")
    return Report(status=replace(status, next_command=resuming(str(folder), command)), exit_status=ExitStatus.PAUSED)


def _is_part_done(there: RunFile) -> bool:
    """Whether the last run was on a part of the job and did it: its command would do nothing more."""
    return there.ended == "pending" and there.message is not None


def _resting_state(there: RunFile, items: ItemCounts) -> RunState:
    """The state that the last run recorded; after a kill, and for earlier versions, a state derived from the items."""
    if items.lost:  # removed since
        return resting_state(items)
    states: tuple[RunState, ...] = get_args(RunState)
    ended = next((state for state in states if state == there.ended), None)
    return ended or (resting_state(items) if there.totals is not None else "pending")


def _forget_vanished(state: LedgerState, inspection: Inspection, *, vanished: int) -> None:
    """Rows of items that the job has no more are not missed: so many of the lost as rows are missing there."""
    for _ in range(min(len(state.lost), max(0, vanished - inspection.set_aside))):
        state.lost.pop()


def _totals(folder: Path, there: RunFile) -> Totals:
    try:
        return msgspec.convert(there.totals, Totals) if there.totals is not None else _NOTHING_KNOWN
    except UNREADABLE as error:
        raise WrongDirectoryError(
            f"{folder / RUN_FILE}: the totals in it are damaged ({error}); run the job again, or restore the file"
        ) from error


class _ScheduleKeys(msgspec.Struct):
    """The window in `run.json`."""

    window: Window | None = None
    timezone: str | None = None


class _PointsKeys(msgspec.Struct):
    points_per_call: dict[str, float] = {}


class _BudgetKeys(msgspec.Struct):
    """The budget in `run.json`; earlier versions have none."""

    kind: Kind
    provider: _PointsKeys
    budget: Budget | None = None


def _waiting(job: dict[str, Json], *, now: float) -> Wait | None:
    """Whether the process that works here waits for its window."""
    try:
        keys = msgspec.convert(job, _ScheduleKeys)
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


def inspection_notes(folder: Path, found: Inspection | None) -> Iterator[str]:
    """Notes on what was changed; none where the directory is as a run or a crash left it."""
    if found is None:
        return
    path = folder / RESULTS
    if found.changed:
        yield f"{path}: {counted(found.changed, 'row')} edited since the last run; the edited version is used"
    if found.repeated:
        yield f"{path}: {counted(found.repeated, 'duplicate row')}; the next run removes them"
    if found.reshaped:
        yield f"{path}: was saved in another form (line endings, byte order mark); the next run restores it"
    if found.unreadable:
        yield f"{path}: lines that are not rows: {found.unreadable:,}; `batchrunner verify` lists them"
    if found.answers:
        yield f"{folder}: missing answer files (output.each): {len(found.answers):,}; the next run recreates them"


def format_notes(job: Job, folder: Path) -> tuple[str, ...]:
    """A note on pictures in another format than `output.format`. Raises StoreBrokenError."""
    if job.kind != "image" or job.output.format is None:
        return ()
    from batchrunner.stores.reformat import other_formats  # noqa: PLC0415 - Pillow, for pictures only

    number = other_formats(folder, job.output.format)
    words = f"{counted(number, 'picture')} not in the format {job.output.format}"
    return (f"{words}; `run --reformat` converts them without sending anything",) if number else ()


def new_format_notes(job: Job, folder: Path, before: RunFile | None) -> tuple[str, ...]:
    """The same for a run, when it is the first one since `output.format` was changed. Raises StoreBrokenError."""
    output = before.job.get("output") if before is not None else None
    if not isinstance(output, dict) or output.get("format") == job.output.format:
        return ()  # the pictures are not counted at every start
    return format_notes(job, folder)


# Failed items grouped by cause, from `failures.jsonl`.

_GROUPS_MAX: Final = 50
_MESSAGE_MAX: Final = 200


def failure_groups(folder: Path, state: LedgerState) -> tuple[FailureGroup, ...]:
    """Groups of equal class and message (numbers and ids in it aside), the largest first.

    Without items that are to be tried again: their rows leave the file when a run comes to its end.
    """
    groups: dict[tuple[str, str], FailureGroup] = {}
    for row in iter_failures(folder):
        if not _still_failed(row.get("key"), state):
            continue
        error = row.get("error")
        kind, message = (
            ("?", "") if not isinstance(error, dict) else (str(error.get("class")), str(error.get("message")))
        )
        comparable = re.sub(r"[0-9a-f]*\d[0-9a-f-]*", "#", message.lower())[:_MESSAGE_MAX]
        if (kind, comparable) not in groups and len(groups) >= _GROUPS_MAX:
            comparable, message = "", "other messages"
        known = groups.get((kind, comparable))
        groups[kind, comparable] = (
            replace(known, count=known.count + 1)
            if known
            else FailureGroup(kind=kind, message=message[:_MESSAGE_MAX], count=1, example=str(row.get("id")))
        )
    return tuple(sorted(groups.values(), key=lambda group: -group.count))


def _still_failed(key: Json, state: LedgerState) -> bool:
    try:
        return state.item_state(bytes.fromhex(str(key))) is ItemState.FAILED
    except ValueError:  # a row without a key, or with a damaged one
        return True


def score_notes(job: Job, folder: Path, status: Status, ended: ExitStatus) -> tuple[str, ...]:
    """Score a run that has ended, where its job has checks; what came out. For the holder of the run's lock. Blocks.

    One that was told to stop says what is scored: all of it can take minutes, and whoever waits may not have them.
    """
    if not job.checks:
        return ()
    if ended in (ExitStatus.INTERRUPTED, ExitStatus.TERMINATED):
        return tuple(_scored_words(folder, done=status.items.done))
    from batchrunner.report.scoring import scores_of_run  # noqa: PLC0415 - for jobs with checks only

    return scores_of_run(job, folder, status)


def scored_notes(folder: Path, job: dict[str, Json], *, done: int) -> Iterator[str]:
    """What the checks of a run's job came to when they were last made, of so many answers. Blocks."""
    if job.get("checks"):
        yield from _scored_words(folder, done=done)


def _scored_words(folder: Path, *, done: int) -> Iterator[str]:
    try:
        with ScoreFile(folder) as scores:
            found = scores.verdicts if scores.exists else None
    except StoreBrokenError as error:
        yield f"checks: {error}"
        return
    if found is None:
        return
    decided = found[True] + found[False]
    share = f" ({found[True] / decided:.1%})" if decided else ""
    beside = f", {found[None]:,} without a verdict" if found[None] else ""
    beside += f", {done - found.total():,} not scored yet" if done > found.total() else ""
    yield f"checks: {found[True]:,} of {decided:,} passed{share}{beside}"


# Judges of a run, which are runs of their own in its directory.

JUDGES: Final = "judge"


def judge_folders(folder: Path) -> tuple[Path, ...]:
    """The directories of judges in a run's directory, by name, also damaged ones; see `audit_all`. Blocks."""
    try:
        names = sorted((folder / JUDGES).iterdir())
    except NotADirectoryError:
        return (folder / JUDGES,)  # what judges were paid for was there
    except OSError:
        return ()
    return tuple(path for path in names if any(os.path.lexists(path / name) for name in (RUN_FILE, LEDGER, RESULTS)))


def left_to_judge(items: ItemCounts) -> int:
    """Judgements that a run would still ask for, or that wait for a person."""
    return items.pending + items.accepted + items.held + items.timed_out + items.lost


def judge_line(name: str, status: Status) -> str:
    """Where a judge stands, for people."""
    doubtful, left = status.sends.possible_duplicates, left_to_judge(status.items)
    parts = [items_line(status.items), counted(status.sends.total, "request"), usage_line(status.usage)]
    parts += [f"{counted(doubtful, 'request')} may have been billed without a usable answer"] * bool(doubtful)
    parts += [budget_line(line) for line in status.budget]
    why = f"; {printable(status.message)}" if status.message and left else ""
    return f"judge {name}: {', '.join(filter(None, parts))}{why}"


def judge_notes(folder: Path, job: dict[str, Json]) -> Iterator[tuple[str, bool]]:
    """Where each judge of a run stands, for people, and whether something is left to it. Blocks."""
    begun, checks = judge_folders(folder), job.get("checks")
    for check in checks if isinstance(checks, list | tuple) else ():
        if (
            isinstance(check, dict)
            and check.get("kind") == "judge"
            and folder / JUDGES / str(check["name"]) not in begun
        ):
            yield f"judge {check['name']}: has not begun", True
    for path in begun:
        try:
            status = status_of_directory(path)
        except BatchrunnerError as error:
            yield f"judge {path.name}: {error}", False
        else:
            yield judge_line(path.name, status), bool(left_to_judge(status.items))
