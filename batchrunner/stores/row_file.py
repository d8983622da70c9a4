"""The position of each row: a dict of 16-byte keys to packed ints, made by one streaming pass. Holds no rows."""

from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from batchrunner.core.item import Item
from batchrunner.core.values import dataclass
from batchrunner.stores.files import SHARED_FILE, Files, broken, open_beside, write_all, write_pieces
from batchrunner.stores.row_codec import (
    Label,
    id_of,
    label_of,
    name_and_id_of,
    name_of,
    relabelled,
    row_lines,
    shared_copy,
    unlabelled,
)
from batchrunner.stores.row_forms import read_lines
from batchrunner.stores.threads import Threads

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
        """(offset, length) of lines that are not rows."""

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


# What a power loss leaves in the middle of a file of rows is taken out of it, so that every line is a row again.
#
# Pages reach the disk in any order: whole rows may follow a hole. Refuses to lose either: the hole's bytes go to
# another file, durable there before the file without them takes its place, atomically.

_CHUNK_BYTES = 1 << 20


def take_out_unreadable(files: Files, path: Path, *, start: int, into: Path) -> int:
    """Move whole lines from `start` on that are no rows; how many bytes. Raises OSError, with the old file in place."""
    holes = [
        (line.offset, len(line.text) + 1)
        for line in row_lines(files, path, start=start)
        if line.whole and name_and_id_of(line.text) is None
    ]
    if not holes:
        return 0
    old = files.open_read(path)
    try:
        _keep(files, old, holes, into)
        write_pieces(files, path, _around(files, old, holes), SHARED_FILE)
    finally:
        files.close(old)
    return sum(length for _, length in holes)


def _around(files: Files, old: int, holes: list[tuple[int, int]]) -> Iterator[bytes]:
    done = 0
    for offset, length in [*holes, (files.length(old), 0)]:
        yield from _read(files, old, start=done, end=offset)
        done = offset + length


def _keep(files: Files, old: int, holes: list[tuple[int, int]], into: Path) -> None:
    descriptor = files.open_append(into, SHARED_FILE)
    try:
        for offset, length in holes:
            for piece in _read(files, old, start=offset, end=offset + length):
                write_all(files, descriptor, piece)
        files.fsync(descriptor)
    finally:
        files.close(descriptor)
    files.fsync_folder(into.parent)


