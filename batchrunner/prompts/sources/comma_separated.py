"""`.csv`: a header, then rows with commas and quotes; a quoted field may hold commas, quotes and line breaks.

Every row must have exactly the header's columns: in a quoted format a missing one is damage. A quote that never
closes is told apart from a long field by the cap, and never swallows rows in silence.
"""

import csv
from collections.abc import Iterator
from contextlib import aclosing

from batchrunner.core.job import Json
from batchrunner.prompts.sources.header import column_names, wrong_width
from batchrunner.prompts.sources.lines import CHUNK_BYTES, line_batches
from batchrunner.prompts.sources.row import LINE_LIMIT_BYTES, BadRow, BadRowError, BadSourceError, Row, Rows

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


async def read_comma_separated(path: str) -> Rows:
    """A row for every record after the header; blank lines are nothing."""
    # The cap on the whole row speaks first, and with its place; a module-wide limit of 128 KiB would speak for others.
    csv.field_size_limit(2 * LINE_LIMIT_BYTES + 2 * CHUNK_BYTES)
    feed = _Feed()
    table = _Table()
    async with aclosing(line_batches(path)) as batches:
        async for _, lines in batches:
            feed.add(lines)
            if feed.is_worth_parsing:
                for row in table.rows(feed):
                    yield row
    feed.ended = True
    for row in table.rows(feed):
        yield row


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

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._number = 0

    def rows(self, feed: _Feed) -> Iterator[Row | BadRow]:
        """The rows that the lines read so far hold."""
        reader = csv.reader(feed, strict=True)
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
            raise BadSourceError(f"the header is not CSV: {error}", line=line)
        self._number += 1
        over = f", which goes on for {lines} lines" if lines > 1 else ""
        hint = 'a quote inside a quoted field is written twice: ""'
        return BadRow(number=self._number, line=line, problem=f"the row{over}, is not CSV: {error}", hint=hint)

    def _row(self, cells: list[str], line: int) -> Row | BadRow | None:
        if not "".join(cells).strip() and len(cells) <= 1:
            return None
        if not self._names:
            self._names = _header(cells, line)
            return None
        self._number += 1
        try:
            return Row(number=self._number, line=line, values=self._values(cells))
        except BadRowError as error:
            return BadRow(number=self._number, line=line, problem=str(error))

    def _values(self, cells: list[str]) -> dict[str, Json]:
        if len(cells) != len(self._names):
            raise BadRowError(wrong_width(len(cells), self._names))
        _require_text(cells)
        return dict(zip(self._names, cells, strict=True))


def _header(cells: list[str], line: int) -> tuple[str, ...]:
    try:
        _require_text(cells)
        names = column_names(cells)
    except BadRowError as error:
        raise BadSourceError(f"the header: {error}", line=line) from error
    except BadSourceError as error:
        raise BadSourceError(error.problem, line=line, hint=error.hint) from error
    for separator, word in _OTHER_SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            hint = "save it with commas, or with tabs as .tsv"
            raise BadSourceError(f"the columns are separated by {word}, not by commas", line=line, hint=hint)
    return names


def _require_text(cells: list[str]) -> None:
    whole = "".join(cells)
    if "\0" in whole:
        raise BadRowError("there is a NUL byte in the row")
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"the row is not UTF-8: it has the byte 0x{ord(whole[error.start]) & 0xFF:02x}") from error
