"""Rows as the page reads them: lines, 256 to a gzip chunk, and an index of int32 columns to filter, sort and group by.

Streamed: of the rows that went by, about 60 bytes each are kept for the index.
"""

import base64
import zlib
from array import array
from collections.abc import Callable
from datetime import datetime
from typing import Final, cast

import msgspec

from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field

CHUNK_ROWS: Final = 256
FIRST_ROWS: Final = 48
FIRST_BYTES: Final = 96_000
"""Of the first rows, which stand in the page as they are: a screen's worth, so that they are there at once."""
PLAIN_COLUMNS: Final = (
    "index",
    "group",
    "model",
    "failure",
    "flags",
    "ms",
    "input",
    "output",
    "attempts",
    "started",
    "chars",
    "hash",
    "verdict",
)
"""One int32 for each row. `failure` is 0 for a done item, else 1 + its place in `failures`; -1 stands for unknown.

`ms` are milliseconds of the item, `started` seconds since the run was created, `chars` the answer's length, `hash`
tells equal answers and equal pictures from others; `verdict` is 0 without scores, else a place in `VERDICTS`, from 1.
"""
VERDICTS: Final = (True, False, None)
"""What the checks that count say of an answer: pass, fail, no verdict."""
OWN_AXES: Final = "_axes"
"""Values that a row has been given for axes, whatever it holds itself; not shown."""
MOST_LINE_BYTES: Final = 1_000_000
"""A row's line beyond this has its texts cut: a chunk of giant answers would not fit into memory."""
_CUT_CHARS: Final = 100_000
_CUT_NOTE: Final = " … (cut here: results.jsonl has all of it)"
_FLAGS_MAX: Final = 31
_MARKS: Final = (("recovered", "recovered"), ("ambiguous", "ambiguous"), ("shared", "shared_with"))
"""Flags and the fields of a row that set them."""
_LEVEL: Final = 3
"""A sixth more bytes than by level 6, in less than half of its time: chunks were a quarter of what a page costs."""
_HASH_MASK: Final = 0x7FFFFFFF
_NUMBERS: Final = frozenset({int, float})
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True)
class Axis:
    """Something that varies between the items of one prompt: a column of the index."""

    name: str
    values: list[Json]
    """As the page names them, in the job's order; what else occurs is added."""
    places: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value in self.values:
            self.places.setdefault(_encode(value), len(self.places))

    def place(self, value: Json) -> int:
        """The number of a value."""
        written = _encode(value)
        known = self.places.get(written)
        if known is None:
            known = self.places[written] = len(self.values)
            self.values.append(value)
        return known


