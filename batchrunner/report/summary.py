"""The summary of a run: text made from a `Status` alone.

Text from a prompt, a server or a file name passes `printable`. If something is left to do, the last line is the exact
command that continues the run.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePath
from typing import TYPE_CHECKING

from batchrunner.core.budget import BudgetLine, figure
from batchrunner.core.control import ControlState
from batchrunner.core.fallback import FallbackCount
from batchrunner.core.job import Job
from batchrunner.core.status import (
    BatchStatus,
    FailureGroup,
    ItemCounts,
    LaneState,
    LaneStatus,
    RunState,
    SendCounts,
    ShardStatus,
    Status,
    UsageCounts,
    Wait,
)
from batchrunner.report.wording import count, printable
from batchrunner.stores.timezones import offset_of_zone

# Notes on the schedule and on balances of points.

if TYPE_CHECKING:
    from batchrunner.core.plan import PointBalance
    from batchrunner.core.remote_batch import BatchStage


def schedule_notes(job: Job, *, wall: float) -> tuple[str, ...]:
    """Notes: `window` and `deadline` use this machine's zone, without a `timezone`; who is not told; prices."""
    prices = job.budget.price_notes if job.budget is not None else ()
    unset = job.notify_apprise_env
    nobody = (
        () if unset is None or os.environ.get(unset) else (f"notify: {unset} is not set: no message is sent there",)
    )
    nobody = (*nobody, *prices)
    keys = [name for name, given in (("window", job.window), ("deadline", job.deadline)) if given is not None]
    if not keys or job.timezone is not None:
        return nobody
    zone = timezone(timedelta(seconds=offset_of_zone(None)(wall)))
    meant = datetime.fromtimestamp(wall, UTC).astimezone(zone).strftime("%z")
    words = " and ".join(f"`{key}`" for key in keys) + (" is" if len(keys) == 1 else " are")
    zone_note = f"{words} in this machine's local time (UTC{meant[:3]}:{meant[3:5]}); set `timezone` to use another"
    return zone_note, *nobody


def balance_line(balance: "PointBalance") -> str:
    """The points of an account, or that they are unknown."""
    if balance.available is None:
        return f"{balance.account}: points balance unknown ({printable(balance.why or 'no reason given')})"
    frozen = f", {figure(balance.frozen)} more reserved by running tasks" if balance.frozen else ""
    return f"{balance.account}: {figure(balance.available)} points{frozen}"


STATES: dict[RunState, str] = {
    "running": "running",
    "done": "every item is done",
    "failed": "finished; some items failed",
    "paused": "paused; run again to continue",
    "stopped": "stopped early",
    "refused": "the provider rejected the API key or account",
    "interrupted": "interrupted; finished results are saved",
    "pending": "unfinished",
}

LANE_STATES: dict[LaneState, str] = {"open": "open", "waiting": "waiting", "parked": "waiting", "stopped": "stopped"}
"""A parked lane waits, too: for longer, and then it sends single probes."""

_PARTS: tuple[tuple[str, str], ...] = (
    ("failed", "failed"),
    ("accepted", "running remotely"),
    ("timed_out", "timed out, still running remotely"),
    ("held", "awaiting your decision (--resend-held)"),
    ("lost", "lost"),
    ("pending", "still to send"),
)
"""Fields of `ItemCounts` besides `done`, and their labels."""

_MOST_MESSAGE = 240
_MOST_NAME = 60
_MOST_GROUPS = 10
_MOST_LANES = 20
_LABEL_WIDTH = 9


def summary(status: Status, *, now: datetime | None = None) -> str:
    """Several lines without an end of line; the last one starts with `next: ` when something is left to do."""
    body = _body(status, now or datetime.now(UTC))
    lines = [_headline(status), *(f"  {label:<{_LABEL_WIDTH}} {text}" for label, text in body)]
    if status.next_command is not None:
        lines.append(f"next: {printable(status.next_command)}")
    return "\n".join(lines)


def items_line(items: ItemCounts) -> str:
    """`512 of 600 done, 3 failed, 45 still to send`; what is zero is left out."""
    parts = [f"{items.done:,} of {items.total:,} done"]
    parts += [f"{getattr(items, field):,} {words}" for field, words in _PARTS if getattr(items, field)]
    return ", ".join(parts)


def shards_line(shards: tuple[ShardStatus, ...]) -> str:
    """`4: 2 done, 1 running, 1 not begun`."""
    states = Counter("not begun" if one.items is None else one.state for one in shards)
    return f"{len(shards):,}: " + ", ".join(f"{number:,} {state}" for state, number in states.most_common())


