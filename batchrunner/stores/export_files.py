"""An exported file: streamed, whole or absent, durable when it is there.

Refuses to replace a file unless the caller says that it may. Where the caller keeps a list of exports, only an earlier
export that nobody has changed is replaced; the list, `.batchrunner-export`, has sizes and checksums, so that copies of
the folder are recognised, too.
"""

import json
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import groupby, islice, repeat
from operator import and_, rshift, xor
from pathlib import Path
from typing import Final, Literal, Self, cast

import msgspec

from batchrunner.core.errors import JobMistakesError, LedgerDamagedError, Mistake, StoreBrokenError
from batchrunner.core.events import Failed
from batchrunner.core.exports import ExportRow
from batchrunner.core.item import Item
from batchrunner.core.job import Json
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.row import failure_row
from batchrunner.stores.export_folder import LIST
from batchrunner.stores.files import (
    DISK,
    FAILURES,
    RESULTS,
    SHARED_FILE,
    Files,
    InspectedFiles,
    Look,
    open_beside,
    write_all,
)
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.row_codec import UNREADABLE, encode_row, name_of, trimmed
from batchrunner.stores.row_forms import FileLine, lines_of, open_rows

EXPORTS: Final = "export"
"""The folder of a run directory for exports; a new export replaces the file of its name."""
_BUFFER_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 1 << 14
"""Read with a row: some rows, and little where rows do not lie in order."""