@dataclass(slots=True, kw_only=True)
class RowChunks:
    """Takes rows in the job's order; gives a finished chunk as gzip bytes to `on_chunk`.

    `log_of` returns what the ledger has of a key, `hide` takes paths of this machine out of a message.
    """

    axes: list[Axis]
    since: float
    log_of: Callable[[str], list[Json]]
    hide: Callable[[str], str]
    on_chunk: Callable[[int, bytes], None]
    rows: int = 0
    models: Axis = field(default_factory=lambda: Axis(name="model", values=[]))
    flags: dict[str, int] = field(default_factory=dict)
    failures: Axis = field(default_factory=lambda: Axis(name="class", values=[]))
    groups: int = 0
    pictures: dict[str, str] = field(default_factory=dict)
    """sha256 → path of every picture that may be shown."""
    first: list[bytes] = field(default_factory=list)
    _first_bytes: int = 0
    _index_rows: "array[int]" = field(default_factory=lambda: array("i"))
    """Row after row, each with a value for every column."""
    _group_of: dict[str, int] = field(default_factory=dict)
    _lines: list[bytes] = field(default_factory=list)
    _chunk: int = 0

    @property
    def columns(self) -> list[str]:
        """The names of the index's columns, in order."""
        return [*PLAIN_COLUMNS, *(f"axis{number}" for number in range(len(self.axes)))]

    def facts(self) -> dict[str, Json]:
        """What the page's script is told of them."""
        return {
            "rows": self.rows,
            "chunks": self.chunks,
            "groups": self.groups,
            "columns": list(self.columns),
            "axes": [{"name": axis.name, "values": axis.values} for axis in self.axes],
            "models": self.models.values,
            "failureClasses": self.failures.values,
            "flags": list(self.flags),
            "since": self.since,
        }

    def add(self, row: ExportRow) -> None:
        """The next row."""
        fields = row.fields
        output = fields.pop("output", None)
        error = fields.pop("error", None)
        told = output if isinstance(output, dict) else {}
        if "embedding" in told and isinstance(vector := told["embedding"], list):
            output = told = {name: value for name, value in told.items() if name != "embedding"}
            told["text"] = _shown_vector(vector)
        self._index(fields, told, error if isinstance(error, dict) else None)
        fields.pop(OWN_AXES, None)
        line = self._line(fields, output, error)
        self._lines.append(line)
        if (
            len(self.first) < FIRST_ROWS
            and self._first_bytes + len(line) <= FIRST_BYTES
            and len(self.first) == self.rows
        ):
            self.first.append(line)
            self._first_bytes += len(line)
        self.rows += 1
        if len(self._lines) == CHUNK_ROWS:
            self._finish_chunk()

    @property
    def chunks(self) -> int:
        """How many there are, the one that is not full yet included."""
        return self._chunk + bool(self._lines)

    def tail(self) -> bytes:
        """The chunk that is not full yet, for pages of a run that goes on; more rows may be added afterwards."""
        return compressed(b"\n".join(self._lines))

    def finish(self) -> None:
        """Give the last chunk, though it may not be full."""
        if self._lines:
            self._finish_chunk()

    def index(self) -> bytes:
        """All columns behind each other, int32 little-endian, as gzip."""
        return compressed(self.columns_from(0))

    def columns_from(self, row: int) -> bytes:
        """The same from a row on, and not compressed."""
        width = len(PLAIN_COLUMNS) + len(self.axes)
        rest = self._index_rows[row * width :]
        return b"".join(_little(rest[place::width]) for place in range(width))

    def _line(self, fields: dict[str, Json], output: Json, error: Json) -> bytes:
        """`HEAD<tab>REST`, see the package; takes what is in the head out of `fields`."""
        answer: Json = ""
        if isinstance(output, dict):
            answer = output.pop("text", "")
            fields["output"] = output
        if isinstance(error, dict):
            answer = self.hide(str(error.pop("message", None) or ""))
            fields["error"] = error
        head = [fields.pop("id", ""), fields.pop("prompt", ""), answer, fields.pop("vars", {})]
        log = self.log_of(str(fields.get("key")))
        if log:
            fields["_log"] = log
        line = _encode(head) + b"\t" + _encode(fields)
        if len(line) > MOST_LINE_BYTES:
            line = _encode(_cut(head)) + b"\t" + _encode(_cut(fields))
        return line

    def _index(self, fields: dict[str, Json], output: dict[str, Json], error: dict[str, Json] | None) -> None:
        usage = fields.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        text = output.get("text")
        text = text if isinstance(text, str) else ""
        pictures = output.get("images")
        pictures = pictures if isinstance(pictures, list) else []
        prompt_id = str(fields.get("prompt_id"))
        group = self._group_of.get(prompt_id)
        if group is None:
            group = self._group_of[prompt_id] = self.groups
            self.groups += 1
        self._index_rows.extend(
            (
                _whole(fields.get("index")),
                group,
                self.models.place(fields.get("model")),
                0 if error is None else 1 + self.failures.place(error.get("class")),
                self._flag_bits(fields, output),
                _whole(fields.get("seconds"), 1000),
                _whole(usage.get("input_tokens")),
                _whole(usage.get("output_tokens")),
                _whole(fields.get("attempts")),
                self._moment(fields.get("started_at") or fields.get("failed_at")),
                len(text),
                self._hash(text, pictures),
                1 + VERDICTS.index(verdict) if "pass" in fields and (verdict := fields["pass"]) in VERDICTS else 0,
                *[axis.place(_axis_value(axis.name, fields)) for axis in self.axes],
            )
        )

    def _flag_bits(self, fields: dict[str, Json], output: dict[str, Json]) -> int:
        names = [name for name, mark in _MARKS if fields.get(mark)]
        if output.get("truncated"):
            names.append("truncated")
        if isinstance(told := output.get("flags"), list):
            names += [str(name) for name in told]
        bits = 0
        for name in names:
            place = self.flags.setdefault(name, len(self.flags))
            if place < _FLAGS_MAX:
                bits |= 1 << place
        return bits

    def _moment(self, text: Json) -> int:
        try:
            return max(0, int(datetime.fromisoformat(str(text)).timestamp() - self.since))
        except (ValueError, OverflowError):
            return -1

    def _hash(self, text: str, pictures: list[Json]) -> int:
        digest = zlib.crc32(text.encode()) if text else 0
        for picture in pictures:
            if isinstance(picture, dict):
                sha, path = str(picture.get("sha256")), str(picture.get("path"))
                digest = zlib.crc32(sha.encode(), digest)
                if picture.get("width") is not None:
                    self.pictures.setdefault(sha, path)
        return digest & _HASH_MASK

    def _finish_chunk(self) -> None:
        self.on_chunk(self._chunk, compressed(b"\n".join(self._lines)))
        self._lines.clear()
        self._chunk += 1


