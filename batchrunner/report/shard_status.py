"""The status of a job that is divided into shards: those of its shards, added up."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from batchrunner.core.budget import BudgetLine
from batchrunner.core.part import Shard
from batchrunner.core.shard import for_processes
from batchrunner.core.status import (
    FailureGroup,
    ItemCounts,
    LaneStatus,
    RunState,
    SendCounts,
    ShardStatus,
    Status,
    UsageCounts,
)
from batchrunner.core.values import field_names, replace
from batchrunner.report.directory_status import status_of_directory
from batchrunner.stores.files import DISK
from batchrunner.stores.lock import holder_of
from batchrunner.stores.run_file import RUN_FILE, SHARDS, RunFile, read_run_file
from batchrunner.stores.shards import all_shards, divided_words, processes_here, read_layout, shard_folder

_FIRST: Final[tuple[RunState, ...]] = ("running", "refused", "stopped", "interrupted", "paused", "pending", "failed")
"""Of the states of several shards, the one that comes first here is that of the job; `done` where none of them is."""
_OF_A_SHARD: Final = ("shard", "limits", "budget", "overridden", "file", "folder", "picture_folders", "images_from")
"""What of a job may differ between its shards."""
_OVER: Final = frozenset({"done", "failed"})

Counts = TypeVar("Counts", ItemCounts, SendCounts)


def status_of_shards(base: Path) -> Status:
    """What all shards have come to so far. Blocks.

    Raises:
        WrongDirectoryError, LedgerDamagedError, StoreBrokenError: of the layout, or of a shard, as `replay`.
    """
    layout = read_layout(base)
    assert layout is not None, "asked for a job that is divided"
    found: list[tuple[Shard, Status]] = []
    shown: list[ShardStatus] = []
    for shard in all_shards(layout):
        folder = shard_folder(base, shard)
        if DISK.exists(folder / RUN_FILE):
            status = status_of_directory(folder)
            found.append((shard, status))
            shown.append(ShardStatus(shard=str(shard), state=status.state, items=status.items, dir=str(folder)))
        else:
            shown.append(ShardStatus(shard=str(shard), state="pending", items=None, dir=str(folder)))
    statuses = [status for _, status in found]
    states = {one.state for one in shown}
    state: RunState = next((first for first in _FIRST if first in states), "done")
    missing = len(shown) - len(found)
    notes = [f"{missing} of {len(shown)} shards have not begun: their items are not counted"] if missing else []
    files = {shard: file for shard, _ in found if (file := read_run_file(shard_folder(base, shard))) is not None}
    notes += _forms(files)
    notes += [divided_words(base)] if not states <= _OVER and state != "running" else []
    notes += [f"shard {shard}: {note}" for shard, status in found for note in status.notes]
    unaccounted = [status.unaccounted_max for status in statuses if status.unaccounted_max is not None]
    return Status(
        job=layout.job,
        state=state,
        items=_sum(ItemCounts, [status.items for status in statuses]),
        sends=_sum(SendCounts, [status.sends for status in statuses]),
        usage=_usage([status.usage for status in statuses]),
        lanes=_lanes(statuses),
        unaccounted_max=sum(unaccounted) if unaccounted else None,
        dir=str(base),
        simulated=layout.simulated,
        failures=_groups(group for status in statuses for group in status.failures),
        held=_groups(group for status in statuses for group in status.held),
        batches=tuple(batch for status in statuses for batch in status.batches),
        budget=_budget(found, newest_leased=_newest_leased(base, files)),
        notes=tuple(notes),
        next_command=_next(base, found, states),
        message=next((f"shard {shard}: {status.message}" for shard, status in found if status.message), None),
        shards=tuple(shown),
    )


def _forms(files: Mapping[Shard, RunFile]) -> list[str]:
    """That the job file was changed between shards; their parts of the limits may differ."""
    forms: dict[str, list[str]] = {}
    for shard, file in files.items():
        output = {**output, "dir": None} if isinstance(output := file.job.get("output"), dict) else output
        text = json.dumps({**file.job, "output": output, **dict.fromkeys(_OF_A_SHARD)}, sort_keys=True)
        if isinstance(folder := file.job.get("folder"), str) and folder not in {"", "."}:
            text = text.replace(f"{json.dumps(folder)[1:-1]}/", "")  # another machine may have the job elsewhere
        forms.setdefault(text, []).append(str(shard))
    of = "; ".join(", ".join(shards) for shards in forms.values())
    words = (
        f"the job file was changed between the shards ({of}): after the merge, `run` sends what is missing of its "
        "present form"
    )
    return [words] if len(forms) > 1 else []


def _next(base: Path, found: list[tuple[Shard, Status]], states: set[RunState]) -> str | None:
    """`merge` when all shards are over; else what goes on with the first that is not, if nothing works on it.

    A worker's command names a coordinator: where that is gone, processes of this machine go on.
    """
    if states <= _OVER:
        return f"batchrunner merge {shlex.quote(str(base))}"
    command = next((status.next_command for _, status in found if status.next_command is not None), None)
    if command is None or holder_of(base / SHARDS) is not None:
        return command
    return for_processes(command, processes=processes_here(found[0][0].of))


def _sum(kind: type[Counts], all_counts: list[Counts]) -> Counts:
    return kind(**{name: sum(getattr(counts, name) for counts in all_counts) for name in field_names(kind)})


def _usage(usages: list[UsageCounts]) -> UsageCounts:
    """None where none of them knows a figure."""
    known = {name: [getattr(usage, name) for usage in usages] for name in field_names(UsageCounts)}
    numbers = {name: [value for value in values if value is not None] for name, values in known.items()}
    return UsageCounts(**{name: sum(values) for name, values in numbers.items() if values})


def _lanes(statuses: list[Status]) -> tuple[LaneStatus, ...]:
    """Of lanes with the same account, model and trouble the one that waits longest."""
    longest: dict[tuple[str, str, str | None], LaneStatus] = {}
    for lane in (lane for status in statuses for lane in status.lanes):
        known = longest.get(key := (lane.account, lane.model, lane.kind))
        if known is None or (known.until or "") < (lane.until or ""):
            longest[key] = lane
    return tuple(longest.values())


def _groups(groups: Iterable[FailureGroup]) -> tuple[FailureGroup, ...]:
    counts, first = Counter[tuple[str, str]](), dict[tuple[str, str], FailureGroup]()
    for group in groups:
        counts[group.kind, group.message] += group.count
        first.setdefault((group.kind, group.message), group)
    return tuple(replace(first[cause], count=count) for cause, count in counts.most_common())


def _newest_leased(base: Path, files: Mapping[Shard, RunFile]) -> Shard | None:
    """Of the shards that a coordinator gave out, the one that was begun last: it has the budget as it is now."""
    written: dict[Shard, int] = {}
    for shard, file in files.items():
        its = file.job.get("shard")
        look = DISK.look(shard_folder(base, shard) / RUN_FILE)
        if isinstance(its, dict) and its.get("is_leased") and look is not None:
            written[shard] = look.mtime_ns
    return max(written, key=lambda shard: written[shard], default=None)


def _budget(found: list[tuple[Shard, Status]], *, newest_leased: Shard | None) -> tuple[BudgetLine, ...]:
    """What all shards have used. Limits that were divided are added up; those that a coordinator leases are the job's.

    Of shards that have not begun no part is known.
    """
    limits = {line.unit: line.limit for shard, status in found if shard == newest_leased for line in status.budget}
    lines: dict[str, BudgetLine] = {}
    for line in (line for _, status in found for line in status.budget):
        known = lines.get(line.unit)
        if newest_leased is not None:
            if line.unit not in limits:
                continue
            limit = limits[line.unit]
        elif known is None:
            limit = line.limit
        else:
            limit = None if known.limit is None or line.limit is None else known.limit + line.limit
        before = replace(line, spent=0.0, in_flight=0.0) if known is None else known
        lines[line.unit] = replace(
            before, limit=limit, spent=before.spent + line.spent, in_flight=before.in_flight + line.in_flight
        )
    return tuple(lines.values())