def begun_words(shards: tuple[ShardStatus, ...]) -> str:
    """` in 1 of 4 shards; the others have not begun`: whose items are counted; empty where all have begun."""
    begun = sum(one.items is not None for one in shards)
    if begun == len(shards):
        return ""
    others = "the other has" if len(shards) - begun == 1 else "the others have"
    return f" in {begun:,} of {len(shards):,} shards; {others} not begun"


def lane_line(lane: LaneStatus, status: Status, *, now: datetime) -> str:
    """`NAME waiting until Mon 00:05 (3 h 12 min): model's daily quota used up · come back tomorrow`.

    Our words first, then the server's, which may be long.
    """
    from batchrunner.report.waits import WAITS, until, zone_of  # noqa: PLC0415 - its table loads a large module

    end = f" until {printable(until(lane.until, now=now, zone=zone_of(status)))}" if lane.until else ""
    ours = WAITS[lane.kind] if lane.kind is not None else ""
    why = " · ".join(part for part in (ours, printable(lane.reason or "", most=_MOST_MESSAGE)) if part)
    return f"{lane_name(lane)} {LANE_STATES[lane.state]}{end}{': ' if why else ''}{why}"


def wait_line(wait: Wait, status: Status, *, now: datetime) -> str:
    """`until 22:00 (2 h): outside its window`: what all lanes wait for."""
    from batchrunner.report.waits import until, zone_of  # noqa: PLC0415 - as above

    end = printable(until(wait.until, now=now, zone=zone_of(status)))
    return f"until {end}: {printable(wait.reason, most=_MOST_MESSAGE)}"


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
    cached = [(usage.cache_read_tokens, "read from a cache"), (usage.cache_write_tokens, "written to one")]
    of_these = ", ".join(f"{tokens:,} {how}" for tokens, how in cached if tokens)
    of_these = f" ({of_these})" if of_these else ""
    parts += [f"{usage.input_tokens:,} tokens in{of_these}"] if usage.input_tokens is not None else []
    parts += [f"{usage.output_tokens:,} tokens out"] if usage.output_tokens is not None else []
    unanswered = usage.unanswered_input_tokens, usage.unanswered_output_tokens
    parts += ["besides {:,} in and {:,} out without an answer".format(*unanswered)] if any(unanswered) else []
    return ", ".join(parts)


def _headline(status: Status) -> str:
    simulated = " (simulated)" if status.simulated else ""
    words = STATES[status.state]
    if status.state == "done" and status.items.done < status.items.total:
        words = "done (limited by --limit)"
    if status.part is not None and status.state in {"done", "pending"}:
        words = "the part of the job that was asked for is done"
    return f"{printable(status.job)}{simulated}: {words}"


def _body(status: Status, now: datetime) -> Iterator[tuple[str, str]]:
    if status.message:
        yield "reason", printable(status.message, most=_MOST_MESSAGE)
    yield from _items(status)
    yield from _sends(status.sends, status.batches, status.unaccounted_max)
    if status.reused:
        yield "reused", f"{count(status.reused, 'answer')} of other runs, neither sent nor billed here"
    if used := usage_line(status.usage):
        yield "usage", used
    for line in status.budget:
        yield "budget", budget_line(line)
    for fallback in status.fallbacks:
        yield "fallback", fallback_line(fallback)
    yield from _places(status)
    yield from _failures(status.failures)
    yield from _internal(status)
    yield from _groups("held", status.held)
    for words in batch_lines(status):
        yield "batch", words
    for words in control_lines(status.control):
        yield "control", words
    if status.waiting is not None:
        yield "waiting", wait_line(status.waiting, status, now=now)
    yield from _waits(status, now)
    for note in status.notes:
        yield "note", printable(note)


def _items(status: Status) -> Iterator[tuple[str, str]]:
    if status.part is not None:
        yield "part", items_line(status.part)
    yield "items", items_line(status.items) + begun_words(status.shards)
    if status.shards:
        yield "shards", shards_line(status.shards)


def fallback_line(fallback: FallbackCount) -> str:
    """`NAME answered 11 of 12 prompts that an earlier model did not (12 content_filter)`."""
    reasons = ", ".join(f"{items:,} {printable(reason)}" for reason, items in fallback.reasons.items())
    model = printable(fallback.model, most=_MOST_NAME)
    prompts = count(fallback.items, "prompt")
    return f"{model} answered {fallback.answered:,} of {prompts} that the model before it did not ({reasons})"


