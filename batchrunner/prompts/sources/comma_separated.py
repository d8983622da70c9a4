"""`.csv`: a header, then rows with commas and quotes; a quoted field may hold commas, quotes and line breaks.

Every row must have exactly the header's columns: in a quoted format a missing one is damage. A quote that never
closes is distinguished from a long field by the cap, and never swallows rows silently.
"""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from batchrunner.core.job import Json
from batchrunner.core.text import has_surrogate
from batchrunner.prompts.sources.base import (
    LINE_LIMIT_BYTES,
    PLAIN,
    BadRow,
    BadRowError,
    BadSourceError,
    Batch,
    SourceRow,
    Stretch,
    TextForm,
)
from batchrunner.prompts.sources.text_files import (
    column_names,
    hint_of,
    in_steps,
    line_batches,
    wrong_width,
)

if TYPE_CHECKING:
    from _csv import Reader

_Step: TypeAlias = "tuple[int, list[str | None]]"
"""The number of the first line, and some lines."""
_TOO_LONG = "field limit"
"""Of Python's words for a field that is longer than `csv.field_size_limit`."""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_comma_separated(path: str, form: TextForm = PLAIN) -> Iterator[Batch]:
    """A row for every record after the header; blank lines are nothing."""
    csv.field_size_limit(LINE_LIMIT_BYTES)  # Python's own 128 KiB, of all readers together, would refuse long prompts
    table = _Table(form)
    steps = (step for first, lines in line_batches(path, form) for step in in_steps(first, lines))
    for line, lines in steps:
        if (whole := table.whole(lines, line)) is not None:
            yield whole
        else:
            yield from table.rows(_Feed((line, lines), steps))


class _Feed:
    """Lines for the parser: a step of them, and others as long as it is within a record."""

    def __init__(self, step: "_Step", steps: "Iterator[_Step]") -> None:
        self.first = step[0]
        """The 1-based number of the first line."""
        self.last = 0
        """Of the last line that the parser can have without another step."""
        self._steps = chain([step], steps)

    def __iter__(self) -> Iterator[str]:
        """Raises csv.Error for a line that is over the cap."""
        for first, lines in self._steps:
            self.last = first + len(lines) - 1
            for line in lines:
                if line is None:
                    raise csv.Error(_TOO_LONG)
                yield line + "\n"


