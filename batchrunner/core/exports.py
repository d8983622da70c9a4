"""What leaves a run: the rows that a format is made of, and what an export comes to, as values for callers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypedDict

from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Json
from batchrunner.core.status import RunState
from batchrunner.core.values import dataclass, field

Outcome = Literal["done", "failed"]
"""How an item ended: its row stands in `results.jsonl` or in `failures.jsonl`."""


PicturesAs: TypeAlias = Literal["bytes", "path", "none"]
"""What a table has of pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Which rows are exported, and how. The defaults are every row that is done, as the format has it by itself."""

    failures: bool = False
    """Failed items, too, with their errors."""
    where: str | None = None
    """A condition over the row, as in job files: `not truncated and model == "x"`."""
    only: tuple[str, ...] = ()
    """Ids of items or prompts."""
    marks: str | None = None
    """A file of marks that the page of a run gave."""
    mark: tuple[str, ...] = ()
    """Which of them; empty for every item that has one."""
    limit: int | None = None
    """The first so many rows of those."""
    split: tuple[tuple[str, float], ...] = ()
    """Name and share of each split; the shares add up to 1 at most."""
    split_by: str = "prompt_id"
    """The name of the value that keeps rows in one split, as in `where`."""
    seed: int = 0
    """Of the splits."""
    reasoning: bool = False
    """What models thought, too, in formats for training."""
    images: PicturesAs | None = None
    """What tables have of pictures; None: paths, and in `hf` the bytes."""
    excel: bool = False
    """CSV begins with a byte-order mark, by which Excel knows UTF-8."""
    shard_bytes: int | None = None
    """About so many bytes a file, where a format has shards; None: 500 MB in `hf`, one file in `webdataset`."""
    caption: str | None = None
    """A run whose answers are the captions of the pictures; None: their prompts."""


class ExportKeys(TypedDict, total=False):
    """The options of an export as keyword arguments: `failures` alone, or all of them."""

    failures: bool
    options: ExportOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """One row of a run."""

    line: bytes
    """Its JSON as it stands on disk, without a newline: valid UTF-8 and one object."""
    fields: dict[str, Json]
    """The same, decoded."""
    outcome: Outcome


class FilePieces(NamedTuple):
    """A file that a row names."""

    size_bytes: int
    pieces: Iterable[bytes]
    """So many bytes; to be read once. Raises StoreBrokenError where they are not there any more."""


class Shapable(Protocol):
    """A run as exporters see it. They need nothing else, and nothing of it stays in memory for them."""

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def count(self) -> int:
        """How many rows a pass has."""

    @property
    def job(self) -> Mapping[str, Json]:
        """The job as `run.json` has it: empty where that is not known."""

    @property
    def options(self) -> ExportOptions:
        """How the export was asked for."""

    def wrote(self) -> None:
        """Count a sample, where a format has `counts_samples`."""

    def leave_out(self, reason: str) -> None:
        """Count a row or a picture that the format cannot take; `reason` is shown beside the number."""

    def rows(self) -> Iterator[ExportRow]:
        """A new pass over the rows in the job's order, the same ones each time. Raises StoreBrokenError."""

    def all_rows(self) -> Iterator[ExportRow]:
        """As `rows`, of all splits together: they get the same columns."""

    def row(self, number: int) -> ExportRow:
        """The row at a place of that pass, from 0. Raises StoreBrokenError."""

    @property
    def simulated(self) -> bool:
        """Whether the simulator answered."""

    def caption(self, row: ExportRow, sha256: str) -> str | None:
        """What belongs to a picture of the row: its prompt, or the answer of the run with captions, if that has one."""

    def picture(self, path: str, sha256: str) -> bytes | None:
        """The bytes of a picture that a row names; None (counted) when they are not there as they were recorded."""

    def file(self, path: str, sha256: str) -> "FilePieces | None":
        """The same of a file of any size, a piece at a time."""

    def printable(self, line: str) -> str:
        """Text without an end of line, its control and bidirectional characters as escapes."""

    def link(self, path: str) -> str:
        """A file of the run as a path relative to where the export will lie, with `/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPart:
    """A piece of one file of an export that is a folder."""

    path: str
    """Relative to the export, with `/`."""
    content: bytes
    more: bool = False
    """Further pieces of this file may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A share of the rows."""

    name: str | None
    """None for all of them, where no splits were asked for."""
    run: Shapable


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One line of the table of formats. It writes one file, or a folder."""

    write: Callable[[Shapable], Iterator[bytes]] | None = None
    """The file in pieces, of whatever size. With splits there is one for each."""
    write_folder: Callable[[Sequence[Split]], Iterator[ExportPart]] | None = None
    """The files of the folder in pieces, of whatever size."""
    ending: str = ""
    """With its dot; of the folder's name where it is one."""
    counts_samples: bool = False
    """It may have more or fewer samples than rows, and says `wrote` for each."""
    is_text: bool = False
    """Text may go to a terminal or a pipe."""
    needs: str | None = None
    """The optional package that it needs, under the name by which it is installed and imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to. What is not in the file is counted here."""

    path: str | None
    """None when it went to a stream, or when nothing was written."""
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
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows and pictures that were not asked for, or that the format cannot take: how many, by the reason in words."""
    splits: dict[str, int] = field(default_factory=dict)
    """Rows by split; empty without splits."""
    files: int = 1
    """More than one where the export is a folder; 0 when it would be an empty folder, which is not written."""
    replaced: bool
    """An earlier export stood there."""
    job: str
    state: RunState
    simulated: bool

    @property
    def exit_status(self) -> ExitStatus:
        """4 when something that was recorded could not be exported."""
        return ExitStatus.STOPPED if self.damaged or self.pictures_missing or self.lost else ExitStatus.DONE
