"""The rows of all shards of a job, put in its order without being held in memory.

Rows stay where they are until they are written: each is known by its index, its file and its place there.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress
from pathlib import Path
from typing import Final

import msgspec

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.plan import Labels
from batchrunner.core.values import dataclass, field
from batchrunner.stores.files import DISK
from batchrunner.stores.row_codec import UNREADABLE, key_and_index_of, name_of, trimmed
from batchrunner.stores.row_forms import FileLines, open_rows, read_pieces

_MOST_OPEN: Final = 128
"""Files that are open at once."""
_STEP_BYTES: Final = 1 << 18
"""Of rows that are read at once, where they are read one after the other."""
_NEAR_BYTES: Final = 1 << 16
"""Rows of a run stand nearly in the order of their items: so far before the last one may the next one begin."""
_KEY_DIGITS: Final = 32


class _KeyedPlace(msgspec.Struct, gc=False):
    key: str
    index: int


class _NamedPlace(msgspec.Struct, gc=False):
    index: int
    id: str
    key: str


_decode_places = msgspec.json.Decoder(_KeyedPlace).decode_lines
_decode_names = msgspec.json.Decoder(_NamedPlace).decode_lines


@dataclass(frozen=True, slots=True)
class RowPlaces:
    """Rows that follow each other in a file."""

    keys: bytes
    """16 bytes each."""
    indexes: Sequence[int]
    offsets: Sequence[int]
    lengths: Sequence[int]


def places_in(path: Path) -> Iterator[RowPlaces]:
    """Where every row of a file stands, some at a time. Half a row, and what is no row, is left out. Raises OSError."""
    for piece in read_pieces(DISK, path, size_bytes=_STEP_BYTES):
        yield _places_at_once(piece) or _places_one_by_one(piece)


def _places_at_once(piece: FileLines) -> RowPlaces | None:
    """None where one of the lines needs a look of its own."""
    joined = b"\n".join(piece.texts)
    if b"\r" in joined or not piece.whole:
        return None
    try:
        rows = _decode_places(joined)
        names = [row.key for row in rows]
        keys = bytes.fromhex("".join(names))
    except (*UNREADABLE, ValueError):
        return None
    if len(rows) != len(piece.texts) or set(map(len, names)) != {_KEY_DIGITS}:
        return None
    lengths = list(map(len, piece.texts))
    offsets = list(accumulate([length + 1 for length in lengths[:-1]], initial=piece.offset))
    return RowPlaces(keys, [row.index for row in rows], offsets, lengths)


def _places_one_by_one(piece: FileLines) -> RowPlaces:
    keys, indexes, offsets, lengths = bytearray(), list[int](), list[int](), list[int]()
    for line in map(trimmed, piece.lines()):
        found = key_and_index_of(line.text) if line.whole or name_of(line.text) is not None else None
        if found is not None and len(found[0]) == _KEY_DIGITS // 2:
            keys += found[0]
            indexes.append(found[1])
            offsets.append(line.offset)
            lengths.append(len(line.text))
    return RowPlaces(bytes(keys), indexes, offsets, lengths)


class RowLabels:
    """The labels of rows that are written in the job's order; see `core.plan.Labels`."""

    def __init__(self) -> None:
        self._labels: Labels | None = Labels()

    def take(self, lines: bytes) -> None:
        """The next rows."""
        if self._labels is None:
            return
        try:
            self._labels.take([(row.index, row.id, row.key) for row in _decode_names(lines)])
        except UNREADABLE:
            self._labels = None

    def digest(self) -> str:
        """Empty where one of the rows has no name."""
        return "" if self._labels is None else self._labels.digest()