class OutgoingFile:
    """Writes one new file; a context manager. What was not `finish`ed leaves nothing behind."""

    def __init__(self, path: Path, *, replaces: bool, lists: bool = False, files: InspectedFiles = DISK) -> None:
        """Write to `path`; `replaces` allows an existing file, which is kept until the new one is complete.

        `lists`: that must be an earlier export, and the new one is put on the list.
        """
        self._path = path
        self._replaces = replaces
        self._lists = lists
        self._files = files
        self._beside: Path | None = None
        self._descriptor: int | None = None
        self._buffer = bytearray()
        self._size_bytes, self._digest = 0, blake2b(digest_size=16)
        self._replaced: Look | None = None
        """The earlier export, as it was found."""

    def __repr__(self) -> str:
        return f"<OutgoingFile {self._path} {'open' if self._descriptor is not None else 'closed'}>"

    def __enter__(self) -> Self:
        """Raises JobMistakesError when the place is taken or there is no such folder, StoreBrokenError."""
        self._require_free()
        if self._lists:
            self._require_ours()
        try:
            self._beside, self._descriptor = open_beside(self._files, self._path.parent, SHARED_FILE)
        except (FileNotFoundError, NotADirectoryError):
            hint = "create it, or choose another path"
            raise _mistake(self._path.parent, "no such directory", hint) from None
        except OSError as error:
            raise _refused(self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None
        if self._beside is not None:
            with suppress(OSError):  # a run that began meanwhile may have swept it; else the next one does
                self._files.unlink(self._beside)
            self._beside = None

    def write(self, piece: bytes) -> None:
        """Append. Raises StoreBrokenError."""
        self._buffer += piece
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def finish(self) -> None:
        """Give the file its name; durable when this returns. Raises JobMistakesError and StoreBrokenError."""
        self._flush()
        assert self._descriptor is not None, "finish is called inside of the context"
        assert self._beside is not None, "and once"
        try:
            self._files.fsync(self._descriptor)
            self._require_free()
            if self._lists:
                if self._files.look(self._path) != self._replaced:
                    raise _changed(self._path)
                self._list()
            self._files.rename(self._beside, self._path)
            self._beside = None
            self._files.fsync_folder(self._path.parent)
        except FileNotFoundError:
            raise StoreBrokenError(
                f"{self._path}: the unfinished export was removed by a run that started meanwhile; export again"
            ) from None
        except OSError as error:
            raise _refused(self._path, error) from error

    def _flush(self) -> None:
        assert self._descriptor is not None, "write is called inside of the context"
        try:
            write_all(self._files, self._descriptor, bytes(self._buffer))
        except OSError as error:
            raise _refused(self._path, error) from error
        self._size_bytes += len(self._buffer)
        self._digest.update(self._buffer)
        self._buffer.clear()

    def _require_free(self) -> None:
        if self._files.exists(self._path) and not self._replaces:
            raise _mistake(self._path, "already exists", "choose another path; nothing is overwritten")

    def _require_ours(self) -> None:
        """A file that is there is an earlier export, as it was written. Raises JobMistakesError, StoreBrokenError."""
        try:
            self._replaced = self._files.look(self._path)
            if self._replaced is None:
                return
            place = self._path.with_name(LIST)
            listed = b"".join(self._pieces(place)).splitlines() if self._files.exists(place) else []
            digest = blake2b(digest_size=16)
            for piece in self._pieces(self._path) if self._replaced.kind == "file" else ():
                digest.update(piece)
        except OSError as error:
            raise _refused(self._path, error) from error
        if self._line(self._replaced.size_bytes, digest.hexdigest()) not in listed:
            raise _changed(self._path)

    def _pieces(self, path: Path) -> Iterator[bytes]:
        descriptor, offset = self._files.open_read(path), 0
        try:
            while piece := self._files.read_at(descriptor, _BUFFER_BYTES, offset):
                yield piece
                offset += len(piece)
        finally:
            self._files.close(descriptor)

    def _list(self) -> None:
        """Add the file to the list, before it has its name: a crash in between leaves a line too many."""
        line = self._line(self._size_bytes, self._digest.hexdigest())
        descriptor = self._files.open_append(self._path.with_name(LIST), SHARED_FILE)
        try:
            write_all(self._files, descriptor, b"\n" + line)  # what a full disk cut off is a line of its own
            self._files.fsync(descriptor)
        finally:
            self._files.close(descriptor)

    def _line(self, size_bytes: int, digest: str) -> bytes:
        return f"{size_bytes} {digest} {json.dumps(self._path.name)}".encode()


def _mistake(path: Path, problem: str, hint: str) -> JobMistakesError:
    return JobMistakesError((Mistake(file=str(path), problem=problem, hint=hint),))


def _changed(path: Path) -> JobMistakesError:
    hint = "move it away, or choose another path with --out; nothing is overwritten"
    return _mistake(path, "is not an export, or was changed since it was exported", hint)


def _refused(path: Path, error: OSError) -> StoreBrokenError:
    return StoreBrokenError(
        f"{path}: {error.strerror or error}; nothing was exported, and the run directory is unchanged"
    )


# A run's rows in the job's order, for exports: read only, also while another process adds rows.
#
# Sixteen bytes a row are kept in memory, with the key while the files are indexed; rows are read again by their
# place. The files stay open from the first look to the last, so an atomic replacement meanwhile changes nothing.
# Refuses to give a row twice, and to stay silent about lines that are no rows.

_KEY_BYTES: Final = 16
_LENGTH_BITS: Final = 32
_OFFSET_BITS: Final = 48
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1
_INDEX_MAX: Final = 1 << 46
_WORD_BITS: Final = 64
_WORD_MASK: Final = (1 << _WORD_BITS) - 1
_OTHER_INDEX: Final = 1 << (_OFFSET_BITS + _LENGTH_BITS + 1)
"""Packed places that differ from here on are those of different indexes."""

_Outcome = Literal["done", "failed"]
_FILES: Final[dict[_Outcome, str]] = {"done": RESULTS, "failed": FAILURES}
"""In this order: a failure counts for nothing beside an answer."""
_decode = msgspec.json.Decoder(dict[str, object]).decode


class RowOrder:
    """The rows of `results.jsonl` and, for failed items, of `failures.jsonl`. A context manager."""

    def __init__(self, folder: Path, *, files: Files = DISK) -> None:
        """Look into a run's directory; nothing is opened yet."""
        self._folder = folder
        self._files = files
        self._open: dict[_Outcome, int] = {}
        self._order = array("Q")
        """Two words a row, see `_packed`: a list of numbers would take four times as much."""
        self._kept: dict[_Outcome, tuple[int, bytes]] = {}
        """Of each file what was read last, and where it stands."""
        self.done = 0
        """Rows of succeeded items."""
        self.replaced = 0
        """Rows that are not given because their item has a later answer, to a changed request."""
        self.failed = 0
        """Rows of failed items that are given."""
        self.unreadable: list[int] = []
        """Offsets of whole lines of `results.jsonl` that are no rows."""
        self.fills_export_folder = False
        """Whether an answer has a file of its own below `export/`."""

    def __repr__(self) -> str:
        return f"<RowOrder {self._folder} done={self.done} failed={self.failed} unreadable={len(self.unreadable)}>"

    def __len__(self) -> int:
        return len(self._order) // 2

    def __enter__(self) -> Self:
        """Open what is there. Raises StoreBrokenError."""
        for outcome, name in reversed(
            _FILES.items()
        ):  # an item that goes from the second to the first meanwhile is met twice
            path = self._folder / name
            try:
                if self._files.exists(path):
                    self._open[outcome] = open_rows(self._files, path)
            except OSError as error:
                self.__exit__()
                raise _unread(path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._files.close(self._open.popitem()[1])

    def index(self, *, is_failed: Callable[[bytes], bool] | None = None) -> None:
        """Find every row, by one streaming pass; of failed items only with `is_failed`, which takes an item's key.

        Raises:
            StoreBrokenError: the disk refused to be read.
        """
        seen, order = set[bytes](), list[int]()
        for outcome, name in _FILES.items():
            if outcome in self._open and (outcome == "done" or is_failed is not None):
                try:
                    self._index_file(outcome, seen, order, is_failed)
                except OSError as error:
                    raise _unread(self._folder / name, error) from error
        order.sort()
        self._keep(order)
        self._leave_out_replaced(order)

    def _keep(self, order: list[int]) -> None:
        words = array("Q", bytes(2 * 8 * len(order)))
        words[::2] = array("Q", map(rshift, order, repeat(_WORD_BITS)))
        words[1::2] = array("Q", map(and_, order, repeat(_WORD_MASK)))
        self._order = words

    def _leave_out_replaced(self, order: list[int]) -> None:
        """Of rows with the same place in the job and the same id, only the last answer is given.

        A run on a part of a job adds answers to a changed request, and moves the earlier ones away at its end.
        """
        if min(map(xor, order, islice(order, 1, None)), default=_OTHER_INDEX) >= _OTHER_INDEX:
            return
        indexes = [place >> (_OFFSET_BITS + _LENGTH_BITS + 1) for place in order]
        kept: list[int] = []
        for _, numbers in groupby(range(len(indexes)), key=indexes.__getitem__):
            here = list(numbers)
            last: dict[object, int] = {}
            for number in here if len(here) > 1 else ():
                row = self.row(number)
                last[row.fields.get("id") if row.outcome == "done" else order[number]] = number
            kept += [order[number] for number in last.values() or here]
        self.replaced = len(order) - len(kept)
        self.done -= self.replaced
        self._keep(kept)

    def _index_file(
        self, outcome: _Outcome, seen: set[bytes], order: list[int], is_failed: Callable[[bytes], bool] | None
    ) -> None:
        latest: dict[bytes, int] = {}
        for raw in lines_of(self._files, self._open[outcome]):
            line = trimmed(raw)
            if not line.text.strip() or (not line.whole and name_of(line.text) is None):
                continue
            found = _name_and_fields(line)
            if found is None:
                if outcome == "done":
                    self.unreadable.append(line.offset)
                continue
            key, fields = found
            place = _packed(line, fields, outcome)
            mark = key + str(fields.get("id")).encode() if "shared_with" in fields else key
            if outcome == "done":
                self._note_answer_file(fields)
                if mark not in seen:
                    seen.add(mark)
                    order.append(place)
                    self.done += 1
            elif is_failed is not None and mark not in seen and is_failed(key):
                latest[mark] = place  # an item that failed again has its last row last
        self.failed += len(latest)
        order.extend(latest.values())

    def _note_answer_file(self, fields: dict[str, Json]) -> None:
        output = fields.get("output")
        path = output.get("path") if isinstance(output, dict) else None
        if isinstance(path, str) and path.startswith(f"{EXPORTS}/"):
            self.fills_export_folder = True

    def rows(self) -> Iterator[ExportRow]:
        """The rows that `index` found, in order.

        Raises:
            StoreBrokenError: the disk refused, or the files were changed under our hands.
        """
        self._kept.clear()  # a pass gives what stands there now, or says that it was changed
        return map(self.row, range(len(self)))

    def row(self, number: int) -> ExportRow:
        """The row at a place in the order, from 0. Raises StoreBrokenError, as `rows`."""
        place = self._order[2 * number] << _WORD_BITS | self._order[2 * number + 1]
        outcome: _Outcome = "failed" if place >> (_OFFSET_BITS + _LENGTH_BITS) & 1 else "done"
        offset, length = place >> _LENGTH_BITS & _OFFSET_MASK, place & _LENGTH_MASK
        try:
            line = self._bytes(outcome, offset, length)
            fields = cast("dict[str, Json]", _decode(line))
        except OSError as error:
            raise _unread(self._folder / _FILES[outcome], error) from error
        except UNREADABLE as error:
            words = f"{self._folder / _FILES[outcome]}: byte {offset}"
            raise StoreBrokenError(f"{words}: changed while it was read; try again") from error
        return ExportRow(line=line, fields=fields, outcome=outcome)

    def _bytes(self, outcome: _Outcome, offset: int, length: int) -> bytes:
        """Of a file; what follows is kept, since rows of a run that has ended lie in order."""
        kept_from, kept = self._kept.get(outcome, (0, b""))
        if not kept_from <= offset <= offset + length <= kept_from + len(kept):
            kept_from, kept = offset, self._files.read_at(self._open[outcome], max(length, _KEPT_BYTES), offset)
            self._kept[outcome] = kept_from, kept
        return kept[offset - kept_from : offset - kept_from + length]


def _name_and_fields(line: FileLine) -> tuple[bytes, dict[str, Json]] | None:
    """(key, fields) of a row's line; None when it is no row of ours."""
    try:
        fields = cast("dict[str, Json]", _decode(line.text))
        key = bytes.fromhex(cast("str", fields["key"]))
    except (*UNREADABLE, KeyError, TypeError, ValueError):
        return None
    index, shared = fields.get("index"), fields.get("shared_with")
    is_row = (
        len(key) == _KEY_BYTES and isinstance(index, int) and 0 <= index < _INDEX_MAX and isinstance(shared, str | None)
    )
    return (key, fields) if is_row else None


def _packed(line: FileLine, fields: dict[str, Json], outcome: _Outcome) -> int:
    """Sorts by index, then by file, then by place in it."""
    index = fields["index"]
    assert isinstance(index, int), "it was looked at when the line was read"
    high = index << 1 | (outcome == "failed")
    return (high << _OFFSET_BITS | line.offset) << _LENGTH_BITS | len(line.text)


def _unread(path: Path, error: OSError) -> StoreBrokenError:
    return StoreBrokenError(f"{path}: cannot be read: {error.strerror or error}")


# Rows of failed items whose own row was deleted: restored from the ledger.
#
# It has class, message, request id, attempts and time; status, code and task id are missing and are null in such a
# row.


class FailuresOfLedger:
    """Reads the ledger once, when the first row is asked for; of each item that lacks its row the event is kept."""

    def __init__(self, files: Files, folder: Path, *, lacks: Callable[[bytes], bool]) -> None:
        """For a run directory; `lacks` returns whether the item of a key failed and has no row."""
        self._files = files
        self._folder = folder
        self._lacks = lacks
        self._events: dict[bytes, tuple[Failed, float]] | None = None
        self.made = 0

    def __repr__(self) -> str:
        return f"<FailuresOfLedger {self._folder} made={self.made}>"

    def row_of(self, item: Item) -> bytes | None:
        """The line without its newline; None if the ledger has no reason for the failure. Blocks. Raises OSError."""
        if self._events is None:
            self._events = self._read()
        known = self._events.get(bytes.fromhex(item.key))
        if known is None:
            return None
        failed, at = known
        kind = next((kind for kind in ProblemKind if kind.value == failed.kind), ProblemKind.INTERNAL)
        row = failure_row(
            item,
            Problem(kind=kind, message=failed.message, request_id=failed.request_id),
            task_id=None,
            attempts=failed.a,
            ambiguous=int(failed.ambiguous),
            at=datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        self.made += 1
        return encode_row(row)

    def _read(self) -> dict[bytes, tuple[Failed, float]]:
        events: dict[bytes, tuple[Failed, float]] = {}
        try:
            for record in read_ledger(self._folder / LEDGER, files=self._files):
                if isinstance(record.event, Failed) and self._lacks(key := bytes.fromhex(record.event.k)):
                    events[key] = record.event, record.at
        except LedgerDamagedError:  # replay reports where
            return events
        return events
