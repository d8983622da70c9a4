"""What a merged directory remembers, so that its next run need not look at everything again: a checkpoint, run.json.

A shard that ended well left a checkpoint, and marks of its files. Where every shard did, none of them had to be
repaired, and nothing is under way, the states of all are put together: it is the one that a replay of the merged ledger
comes to, and the merged directory is vouched for. Else the next run reads the ledger and the rows, as after a crash.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from batchrunner.core.budget import Tally
from batchrunner.core.item_table import ItemTable
from batchrunner.core.job import Json
from batchrunner.core.lifecycle import EPOCHS, MODEL_MASK
from batchrunner.core.remote_batch import Figures
from batchrunner.core.shard import for_whole_job
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field, field_names, replace
from batchrunner.stores.checkpoint import SegmentMark, restored, write_checkpoint
from batchrunner.stores.files import DISK, marks_of, stands_as_marked
from batchrunner.stores.ledger_line import LEDGER, segment_numbers
from batchrunner.stores.ledger_salvage import SegmentLeft
from batchrunner.stores.run_file import RunFile

_FIRST_EPOCH: Final = 1
_SUMS: Final = ("sends", "refused", "ambiguous", "unknown", "doubtful_count", "images", "reused", "segments")
_KNOWN_SUMS: Final = ("input_tokens", "output_tokens", "cache_read", "cache_write")
"""None where no server has told any."""
_TALLIED: Final = tuple(name for name in field_names(Tally) if name != "batched")
_OPEN: Final = ("uncorrected", "tasks", "kept_tasks", "held", "shared_tasks", "parks", "batches")
"""What would have to be told apart, if there were any."""
_JOB_DIGITS: Final = 32
"""Of a digest of a job and of its items, those of the job."""


def state_at_its_end(folder: Path, run: RunFile) -> tuple[LedgerState, int] | None:
    """The state of a run that ended well, and the length of its only segment; None: its ledger has to be read. Blocks.

    Nothing in its directory has changed since. Raises OSError, StoreBrokenError.
    """
    kept = restored(DISK, folder / LEDGER, run.checkpointed, day_offset_s=None)
    if kept is None or run.checkpointed is None or segment_numbers(DISK.names(folder / LEDGER)) != [1]:
        return None
    if not stands_as_marked(DISK, folder, kept.state.marked):
        return None
    kept.state.segment_ended()
    return kept.state, run.checkpointed[2]


@dataclass(slots=True)
class JoinedState:
    """The states of all shards as one: `add` each, in the order of their ledgers."""

    is_known: bool = True
    """False once a shard had to be looked at row by row, or cannot be put together with the others."""
    figures: Figures | None = None
    table: ItemTable = field(default_factory=ItemTable)
    outputs: set[str] = field(default_factory=set)
    """Folders of pictures and answers."""

    def add(self, state: LedgerState | None) -> None:
        """The state of a shard as its checkpoint has it; None: it has none that holds."""
        if not self.is_known or state is None or state.marked is None or not _is_settled(more := state.figures()):
            self.is_known = False
            return
        before = self.figures
        self.figures = more if before is None else _joined(before, more)
        names = [name for name, _ in self.figures.models]
        epochs = 0 if before is None else before.epoch - _FIRST_EPOCH
        tasks = [(origin, task) for origin, task, _ in self.figures.task_owners]
        is_room = len(names) <= MODEL_MASK and self.figures.epoch < EPOCHS
        # where a server gave items of two shards one task, the second one is doubtful
        self.is_known = is_room and len(set(tasks)) == len(tasks) and self.figures.day_offset_s == more.day_offset_s
        if not self.is_known:
            return
        self.table.take_in(state.table, models=[names.index(name) for name, _ in more.models], epochs=epochs)
        self.outputs.update(name for name, *_ in state.marked.folders)

    def state(self, *, length: int, labels: str) -> LedgerState | None:
        """After results.jsonl was written, of this length and with these labels; None where it is not known."""
        if not self.is_known or self.figures is None:
            return None
        state = LedgerState(day_offset_s=self.figures.day_offset_s)
        figures = replace(
            self.figures,
            epoch=self.figures.epoch + 1,
            segments=self.figures.segments + 1,
            results_length=length,
            labels=[labels],
            unsettled=False,
        )
        return state if state.take_over(figures, self.table) else None

    def kept(self, base: Path, ledger: Path, segment: int, *, length: int, labels: str, at: float) -> SegmentLeft:
        """Marks of the directory and of the checkpoint that this writes beside the last segment. Raises OSError."""
        state = self.state(length=length, labels=labels)
        marks = marks_of(DISK, base, self.outputs) if state is not None else None
        if state is None or marks is None:
            return None, None
        return marks, write_checkpoint(DISK, ledger, state, segment=segment, intact_at=at)


def _is_settled(figures: Figures) -> bool:
    """Whether nothing is open that would have to be told apart."""
    is_alone = not any(tally.batched for _, tally in figures.models) and not figures.handed_over[0]
    return is_alone and not any(getattr(figures, name) for name in _OPEN)


def _joined(one: Figures, other: Figures) -> Figures:
    """Of both, the other one's ledger after the first one's; of another day's sends only the later day's count."""
    sums: dict[str, Any] = {name: getattr(one, name) + getattr(other, name) for name in _SUMS}
    for name in _KNOWN_SUMS:
        told = [value for each in (one, other) if (value := getattr(each, name)) is not None]
        sums[name] = sum(told) if told else None
    days = {(account, model): (day, sends) for account, model, day, sends in one.days}
    for account, model, day, sends in other.days:
        known, before = days.get((account, model), (day, 0))
        days[account, model] = max(known, day), sends * (day >= known) + before * (known >= day)
    models = dict(one.models)
    for name, tally in other.models:
        before_it = models.get(name, Tally())
        models[name] = Tally(**{each: getattr(before_it, each) + getattr(tally, each) for each in _TALLIED})
    return replace(
        one,
        **sums,
        counts=[sum(pair) for pair in zip(one.counts, other.counts, strict=True)],
        days=[(*lane, *counted) for lane, counted in days.items()],
        models=list(models.items()),
        task_owners=[*one.task_owners, *other.task_owners],
        most_sending=max(one.most_sending, other.most_sending),
        epoch=one.epoch + other.epoch - _FIRST_EPOCH,
    )


def merged_run_file(
    base: Path,
    files: Sequence[RunFile],
    *,
    left: dict[str, int],
    segment: SegmentMark,
    has_checkpoint: bool,
    labels: str,
    job_digest: str,
) -> RunFile:
    """run.json of a run of the whole job which was interrupted: the next run of the job writes it anew.

    Args:
        base: the directory of the whole job.
        files: those of the shards.
        left: items by state.
        segment: the last one of the merged ledger.
        has_checkpoint: whether the state at its end is kept beside it.
        labels: of the rows, see `core.plan.Labels`.
        job_digest: of the whole job that all shards were run with; empty where that is not known.
    """
    newest = max(files, key=lambda one: one.created)
    output = newest.job.get("output")
    job = {**newest.job, "shard": None}
    if isinstance(output, dict):
        job["output"] = {**output, "dir": str(base)}
    return msgspec.structs.replace(
        newest,
        created=min(one.created for one in files),
        job=job,
        totals=_totals(files, labels=labels, job_digest=job_digest),
        command=for_whole_job(newest.command),
        command_elsewhere=for_whole_job(newest.command_elsewhere),
        ended=None,
        message=None,
        segment=segment[0],
        segment_bytes=segment[2],
        segment_left=left,
        checkpointed=segment if has_checkpoint else None,
    )


def _totals(files: Sequence[RunFile], *, labels: str, job_digest: str) -> dict[str, Json] | None:
    """Those of all shards together.

    Where each has gone through the same items, whole, and all shards are here, the digest says so to the next run.
    """
    known = [one.totals for one in files if one.totals is not None]
    if not known:
        return None
    made_of = {str(one.get("digest", ""))[_JOB_DIGITS:] for one in known}
    digest = job_digest + made_of.pop() if job_digest and len(made_of) == 1 and len(known) == len(files) else ""
    digest = digest if len(digest) > len(job_digest) else ""
    totals: dict[str, Json] = {**known[-1], "labels": labels, "digest": digest, "windows": {}}
    for name in ("total", "lost"):
        totals[name] = sum(number for one in known if isinstance(number := one.get(name, 0), int))
    for name in ("shared", "vanished"):
        merged: dict[str, Json] = {}
        for one in known:
            for key, number in part.items() if isinstance(part := one.get(name), dict) else ():
                before = merged.get(key, 0)
                merged[key] = number + before if isinstance(number, int) and isinstance(before, int) else number
        totals[name] = merged
    return totals
