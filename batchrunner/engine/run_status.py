"""Where the run stands at this moment, as the contract's value: from the state, the lanes and the totals."""

import asyncio
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Final

from batchrunner.core.budget import BudgetLine
from batchrunner.core.control import UNCONTROLLED, ControlState
from batchrunner.core.errors import ExitStatus
from batchrunner.core.fallback import fallback_counts
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import Park
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.pacing import day_of, next_midnight
from batchrunner.core.plan import PlanningPass, Totals, count_items
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.core.status import (
    BatchStatus,
    FailureGroup,
    ItemCounts,
    LaneReason,
    LaneStatus,
    RunState,
    SendCounts,
    Status,
    UsageCounts,
    Wait,
)
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.lanes import Lane
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.work_queue import WorkQueue

_MOST_GROUPS = 50
STATES: Mapping[ExitStatus, RunState] = {
    ExitStatus.DONE: "done",
    ExitStatus.FAILED: "failed",
    ExitStatus.MISTAKE: "stopped",
    ExitStatus.PAUSED: "paused",
    ExitStatus.STOPPED: "stopped",
    ExitStatus.REFUSED: "refused",
    ExitStatus.INTERRUPTED: "interrupted",
    ExitStatus.TERMINATED: "interrupted",
}


def send_counts(state: LedgerState) -> SendCounts:
    """Paid POSTs over all runs."""
    return SendCounts(
        total=state.sends,
        refused=state.refused,
        ambiguous=state.ambiguous,
        unknown=state.unknown,
        possible_duplicates=state.ambiguous + state.unknown,
    )


def usage_counts(state: LedgerState) -> UsageCounts:
    """Tokens and pictures over all runs."""
    tallies = state.tallies.values()  # every reply's; the sums of the state itself are of answers only
    return UsageCounts(
        input_tokens=state.input_tokens,
        output_tokens=state.output_tokens,
        images=state.images,
        cache_read_tokens=state.cache_read,
        cache_write_tokens=state.cache_write,
        unanswered_input_tokens=max(0, sum(tally.input_tokens for tally in tallies) - (state.input_tokens or 0)),
        unanswered_output_tokens=max(0, sum(tally.output_tokens for tally in tallies) - (state.output_tokens or 0)),
    )


def batch_statuses(state: LedgerState, *, offset_s: float) -> tuple[BatchStatus, ...]:
    """Every batch of the directory, by number."""

    def shown(wall: float | None) -> str | None:
        return shown_time(wall, offset_s=offset_s) if wall else None

    return tuple(
        BatchStatus(
            number=batch.number,
            id=batch.batch_id or None,
            model=batch.model,
            account=batch.account,
            state=batch.stage,
            items=batch.items,
            left=batch.left,
            done=batch.done,
            failed=batch.failed,
            returned=batch.returned,
            reason=batch.held or batch.word or None,
            accepted=shown(batch.accepted_at),
            expires=shown(batch.expires_at),
        )
        for batch in state.batches.known.values()
    )


def held_groups(state: LedgerState) -> tuple[FailureGroup, ...]:
    """Items that wait for a person, by why."""
    groups: dict[tuple[str, str], FailureGroup] = {}
    for item in state.held.values():
        cause = item.kind, item.message
        if cause in groups or len(groups) < _MOST_GROUPS:
            known = groups.get(cause)
            groups[cause] = FailureGroup(
                kind=item.kind,
                message=item.message,
                count=known.count + 1 if known else 1,
                example=known.example if known else item.item_id,
            )
    return tuple(groups.values())


def shown_time(wall: float, *, offset_s: float) -> str:
    """RFC 3339 in the zone where the provider's day turns: quota times are shown as the provider means them."""
    zone = timezone(timedelta(seconds=offset_s))
    return datetime.fromtimestamp(wall, zone).isoformat(timespec="seconds")


