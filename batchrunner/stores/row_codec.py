"""Rows as lines of JSON: written in the contract's order, read back as little as a question needs, relabelled in place.

Optional fields (`messages`, `schema_sha256`, `images`, `replica`, `shared_with`, `fallback_of`, `flags`, `path`)
are left out when empty, as `core.row` declares; all others are always there. Refuses nothing that Python can hold: lone
surrogates become U+FFFD, NaN becomes null.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, cast

import msgspec

from batchrunner.core.item import Item
from batchrunner.core.job import Json
from batchrunner.core.outcome import Alternative, Usage
from batchrunner.core.row import ChatOutput, FailureRow, ResultRow, tokens_of
from batchrunner.core.text import BOM, repaired, without_lone_surrogates
from batchrunner.core.values import dataclass, field_names
from batchrunner.stores.files import DISK, FAILURES, RESULTS, Files, broken
from batchrunner.stores.row_forms import FileLine, lines_of, read_lines

# What decoding bytes of the disk can raise: msgspec's own errors, and two of Python's that it lets through.

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""No JSON or another shape; a text that is no UTF-8; nested deeper than the stack."""


_TOO_DEEP = "parsed_too_deep"

_plain_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(dict[str, object]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class NamedFile(msgspec.Struct):
    """A file that a row names; `path` is relative to the run's directory."""

    path: str
    sha256: str
    bytes: int


class _RowOutput(msgspec.Struct):
    images: tuple[NamedFile, ...] = ()
    audio: tuple[NamedFile, ...] = ()
    media: tuple[NamedFile, ...] = ()
    text: str = ""
    path: str | None = None


class _Tokens(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None


class RowFacts(msgspec.Struct):
    """What a `done` record and an audit need of a result row."""

    id: str
    key: str
    attempts: int = 0
    output: _RowOutput = msgspec.field(default_factory=_RowOutput)
    usage: _Tokens | None = None
    task_id: str | None = None
    shared_with: str | None = None
    reused: dict[str, object] | None = None
    model: str = ""
    fallback_of: str | None = None
    fallback_keys: tuple[str, ...] = ()

    @property
    def has_more(self) -> bool:
        """Whether it has files, or is the copy of another item's row."""
        output = self.output
        has_files = bool(output.images or output.audio or output.media)
        return has_files or output.path is not None or self.shared_with is not None

    @property
    def files(self) -> tuple[tuple[str, int, str], ...]:
        """(path, size in bytes, sha256) of each of its pictures, sounds and other files."""
        files = (*self.output.images, *self.output.audio, *self.output.media)
        return tuple((file.path, file.bytes, file.sha256) for file in files)


class FailureFacts(msgspec.Struct):
    """What a `failed` record needs of a failure row."""

    id: str
    key: str
    attempts: int = 0
    error: dict[str, object] = {}
    model: str = ""
    fallback_of: str | None = None
    fallback_keys: tuple[str, ...] = ()


class _Name(msgspec.Struct, gc=False):
    key: str
    shared_with: str | None = None


class _KeyAndIndex(msgspec.Struct, gc=False):
    key: str
    index: int


class _Id(msgspec.Struct):
    id: str


_decode_id = msgspec.json.Decoder(_Id).decode
_decode_place = msgspec.json.Decoder(_KeyAndIndex).decode
_decode_name = msgspec.json.Decoder(_Name).decode
_decode_path = msgspec.json.Decoder(NamedFile).decode
_decode_facts = msgspec.json.Decoder(RowFacts).decode
_decode_facts_lines = msgspec.json.Decoder(RowFacts).decode_lines
_decode_failure = msgspec.json.Decoder(FailureFacts).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """How an item is called in the present job: what a row takes from it when it was moved or renamed."""

    key: bytes
    """16 bytes."""
    id: str
    prompt_id: str
    index: int
    vars: bytes
    """As JSON."""
    origin: bytes | None = None
    """As JSON; `from` of the row."""
    fallback_of: str | None = None
    fallback_keys: tuple[str, ...] = ()


def label_of(item: Item) -> Label:
    """The item without what makes it big."""
    return Label(
        key=bytes.fromhex(item.key),
        id=without_lone_surrogates(item.id),
        prompt_id=without_lone_surrogates(item.prompt_id),
        index=item.index,
        vars=_encode_any(item.vars),
        origin=None if item.origin is None else _encode_any(item.origin),
        fallback_of=None if item.fallback_of is None else without_lone_surrogates(item.fallback_of),
        fallback_keys=item.fallback_keys,
    )


def crc_of(line: bytes) -> str:
    """crc32 of a line without its newline, eight lowercase hex digits."""
    return f"{zlib.crc32(line):08x}"


def encode_row(row: ResultRow | FailureRow) -> bytes:
    """The row's line, without a newline."""
    if isinstance(row, ResultRow):
        output = row.output
        if isinstance(output, ChatOutput) and not (output.extras or output.choices or isinstance(row.usage, Usage)):
            try:
                line = _plain_encode(row)  # nearly every row
            except (UnicodeEncodeError, RecursionError):
                return _encode_row(row)
            return _one_line(line) if b"\xe2\x80" in line or b"\xc2\x85" in line else line
    return _encode_row(row)


def _encode_row(row: ResultRow | FailureRow) -> bytes:
    """Whatever is in it."""
    try:
        return _encode_any(_shown(row))
    except RecursionError:
        if not isinstance(row, ResultRow) or not isinstance(row.output, ChatOutput):
            raise
        # The answer's text has it, too; a value nested deeper than the interpreter's stack can only be left out.
        output = msgspec.structs.replace(row.output, parsed=None, flags=(*row.output.flags, _TOO_DEEP))
        return _encode_any(_shown(msgspec.structs.replace(row, output=output)))


def trimmed(line: FileLine) -> FileLine:
    """The line without what an editor put around its row: a byte order mark at the file's start, a carriage return."""
    offset, text, whole = line
    if offset == 0 and text.startswith(BOM):
        offset, text = len(BOM), text[len(BOM) :]
    elif not text.endswith(b"\r"):
        return line
    return FileLine(offset, text.removesuffix(b"\r"), whole)


def row_lines(files: Files, path: Path, *, start: int = 0) -> Iterator[FileLine]:
    """The lines of a file of rows, trimmed; without blank ones. A whole row without its newline is a whole line.

    Raises OSError.
    """
    for line in read_lines(files, path, start=start):
        offset, text, whole = trimmed(line)
        if text and not text.isspace():
            yield FileLine(offset, text, whole or name_of(text) is not None)


def name_of(text: bytes) -> tuple[bytes, bool] | None:
    """(key, whether it is a shared copy) of a row's line; None when the line is no row."""
    try:
        text.decode()  # fields that are not looked at here are looked at later
        name = _decode_name(text)
        key = bytes.fromhex(name.key)
    except (*UNREADABLE, ValueError):
        return None
    return (key, name.shared_with is not None) if len(key) == 16 else None  # noqa: PLR2004 - blake2b-128


def facts_of(text: bytes) -> RowFacts | None:
    """What a `done` record needs; None when the line is no result row."""
    try:
        text.decode()  # as in `name_of`
        facts = _decode_facts(text)
        is_key = len(bytes.fromhex(facts.key)) == 16  # noqa: PLR2004 - as in `name_of`
    except (*UNREADABLE, ValueError):
        return None
    return facts if is_key else None


def facts_of_all(texts: Sequence[bytes]) -> tuple[list[RowFacts], list[bytes]] | None:
    """As `facts_of` of each, with their keys, in few steps; None where one of the lines needs a look of its own."""
    joined = b"\n".join(texts)
    if b"\r" in joined:
        return None
    try:
        joined.decode()  # as in `name_of`
        facts = _decode_facts_lines(joined)
        names = [row.key for row in facts]
        raw = bytes.fromhex("".join(names))
    except (*UNREADABLE, ValueError):
        return None
    if len(facts) != len(texts) or set(map(len, names)) != {32} or raw.hex() != "".join(names):
        return None
    return facts, [raw[at : at + 16] for at in range(0, len(raw), 16)]


def failure_of(text: bytes) -> FailureFacts | None:
    """What a `failed` record needs; None when the line is no failure row."""
    if name_of(text) is None:
        return None
    try:
        return _decode_failure(text)
    except UNREADABLE:
        return None


def name_and_id_of(text: bytes) -> tuple[bytes, str] | None:
    """(key, id) of a row's line of either file; None when the line is no row."""
    name = name_of(text)
    try:
        return None if name is None else (name[0], id_of(text))
    except UNREADABLE:
        return None


def key_and_index_of(text: bytes) -> tuple[bytes, int] | None:
    """The 16 bytes of a row's key and its item's index; None if the line is no row."""
    try:
        row = _decode_place(text)
        return bytes.fromhex(row.key), row.index
    except (msgspec.DecodeError, ValueError):
        return None


def id_of(text: bytes) -> str:
    """The id in a row's line."""
    return _decode_id(text).id


def relabelled(text: bytes, label: Label) -> bytes:
    """The row's line under its present label, no shared copy any more; the very same bytes when nothing changed."""
    left = () if label.fallback_keys else ("fallback_of", "fallback_keys")
    return _changed(text, _label_fields(label), without=("shared_with", *left))


def shared_copy(text: bytes, label: Label, *, owner: str) -> bytes:
    """The line of another item with the same key: nothing was sent for it, so it has no attempts and no doubts."""
    nothing = msgspec.Raw(b"0")
    extra = {"attempts": nothing, "ambiguous": nothing, "shared_with": msgspec.Raw(_encode(owner))}
    return _changed(text, _label_fields(label) | extra, without=())


def taken_copy(
    text: bytes, label: Label, *, run: str, attempts: int, ambiguous: int, paths: dict[str, str], path: str | None
) -> bytes:
    """The line of a row of another run, as a row of this one: it names that run and its id there.

    Nothing was sent for it: `attempts` and `ambiguous` are what the item took here before. `paths`: where the files lie
    now that it names; `path`: where the answer lies as a file of its own, if it does.
    """
    output = _decode_fields(_decode_fields(text)["output"])
    for name in ("images", "audio", "media") if paths else ():
        if name in output:
            entries = msgspec.json.decode(output[name], type=list[dict[str, msgspec.Raw]])
            for entry in entries:
                entry["path"] = msgspec.Raw(_encode(paths[msgspec.json.decode(entry["path"], type=str)]))
            output[name] = msgspec.Raw(_encode(entries))
    output.pop("path", None)
    if path is not None:
        output["path"] = msgspec.Raw(_encode(path))
    changes = {
        "output": msgspec.Raw(_encode(output)),
        "attempts": msgspec.Raw(_encode(attempts)),
        "ambiguous": msgspec.Raw(_encode(ambiguous)),
        "recovered": msgspec.Raw(b"false"),
        "reused": msgspec.Raw(_encode({"run": run, "id": id_of(text)})),
    }
    gone = ("shared_with", *(("from",) if label.origin is None else ()))
    return _changed(text, _label_fields(label) | changes, without=gone)


def unlabelled(text: bytes) -> bytes:
    """The row's line without its label: the same for a row that was moved or renamed; other lines unchanged."""
    try:
        row = _decode_fields(text)
    except UNREADABLE:
        return text
    for name in ("id", "prompt_id", "index", "vars", "shared_with", "fallback_of", "fallback_keys", "from"):
        row.pop(name, None)
    return _encode(row)


def with_pictures(text: bytes, changed: dict[str, bytes]) -> bytes:
    """The row's line with other pictures, as JSON by the path of the old one; the very same bytes without any."""
    if not changed:
        return text
    output = _decode_fields(_decode_fields(text)["output"])
    images = [
        msgspec.Raw(changed.get(_decode_path(image).path, bytes(image)))
        for image in msgspec.json.decode(output["images"], type=list[msgspec.Raw])
    ]
    output["images"] = msgspec.Raw(_encode(images))
    return _changed(text, {"output": msgspec.Raw(_encode(output))}, without=())


def _label_fields(label: Label) -> dict[str, msgspec.Raw]:
    origin = {} if label.origin is None else {"from": msgspec.Raw(label.origin)}
    if label.fallback_of is not None:
        origin["fallback_of"] = msgspec.Raw(_encode(label.fallback_of))
        origin["fallback_keys"] = msgspec.Raw(_encode(label.fallback_keys))
    return {
        "id": msgspec.Raw(_encode(label.id)),
        "prompt_id": msgspec.Raw(_encode(label.prompt_id)),
        "index": msgspec.Raw(_encode(label.index)),
        "vars": msgspec.Raw(label.vars),
        **origin,
    }


def _changed(text: bytes, changes: dict[str, msgspec.Raw], *, without: tuple[str, ...]) -> bytes:
    """Fields that are not named keep their bytes, unknown ones too."""
    row = _decode_fields(text)
    gone = [name for name in without if name in row]
    if not gone and all(bytes(row.get(name, b"")) == bytes(value) for name, value in changes.items()):
        return text
    row.update(changes)
    for name in gone:
        del row[name]
    return _encode(row)


def _shown(row: ResultRow | FailureRow) -> object:
    """What the encoder takes as it is: the row itself, unless an answer brought what this contract has no name for."""
    if isinstance(row, FailureRow):
        return row
    if isinstance(row.usage, Usage):
        row = msgspec.structs.replace(row, usage=tokens_of(row.usage))
    if not isinstance(row.output, ChatOutput) or not (row.output.extras or row.output.choices):
        return row
    shown, output = _fields(row), _fields(row.output)
    output.pop("extras", None)
    output |= {name: value for name, value in row.output.extras.items() if name not in output}
    if row.output.choices:
        output["choices"] = [_choice(choice) for choice in row.output.choices]
    return shown | {"output": output}


def _choice(choice: Alternative) -> dict[str, object]:
    shown: dict[str, object] = {name: getattr(choice, name) for name in _names(Alternative)}
    extras = shown.pop("extras")
    shown["tool_calls"] = choice.tool_calls or None
    return {**extras, **shown} if isinstance(extras, dict) else shown


def _fields(value: ResultRow | ChatOutput) -> dict[str, object]:
    """The fields that the encoder would write, by name."""
    infos = msgspec.structs.fields(type(value))
    shown = ((info.encode_name, getattr(value, info.name), info.default) for info in infos)
    return {name: inner for name, inner, default in shown if inner is not default}


@cache
def _names(kind: type) -> tuple[str, ...]:
    """Of the fields of a part of a row, in their order: looked up once and not for every row."""
    return field_names(kind)


def _encode(value: object) -> bytes:
    """JSON on what every reader takes for one line: some cut at U+2028, U+2029 and U+0085 as at a newline."""
    line = _plain_encode(value)
    return _one_line(line) if b"\xe2\x80" in line or b"\xc2\x85" in line else line


def _one_line(line: bytes) -> bytes:
    line = line.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return line.replace(b"\xc2\x85", b"\\u0085")


def _encode_any(value: object) -> bytes:
    try:
        line = _plain_encode(value)  # as `_encode`: nearly every row ends here
    except UnicodeEncodeError:
        return _encode(repaired(msgspec.to_builtins(value)))
    return _one_line(line) if b"\xe2\x80" in line or b"\xc2\x85" in line else line


def iter_results(folder: Path, *, files: Files = DISK) -> Iterator[dict[str, Json]]:
    """The rows of a run's `results.jsonl`, one dict each, also while it is being written: a torn end is passed over.

    Raises:
        StoreBrokenError: the file cannot be read.
    """
    return _iter_rows(folder / RESULTS, files)


def iter_failures(folder: Path, *, files: Files = DISK) -> Iterator[dict[str, Json]]:
    """The same for `failures.jsonl`."""
    return _iter_rows(folder / FAILURES, files)


def rows_behind(descriptor: int, start: int, *, files: Files = DISK) -> Iterator[tuple[dict[str, Json] | None, int]]:
    """The rows of an open file from an offset to its last whole line, each with the offset where it ends.

    None for a line that is no row. Raises OSError.
    """
    for line in lines_of(files, descriptor, start=start):
        if not line.whole:
            return
        try:
            row = cast("dict[str, Json]", _decode_row(trimmed(line).text))
        except UNREADABLE:
            row = None
        yield row, line.offset + len(line.text) + 1


def _iter_rows(path: Path, files: Files) -> Iterator[dict[str, Json]]:
    try:
        for line in row_lines(files, path):
            if line.whole:
                try:
                    row = cast("dict[str, Json]", _decode_row(line.text))
                except UNREADABLE:
                    continue
                yield row
    except OSError as error:
        raise broken(path, error) from error
