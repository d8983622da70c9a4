"""A file as batches of lines: one hop to a thread for half a megabyte, never one for a row, never the whole file.

Knows bytes, encodings, line ends (also the lone carriage returns of old spreadsheets), the byte order mark and the cap
on a line; refuses what is no regular file or not in its encoding.
"""

import codecs
import json
import os
import stat
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import NoReturn, Protocol

import aiofiles
import aiofiles.os
import msgspec

from batchrunner.core.job import Json
from batchrunner.core.text import BOM, has_surrogate, looks_like, marked_encoding
from batchrunner.prompts.sources.base import (
    BATCH_BYTES,
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

CHUNK_BYTES = 512 * 1024
_SAMPLE_BYTES = 4096


class Parse(Protocol):
    """Makes values of lines as `line_batches` gives them."""

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        """The values of a row; None when the line is no row (a header).

        Raises:
            BadRowError, BadSourceError: with words for a person.
        """

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        """The values of these lines, each of which is a row; None when any of them needs a look of its own.

        Never raises: what is wrong, blank, or no row is left to `one`.
        """


async def line_batches(path: str, form: TextForm = PLAIN) -> AsyncGenerator[tuple[int, list[bytes | None]]]:
    """Batches of lines in UTF-8 without their newline, each with the 1-based number of its first line.

    A line longer than the cap is None. A carriage return at a line's end is left to the reader. Bytes that the file's
    encoding does not know stand in their line as they are.

    Raises:
        BadSourceError: the file cannot be opened or read.
    """
    try:
        await require_regular(path)
        async with aiofiles.open(path, "rb") as file:
            splitter = _Splitter(form)
            chunk = await file.read(CHUNK_BYTES)
            while chunk:
                if batch := splitter.feed(chunk):
                    yield batch
                chunk = await file.read(CHUNK_BYTES)
            if batch := splitter.end():
                yield batch
    except OSError as error:
        raise BadSourceError(f"cannot be read: {error.strerror or error}") from error


async def rows_by_line(path: str, parse: Parse, form: TextForm = PLAIN) -> Rows:
    """Rows of a format in which a line is a row and blank lines are nothing."""
    number = 0
    async with aclosing(line_batches(path, form)) as batches:
        async for first, lines in batches:
            for line, some in in_steps(first, lines):
                whole = None if None in some else parse.many(some)  # type: ignore[arg-type]  # none of them is None
                if whole is not None:
                    yield Stretch(number + 1, line, whole)
                    number += len(whole)
                    continue
                rows: list[SourceRow | BadRow] = []
                try:
                    _read(parse, some, number=number + 1, line=line, rows=rows)
                except BadSourceError:
                    if rows:
                        yield rows
                    raise
                number += len(rows)
                if rows:
                    yield rows


def in_steps(first: int, lines: list[bytes | None]) -> Iterator[tuple[int, list[bytes | None]]]:
    """The lines in batches of rows, each with the number of its first line."""
    begin = 0
    while begin < len(lines):
        some = lines[begin : begin + BATCH_ROWS]
        if sum([len(raw) for raw in some if raw is not None]) > BATCH_BYTES:
            size_bytes = 0
            for count, raw in enumerate(some, 1):
                size_bytes += len(raw or b"")
                if size_bytes > BATCH_BYTES:
                    del some[count:]
                    break
        yield first + begin, some
        begin += len(some)


def _read(parse: Parse, lines: list[bytes | None], *, number: int, line: int, rows: list[SourceRow | BadRow]) -> None:
    """Put the rows of these lines behind `rows`."""
    for place, raw in enumerate(lines, line):
        if raw is not None and not raw.strip():
            continue
        try:
            values = parse.one(raw)
        except BadRowError as error:
            rows.append(BadRow(number=number, line=place, problem=str(error), hint=error.hint))
        except BadSourceError as error:
            raise BadSourceError(error.problem, line=place, hint=error.hint) from error
        else:
            if values is None:
                continue
            rows.append(SourceRow(number, place, values))
        number += 1


def texts_of(lines: Sequence[bytes]) -> list[str] | None:
    """The texts of lines, as `text_of`; None when any of them is blank or needs a look of its own."""
    whole = b"\n".join(lines)
    if b"\0" in whole or b"\r" in whole:
        return None
    try:
        texts = whole.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return None if any(not text or text.isspace() for text in texts) else texts


def text_of(raw: bytes | None, form: TextForm = PLAIN) -> str:
    """The text of a line, without the carriage return at its end.

    Raises:
        BadRowError: it is over the cap, not in the file's encoding, or has a NUL.
    """
    if raw is None:
        raise BadRowError(f"the line is longer than {LINE_LIMIT_BYTES >> 20} MiB")
    if b"\0" in raw:
        hint = hint_of(raw) if 3 * raw.count(0) > len(raw) else None
        raise BadRowError(f"there is a NUL byte in the line, at byte {raw.index(0) + 1}", hint=hint)
    try:
        return raw.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        problem = f"the line is not {form.called}: byte {error.start + 1} is 0x{raw[error.start]:02x}"
        raise BadRowError(problem, hint=None if form.encoding else hint_of(raw)) from error


def encoding_of(beginning: bytes, given: str | None) -> str | None:
    """What a file is to be decoded from; None when it is UTF-8 already. `given` is what the job says."""
    if given is not None:
        return None if codecs.lookup(given).name in {"utf-8", "utf-8-sig", "ascii"} else given
    return marked_encoding(beginning)


def hint_of(raw: bytes) -> str:
    """What to do about bytes that are not UTF-8, with what they look like."""
    likely = looks_like(raw[:_SAMPLE_BYTES])
    if likely is None:
        return "save the file as UTF-8, or write its `encoding:` under `prompts`"
    name, code = likely
    return f"it looks like {name}: write `encoding: {code}` under `prompts`, or save the file as UTF-8"


class _Splitter:
    """Cuts chunks into lines; holds at most one unfinished line, and drops that beyond the cap."""

    def __init__(self, form: TextForm) -> None:
        self._form = form
        self._line = 1
        self._tail = bytearray()
        self._too_long = False
        self._begun = False
        self._decoder: codecs.IncrementalDecoder | None = None
        self._ends_with_return = False
        """True when lines end with a carriage return alone, as in old spreadsheets for the Macintosh."""

    def feed(self, chunk: bytes) -> tuple[int, list[bytes | None]] | None:
        begun = len(self._tail)
        self._tail += self._as_utf8(chunk)
        cut = self._tail.rfind(b"\n", begun)
        if cut < 0:
            if len(self._tail) > LINE_LIMIT_BYTES:
                self._too_long = True
                self._tail.clear()
            return None
        lines = bytes(self._tail[:cut]).split(b"\n")
        del self._tail[: cut + 1]
        return self._batch([*lines])

    def _as_utf8(self, chunk: bytes, *, last: bool = False) -> bytes:
        is_first, self._begun = not self._begun, True
        if is_first and (encoding := encoding_of(chunk, self._form.encoding)) is not None:
            self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        if self._decoder is not None:
            try:  # bytes that the encoding does not know go on as they are, but for an odd one in UTF-16
                chunk = self._decoder.decode(chunk, last).encode("utf-8", "surrogateescape")
            except UnicodeDecodeError as error:
                problem = f"the file is not {error.encoding} from here on: {error.reason}"
                raise BadSourceError(problem, line=self._line, hint="write its `encoding:` under `prompts`") from error
        if is_first:
            chunk = chunk.removeprefix(BOM)
            self._ends_with_return = b"\n" not in chunk and b"\r" in chunk[:-1]
        return chunk.replace(b"\r", b"\n") if self._ends_with_return else chunk

    def end(self) -> tuple[int, list[bytes | None]] | None:
        if self._decoder is not None:
            self._tail += self._as_utf8(b"", last=True)
        return self._batch([bytes(self._tail)]) if self._tail or self._too_long else None

    def _batch(self, lines: list[bytes | None]) -> tuple[int, list[bytes | None]]:
        first = lines[0]
        if self._too_long or (first is not None and len(first) > LINE_LIMIT_BYTES):
            lines[0] = None
        self._too_long = False
        number, self._line = self._line, self._line + len(lines)
        return number, lines


async def require_regular(path: str) -> None:
    """Refuse a folder, a pipe, a device.

    Raises:
        BadSourceError: it is one of them.
        OSError: nothing stands there.
    """
    mode = (await aiofiles.os.stat(path)).st_mode
    if not stat.S_ISREG(mode):
        name = os.path.basename(path)  # noqa: PTH119 -- a name for a message; nothing is opened
        raise BadSourceError(f"`{name}` is no regular file", hint="a source is read several times: save it as a file")


# The first line of a table: the names of its columns.


def column_names(cells: list[str]) -> tuple[str, ...]:
    """The names, stripped; one that is empty (as of an unnamed index) becomes `column_N`.

    Raises:
        BadSourceError: a name stands twice.
    """
    names = tuple(cell.strip() or f"column_{place}" for place, cell in enumerate(cells, 1))
    twice = [f"`{name}`" for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BadSourceError(f"the header names {', '.join(twice)} more than once", hint="rename one of the columns")
    return names


def wrong_width(found: int, names: tuple[str, ...]) -> str:
    """What to say of a row that does not fit its header."""
    return f"the row has {found} columns, the header has {len(names)} ({', '.join(names)})"


# `.txt`: one prompt per line, in the column `line`; blank lines are nothing.

COLUMN = "line"


def read_text(path: str, form: TextForm = PLAIN) -> Rows:
    """A row for every line that is not blank."""
    return rows_by_line(path, _Texts(form), form)


class _Texts:
    def __init__(self, form: TextForm) -> None:
        self._form = form

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        return {COLUMN: text_of(raw, self._form)}

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        texts = texts_of(lines)
        return None if texts is None else [{COLUMN: text} for text in texts]


# `.tsv`: a header, then a row per line, cut at tabs. There is no quoting: a quote is a quote.
#
# A row may leave out trailing columns, which are then empty; one with more columns than the header is bad.


def read_tab_separated(path: str, form: TextForm = PLAIN) -> Rows:
    """A row for every line after the header that is not blank."""
    return rows_by_line(path, _TabTable(form), form)


class _TabTable:
    """Remembers the header. The first line that is not blank is it."""

    def __init__(self, form: TextForm) -> None:
        self._form = form
        self._names: tuple[str, ...] = ()

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        if not self._names:
            self._names = _header(raw, self._form)
            return None
        cells = text_of(raw, self._form).split("\t")
        missing = len(self._names) - len(cells)
        if missing < 0:
            raise BadRowError(wrong_width(len(cells), self._names))
        return dict(zip(self._names, cells + [""] * missing, strict=True))

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        texts = texts_of(lines) if self._names else None
        if texts is None:
            return None
        try:
            return [dict(zip(self._names, text.split("\t"), strict=True)) for text in texts]
        except ValueError:  # a row with more or fewer columns
            return None


def _header(raw: bytes | None, form: TextForm) -> tuple[str, ...]:
    try:
        return column_names(text_of(raw, form).split("\t"))
    except BadRowError as error:
        raise BadSourceError(f"the header: {error}", hint=error.hint) from error


# `.jsonl`: an object per line; blank lines are nothing. Refuses what JSON does not know, like NaN.

_KINDS: dict[type, str] = {list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
_DEEP = 200
"""Brackets in a line from which on it is read with Python's own reader, whose depth is the one that counts."""
_decode_row = msgspec.json.Decoder(dict[str, Json]).decode


def read_json_lines(path: str, form: TextForm = PLAIN) -> Rows:
    """A row for every line that is not blank."""
    return rows_by_line(path, _Objects(form), form)


class _Objects:
    def __init__(self, form: TextForm) -> None:
        self._form = form

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        return _values(text_of(raw, self._form))

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        """Read with msgspec, which gives what `json` gives; whatever it refuses is left to `json`, and to its words."""
        whole = b"\n".join(lines)
        if whole.count(b"[") + whole.count(b"{") > _DEEP and any(_is_deep(raw) for raw in lines):
            return None
        try:
            return [_decode_row(raw) for raw in lines]
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


def _is_deep(raw: bytes) -> bool:
    return raw.count(b"[") + raw.count(b"{") > _DEEP


def _values(text: str) -> dict[str, Json]:
    try:
        value: Json = _decode(text)
    except json.JSONDecodeError as error:
        raise BadRowError(f"the line is not JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRowError(f"the line is not usable JSON: {reason}") from error
    if not isinstance(value, dict):
        raise BadRowError(f"the line is {_KINDS.get(type(value), 'null')}, not an object")
    if ("\\ud" in text or "\\uD" in text) and has_surrogate(json.dumps(value, ensure_ascii=False)):
        raise BadRowError("the line has half a surrogate pair, which no text can hold")
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