def lane_status(lane: Lane, queue: WorkQueue, state: LedgerState, *, offset_s: float, now: float) -> LaneStatus:
    """A lane of this process; its items are counted by `with_items`."""
    loop_now = asyncio.get_running_loop().time()
    per_day, left_today = lane.day_limit or (lane.quota_per_day, lane.model_remaining)
    if lane.day_limit is None and left_today:
        today = day_of(wall=now, offset_s=offset_s)
        per_day = max(1, state.sent_today(lane.account, lane.model, day=today) - lane.in_flight) + left_today
    status = LaneStatus(
        account=lane.account,
        model=lane.model,
        state="open",
        concurrency=lane.limit,
        in_flight=lane.in_flight,
        in_flight_s=lane.in_flight_s(loop_now),
        open_tasks=lane.open_tasks,
        retrying=len(lane.retries_at),
        retry_in_s=round(max(0.0, min(lane.retries_at) - loop_now), 1) if lane.retries_at else None,
        per_day=per_day,
        left_today=left_today if per_day else None,
        day_turns=shown_time(next_midnight(wall=now, offset_s=offset_s), offset_s=offset_s) if per_day else None,
    )
    if lane.closed is not None:
        kind = reason_named(lane.closed.kind)
        words = lane.closed.reason if kind is None else lane.last_problem
        return replace(
            status, state="stopped", reason=lane.closed.reason, activity="closed", kind=kind, words=words or None
        )
    if queue.rejected is not None:
        return replace(status, activity="closed", kind=queue.rejected.kind, words=queue.rejected.message)
    if queue.drained:
        return replace(status, activity="done", retrying=0, retry_in_s=None)
    if lane.paused:
        reason = "paused by a command; `batchrunner resume` lets it go on"
        return replace(status, state="waiting", reason=reason, activity="paused", kind=LaneReason.COMMAND)
    if lane.park is not None and lane.park.until is not None and lane.park.until > now:
        until = shown_time(lane.park.until, offset_s=offset_s)
        status = replace(status, state="parked", reason=lane.park.reason, until=until, activity="parked")
        return replace(status, kind=reason_named(lane.park.kind), words=lane.last_problem or lane.park.reason)
    if lane.day_is_spent:
        until = shown_time(lane.day_ends_at, offset_s=offset_s)
        reason = "limits.requests_per_day reached"
        kind = LaneReason.REQUESTS_PER_DAY
        return replace(status, state="parked", reason=reason, until=until, activity="parked", kind=kind)
    return _in_trouble(lane, status)


def _in_trouble(lane: Lane, status: LaneStatus) -> LaneStatus:
    """The same lane, which may send, with what keeps its items from it."""
    words = lane.last_problem or None
    if lane.probing and lane.park is not None:
        reason = f"probing with single requests after: {lane.park.reason}"
        return replace(status, state="waiting", reason=reason, kind=LaneReason.PROBING, words=words)
    if lane.alive <= lane.in_flight + lane.open_tasks:
        return status
    last = f"; last problem: {words}" if words else ""
    if lane.retries_at:
        reason, kind = f"backing off (retry in {status.retry_in_s:.0f} s)", LaneReason.BACKOFF
    elif lane.retries_queued:
        reason, kind = "retries wait for a free slot", LaneReason.SLOT
    else:
        reason, kind = "writing results", LaneReason.WRITING
    status = replace(status, state="waiting", reason=f"{reason}{last}", kind=kind, words=words)
    return replace(status, activity="retrying") if status.retrying > lane.in_flight else status


def with_items(status: LaneStatus, queue: WorkQueue, found: PlanningPass, *, more: int, failed: int) -> LaneStatus:
    """The same with the items of its model: `more` than are to be sent for the first time, `failed` in this run."""
    model = status.model
    total = found.per_model.get(model, 0) - found.unasked.get(model, 0)
    if not total:
        return status
    asked = more + (found.ahead[model].calls if model in found.ahead else 0)
    return replace(status, total=total, left=min(total, max(0, asked - queue.finished - failed)), failed=failed)