@dataclass(slots=True)
class MergedRows:
    """Where the rows of one file of all shards stand, and in which order they come; some 60 bytes each."""

    name: str
    sources: list[tuple[Path, int]] = field(default_factory=list)
    """Each with the number by which the file system knows it."""
    indexes: "array[int]" = field(default_factory=lambda: array("Q"))
    owners: "array[int]" = field(default_factory=lambda: array("I"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: "array[int]" = field(default_factory=lambda: array("I"))

    def add(self, index: int, offset: int, length: int) -> None:
        """A row of the last source."""
        self.indexes.append(index)
        self.owners.append(len(self.sources) - 1)
        self.offsets.append(offset)
        self.lengths.append(length)

    def add_all(self, rows: RowPlaces, chosen: Sequence[bool] | None) -> None:
        """Rows of the last source; `chosen`: which of them, None for all."""
        columns = [rows.indexes, rows.offsets, rows.lengths]
        if chosen is not None:
            columns = [list(compress(column, chosen)) for column in columns]
        self.indexes.extend(columns[0])
        self.offsets.extend(columns[1])
        self.lengths.extend(columns[2])
        self.owners.extend([len(self.sources) - 1] * len(columns[0]))

    def in_order(self) -> Iterator[tuple[int, bytes]]:
        """Index and line, without its newline, of each row by index; of equal ones the first comes first.

        Raises:
            StoreBrokenError: a shard's process has replaced the file meanwhile.
            OSError: the disk refused.
        """
        readers: dict[int, _RowReader] = {}
        indexes, owners, offsets, lengths = self.indexes, self.owners, self.offsets, self.lengths
        try:
            for place in array("Q", sorted(range(len(indexes)), key=indexes.__getitem__)):
                owner, length = owners[place], lengths[place]
                if (reader := readers.get(owner)) is None:
                    if len(readers) >= _MOST_OPEN:
                        DISK.close(readers.pop(next(iter(readers))).descriptor)
                    reader = readers[owner] = _RowReader(self._opened(owner))
                text = reader.text(offsets[place], length)
                if len(text) != length:
                    raise _changed(self.sources[owner][0])
                yield indexes[place], text
        finally:
            for reader in readers.values():
                DISK.close(reader.descriptor)

    def _opened(self, owner: int) -> int:
        path, inode = self.sources[owner]
        if inode_of(path) != inode:
            raise _changed(path)
        return open_rows(DISK, path)


class _RowReader:
    """Reads rows of a file by their places: many at once while each is near the one before."""

    __slots__ = ("_at", "_kept", "_next", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._kept = b""
        self._at = self._next = 0
        """Where what is kept begins; where the last row ended."""

    def text(self, offset: int, length: int) -> bytes:
        """A shorter one: the file has become shorter. Raises OSError."""
        start = offset - self._at
        if start < 0 or start + length > len(self._kept):
            if abs(offset - self._next) > _NEAR_BYTES:
                self._next = offset + length
                return DISK.read_at(self.descriptor, length, offset)
            self._at = max(0, offset - _NEAR_BYTES)
            self._kept = DISK.read_at(self.descriptor, _STEP_BYTES + _NEAR_BYTES + length, self._at)
            start = offset - self._at
        self._next = offset + length
        return self._kept[start : start + length]


@dataclass(slots=True, kw_only=True)
class KnownAnswers:
    """What the newest epoch of a shard has, where there are older ones; a hash for each row."""

    rows: set[int] = field(default_factory=set)
    ended: set[bytes] = field(default_factory=set)
    """Keys of items with an end."""
    late: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    """Index, offset and length of rows that only the older epoch at hand has, by key."""

    def note(self, text: bytes) -> None:
        """A row of the newest epoch."""
        self.rows.add(hash(text))

    def has(self, text: bytes) -> bool:
        """Whether the row is one of those: it was copied when the shard was taken over."""
        return hash(text) in self.rows


def inode_of(path: Path) -> int:
    """The number by which the file system knows the file; 0 where there is none. Raises OSError."""
    return look.inode if (look := DISK.look(path)) is not None else 0


def _changed(path: Path) -> StoreBrokenError:
    return StoreBrokenError(f"{path}: was replaced while it was merged; merge again")
