"""Numbers, times, audits, exports and values as text. Pure: the current time is always an argument."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from batchrunner.core.errors import Mistake
from batchrunner.core.values import field_names

if TYPE_CHECKING:
    from batchrunner.core.exports import Exported
    from batchrunner.core.job import Json
    from batchrunner.core.status import Audit, AuditCounts, Finding, Level, MergeResult, Salvaged

# Text from prompts, servers and file names is made safe to print: always one visible line.
#
# Visible characters are not changed; control and bidirectional characters become escapes, so that they can neither
# control a terminal nor forge a line of ours (threat 13).

_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Persian and emoji need them, and they reorder nothing."""


def printable(text: str, *, most: int | None = None) -> str:
    r"""`text` with control, bidi, surrogate and line-breaking characters as `\x1b`, `\u202e` and the like.

    Args:
        text: anything at all.
        most: cut to this many characters, the last of them `…`.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def skipped_words(number: int, named: Sequence[Mistake], *, most: int = 5) -> tuple[str, ...]:
    """Lines with the number of rows that `on_bad_row: skip` skipped, and the first of them."""
    if not number:
        return ()
    shown = tuple(f"skipped {mistake}" for mistake in named[:most])
    more = (f"and {number - len(shown):,} more",) if number > len(shown) else ()
    return (f"{count(number, 'bad row')} skipped", *shown, *more)


def duration(seconds: float) -> str:
    """`8 s`, `4 min`, `3 h 12 min`, `2 d 5 h`; never negative."""
    whole = max(0, round(seconds))
    if whole < 2 * _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return _two(whole // _MINUTE_S, 60, "h", "min")
    return _two(whole // _HOUR_S, 24, "d", "h")


def _two(small: int, per_big: int, big_unit: str, small_unit: str) -> str:
    big, rest = divmod(small, per_big)
    return f"{big} {big_unit} {rest} {small_unit}" if rest else f"{big} {big_unit}"


def instant(rfc3339: str, *, now: datetime | None = None) -> str:
    """`2026-11-23 00:05 +08:00`, and with `now` (aware) also how far away: `… (in 3 h 12 min)`.

    Text that is no instant comes back as it is.
    """
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return rfc3339
    zone = moment.strftime("%z")
    shown = moment.strftime("%Y-%m-%d %H:%M") + (f" {zone[:3]}:{zone[3:5]}" if zone else "")
    if now is None or moment.tzinfo is None or moment - now < timedelta(0):
        return shown
    return f"{shown} (in {duration((moment - now).total_seconds())})"


# The program's values as JSON: what commands print, and what a notified command reads.


def jsonable(value: object) -> "Json":
    """Dataclasses by their field names, tuples as lists, paths and enums as their values.

    Raises:
        TypeError: something else; what a command prints is made of these.
    """
    if isinstance(value, Enum):
        return jsonable(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if names := field_names(type(value)):
        return {name: jsonable(getattr(value, name)) for name in names}
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


# An audit as text, made from an `Audit` alone; text from the disk passes `printable`.

_LEVELS: Final["dict[Level, str]"] = {"damage": "DAMAGE", "odd": "odd", "note": "note"}
_MOST_EXAMPLE: Final = 200
_MEGABYTE: Final = 1e6


def audit_words(audit: "Audit") -> str:
    """Several lines without a final newline: verdict, what was checked, findings, what was salvaged."""
    return "\n".join(_lines(audit))


def _lines(audit: "Audit") -> Iterator[str]:
    damage = sum(finding.count for finding in audit.findings if finding.level == "damage")
    verdict = "no damage found" if audit.sound else f"DAMAGED ({count(damage, 'problem')})"
    yield f"{printable(audit.dir)} ({printable(audit.job)}): {verdict}"
    yield f"  checked {_looked_at(audit.checked)}"
    for finding in audit.findings:
        yield from _finding(finding)
    if audit.salvaged is not None:
        yield from _salvaged(audit.salvaged)


def _looked_at(checked: "AuditCounts") -> str:
    parts = [
        f"{count(checked.records, 'ledger record')} in {count(checked.segments, 'segment')}",
        count(checked.rows, "row"),
        *([count(checked.superseded, "superseded row")] if checked.superseded else []),
        *([count(checked.failures, "failure")] if checked.failures else []),
        *(
            [f"{count(checked.pictures, 'picture')} ({checked.picture_bytes / _MEGABYTE:,.1f} MB)"]
            if checked.pictures
            else []
        ),
        *([count(checked.answer_files, "answer file")] if checked.answer_files else []),
    ]
    return ", ".join(parts)


def _finding(finding: "Finding") -> Iterator[str]:
    yield f"  {_LEVELS[finding.level]}: {finding.count:,} × {finding.problem}"
    for example in finding.examples:
        yield f"      {printable(example, most=_MOST_EXAMPLE)}"
    if finding.count > len(finding.examples):
        yield f"      and {finding.count - len(finding.examples):,} more"
    if finding.advice is not None:
        yield f"      → {finding.advice}"


def _salvaged(salvaged: "Salvaged") -> Iterator[str]:
    yield (
        f"  salvaged into {printable(salvaged.dir)}: {count(salvaged.rows, 'row')}, "
        f"{count(salvaged.pictures, 'picture')}, {count(salvaged.answer_files, 'answer file')}, "
        f"{count(salvaged.records, 'ledger record')}"
    )
    if salvaged.fetched_again:
        yield f"      {count(salvaged.fetched_again, 'item')} will be downloaded again (not billed again)"
    if salvaged.rows_lost:
        yield f"      {count(salvaged.rows_lost, 'item')} without an answer now will be sent again"
    if salvaged.records_lost:
        yield f"      {count(salvaged.records_lost, 'section')} of the ledger could not be read"
    yield "      continue with: batchrunner run JOB --out " + printable(salvaged.dir)


# An export as text: where it is, and what of the run is not in it.

_LABEL_WIDTH: Final = 13


def export_words(exported: "Exported") -> str:
    """Several lines without a final newline."""
    return "\n".join(
        [_headline(exported), *(f"  {label + ':':<{_LABEL_WIDTH}} {said}" for label, said in _body(exported))]
    )


def _headline(exported: "Exported") -> str:
    simulated = " (simulated)" if exported.simulated else ""
    files = f" in {count(exported.files, 'file')}" if exported.files > 1 else ""
    rows = f"{count(exported.rows, 'row')} as {exported.format}, {count(exported.bytes, 'byte')}{files}"
    return f"{printable(exported.job)}{simulated}: {rows}"


def _chosen(exported: "Exported") -> Iterator[tuple[str, str]]:
    if not exported.files:
        yield "written", "nothing: there is no row"
    elif not exported.bytes and exported.path is not None:
        yield "note", "there is no row, so the file is empty"
    if exported.splits:
        yield "splits", ", ".join(f"{printable(name)} {count(rows, 'row')}" for name, rows in exported.splits.items())
        empty = [printable(name) for name, rows in exported.splits.items() if not rows]
        if empty and exported.files:
            yield "note", f"no rows fell to {' and '.join(empty)}, so the folder has no such split"
    for reason, number in exported.left_out.items():
        yield "left out", f"{number:,} {printable(reason)}"


def _body(exported: "Exported") -> Iterator[tuple[str, str]]:
    if exported.path is not None:
        yield "written", printable(exported.path) + (" (replaced an earlier export)" if exported.replaced else "")
    yield from _chosen(exported)
    if exported.failed and exported.failures_included:
        yield "failed", f"{count(exported.failed, 'item')}, with their errors"
    elif exported.failed:
        yield "not exported", f"{count(exported.failed, 'failed item')}; add them with --failures"
    if exported.missing > exported.lost:
        running = "; the run is in progress" if exported.state == "running" else ""
        yield "not exported", f"{count(exported.missing - exported.lost, 'unfinished item')}{running}"
    elif exported.state == "running":
        yield "note", "the run is in progress"
    if exported.vanished:
        yield (
            "warning",
            f"{count(exported.vanished, 'row')} of removed items or earlier requests; a run moves them out",
        )
    if exported.lost:
        lost = count(exported.lost, "finished item")
        yield (
            "damage",
            f"{lost} without a row or picture, which was removed from the directory; see `batchrunner status`",
        )
    if exported.damaged:
        yield (
            "damage",
            f"{count(exported.damaged, 'recorded line')} of results.jsonl cannot be read; see `batchrunner verify`",
        )
    if exported.pictures_missing:
        lost = count(exported.pictures_missing, "picture")
        yield "damage", f"{lost} missing or changed, not exported; see `batchrunner verify`"


def merge_lines(merged: "MergeResult") -> Iterator[str]:
    """What a merge came to, and how it goes on."""
    dir_, simulated = printable(merged.dir), " (simulated)" if merged.simulated else ""
    rows = f"{count(merged.rows, 'item')} done, {merged.failures:,} failed"
    if merged.was_merged:
        yield f"{printable(merged.job)}{simulated}: {dir_} was merged before ({rows}); nothing was changed"
    else:
        so_far = "" if merged.whole else ", so far"
        yield f"{printable(merged.job)}{simulated}: {merged.shards:,} shards merged into {dir_}{so_far}: {rows}"
    if merged.begun < merged.shards:
        yield f"  note: {merged.shards - merged.begun:,} shards have not begun; their items are still to send"
    if merged.duplicates:
        yield f"  note: {count(merged.duplicates, 'duplicate row')}; superseded.jsonl keeps those of other processes"
    if not merged.whole:
        yield "  note: the shards go on; merge again when all of them have ended"
    elif merged.next_command is not None:
        yield f"next: {printable(merged.next_command)}"
