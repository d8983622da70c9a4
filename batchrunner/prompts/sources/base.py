"""What a source yields: rows, and rows that are bad, each with its place in the file."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Protocol, TypeAlias, overload

from batchrunner.core.job import DialectName, Json, Turn
from batchrunner.core.values import dataclass

LINE_LIMIT_BYTES = 16 * 1024 * 1024
"""A longer line (or quoted row) is no prompt: it is a wrong file or a quote that never closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPicture:
    """A picture of a ready request."""

    url: str
    """A data URL or an http(s) address, as it stands in the file."""
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFile:
    """A document or a sound of a ready request."""

    url: str
    """A data URL or an http(s) address, made of what stands in the file."""
    name: str = ""
    """As the request calls it; empty where it does not."""


@dataclass(slots=True, kw_only=True)
class BatchRequest:
    """A ready request: what a row asks for by itself, without the job's templates. Never changed: see `SourceRow`."""

    id: str
    url: str
    """The endpoint, as it stands in the file."""
    dialects: tuple[DialectName, ...]
    """Those that have this endpoint."""
    model: str | None
    """None when the row leaves the choice to the job."""
    turns: tuple[Turn, ...]
    """At least one is the user's; it may be empty when there are pictures."""
    pictures: tuple[AskedPicture, ...]
    """Of all turns. Where a turn has its `raw` message they are sent in it, else in the user's last turn."""
    params: dict[str, Json]
    files: tuple[AskedFile, ...] = ()
    """Of all turns; each is sent in its turn's `raw` message."""

    @property
    def has_media(self) -> bool:
        """Whether anything but words has to be looked at."""
        return bool(self.pictures or self.files)


@dataclass(slots=True)
class SourceRow:
    """A row as read, columns in the file's order. Nobody changes one: a frozen one costs twice as much."""

    number: int
    """1-based among the rows of the file; bad rows count, blank lines and the header do not."""
    line: int | None
    """1-based line on which it begins; None where there are no lines."""
    values: dict[str, Json]
    where: str = ""
    """What messages append to the source's name where there are no lines, like `/cat.png`."""
    asked: BatchRequest | None = None
    """The request that the row is, if it is one; `values` are then the other columns."""
    origin: dict[str, Json] | None = None
    """The item of another run that it comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be used. `number`, `line` and `where` are those of `SourceRow`."""

    number: int
    line: int | None
    problem: str
    hint: str | None = None
    where: str = ""
    key: str | None = None
    """The key of the job file that the problem is with, where it is not the source's content alone."""
    expected: str | None = None


class Stretch(Sequence[SourceRow]):
    """Good rows that stand line after line and have nothing but their values. A row is made when it is asked for.

    Most rows of most sources come so: whoever needs their values alone needs no object for each of them.
    """

    __slots__ = ("line", "number", "values")

    def __init__(self, number: int, line: int, values: list[dict[str, Json]]) -> None:
        self.number = number
        """Of the first row."""
        self.line = line
        """Of the first row."""
        self.values = values

    def __repr__(self) -> str:
        return f"<Stretch of {len(self)} rows from line {self.line} on>"

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[SourceRow]:
        number, line = self.number, self.line
        return (SourceRow(number + place, line + place, values) for place, values in enumerate(self.values))

    @overload
    def __getitem__(self, place: int) -> SourceRow: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[SourceRow]: ...
    def __getitem__(self, place: int | slice) -> SourceRow | Sequence[SourceRow]:
        if isinstance(place, slice):
            return list(self)[place]
        place = range(len(self.values))[place]
        return SourceRow(self.number + place, self.line + place, self.values[place])


Batch: TypeAlias = Sequence[SourceRow | BadRow]
"""Rows of a batch, so that there is no wait for each row; about a millisecond's work."""

BATCH_ROWS = 64
BATCH_BYTES = 128 * 1024
"""A batch has no more than this, unless a single row is larger."""
_HOP_BATCHES = 16
"""Most batches that are read in one hop to a thread."""


class BadRowError(Exception):
    """Within a source only: the row that is being read is bad."""

    def __init__(self, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


class BadSourceError(Exception):
    """The file as a whole cannot be read further: it is missing, no text, or its header is wrong."""

    def __init__(self, problem: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForm:
    """How a file of text is written, where the job says it."""

    encoding: str | None = None
    """None is UTF-8, or what a byte order mark says."""
    delimiter: str | None = None

    @property
    def called(self) -> str:
        """The encoding as messages name it."""
        return self.encoding or "UTF-8"


PLAIN = TextForm()


class Read(Protocol):
    """Reads the rows of a file; blocks. The file goes with the generator."""

    def __call__(self, path: str, form: TextForm = PLAIN, /) -> Iterator[Batch]:
        """The rows in the file's order, in batches. What was read before an error is given before it is raised.

        Raises:
            BadSourceError, OSError: nothing more can be read.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFormat:
    """A kind of file."""

    blocking_read: Read
    same_columns: bool
    """True when every row has the columns of the first."""
    prompt_column: str | None = None
    """The column that is the prompt when there is no template, besides one that is called `prompt`."""
    path_column: str | None = None
    """A column with a path below the source; templates see it with the source's own name before it."""
    unshown: frozenset[str] = frozenset()
    """Columns for templates only: too large for `vars`, or elsewhere in a result."""

    async def read(self, path: str, form: TextForm = PLAIN) -> AsyncGenerator[Batch]:
        """The rows of a file, a hop to a thread for some hundred of them.

        Nothing is closed by hand: a hop that was cancelled may still read, and the file goes with its last reader.

        Raises:
            BadSourceError: nothing more can be read; what was read before is given first.
        """
        batches, end = self.blocking_read(path, form), None
        while end is None:
            some: list[Batch] = []
            end = await asyncio.to_thread(_hop, batches, some)
            for batch in some:
                yield batch
        if isinstance(end, OSError):
            raise BadSourceError(f"cannot be read: {end.strerror or end}") from end
        if isinstance(end, BadSourceError):
            raise end


def _hop(batches: Iterator[Batch], some: list[Batch]) -> Exception | None:
    """Append the next batches to `some`; what ended it, if it has ended."""
    try:
        for batch in batches:
            some.append(batch)
            if len(some) == _HOP_BATCHES or len(batch) < BATCH_ROWS:  # the latter are large rows, or few
                return None
    except (BadSourceError, OSError) as error:
        return error
    return StopIteration()


def require_regular(path: str) -> None:
    """Refuse a folder, a pipe, a device.

    Raises:
        BadSourceError: it is one of them.
        OSError: nothing stands there.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 -- a path as messages show it; nothing is opened
        name = os.path.basename(path)  # noqa: PTH119 -- as above
        raise BadSourceError(f"`{name}` is not a regular file", hint="it is read several times: save it as a file")
