"""Which row stands where: a dict of 16-byte keys to packed ints, made by one streaming pass. Refuses to hold rows."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Literal

from batchrunner.stores.files import Files
from batchrunner.stores.rows import name_of, row_lines

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


def index_rows(files: Files, path: Path, *, keep: Keep, stale: Container[int] = ()) -> RowIndex:
    """The index of a file of rows; `keep` chooses among originals that have the same key.

    Rows whose offset is in `stale` stand in only where there is no other. Raises OSError.
    """
    index = RowIndex()
    stand_ins: list[tuple[bytes, tuple[int, int]]] = []
    for line in row_lines(files, path):
        if not line.whole:
            continue
        place = line.offset, len(line.text)
        name = name_of(line.text)
        if name is None:
            index.unreadable.append(place)
            continue
        key, is_copy = name
        if is_copy or line.offset in stale:
            stand_ins.append((key, place))
        elif key not in index:
            index.put(key, *place)
        else:
            index.repeated.append(place if keep == "first" else index[key])
            if keep == "last":
                index.put(key, *place)
    for key, place in stand_ins:
        if key not in index:
            index.put(key, *place)
        elif place[0] in stale:
            index.repeated.append(place)
    return index


def _unpack(packed: int) -> tuple[int, int]:
    return packed >> _LENGTH_BITS, packed & _LENGTH_MASK
