"""The rows of all shards of a job, put in its order without being held in memory.

Rows stay where they are until they are written: each is known by its index, its file and its place there.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.values import dataclass, field
from batchrunner.stores.files import DISK
from batchrunner.stores.row_forms import open_rows

_MOST_OPEN: Final = 128
"""Files that are open at once."""


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

    def in_order(self) -> Iterator[tuple[int, bytes]]:
        """Index and line, without its newline, of each row by index; of equal ones the first comes first.

        Raises:
            StoreBrokenError: a shard's process has replaced the file meanwhile.
            OSError: the disk refused.
        """
        descriptors: dict[int, int] = {}
        order = array("Q", sorted(range(len(self.indexes)), key=self.indexes.__getitem__))
        try:
            for place in order:
                owner, length = self.owners[place], self.lengths[place]
                if (descriptor := descriptors.get(owner)) is None:
                    if len(descriptors) >= _MOST_OPEN:
                        DISK.close(descriptors.pop(next(iter(descriptors))))
                    descriptor = descriptors[owner] = self._opened(owner)
                text = DISK.read_at(descriptor, length, self.offsets[place])
                if len(text) != length:
                    raise _changed(self.sources[owner][0])
                yield self.indexes[place], text
        finally:
            for descriptor in descriptors.values():
                DISK.close(descriptor)

    def _opened(self, owner: int) -> int:
        path, inode = self.sources[owner]
        if inode_of(path) != inode:
            raise _changed(path)
        return open_rows(DISK, path)


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
