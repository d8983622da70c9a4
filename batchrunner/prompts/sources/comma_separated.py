"""`.csv`: a header, then rows with commas and quotes; a quoted field may hold commas, quotes and line breaks.

Every row must have exactly the header's columns: in a quoted format a missing one is damage. A quote that never
closes is told apart from a long field by the cap, and never swallows rows in silence.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import aclosing

from batchrunner.core.job import Json
from batchrunner.prompts.sources.base import (
    BATCH_ROWS,
    LINE_LIMIT_BYTES,
    PLAIN,
    BadRow,
    BadRowError,
    BadSourceError,
    Rows,
    SourceRow,
    Stretch,
    TextForm,
)
from batchrunner.prompts.sources.text_files import (
    CHUNK_BYTES,
    column_names,
    hint_of,
    in_steps,
    line_batches,
    wrong_width,
)

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


async def read_comma_separated(path: str, form: TextForm = PLAIN) -> Rows:
    """A row for every record after the header; blank lines are nothing."""
    # The cap on the whole row speaks first, and with its place; a module-wide limit of 128 KiB would speak for others.
    csv.field_size_limit(2 * LINE_LIMIT_BYTES + 2 * CHUNK_BYTES)
    feed = _Feed()
    table = _Table(form)
    async with aclosing(line_batches(path, form)) as batches:
        async for first, lines in batches:
            for line, some in in_steps(first, lines):
                if (whole := table.whole_lines(some, feed)) is not None:
                    yield whole
                    continue
                # Where a record is unfinished all that was read goes behind it: a long one is not begun again often.
                rest = not feed.is_empty
                feed.add(lines[line - first :] if rest else some)
                if feed.is_worth_parsing:
                    for rows in table.rows(feed):
                        yield rows
                if rest:
                    break
    feed.ended = True
    for rows in table.rows(feed):
        yield rows


class _MoreError(Exception):
    """The parser wants a line that has not been read yet."""


class _Feed:
    """Lines for the parser, which pulls them. A record that is cut off by the end of a batch is begun again."""

    def __init__(self) -> None:
        self.ended = False
        self.line = 1
        """1-based line on which the record begins."""
        self.is_worth_parsing = True
        """False until an unfinished record has doubled: a long one is not begun again for every batch."""
        self._lines: list[str] = []
        self._wanted_chars = 0
        self._begun = self._next = 0
        self._next = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._next == len(self._lines):
            if self.ended:
                raise StopIteration
            raise _MoreError
        self._next += 1
        return self._lines[self._next - 1]

    @property
    def is_empty(self) -> bool:
        """No record is begun: what comes next begins one."""
        return self._begun == len(self._lines)

    def pass_over(self, lines: int) -> None:
        """So many lines were records that others have read."""
        self.line += lines

    def add(self, lines: list[bytes | None]) -> None:
        """Put lines behind the record that is not finished.

        Raises:
            BadSourceError: that record, or a line, is over the cap.
        """
        del self._lines[: self._begun]
        self._begun = self._next = 0
        if None in lines or self._unfinished_chars() > LINE_LIMIT_BYTES:
            problem = f"the row that begins here is longer than {LINE_LIMIT_BYTES >> 20} MiB"
            raise BadSourceError(problem, line=self.line, hint="is a quote left open?")
        # Bytes that are not UTF-8 are smuggled through the parser and found in the row that has them.
        self._lines += [raw.decode("utf-8", "surrogateescape") + "\n" for raw in lines if raw is not None]
        self.is_worth_parsing = self._unfinished_chars() >= self._wanted_chars

    def again(self) -> None:
        """Go back to where the record begins."""
        self._next = self._begun
        self._wanted_chars = 2 * self._unfinished_chars()

    def _unfinished_chars(self) -> int:
        return sum(len(line) for line in self._lines[self._begun :])

    def finish(self) -> int:
        """The record is read: how many lines it had."""
        taken = self._next - self._begun
        self.line += taken
        self._begun = self._next
        return taken


class _Table:
    """Makes rows of records. The first record that is not blank is the header."""

    def __init__(self, form: TextForm) -> None:
        self._form = form
        self._delimiter = form.delimiter or ","
        self._names: tuple[str, ...] = ()
        self._number = 0

    def whole_lines(self, lines: Sequence[bytes | None], feed: _Feed) -> Stretch | None:
        """The rows of lines that are a good record each; None when they have to go through the feed."""
        if not self._names or not feed.is_empty or None in lines:
            return None
        joined = b"\n".join(lines)  # type: ignore[arg-type]  # none of them is None
        if b"\0" in joined:
            return None
        names, number, line = self._names, self._number + 1, feed.line
        try:
            texts = joined.decode().split("\n")
            records = list(csv.reader(texts, strict=True, delimiter=self._delimiter))
            if len(records) != len(lines) or min(map(len, records)) < 1:
                return None
            if len(names) == 1 and not all(cells[0] and not cells[0].isspace() for cells in records):
                return None
            values: list[dict[str, Json]] = [dict(zip(names, cells, strict=True)) for cells in records]
        except (UnicodeDecodeError, csv.Error, ValueError):
            return None
        feed.pass_over(len(lines))
        self._number += len(lines)
        return Stretch(number, line, values)

    def rows(self, feed: _Feed) -> Iterator[list[SourceRow | BadRow]]:
        """The rows that the lines read so far hold, in batches."""
        rows: list[SourceRow | BadRow] = []
        try:
            for row in self._rows(feed):
                rows.append(row)
                if len(rows) >= BATCH_ROWS:
                    yield rows
                    rows = []
        except BadSourceError:
            if rows:
                yield rows
            raise
        if rows:
            yield rows

    def _rows(self, feed: _Feed) -> Iterator[SourceRow | BadRow]:
        reader = csv.reader(feed, strict=True, delimiter=self._delimiter)
        while True:
            line = feed.line
            try:
                cells = next(reader)
            except _MoreError:
                feed.again()
                return
            except StopIteration:
                return
            except csv.Error as error:
                yield self._broken(error, line=line, lines=feed.finish())
                continue
            feed.finish()
            if row := self._row(cells, line):
                yield row

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


_RETURNS = "save the file with the line ends of Unix or Windows"


def _is_return(error: csv.Error) -> bool:
    return "new-line character" in str(error)


def _problem_of(error: csv.Error) -> str:
    """Python's words, but where they speak to programmers."""
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