def lanes_of_run(
    lanes: Iterable[Lane],
    queues: Mapping[str, WorkQueue],
    state: LedgerState,
    found: PlanningPass,
    *,
    more: Mapping[str, int],
    failed: Mapping[str, int],
    unserved: Mapping[tuple[str, str, str], int],
    offset_s: float,
    now: float,
) -> list[LaneStatus]:
    """The lanes of this process with the items of their models, and tasks that it cannot ask for.

    By model, `more` items than those that are sent for the first time; `failed`: in this run.
    """
    found_lanes = [
        with_items(
            lane_status(lane, queues[lane.model], state, offset_s=offset_s, now=now),
            queues[lane.model],
            found,
            more=more.get(lane.model, 0),
            failed=failed.get(lane.model, 0),
        )
        for lane in lanes
    ]
    return found_lanes + [unserved_status(*cause, count) for cause, count in unserved.items()]


def unserved_status(account: str, model: str, why: str, count: int) -> LaneStatus:
    """Accepted tasks that this process cannot ask for."""
    reason = left_words(count, why)
    return LaneStatus(
        account=account,
        model=model,
        state="parked",
        reason=reason,
        activity="closed",
        kind=LaneReason.ELSEWHERE,
        words=reason,
    )


def reason_named(kind: str) -> ProblemKind | LaneReason | None:
    """What the ledger and closed lanes call a reason; None for one that this version does not know."""
    return _REASONS.get(kind)


_REASONS: Final[Mapping[str, ProblemKind | LaneReason]] = {
    **{kind.value: kind for kind in ProblemKind},
    **{reason.value: reason for reason in LaneReason},
}


def park_status(account: str, model: str, park: Park, *, offset_s: float, now: float) -> LaneStatus:
    """A lane that is parked according to the ledger; one whose time has come is tried by the next run."""
    waits = park.until is not None and park.until > now
    return LaneStatus(
        account=account,
        model=model,
        state="parked" if waits else "stopped" if park.until is None else "waiting",
        reason=park.reason,
        until=shown_time(park.until, offset_s=offset_s) if park.until is not None else None,
        activity="parked" if waits else "closed" if park.until is None else "working",
        kind=reason_named(park.kind),
        words=park.reason,
    )


def status_of(
    job: Job,
    state: LedgerState,
    totals: Totals,
    *,
    now: float,
    run_state: RunState,
    lanes: Iterable[LaneStatus] = (),
    failures: Iterable[FailureGroup] = (),
    waiting: Wait | None = None,
    ends: Wait | None = None,
    budget: tuple[BudgetLine, ...] = (),
    control: ControlState = UNCONTROLLED,
) -> Status:
    """The whole of it."""
    return Status(
        job=job.name,
        state=run_state,
        items=count_items(state, totals, now=now),
        sends=send_counts(state),
        usage=usage_counts(state),
        reused=state.reused,
        lanes=tuple(lanes),
        dir=job.output.dir,
        simulated=job.simulated,
        failures=tuple(failures),
        held=held_groups(state),
        fallbacks=fallback_counts(state),
        batches=batch_statuses(state, offset_s=PRESETS[job.provider.preset].day_offset_s),
        waiting=waiting,
        ends=ends,
        budget=budget,
        timezone=job.timezone,
        control=control,
    )


def with_end(status: Status, exit_status: ExitStatus, *, message: str | None, next_command: str | None) -> Status:
    """The same at the end of the run. One that was asked for a part only and did it leaves the rest pending."""
    part = exit_status is ExitStatus.DONE and status.items.pending
    state: RunState = "pending" if part else STATES[exit_status]
    return replace(status, state=state, message=message, next_command=next_command, waiting=None, ends=None)


def part_words(part: ItemCounts | None) -> str | None:
    """What `status` says later of a run on a part of the job; None for the whole."""
    if part is None:
        return None
    return f"the last run was about {part.total:,} of the items, {part.done:,} of which are done; it sent no other"


def going_on(items: ItemCounts, command: str | None, *, paused_in: str | None = None) -> str | None:
    """The exact command that continues the run, given the one that began it; None when nothing is left to do.

    `paused_in` is its directory where the run is paused: it has to be resumed first.
    """
    left = items.pending or items.accepted or items.timed_out
    if command is None or not (left or items.lost or items.held or items.failed):
        return None
    if not left:
        command += " --resend-lost" if items.lost else " --resend-held" if items.held else " --retry-failed"
    return command if paused_in is None else resuming(paused_in, command)


