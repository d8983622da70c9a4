"""An audit told to people. Text made from an `Audit` alone; every word from the disk passes `printable`."""

from collections.abc import Iterator
from typing import Final

from batchrunner.core.status import Audit, AuditCounts, Finding, Level, Salvaged
from batchrunner.report.plain import printable
from batchrunner.report.words import count

_LEVELS: Final[dict[Level, str]] = {"damage": "DAMAGE", "odd": "odd", "note": "note"}
_MOST_EXAMPLE: Final = 200
_MEGABYTE: Final = 1e6


def audit_words(audit: Audit) -> str:
    """Several lines without an end of line: the verdict, what was looked at, what was found, what was salvaged."""
    return "\n".join(_lines(audit))


def _lines(audit: Audit) -> Iterator[str]:
    damage = sum(finding.count for finding in audit.findings if finding.level == "damage")
    verdict = "sound" if audit.sound else f"DAMAGED in {count(damage, 'place')}"
    yield f"{printable(audit.dir)} ({printable(audit.job)}): {verdict}"
    yield f"  looked at {_looked_at(audit.checked)}"
    for finding in audit.findings:
        yield from _finding(finding)
    if audit.salvaged is not None:
        yield from _salvaged(audit.salvaged)


def _looked_at(checked: AuditCounts) -> str:
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


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {_LEVELS[finding.level]}: {finding.count:,} × {finding.problem}"
    for example in finding.examples:
        yield f"      {printable(example, most=_MOST_EXAMPLE)}"
    if finding.count > len(finding.examples):
        yield f"      and {finding.count - len(finding.examples):,} more"
    if finding.advice is not None:
        yield f"      → {finding.advice}"


def _salvaged(salvaged: Salvaged) -> Iterator[str]:
    yield (
        f"  salvaged into {printable(salvaged.dir)}: {count(salvaged.rows, 'row')}, "
        f"{count(salvaged.pictures, 'picture')}, {count(salvaged.answer_files, 'answer file')}, "
        f"{count(salvaged.records, 'ledger record')}"
    )
    if salvaged.fetched_again:
        yield f"      {count(salvaged.fetched_again, 'item')} will be fetched again, not paid again"
    if salvaged.rows_lost:
        yield f"      {count(salvaged.rows_lost, 'item')} lost the answer and will be sent again"
    if salvaged.records_lost:
        yield f"      {count(salvaged.records_lost, 'stretch', 'stretches')} of the ledger could not be read"
    yield "      go on with: batchrunner run JOB --out " + printable(salvaged.dir)