def _read(files: Files, source: int, *, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        data = files.read_at(source, min(_CHUNK_BYTES, end - start), start)
        yield data
        start += len(data)


# One atomic replacement of a file of rows by one that shows the present job.
#
# The steps, each safe to be repeated after a crash: index the old file · write the new one beside it, in the items'
# order · append unclaimed rows to other files, durable · replace. Until the last step the old file is unchanged
# untouched.
# Refuses to lose a row: what has no place in the new file goes to `superseded`, from where it comes back with its item,
# or, when it is no row, to `unreadable`, or to the end of the new file.

_BATCH = 256
_BUFFER_BYTES = 1 << 20

Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteResult:
    """What a replacement came to."""

    length: int
    """Durable length of the new file in bytes."""
    rows: int
    shared: int
    """Of these rows, copies for items that share a key."""
    superseded: int
    """Rows moved to the file of superseded ones by this call."""
    made: int = 0
    """Rows of failed items that were missing and were restored from the ledger."""
    stayed: int = 0
    """Rows that belong to no item and stay all the same."""


class Rewriting:
    """The blocking steps, in order: `begin`, `place` for every batch of labels, `finish`; or `give_up`."""

    def __init__(
        self,
        files: Files,
        folder: Path,
        name: str,
        *,
        keep: Keep,
        superseded: str,
        unreadable: str | None,
        stale: Container[int] = (),
        outlives: Callable[[bytes], bool] = lambda _: True,
        stays: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        """Work on `name` in a folder.

        Args:
            files: the file system.
            folder: the run's directory.
            name: of the file of rows.
            keep: which one of several rows with the same key.
            superseded: where rows go that belong to no item.
            unreadable: where lines go that are no rows; None: they stay, at the end.
            stale: offsets of rows that stand in only where an item has no other.
            outlives: whether a row is kept although the job no longer has its item.
            stays: whether such a row stays in this file, at its end.
        """
        self._files = files
        self.path = folder / name
        self._folder = folder
        self._keep = keep
        self._superseded = folder / superseded
        self._outlives = outlives
        self._stays = stays
        self._unreadable = None if unreadable is None else folder / unreadable
        self._stale = stale
        self._waiting = RowIndex()
        self._placed = RowIndex()
        self._aside = RowIndex()
        self._made: dict[bytes, bytes] = {}
        self._aside_file: int | None = None
        self._old: int | None = None
        self._beside: Path | None = None
        self._new: int | None = None
        self._buffer = bytearray()
        self._length = 0
        self._rows = 0
        self._shared = 0

    def begin(self) -> None:
        """Index the old file, open both."""
        if self._files.exists(self.path):
            self._old = self._files.open_read(self.path)
        self._waiting = index_rows(self._files, self.path, keep=self._keep, stale=self._stale)
        if self._files.exists(self._superseded):
            self._aside = index_rows(self._files, self._superseded, keep="last")
            self._aside_file = self._files.open_read(self._superseded)
        self._beside, self._new = open_beside(self._files, self._folder, SHARED_FILE)

    def lacks(self, key: bytes) -> bool:
        """Whether no file has a row of this item."""
        return not any(key in rows for rows in (self._waiting, self._placed, self._aside, self._made))

    def lend(self, key: bytes, text: bytes) -> None:
        """A row for an item that has none."""
        self._made[key] = text

    def place(self, labels: list[Label]) -> None:
        """Write the rows of these items, which the job claims, as far as there are any."""
        for label in labels:
            if (place := self._waiting.take(label.key)) is not None:
                text = self._read(place, of=self._old)
                self._placed.put(label.key, self._length, self._add(relabelled(text, label)))
            elif label.key in self._placed:
                owner = self._read_new(self._placed[label.key])
                self._add(shared_copy(owner, label, owner=id_of(owner)))
                self._shared += 1
            elif (place := self._aside.take(label.key)) is not None:  # its item had vanished and came back
                text = self._read(place, of=self._aside_file)
                self._placed.put(label.key, self._length, self._add(relabelled(text, label)))
            elif (made := self._made.pop(label.key, None)) is not None:
                self._placed.put(label.key, self._length, self._add(relabelled(made, label)))

    def finish(self) -> RewriteResult:
        """Keep unclaimed rows, make the new file durable, and rename it over the old one."""
        unclaimed, staying = list[Place](), list[Place]()
        for key in self._waiting:
            if self._outlives(key):
                (staying if self._stays(key) else unclaimed).append(self._waiting[key])
        for place in sorted(staying):
            self._add(self._read(place, of=self._old))
        if self._keep == "first":  # of an item that failed again, only the last row counts
            unclaimed += self._waiting.repeated
        superseded = self._keep_lines(self._superseded, sorted(unclaimed))
        if self._unreadable is not None:
            self._keep_lines(self._unreadable, self._waiting.unreadable)
        else:
            for place in self._waiting.unreadable:
                self._add(self._read(place, of=self._old))
        self._flush()
        new, beside = self._new, self._beside
        assert new is not None
        assert beside is not None
        self._files.fsync(new)
        self._files.rename(beside, self.path)
        self._beside = None
        self._files.fsync_folder(self._folder)
        self.give_up()
        return RewriteResult(
            length=self._length,
            rows=self._rows,
            shared=self._shared,
            superseded=superseded,
            stayed=len(staying),
        )

    def give_up(self) -> None:
        """Close everything; a new file that has not taken its name is removed."""
        for descriptor in (self._old, self._new, self._aside_file):
            if descriptor is not None:
                self._files.close(descriptor)
        self._old = self._new = self._aside_file = None
        if self._beside is not None:
            self._files.unlink(self._beside)
            self._beside = None

    def _add(self, text: bytes) -> int:
        """Append a line to the new file; its length without the newline."""
        self._buffer += text
        self._buffer += b"\n"
        self._length += len(text) + 1
        self._rows += 1
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()
        return len(text)

    def _flush(self) -> None:
        assert self._new is not None
        write_all(self._files, self._new, bytes(self._buffer))
        self._buffer.clear()

    def _read(self, place: Place, *, of: int | None) -> bytes:
        assert of is not None
        offset, length = place
        return self._files.read_at(of, length, offset)

    def _read_new(self, place: Place) -> bytes:
        assert self._new is not None
        offset, length = place
        if offset + length > self._length - len(self._buffer):
            self._flush()
        return self._files.read_at(self._new, length, offset)

    def _keep_lines(self, path: Path, places: Iterable[Place]) -> int:
        """Append lines of the old file to another one, durable; those that are already there are not repeated.

        A row stands there under whatever label, and also as a last line whose newline a crash has cut off.
        """
        wanted = list(places)
        if not wanted:
            return 0
        there = {_digest(line.text) for line in read_lines(self._files, path)}
        descriptor = self._files.open_append(path, SHARED_FILE)
        kept = 0
        try:
            length = self._files.length(descriptor)
            if length and self._files.read_at(descriptor, 1, length - 1) != b"\n":
                write_all(self._files, descriptor, b"\n")  # a crash cut this file's last line; the row comes again
            for place in wanted:
                text = self._read(place, of=self._old)
                if (digest := _digest(text)) not in there:
                    write_all(self._files, descriptor, text + b"\n")
                    there.add(digest)
                    kept += 1
            self._files.fsync(descriptor)
        finally:
            self._files.close(descriptor)
        self._files.fsync_folder(self._folder)
        return kept


def _digest(text: bytes) -> bytes:
    return blake2b(unlabelled(text), digest_size=16).digest()


async def in_order(
    rewriting: Rewriting,
    items: AsyncIterator[Item],
    *,
    claims: Callable[[bytes], bool],
    row_of: Callable[[Item], bytes | None] | None = None,
) -> RewriteResult:
    """Drive a rewriting with a job's items; disk work happens off the loop.

    `row_of` makes a row for an item that has none; it may block.

    Raises:
        StoreBrokenError: the disk refused; the old file still stands.
    """
    thread = Threads("rewrite", count=1)
    try:
        try:
            await thread.run(rewriting.begin)
            labels: list[Label] = []
            async for item in items:
                label = label_of(item)
                if claims(label.key):
                    labels.append(label)
                    if row_of is not None and rewriting.lacks(label.key):
                        made = await thread.run(row_of, item)
                        if made is not None:
                            rewriting.lend(label.key, made)
                if len(labels) >= _BATCH:
                    await thread.run(rewriting.place, labels)
                    labels = []
            await thread.run(rewriting.place, labels)
            return await thread.run(rewriting.finish)
        finally:
            rewriting.give_up()
    except OSError as error:
        raise broken(rewriting.path, error) from error
    finally:
        thread.close()
