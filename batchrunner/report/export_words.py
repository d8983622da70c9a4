"""An export in words: where it lies, and everything of the run that is not in it."""

from collections.abc import Iterator
from typing import Final

from batchrunner.core.status import Exported
from batchrunner.report.plain import printable
from batchrunner.report.words import count

_LABEL_WIDTH: Final = 9


def export_words(exported: Exported) -> str:
    """Several lines without an end of line."""
    return "\n".join([_headline(exported), *(f"  {label:<{_LABEL_WIDTH}} {said}" for label, said in _body(exported))])


def _headline(exported: Exported) -> str:
    simulated = " (simulated)" if exported.simulated else ""
    rows = f"{count(exported.rows, 'row')} as {exported.format}, {count(exported.bytes, 'byte')}"
    return f"{printable(exported.job)}{simulated}: {rows}"


def _body(exported: Exported) -> Iterator[tuple[str, str]]:
    if exported.path is not None:
        yield "written", printable(exported.path) + (" (in place of an earlier export)" if exported.replaced else "")
    if exported.failed and exported.failures_included:
        yield "failed", f"{count(exported.failed, 'item')}, with their errors"
    elif exported.failed:
        yield "not in it", f"{count(exported.failed, 'failed item')}; --failures takes them along"
    if exported.missing > exported.lost:
        at_work = "the run is at work now" if exported.state == "running" else "the run is not finished"
        yield "not in it", f"{count(exported.missing - exported.lost, 'item')} without a row yet: {at_work}"
    elif exported.state == "running":
        yield "note", "the run is at work now"
    if exported.vanished:
        yield (
            "beware",
            f"{count(exported.vanished, 'row')} of items that the job has no more; the next run moves them out",
        )
    if exported.lost:
        lost = count(exported.lost, "finished item")
        yield "damage", f"{lost} without a row or a picture: it is gone from the directory; see `batchrunner status`"
    if exported.damaged:
        yield "damage", f"{count(exported.damaged, 'recorded line')} of results.jsonl cannot be read; see `verify`"
    if exported.pictures_missing:
        lost = count(exported.pictures_missing, "picture")
        yield "damage", f"{lost} missing, or not as recorded: not in it; see `verify`"
