"""The closing words of a run, and where one stands: text made from a `Status` alone.

Every word that came from a prompt, a server or a file name passes `printable`; the last line is the exact command that
goes on, when something is left to do. Refuses to guess: what no server told is not shown.
"""

from collections.abc import Iterator
from pathlib import PurePath

from batchrunner.core.budget import BudgetLine, figure
from batchrunner.core.status import (
    FailureGroup,
    ItemCounts,
    LaneStatus,
    RunState,
    SendCounts,
    Status,
    UsageCounts,
    Wait,
)
from batchrunner.report.plain import printable
from batchrunner.report.words import count, instant

STATES: dict[RunState, str] = {
    "running": "running",
    "done": "every item is done",
    "failed": "finished, some items failed",
    "paused": "paused, run again later",
    "stopped": "stopped before the end",
    "refused": "the provider refused the account",
    "interrupted": "interrupted, nothing is lost",
    "pending": "not finished",
}

_PARTS: tuple[tuple[str, str], ...] = (
    ("failed", "failed"),
    ("accepted", "being made by the server"),
    ("timed_out", "late at the server"),
    ("held", "held"),
    ("lost", "lost"),
    ("pending", "still to send"),
)
"""Fields of `ItemCounts` besides `done`, and what people call them."""

_MOST_MESSAGE = 240
_MOST_NAME = 60
_MOST_GROUPS = 10
_MOST_LANES = 20
_LABEL_WIDTH = 9


def summary(status: Status) -> str:
    """Several lines without an end of line; the last one starts with `next: ` when something is left to do."""
    lines = [_headline(status), *(f"  {label:<{_LABEL_WIDTH}} {text}" for label, text in _body(status))]
    if status.next_command is not None:
        lines.append(f"next: {printable(status.next_command)}")
    return "\n".join(lines)


def items_line(items: ItemCounts) -> str:
    """`512 of 600 done, 3 failed, 45 still to send`; what is zero is left out."""
    parts = [f"{items.done:,} of {items.total:,} done"]
    parts += [f"{getattr(items, field):,} {words}" for field, words in _PARTS if getattr(items, field)]
    return ", ".join(parts)


def lane_line(lane: LaneStatus) -> str:
    """Which lane does not go on, why, and until when."""
    why = f": {printable(lane.reason, most=_MOST_MESSAGE)}" if lane.reason else ""
    end = f", until {printable(instant(lane.until))}" if lane.until else ""
    return f"{lane_name(lane)} {lane.state}{why}{end}"


def wait_line(wait: Wait) -> str:
    """Why the whole run waits, and until when."""
    return f"{printable(wait.reason, most=_MOST_MESSAGE)}, until {printable(instant(wait.until))}"


def budget_line(line: BudgetLine) -> str:
    """`412 of 500 calls, 4 more in flight`; without a limit only what is gone."""
    unit = printable(line.currency or line.unit, most=_MOST_NAME)
    limit = f" of {figure(line.limit)}" if line.limit is not None else ""
    flying = f", {figure(line.in_flight)} more in flight" if line.in_flight else ""
    return f"{figure(line.spent)}{limit} {unit}{flying}"


def lane_name(lane: LaneStatus) -> str:
    """Account and model, as far as they have names."""
    return " · ".join(printable(part, most=_MOST_NAME) for part in (lane.account, lane.model) if part) or "the lane"


def usage_line(usage: UsageCounts) -> str:
    """`512 pictures, 1,200 tokens in, 800 tokens out`; empty when nothing is known."""
    parts = [count(usage.images, "picture")] if usage.images else []
    parts += [f"{usage.input_tokens:,} tokens in"] if usage.input_tokens is not None else []
    parts += [f"{usage.output_tokens:,} tokens out"] if usage.output_tokens is not None else []
    return ", ".join(parts)


def _headline(status: Status) -> str:
    simulated = " (simulated)" if status.simulated else ""
    words = STATES[status.state]
    if status.state == "done" and status.items.done < status.items.total:
        words = "done as far as it was asked for"
    return f"{printable(status.job)}{simulated}: {words}"


def _body(status: Status) -> Iterator[tuple[str, str]]:
    if status.message:
        yield "because", printable(status.message, most=_MOST_MESSAGE)
    yield "items", items_line(status.items)
    yield from _sends(status.sends, status.unaccounted_max)
    if used := usage_line(status.usage):
        yield "got", used
    for line in status.budget:
        yield "budget", budget_line(line)
    yield from _places(status)
    yield from _failures(status.failures)
    yield from _internal(status)
    yield from _groups("held", status.held)
    if status.waiting is not None:
        yield "waits", wait_line(status.waiting)
    yield from _waits(status.lanes)
    for note in status.notes:
        yield "note", printable(note)


def _sends(sends: SendCounts, unaccounted_max: int | None) -> Iterator[tuple[str, str]]:
    refused = f", {sends.refused:,} of them turned away unpaid" if sends.refused else ""
    yield "sent", f"{count(sends.total, 'request')} over all runs{refused}"
    if sends.possible_duplicates:
        causes = f"{sends.ambiguous:,} without a clear answer, {sends.unknown:,} cut off by the end of a process"
        yield "beware", f"{count(sends.possible_duplicates, 'request')} may have been paid for nothing ({causes})"
    if unaccounted_max:
        yield "beware", f"up to {count(unaccounted_max, 'more request')} may have left before the last run was cut off"


def _places(status: Status) -> Iterator[tuple[str, str]]:
    if status.dir is None:
        return
    folder = PurePath(status.dir)
    if status.items.done:
        yield "results", printable(str(folder / "results.jsonl"))
    if status.usage.images:
        yield "pictures", printable(str(folder / "images"))
    if status.items.failed:
        yield "failures", printable(str(folder / "failures.jsonl"))


def _failures(groups: tuple[FailureGroup, ...]) -> Iterator[tuple[str, str]]:
    yield from _groups("failed", groups)


def _groups(label: str, groups: tuple[FailureGroup, ...]) -> Iterator[tuple[str, str]]:
    ordered = sorted(groups, key=lambda group: -group.count)
    for group in ordered[:_MOST_GROUPS]:
        message = f": {printable(group.message, most=_MOST_MESSAGE)}" if group.message else ""
        example = f"for example {printable(group.example)}" if group.count > 1 else printable(group.example)
        yield label, f"{group.count:,} × {printable(group.kind)}{message} ({example})"
    if rest := ordered[_MOST_GROUPS:]:
        yield label, f"{sum(group.count for group in rest):,} for {count(len(rest), 'other cause')}"


def _internal(status: Status) -> Iterator[tuple[str, str]]:
    """Faults of this program: where their tracebacks are, and what to do with them."""
    from batchrunner.core.outcome import ProblemKind  # noqa: PLC0415 - a large room that `--help` has no use for

    failed = sum(group.count for group in status.failures if group.kind == ProblemKind.INTERNAL)
    if failed and status.dir is not None:
        log = printable(str(PurePath(status.dir) / "errors.log"))
        yield "report", f"{count(failed, 'item')} failed by an error in batchrunner itself: please report it with {log}"


def _waits(lanes: tuple[LaneStatus, ...]) -> Iterator[tuple[str, str]]:
    stuck = [lane for lane in lanes if lane.state != "open"]
    for lane in stuck[:_MOST_LANES]:
        yield "waits", lane_line(lane)
    if len(stuck) > _MOST_LANES:
        yield "waits", f"and {count(len(stuck) - _MOST_LANES, 'more lane')}"
