"""Files and folders as the system shows them and as the platter has them, and what a power loss leaves of both.

Of everything that was not synced any part may have reached the platter, in any order: of a file, each page and each
length since its last fsync (a page that did not make it reads as before, or as zeros where nothing was before); of a
folder, any of the creations, renames and removals since its last fsync, each whole or not at all.
"""

import random
from dataclasses import dataclass, field
from typing import Final, TypeAlias

PAGES_BYTES: Final = (16, 64, 512, 4096)
_KEPT_PAGES: Final = 0.6
_KEPT_NAMES: Final = 0.5


@dataclass(slots=True)
class File:
    """Bytes."""

    mode: int
    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty_from: int | None = None
    """Where the bytes begin that no fsync has saved; None when all are."""
    number: int = 0
    """The inode."""
    changes: int = 0
    """Stands for the time of the last one."""

    def append(self, data: bytes | memoryview) -> None:
        """At the end."""
        self._touch(len(self.seen))
        self.seen += data

    def cut(self, length: int) -> None:
        """To so many bytes."""
        self._touch(length)
        del self.seen[length:]

    def sync(self) -> None:
        """Everything is on the platter."""
        if self.dirty_from is not None:
            del self.durable[self.dirty_from :]
            self.durable += self.seen[len(self.durable) :]
            self.dirty_from = None

    def lose_power(self, rng: random.Random, *, page_bytes: int) -> None:
        """What was not synced is there in part."""
        self.seen = self._what_is_left(rng, page_bytes)
        self.durable = bytearray(self.seen)
        self.dirty_from = None

    def _what_is_left(self, rng: random.Random, page_bytes: int) -> bytearray:
        if self.dirty_from is None:
            return bytearray(self.durable)
        low, high = sorted((len(self.durable), len(self.seen)))
        length = rng.choice((low, high, rng.randint(low, high)))
        left = bytearray(self.durable[:length])
        left += bytes(length - len(left))
        first = self.dirty_from // page_bytes * page_bytes
        for page in range(first, len(left), page_bytes):
            end = min(page + page_bytes, len(left), len(self.seen))
            if end > page and rng.random() < _KEPT_PAGES:
                left[page:end] = self.seen[page:end]
        return left

    def _touch(self, offset: int) -> None:
        self.changes += 1
        self.dirty_from = offset if self.dirty_from is None else min(self.dirty_from, offset)


@dataclass(slots=True)
class Folder:
    """Names."""

    mode: int
    seen: "dict[str, Node]" = field(default_factory=dict)
    durable: "dict[str, Node]" = field(default_factory=dict)
    unsynced: "list[dict[str, Node | None]]" = field(default_factory=list)
    """Changes of names since the last fsync; None: the name is gone."""
    number: int = 0
    """As of a file."""
    changes: int = 0

    def change(self, names: "dict[str, Node | None]") -> None:
        """One change, whole or not at all."""
        self.changes += 1
        self.unsynced.append(names)
        _apply(self.seen, names)

    def sync(self) -> None:
        """All names are on the platter."""
        self.durable = dict(self.seen)
        self.unsynced.clear()

    def lose_power(self, rng: random.Random, *, page_bytes: int) -> None:
        """Of the unsynced changes some happened; so it goes on below."""
        for change in self.unsynced:
            if rng.random() < _KEPT_NAMES:
                _apply(self.durable, change)
        self.seen = dict(self.durable)
        self.unsynced.clear()
        for node in self.seen.values():
            node.lose_power(rng, page_bytes=page_bytes)


Node: TypeAlias = File | Folder


def _apply(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node
