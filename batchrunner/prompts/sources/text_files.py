"""Files of text, line by line: what lines are, and the formats in which a line is a row (`.txt`, `.tsv`, `.jsonl`).

Handles encodings, line ends (also the lone carriage returns of old spreadsheets), the byte order mark and the cap on a
line; refuses what is not a regular file or not in its encoding. Never holds more than half a megabyte, or one line.
"""

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn, Protocol

import msgspec

from batchrunner.core.job import Json
from batchrunner.core.text import has_surrogate, looks_like, marked_encoding
from batchrunner.prompts.sources.base import (
    BATCH_BYTES,
    BATCH_ROWS,
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
from batchrunner.prompts.sources.opening import opened

CHUNK_BYTES = 512 * 1024
_SAMPLE_BYTES = 4096
_BYTE_ORDER_MARK = "\ufeff"
_BLANKS = " \t\r\v\f"


class Parse(Protocol):
    """Makes values of lines as `line_batches` gives them."""

    def one(self, line: str | None) -> dict[str, Json] | None:
        """The values of a row; None when the line is no row (a header).

        Raises:
            BadRowError, BadSourceError: with words for a person.
        """

    def many(self, lines: list[str]) -> list[dict[str, Json]] | None:
        """The values of these lines, each of which is a row; None when any of them needs a look of its own.

        Never raises: what is wrong, blank, or no row is left to `one`.
        """


def line_batches(path: str, form: TextForm = PLAIN) -> Iterator[tuple[int, list[str | None]]]:
    """Batches of lines without their newline, each with the 1-based number of its first line.

    A line longer than the cap is None. A carriage return at a line's end is left to the reader. Bytes that the file's
    encoding does not know are surrogates, as Python escapes them.

    Raises:
        BadSourceError: the file is not in its encoding any more, and nothing after that can be read.
        OSError: the file cannot be opened or read.
    """
    with opened(path) as file:
        chunk = file.read(CHUNK_BYTES)
        decoder = codecs.getincrementaldecoder(encoding_of(chunk, form.encoding) or "utf-8")("surrogateescape")
        number, tail, is_too_long = 1, "", False
        ends_with_return: bool | None = None
        """True when lines end with a carriage return alone, as in old spreadsheets for the Macintosh."""
        while True:
            try:
                text = decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                problem = f"the file is not {error.encoding} from here on: {error.reason}"
                raise BadSourceError(problem, line=number, hint="write its `encoding:` under `prompts`") from error
            if ends_with_return is None:
                text = text.removeprefix(_BYTE_ORDER_MARK)
                ends_with_return = "\n" not in text and "\r" in text[:-1]
            pieces = (tail + (text.replace("\r", "\n") if ends_with_return else text)).split("\n")
            tail = pieces.pop() if chunk or not (pieces[-1] or is_too_long) else ""
            lines: list[str | None] = [*pieces]
            if lines:
                if is_too_long or _is_too_long(pieces[0]):
                    lines[0], is_too_long = None, False
                yield number, lines
                number += len(lines)
            if not chunk:
                return
            if _is_too_long(tail):
                tail, is_too_long = "", True
            chunk = file.read(CHUNK_BYTES)


def _is_too_long(line: str) -> bool:
    return len(line) > LINE_LIMIT_BYTES // 4 and len(line.encode("utf-8", "surrogateescape")) > LINE_LIMIT_BYTES


def rows_by_line(path: str, parse: Parse, form: TextForm = PLAIN) -> Iterator[Batch]:
    """Rows of a format in which a line is a row and blank lines are nothing."""
    number = 0
    for first, lines in line_batches(path, form):
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


def in_steps(first: int, lines: list[str | None]) -> Iterator[tuple[int, list[str | None]]]:
    """The lines in batches of rows, each with the number of its first line."""
    begin = 0
    while begin < len(lines):
        some = lines[begin : begin + BATCH_ROWS]
        if sum([len(line) for line in some if line is not None]) > BATCH_BYTES:
            size = 0
            for count, line in enumerate(some, 1):
                size += len(line or "")
                if size > BATCH_BYTES:
                    del some[count:]
                    break
        yield first + begin, some
        begin += len(some)


def _read(parse: Parse, lines: list[str | None], *, number: int, line: int, rows: list[SourceRow | BadRow]) -> None:
    """Append the rows of these lines to `rows`."""
    for place, text in enumerate(lines, line):
        if text is not None and not text.strip(_BLANKS):
            continue
        try:
            values = parse.one(text)
        except BadRowError as error:
            rows.append(BadRow(number=number, line=place, problem=str(error), hint=error.hint))
        except BadSourceError as error:
            raise BadSourceError(error.problem, line=place, hint=error.hint) from error
        else:
            if values is None:
                continue
            rows.append(SourceRow(number, place, values))
        number += 1


def are_plain(lines: list[str]) -> bool:
    """False when any of the lines is blank or needs a look of its own."""
    whole = "".join(lines)
    return (
        "\0" not in whole
        and "\r" not in whole
        and not has_surrogate(whole)
        and not any(not line or line.isspace() for line in lines)
    )


def text_of(line: str | None, form: TextForm = PLAIN) -> str:
    """The text of a line, without the carriage return at its end.

    Raises:
        BadRowError: it is over the cap, not in the file's encoding, or has a NUL.
    """
    if line is None:
        raise BadRowError(f"the line is longer than {LINE_LIMIT_BYTES >> 20} MiB")
    return decoded(line.encode("utf-8", "surrogateescape"), "line", form).removesuffix("\r")


def decoded(raw: bytes, what: str, form: TextForm, encoding: str | None = None) -> str:
    """The text of bytes in an encoding, None for UTF-8; `what` they are is for messages.

    Raises:
        BadRowError: they are in another encoding, or there is a NUL byte in UTF-8.
    """
    if b"\0" in raw and encoding is None:
        hint = hint_of(raw) if 3 * raw.count(0) > len(raw) else None
        raise BadRowError(f"there is a NUL byte in the {what}, at byte {raw.index(0) + 1}", hint=hint)
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        problem = f"the {what} is not {encoding or form.called}: byte {error.start + 1} is 0x{raw[error.start]:02x}"
        raise BadRowError(problem, hint=None if encoding or form.encoding else hint_of(raw)) from error


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


def read_text(path: str, form: TextForm = PLAIN) -> Iterator[Batch]:
    """A row for every line that is not blank."""
    return rows_by_line(path, _Texts(form), form)


class _Texts:
    def __init__(self, form: TextForm) -> None:
        self._form = form

    def one(self, line: str | None) -> dict[str, Json] | None:
        return {COLUMN: text_of(line, self._form)}

    def many(self, lines: list[str]) -> list[dict[str, Json]] | None:
        return [{COLUMN: line} for line in lines] if are_plain(lines) else None


# `.tsv`: a header, then a row per line, cut at tabs. There is no quoting: a quote is a quote.
#
# A row may leave out trailing columns, which are then empty; one with more columns than the header is bad.


def read_tab_separated(path: str, form: TextForm = PLAIN) -> Iterator[Batch]:
    """A row for every line after the header that is not blank."""
    return rows_by_line(path, _TabTable(form), form)


class _TabTable:
    """Remembers the header. The first line that is not blank is it."""

    def __init__(self, form: TextForm) -> None:
        self._form = form
        self._names: tuple[str, ...] = ()

    def one(self, line: str | None) -> dict[str, Json] | None:
        if not self._names:
            self._names = _header(line, self._form)
            return None
        cells = text_of(line, self._form).split("\t")
        missing = len(self._names) - len(cells)
        if missing < 0:
            raise BadRowError(wrong_width(len(cells), self._names))
        return dict(zip(self._names, cells + [""] * missing, strict=True))

    def many(self, lines: list[str]) -> list[dict[str, Json]] | None:
        if not self._names or not are_plain(lines):
            return None
        try:
            return [dict(zip(self._names, line.split("\t"), strict=True)) for line in lines]
        except ValueError:  # a row with more or fewer columns
            return None


def _header(line: str | None, form: TextForm) -> tuple[str, ...]:
    try:
        return column_names(text_of(line, form).split("\t"))
    except BadRowError as error:
        raise BadSourceError(f"the header: {error}", hint=error.hint) from error


# `.jsonl`: an object per line; blank lines are nothing. Refuses what JSON does not know, like NaN.

_KINDS: dict[type, str] = {list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
_DEEP = 200
"""Brackets in a line from which on it is read with Python's own reader, whose depth is the one that counts."""
_decode_row = msgspec.json.Decoder(dict[str, Json]).decode


def read_json_lines(path: str, form: TextForm = PLAIN) -> Iterator[Batch]:
    """A row for every line that is not blank."""
    return rows_by_line(path, _Objects(form), form)


class _Objects:
    def __init__(self, form: TextForm) -> None:
        self._form = form

    def one(self, line: str | None) -> dict[str, Json] | None:
        return _values(text_of(line, self._form))

    def many(self, lines: list[str]) -> list[dict[str, Json]] | None:
        """Read with msgspec, which gives what `json` gives; whatever it refuses is left to `json`, and to its words."""
        whole = "".join(lines)
        if whole.count("[") + whole.count("{") > _DEEP and any(
            line.count("[") + line.count("{") > _DEEP for line in lines
        ):
            return None
        try:
            return [_decode_row(line) for line in lines]
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


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
        raise BadRowError("the line contains an unpaired surrogate (invalid Unicode)")
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