def resuming(folder: str, command: str | None) -> str:
    """The command that lets a paused run go on; begun as `command` was."""
    program = command.partition(" run ")[0] if command is not None else "batchrunner"
    resume = f"{program} resume {shlex.quote(folder)}"
    return resume if command is None else f"{resume} && {command}"


def resting_state(items: ItemCounts) -> RunState:
    """The state of a run that no process works on."""
    if items.pending or items.accepted or items.held or items.timed_out:
        return "paused" if items.done or items.failed or items.accepted or items.timed_out else "pending"
    if items.lost:
        return "stopped"
    return "failed" if items.failed else "done"


# How a run ended, when nothing was raised: its exit status and the reason, from what is left and why.

_LEFT: Final = {
    "held": "awaiting your decision (--resend-held)",
    "timed_out": "timed out, still running remotely",
    "download_failed": "with pictures that could not be downloaded",
}
_MOST_REASONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """What is left at the end of a run."""

    shutdown: Shutdown
    lanes: tuple[Lane, ...]
    queues: Iterable[WorkQueue]
    items: ItemCounts
    left_open: bool
    """Items were left unfinished: held, late at the server, or waiting for a key that is not there."""
    spent: str | None
    """Why the budget lets nothing more through."""
    unasked: tuple[str, ...] = ()
    """Accepted tasks that this run could not ask for, and why."""
    last_words: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(why, what the server said last) -> items that are left unfinished so."""

    def exit_status(self) -> ExitStatus:
        """What is beyond `--limit` does not count as left."""
        if self.shutdown.requests:
            interrupted = self.shutdown.signal_number in {None, ExitStatus.INTERRUPTED - 128}
            return ExitStatus.INTERRUPTED if interrupted else ExitStatus.TERMINATED
        undrained = any(not queue.drained for queue in self.queues)
        if undrained and any(lane.closed is not None and lane.closed.refused_account for lane in self.lanes):
            return ExitStatus.REFUSED
        if undrained and any(lane.closed is not None and lane.closed.mistake for lane in self.lanes):
            return ExitStatus.MISTAKE
        items = self.items
        if self.shutdown.paused is not None and not items.pending and not items.accepted:
            undrained = False  # the sources were not read to their end, but nothing in the rest of them is to be sent
        if undrained or self.left_open or items.held or items.timed_out:
            return ExitStatus.PAUSED
        if items.lost:
            return ExitStatus.STOPPED
        return ExitStatus.FAILED if items.failed else ExitStatus.DONE

    def message(self) -> str | None:
        """The job's own wish, or the words of whoever refused; None when nothing stopped it."""
        if self.exit_status() is ExitStatus.PAUSED and (wish := self.shutdown.paused or self.spent):
            return "; ".join([wish, *self._nothing_succeeded()])
        if self.exit_status() is ExitStatus.STOPPED:
            return lost_words(self.items.lost)
        reasons = [lane.closed.reason for lane in self.lanes if lane.closed is not None][:1]
        left = [
            f"{count:,} {_LEFT[why]}; last message: {words}"
            for (why, words), count in sorted(self.last_words.items(), key=lambda entry: -entry[1])
            if why in _LEFT
        ]
        reasons_given = [*reasons, *self.unasked, *left] or self._nothing_succeeded()
        return "; ".join(reasons_given[:_MOST_REASONS]) or None

    def _nothing_succeeded(self) -> list[str]:
        """The last problem, if a run that was ended from outside had nothing else."""
        if any(queue.answers for queue in self.queues):
            return []
        problems = dict.fromkeys(lane.last_problem for lane in self.lanes if lane.last_problem and not lane.open_tasks)
        return [f"no request succeeded: {problem}" for problem in problems][:1]


def left_words(count: int, why: str) -> str:
    """`2 remote tasks started at https://…`, with a reason of `planning.why_left`."""
    return f"{count:,} remote task{'' if count == 1 else 's'} {why}"


def lost_words(lost: int) -> str:
    """What it means that so many done items have no row or picture, and what to do."""
    items = "1 finished item has" if lost == 1 else f"{lost:,} finished items have"
    return f"{items} lost a row or picture from the directory; restore it, or pay again with --resend-lost"
