"""The items of a whole pass kept in memory while they are few, so that the lanes' pass needs not make them again.

Each is let go when it is given: what is kept is what is still to be given, and nothing of it stays until the end.

The source may change between two passes. What stood in it is remembered by its size and times, and whoever is given
kept items is told at the end whether that still holds.
"""

import os
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from batchrunner.core.item import Item
from batchrunner.core.job import Job, Source
from batchrunner.prompts.sources.folder import names_of

KEPT_BYTES: Final = 24 * 1024 * 1024
"""Of all kept items of a job, about: some ten thousands of short prompts. Where there are more, none is kept."""
_ITEM_BYTES: Final = 420
"""Of an item without its texts and values."""

Stamp = tuple[object, ...]
"""How a source stands: equal stamps mean that nobody has written to it."""


class KeptItems:
    """The items of one pass, by model. `add` every batch; once it `is_whole`, each model's can be taken, once."""

    def __init__(self, stamp: Stamp) -> None:
        self.stamp = stamp
        """Of the source, before the pass."""
        self.is_whole = False
        """The pass has come to its end, and all of its items were here."""
        self._of_models: dict[str, deque[Sequence[Item]]] = {}
        self._left_bytes = KEPT_BYTES

    def __repr__(self) -> str:
        return f"<KeptItems of {len(self._of_models)} models, room for {self._left_bytes} bytes>"

    def add(self, batch: Sequence[Item]) -> None:
        """The pass's next items; all are let go once they are too large."""
        if self._left_bytes <= 0:
            return
        self._left_bytes -= _size_of(batch)
        if self._left_bytes <= 0:
            self._of_models.clear()
            return
        first = batch[0].model
        if all([item.model == first for item in batch]):  # noqa: C419 - a generator takes longer
            self._of_models.setdefault(first, deque()).append(batch)
            return
        for model in dict.fromkeys([item.model for item in batch]):
            own = [item for item in batch if item.model == model]
            self._of_models.setdefault(model, deque()).append(own)

    def end(self, stamp: Stamp) -> None:
        """The pass has come to its end, and this is how the source stands now."""
        self.is_whole = self._left_bytes > 0 and stamp == self.stamp
        if not self.is_whole:
            self._of_models.clear()

    def take(self, models: frozenset[str] | None) -> deque[Sequence[Item]] | None:
        """The items of this one model, to be emptied by the caller; None when they are not here any more."""
        if not self.is_whole or models is None or len(models) != 1:
            return None
        return self._of_models.pop(next(iter(models)), None)


def stamp_of(job: Job) -> Stamp:
    """How the job's source stands now; the same for ever where there is none. Blocks, and never raises."""
    if not isinstance(job.prompts, Source):
        return ()
    path = Path(job.prompts.path)
    try:
        if path.is_dir():
            return tuple((name, *_stamp(path / name)) for name in names_of(str(path)))
        return _stamp(path)
    except (OSError, ValueError) as error:
        return ("unreadable", str(error))


def _stamp(path: Path) -> Stamp:
    found = os.stat(path)  # noqa: PTH116 - a file of its own for each of thousands of texts
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _size_of(items: Sequence[Item]) -> int:
    """About how many bytes they hold that no other item shares."""
    size = _ITEM_BYTES * len(items)
    parts: list[object] = []
    for item in items:
        parts.append(item.vars)
        parts += item.vars.values()
        for turn in item.turns:
            parts.append(turn.content)
        for picture in item.pictures:
            size += len(picture.url)
    size += sum(map(sys.getsizeof, parts))
    # Every item's `vars` is a mapping itself; where there are more, or lists, they are looked into.
    kinds = list(map(type, parts))
    if list not in kinds and kinds.count(dict) == len(items):
        return size
    inner: list[object] = [part for item in items for part in item.vars.values()]
    while inner:
        value = inner.pop()
        if isinstance(value, dict | list):
            within = list(value.values() if isinstance(value, dict) else value)
            size += sum(map(sys.getsizeof, within))
            inner += within
    return size