def compressed(data: bytes) -> bytes:
    """As gzip, the same bytes each time."""
    squeeze = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return squeeze.compress(data) + squeeze.flush()


def as_text(data: bytes) -> str:
    """Bytes for a data block of the page."""
    return base64.b64encode(data).decode("ascii")


def axes_of(job: dict[str, Json]) -> list[Axis]:
    """What varies between the items of one prompt, from the job as resolved: models, the matrix, replicas.

    Of a job that is not known any more (run.json was made anew from the ledger) what rows say of themselves.
    """
    if not job:
        return [Axis(name="model", values=[]), Axis(name="replica", values=[])]
    models, matrix, replicas = job.get("models"), job.get("matrix"), job.get("replicas")
    found = []
    for name, values in matrix.items() if isinstance(matrix, dict) else ():
        if isinstance(values, list) and len(values) > 1:
            found.append(Axis(name=str(name), values=list(values)))
    if isinstance(models, list) and len(models) > 1:
        found.append(Axis(name="model", values=list(models)))
    if isinstance(replicas, int) and replicas > 1:
        found.append(Axis(name="replica", values=list(range(1, replicas + 1))))
    return found


def _axis_value(name: str, fields: dict[str, Json]) -> Json:
    if name == "model":
        return fields.get("model")
    if name == "replica":
        return fields.get("replica") or 1
    for place in (OWN_AXES, "params", "vars"):
        inside = fields.get(place)
        if isinstance(inside, dict) and name in inside:
            return inside[name]
    return None


def _whole(value: Json, times: int = 1) -> int:
    """A number as int32; -1 where there is none."""
    if type(value) not in _NUMBERS:
        return -1
    number = int(cast("float", value) * times)
    return number if -1 <= number <= _HASH_MASK else _HASH_MASK if number > 0 else -1


def _little(column: "array[int]") -> bytes:
    if array("i", [1]).tobytes()[0] != 1:  # a big-endian machine
        column = array("i", column)
        column.byteswap()
    return column.tobytes()


def _shown_vector(vector: list[Json]) -> str:
    """Its beginning: nobody reads a thousand numbers, and a page of them is a hundred times as large."""
    first = ", ".join(f"{number:.4g}" for number in vector[:_NUMBERS_SHOWN] if isinstance(number, int | float))
    return f"{len(vector):,} numbers: {first}{', …' if len(vector) > _NUMBERS_SHOWN else ''}"


_NUMBERS_SHOWN: Final = 8


def _cut(value: Json) -> Json:
    """The value with every long text in it cut, and said to be."""
    if isinstance(value, str):
        return value if len(value) <= _CUT_CHARS else value[:_CUT_CHARS] + _CUT_NOTE
    if isinstance(value, list):
        return [_cut(entry) for entry in value[:_CUT_CHARS]]
    if isinstance(value, dict):
        return {name: _cut(entry) for name, entry in value.items()}
    return value
