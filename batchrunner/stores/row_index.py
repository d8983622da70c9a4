"""Which row stands where: a dict of 16-byte keys to packed ints, made by one streaming pass. Refuses to hold rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from batchrunner.stores.files import Files
from batchrunner.stores.lines import read_lines
from batchrunner.stores.rows import name_of

_LENGTH_BITS = 32
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1

Keep = Literal["first", "last"]


class RowIndex:
    """Key (16 bytes) → (offset, length without newline) of its row.

    A shared copy stands in only for a lost original.
    """

    __slots__ = ("_places", "repeated", "unreadable")

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self.repeated: list[tuple[int, int]] = []
        """(offset, length) of originals whose key another original has: rare."""
        self.unreadable: list[tuple[int, int]] = []
        """(offset, length) of lines that are no rows: somebody else wrote them."""

    def __repr__(self) -> str:
        return f"<RowIndex rows={len(self)} repeated={len(self.repeated)} unreadable={len(self.unreadable)}>"

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._places)

    def __getitem__(self, key: bytes) -> tuple[int, int]:
        return _unpack(self._places[key])

    def put(self, key: bytes, offset: int, length: int) -> None:
        """Set or replace a key's place."""
        self._places[key] = offset << _LENGTH_BITS | length

    def take(self, key: bytes) -> tuple[int, int] | None:
        """A key's place, which is forgotten."""
        packed = self._places.pop(key, None)
        return None if packed is None else _unpack(packed)

    def places(self) -> list[tuple[int, int]]:
        """All places in the file's order."""
        return [_unpack(packed) for packed in sorted(self._places.values())]


def index_rows(files: Files, path: Path, *, keep: Keep) -> RowIndex:
    """The index of a file of rows; `keep` chooses among originals that have the same key. Raises OSError."""
    index = RowIndex()
    copies: dict[bytes, tuple[int, int]] = {}
    for line in read_lines(files, path):
        if not line.whole:
            continue
        length = len(line.text)
        name = name_of(line.text)
        if name is None:
            index.unreadable.append((line.offset, length))
            continue
        key, is_copy = name
        if is_copy:
            copies.setdefault(key, (line.offset, length))
        elif key not in index:
            index.put(key, line.offset, length)
        elif keep == "first":
            index.repeated.append((line.offset, length))
        else:
            index.repeated.append(index[key])
            index.put(key, line.offset, length)
    for key, place in copies.items():
        if key not in index:
            index.put(key, *place)
    return index


def _unpack(packed: int) -> tuple[int, int]:
    return packed >> _LENGTH_BITS, packed & _LENGTH_MASK