_BATCH_STAGES: dict["BatchStage", str] = {
    "preparing": "not ordered yet",
    "submitting": "ordered, and not known whether the server took it",
    "accepted": "open at the server",
    "ended": "ended; results still to be read",
    "held": "awaiting your decision (`batchrunner adopt`, --resend-held)",
}
BATCH_WORDS: dict["BatchStage", str] = {**_BATCH_STAGES, "over": "results read", "dropped": "never ordered"}
_MOST_BATCHES = 10


def batch_lines(status: Status) -> Iterator[str]:
    """Open batches, a line each, and one for all that are over."""
    still_open = [batch for batch in status.batches if batch.state in _BATCH_STAGES]
    for batch in still_open[:_MOST_BATCHES]:
        name = printable(batch.id or f"number {batch.number}", most=_MOST_NAME)
        why = f": {printable(batch.reason, most=_MOST_MESSAGE)}" if batch.reason else ""
        expires = f", expires {batch.expires}" if batch.expires and batch.state == "accepted" else ""
        yield f"{name}, {batch.left:,} of {count(batch.items, 'item')}: {_BATCH_STAGES[batch.state]}{expires}{why}"
    if len(still_open) > _MOST_BATCHES:
        yield f"and {len(still_open) - _MOST_BATCHES:,} more open batches"
    over = [batch for batch in status.batches if batch.state == "over"]
    if over:
        done, failed, returned = (
            sum(getattr(batch, name) for batch in over) for name in ("done", "failed", "returned")
        )
        items = count(sum(batch.items for batch in over), "item")
        yield f"{_batches(len(over))} over, with {items}: {done:,} done, {failed:,} failed, {returned:,} given back"


def _batches(number: int) -> str:
    return "1 batch" if number == 1 else f"{number:,} batches"


def control_lines(control: ControlState) -> Iterator[str]:
    """What commands have in force, a line each."""
    if control.paused:
        by = f" by {printable(control.by)}" if control.by else ""
        since = f" at {printable(control.since)}" if control.since else ""
        yield f"paused{by}{since}; nothing is sent until `batchrunner resume DIR`"
    if control.settings:
        values = ", ".join(f"{key}={printable(str(value))}" for key, value in control.settings.items())
        yield f"set: {values}; `batchrunner set DIR KEY --reset` takes one back"
    if control.noted:
        yield f"{count(control.noted, 'command')} noted for the next run"


def _sends(sends: SendCounts, batches: Sequence[BatchStatus], unaccounted_max: int | None) -> Iterator[tuple[str, str]]:
    refused = f", {sends.refused:,} rejected (not billed)" if sends.refused else ""
    ordered = [batch.items for batch in batches if batch.id is not None]
    together = f"; {sum(ordered):,} of them in {_batches(len(ordered))}" if ordered else ""
    yield "sent", f"{count(sends.total, 'request')} across all runs{refused}{together}"
    if sends.possible_duplicates:
        causes = ", ".join(
            f"{number:,} {how}"
            for number, how in (
                (sends.ambiguous, "without a clear reply"),
                (sends.unknown, "in flight when a process ended"),
            )
            if number
        )
        yield (
            "warning",
            f"{count(sends.possible_duplicates, 'request')} may have been billed without a usable answer ({causes})",
        )
    if unaccounted_max:
        yield (
            "warning",
            f"up to {count(unaccounted_max, 'more request')} may have been sent just before the last run was killed",
        )


def _places(status: Status) -> Iterator[tuple[str, str]]:
    if status.dir is None or status.shards:
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
        yield label, f"{sum(group.count for group in rest):,} with {count(len(rest), 'other cause')}"


def _internal(status: Status) -> Iterator[tuple[str, str]]:
    """Faults of this program: where their tracebacks are, and what to do with them."""
    from batchrunner.core.outcome import ProblemKind  # noqa: PLC0415 - a large module that `--help` has no use for

    failed = sum(group.count for group in status.failures if group.kind == ProblemKind.INTERNAL)
    if failed and status.dir is not None:
        log = printable(str(PurePath(status.dir) / "errors.log"))
        yield (
            "report",
            f"{count(failed, 'item')} failed because of a bug in batchrunner; please report it and attach {log}",
        )


def _waits(status: Status, now: datetime) -> Iterator[tuple[str, str]]:
    stuck = [lane for lane in status.lanes if lane.state != "open"]
    for lane in stuck[:_MOST_LANES]:
        yield "lane", lane_line(lane, status, now=now)
    if len(stuck) > _MOST_LANES:
        yield "lane", f"and {count(len(stuck) - _MOST_LANES, 'more lane')}"