class _Table:
    """Makes rows of records. The first record that is not blank is the header."""

    def __init__(self, form: TextForm) -> None:
        self._form = form
        self._delimiter = form.delimiter or ","
        self._names: tuple[str, ...] = ()
        self._number = 0

    def whole(self, lines: list[str | None], line: int) -> Stretch | None:
        """The rows of lines that are a good record each; None when one of them needs a look of its own."""
        names = self._names
        if not names or None in lines:
            return None
        text = "".join(lines)  # type: ignore[arg-type]  # none of them is None
        if "\0" in text or has_surrogate(text):
            return None
        try:
            records = list(csv.reader(lines, strict=True, delimiter=self._delimiter))  # type: ignore[arg-type]  # as above
            if len(records) != len(lines):
                return None
            if len(names) == 1 and not all(cells and cells[0] and not cells[0].isspace() for cells in records):
                return None
            values: list[dict[str, Json]] = [dict(zip(names, cells, strict=True)) for cells in records]
        except (csv.Error, ValueError):  # the latter of a row with more or fewer columns
            return None
        number, self._number = self._number + 1, self._number + len(records)
        return Stretch(number, line, values)

    def rows(self, feed: _Feed) -> Iterator[Batch]:
        """The rows of the feed, one by one, up to where a record ends with a step."""
        reader = csv.reader(feed, strict=True, delimiter=self._delimiter)
        line = feed.first
        while True:
            records: list[list[str]] = []
            fault = _take(reader, records, feed)
            rows: list[SourceRow | BadRow] = []
            for cells in records:
                if row := self._row(cells, line):
                    rows.append(row)
                line += 1 + sum(cell.count("\n") for cell in cells)
            behind = feed.first + reader.line_num
            is_too_long = isinstance(fault, csv.Error) and _TOO_LONG in str(fault)
            if isinstance(fault, csv.Error) and not is_too_long:
                rows.append(self._broken(fault, line=line, lines=behind - line))
            if rows:
                yield rows
            if is_too_long:
                problem = f"the row that begins here is longer than {LINE_LIMIT_BYTES >> 20} MiB"
                raise BadSourceError(problem, line=line, hint="is a quote left open?")
            if isinstance(fault, BadSourceError):
                raise fault
            if fault is None or behind > feed.last:
                return
            line = behind

    def _broken(self, error: csv.Error, *, line: int, lines: int) -> BadRow:
        if not self._names:
            raise BadSourceError(
                f"the header is not CSV: {_problem_of(error)}", line=line, hint=_RETURNS if _is_return(error) else None
            )
        self._number += 1
        over = f", which goes on for {lines} lines" if lines > 1 else ""
        hint = _RETURNS if _is_return(error) else 'a quote inside a quoted field is written twice: ""'
        return BadRow(
            number=self._number, line=line, problem=f"the row{over}, is not CSV: {_problem_of(error)}", hint=hint
        )

    def _row(self, cells: list[str], line: int) -> SourceRow | BadRow | None:
        if not "".join(cells).strip() and len(cells) <= 1:
            return None
        if not self._names and cells[0].lower() == "sep=" and not "".join(cells[1:]):
            return None  # Excel's own line that names the delimiter
        if not self._names:
            self._names = _header(cells, line, self._form)
            return None
        self._number += 1
        try:
            return SourceRow(self._number, line, self._values(cells))
        except BadRowError as error:
            return BadRow(number=self._number, line=line, problem=str(error), hint=error.hint)

    def _values(self, cells: list[str]) -> dict[str, Json]:
        _require_text(cells, self._form)
        if len(cells) != len(self._names):
            raise BadRowError(wrong_width(len(cells), self._names))
        return dict(zip(self._names, cells, strict=True))


def _take(reader: "Reader", records: list[list[str]], feed: _Feed) -> csv.Error | BadSourceError | None:
    """Append records to `records`, until one ends with a step or the file; what is wrong before that."""
    try:
        for cells in reader:
            records.append(cells)
            if feed.first + reader.line_num > feed.last:
                break
    except (csv.Error, BadSourceError) as error:
        return error
    return None


_RETURNS = "save the file with the line ends of Unix or Windows"


def _is_return(error: csv.Error) -> bool:
    return "new-line character" in str(error)


def _problem_of(error: csv.Error) -> str:
    """Python's message, reworded where it addresses programmers."""
    return "a carriage return stands alone in a field without quotes" if _is_return(error) else str(error)


def _header(cells: list[str], line: int, form: TextForm) -> tuple[str, ...]:
    try:
        _require_text(cells, form)
        names = column_names(cells)
    except BadRowError as error:
        raise BadSourceError(f"the header: {error}", line=line, hint=error.hint) from error
    except BadSourceError as error:
        raise BadSourceError(error.problem, line=line, hint=error.hint) from error
    used = form.delimiter or ","
    for separator, word in _SEPARATORS.items():
        if len(names) == 1 and separator in names[0] and separator != used:
            hint = f"write `delimiter: {json.dumps(separator)}` under `prompts`"
            not_by = _SEPARATORS.get(used, f"`{used}`")
            raise BadSourceError(f"the columns are separated by {word}, not by {not_by}", line=line, hint=hint)
    return names


def _require_text(cells: list[str], form: TextForm) -> None:
    whole = "".join(cells)
    if "\0" in whole:
        raw = whole.encode("utf-8", "surrogateescape")
        raise BadRowError("there is a NUL byte in the row", hint=hint_of(raw) if 3 * raw.count(0) > len(raw) else None)
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        problem = f"the row is not {form.called}: it has the byte 0x{ord(whole[error.start]) & 0xFF:02x}"
        hint = None if form.encoding else hint_of(whole.encode("utf-8", "surrogateescape"))
        raise BadRowError(problem, hint=hint) from error
