"""What leaves a run: the rows that a format is made of, and what an export comes to, as values for callers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Json
from batchrunner.core.status import RunState

Outcome = Literal["done", "failed"]
"""How an item ended: its row stands in `results.jsonl` or in `failures.jsonl`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """One row of a run."""

    line: bytes
    """Its JSON as it stands on disk, without a newline: valid UTF-8 and one object."""
    fields: dict[str, Json]
    """The same, decoded."""
    outcome: Outcome


class Shapable(Protocol):
    """A run as exporters see it. They need nothing else, and nothing of it stays in memory for them."""

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def count(self) -> int:
        """How many rows a pass has."""

    def rows(self) -> Iterator[ExportRow]:
        """A new pass over the rows in the job's order, the same ones each time. Raises StoreBrokenError."""

    def picture(self, path: str, sha256: str) -> bytes | None:
        """The bytes of a picture that a row names; None (counted) when they are not there as they were recorded."""

    def printable(self, line: str) -> str:
        """Text without an end of line, its control and bidirectional characters as escapes."""

    def link(self, path: str) -> str:
        """A file of the run as a path relative to where the export will lie, with `/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One line of the table of formats."""

    write: Callable[[Shapable], Iterator[bytes]]
    """The file in pieces, of whatever size."""
    ending: str
    """With its dot."""
    is_text: bool
    """Text may go to a terminal or a pipe."""
    needs: str | None = None
    """The optional package that it needs, under the name by which it is installed and imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to. What is not in the file is counted here."""

    path: str | None
    """None when it went to a stream."""
    format: str
    rows: int
    """Rows in the file."""
    failed: int
    """Items of the job that failed for good; their rows are in the file only if they were asked for."""
    missing: int
    """Items of the job that have no row yet: unsent, under way, held or timed out; the lost ones are among them."""
    lost: int = 0
    """Finished items whose row or picture is gone from the directory."""
    bytes: int
    failures_included: bool
    vanished: int
    """Rows in the file whose items the job has no more; the end of the next run moves them out."""
    damaged: int
    """Lines of `results.jsonl` that were recorded and cannot be read any more: not in the file."""
    pictures_missing: int
    """Pictures that should be in the file and are not there as they were recorded."""
    replaced: bool
    """An earlier export stood there."""
    job: str
    state: RunState
    simulated: bool

    @property
    def exit_status(self) -> ExitStatus:
        """4 when something that was recorded could not be exported."""
        return ExitStatus.STOPPED if self.damaged or self.pictures_missing or self.lost else ExitStatus.DONE
