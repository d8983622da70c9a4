"""A run that may still be going on, for `batchrunner watch`: its rows as they come, and how it stands.

The files of rows are followed by (inode, offset): what is appended is read, a line without its end waits for it, and a
file that was replaced or became shorter is read anew, under a new generation, and so is all when the scores of the run
have changed and rest. Rows keep the order in which they came; the page sorts them. Takes no lock, except the look that
`status` takes, and writes nothing into the run's directory.
Memory: about 60 bytes and the key of each row; chunks lie in a temporary file.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, cast

import msgspec

from batchrunner.core.errors import BatchrunnerError, StoreBrokenError
from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.core.status import Status
from batchrunner.core.values import dataclass, field, field_names
from batchrunner.page.ledger_timeline import LedgerTimeline
from batchrunner.page.report_file import RunOnPage, seconds_of
from batchrunner.page.row_chunks import RowChunks, axes_of
from batchrunner.page.run_facts import folders_of, hide_paths, price_function
from batchrunner.report.audit_files import read_plain
from batchrunner.report.directory_status import judge_folders, status_of_directory
from batchrunner.stores.files import DISK, FAILURES, RESULTS, Look
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.lock import holder_of
from batchrunner.stores.run_file import RUN_FILE, RunFile, run_file_or_refuse
from batchrunner.stores.score_file import SCORES, ScoreFile

PIECE_BYTES: Final = 1 << 20
STATUS_EVERY_S: Final = 1.0
_STATUS_SHARE: Final = 150
"""Reading the ledger may take a 150th of the time: of a long one, the status is renewed less often."""
_OUTCOMES: Final[dict[Literal["done", "failed"], str]] = {"done": RESULTS, "failed": FAILURES}
_decode = msgspec.json.Decoder(dict[str, object]).decode


@dataclass(slots=True)
class _Followed:
    """A file of rows, and how far it was read."""

    inode: int = 0
    offset: int = 0
    started: bytes = b""
    """A line that has no end yet."""


@dataclass(slots=True)
class LiveRun:
    """Call `poll` a few times a second; everything blocks, and from one thread at a time."""

    folder: Path
    generation: str = ""
    """Row numbers are valid within one."""
    idle_since: float | None = None
    """When it was noticed that no process works on the run, or when one last wrote; None while one does."""
    version: int = 0
    """Of what `meta` says besides the rows."""
    problem: str = ""
    """Why the run cannot be read just now."""
    _shown: RunOnPage = field(init=False)
    _followed: dict[str, _Followed] = field(default_factory=dict)
    _done: set[bytes] = field(default_factory=set)
    _failed: set[bytes] = field(default_factory=set)
    _chunks: list[tuple[int, int]] = field(default_factory=list)
    _store: int = -1
    _size: int = 0
    _number: int = 0
    _next_look: float = 0.0
    _next_status: float = 0.0
    _seen: tuple[object, ...] = ()
    _run_file: Look | None = None
    _scores: ScoreFile = field(init=False)
    _scored: Look | None = None
    """Of the scores that rows were given, and of those that were there at the last look."""
    _scored_now: Look | None = None

    def open(self) -> None:
        """Read what is there. Raises WrongDirectoryError, LedgerDamagedError, StoreBrokenError."""
        self._begin(run_file_or_refuse(self.folder))
        self._read()

    def close(self) -> None:
        """Give the temporary file back."""
        if self._store >= 0:
            os.close(self._store)
            self._store = -1
            self._scores.__exit__()

    @property
    def rows(self) -> RowChunks:
        """Of this generation."""
        return self._shown.rows

    @property
    def title(self) -> str:
        """Of the window."""
        return self._shown.title

    @property
    def status(self) -> Status:
        """As it was read last."""
        return self._shown.status

    def meta(self) -> dict[str, Json]:
        """What the page calls `source.meta`, for as many rows as are here now."""
        return {**self._shown.meta(), **self.row_facts()}

    def row_facts(self) -> dict[str, Json]:
        """What of it changes with the rows, and this page's own."""
        return {
            **self._shown.rows.facts(),
            "generation": self.generation,
            "idleSince": self.idle_since,
            "problem": self.problem,
        }

    def chunk(self, number: int) -> bytes | None:
        """A chunk as gzip; None if there is none of this number."""
        if number < len(self._chunks):
            offset, length = self._chunks[number]
            return os.pread(self._store, length, offset)
        return self.rows.tail() if number < self.rows.chunks else None

    def picture_path(self, sha256: str) -> str | None:
        """Where a row says that this picture lies."""
        return self.rows.pictures.get(sha256)

    def poll(self) -> None:
        """Look at the files; what cannot be read now is tried again at the next call."""
        problem = ""
        try:
            if self._was_replaced():
                self._begin(run_file_or_refuse(self.folder))
            if self._read():  # a failed item has an answer now: its old row goes
                self._begin(self._shown.run)
                self._read()
            self._renew_status()
        except (BatchrunnerError, OSError) as error:
            problem = self._shown.hide(str(error))
        except Exception as error:  # noqa: BLE001 - a page that stands still without a word would be worse
            problem = self._shown.hide(f"{type(error).__name__}: {error}")
        if problem != self.problem:
            self.problem = problem
            self.version += 1

    def _was_replaced(self) -> bool:
        there = DISK.look(self.folder / RUN_FILE)
        if there is not None and there != self._run_file:
            self._run_file = there
            run = run_file_or_refuse(self.folder)
            if axes_of(run.job) != axes_of(self._shown.run.job):
                return True
            self._shown = self._with(run=run)
            self._next_look = self._next_status = 0.0
        for name, followed in self._followed.items():
            look = DISK.look(self.folder / name)
            if look is None and followed.offset:
                return True
            if look is not None and followed.inode and look.inode != followed.inode:
                return True
            if look is not None and look.size_bytes < followed.offset:
                return True
        before, self._scored_now = self._scored_now, DISK.look(self.folder / SCORES)
        return self._scored_now != self._scored and self._scored_now == before  # not while they are being appended

    def _begin(self, run: RunFile) -> None:
        """A new generation, without rows."""
        scored, scores = DISK.look(self.folder / SCORES), ScoreFile(self.folder).__enter__()
        self._number += 1
        self.generation = f"{secrets.token_hex(4)}-{self._number}"
        self.close()
        self._scored, self._scored_now, self._scores = scored, scored, scores
        with tempfile.TemporaryFile() as store:
            self._store = os.dup(store.fileno())
        self._size = 0
        self._chunks.clear()
        self._done.clear()
        self._failed.clear()
        self._followed = {name: _Followed() for name in _OUTCOMES.values()}
        self._run_file = DISK.look(self.folder / RUN_FILE)
        hide = hide_paths(*folders_of(self.folder, run))
        rows = RowChunks(
            axes=axes_of(run.job),
            since=seconds_of(run.created, None),
            log_of=self._log_of,
            hide=hide,
            on_chunk=self._keep_chunk,
        )
        price_of, currency = price_function(run.job)
        timeline, status = LedgerTimeline(price_of=price_of), status_of_directory(self.folder)
        self._shown = RunOnPage(
            folder=self.folder, run=run, status=status, rows=rows, timeline=timeline, currency=currency, hide=hide
        )
        self._seen = ()
        self._next_look = self._next_status = 0.0
        self._renew_status()

    def _with(self, **changes: object) -> RunOnPage:
        kept = {name: getattr(self._shown, name) for name in field_names(RunOnPage)}
        return RunOnPage(**(kept | changes))

    def _log_of(self, key: str) -> list[Json]:
        return self._shown.timeline.log_of(key)

    def _keep_chunk(self, number: int, data: bytes) -> None:
        assert number == len(self._chunks), "chunks come in order"
        self._chunks.append((self._size, len(data)))
        self._size += os.pwrite(self._store, data, self._size)

    # -- rows

    def _read(self) -> bool:
        """What was appended; whether a failed item got an answer, so that all has to be read anew."""
        superseded = False
        for outcome, name in _OUTCOMES.items():
            for text in self._lines(name):
                superseded |= self._take(text, outcome)
        return superseded

    def _lines(self, name: str) -> Iterator[bytes]:
        """Whole lines that were appended to a file."""
        followed = self._followed[name]
        try:
            descriptor = DISK.open_read(self.folder / name)
        except FileNotFoundError:
            return
        try:
            followed.inode = followed.inode or DISK.inode(descriptor)
            while piece := DISK.read_at(descriptor, PIECE_BYTES, followed.offset):
                followed.offset += len(piece)
                *lines, followed.started = (followed.started + piece).split(b"\n")
                yield from lines
        finally:
            DISK.close(descriptor)

    def _take(self, text: bytes, outcome: Literal["done", "failed"]) -> bool:
        text = text.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
        try:
            fields = cast("dict[str, Json]", _decode(text))
            key = bytes.fromhex(str(fields["key"]))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, KeyError, RecursionError):
            return False  # no row: `verify` tells where it is
        index = fields.get("index")
        if not isinstance(index, int) or index < 0:
            return False
        mark = key + str(fields.get("id")).encode("utf-8", "replace") if "shared_with" in fields else key
        if mark in self._done or (outcome == "failed" and mark in self._failed):
            return False
        (self._done if outcome == "done" else self._failed).add(mark)
        row = ExportRow(line=text, fields=fields, outcome=outcome)
        with suppress(StoreBrokenError):  # the scores were changed meanwhile: all is read anew when they rest
            row = self._scores.shown(row)
        self.rows.add(row)
        return outcome == "done" and mark in self._failed

    # -- how it stands

    def _renew_status(self) -> None:
        """Read the ledger again if it grew, or if a process came or went."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + STATUS_EVERY_S
        seen = (holder_of(self.folder), self._run_file, *self._ledger_sizes())
        came_or_went = not self._seen or seen[0] != self._seen[0]
        if seen == self._seen or (now < self._next_status and not came_or_went):
            return
        self._seen = seen
        started = time.thread_time()
        status = status_of_directory(self.folder)
        timeline = LedgerTimeline(price_of=price_function(self._shown.run.job)[0])
        timeline.read(read_ledger(self.folder / LEDGER))
        timeline.close(running=status.state == "running")
        timeline.problem = self._shown.hide(timeline.problem)
        self._shown = self._with(status=status, timeline=timeline)
        if status.state == "running":
            self.idle_since = None
        elif came_or_went and self.idle_since is None:
            self.idle_since = timeline.ended or time.time()
        self._next_status = now + max(STATUS_EVERY_S, _STATUS_SHARE * (time.thread_time() - started))
        self.version += 1

    def _ledger_sizes(self) -> Iterator[tuple[str, int]]:
        """Of the run and of its judges, whose progress is a part of how it stands."""
        for folder in (self.folder, *judge_folders(self.folder)):
            with suppress(OSError):
                for name in sorted(DISK.names(folder / LEDGER)):
                    there = DISK.look(folder / LEDGER / name)
                    yield f"{folder.name}/{name}", 0 if there is None else there.size_bytes


def picture_bytes(folder: Path, path: str, *, most_bytes: int) -> bytes | None:
    """A plain file below the run's directory, without following links; None if there is none."""
    try:
        return read_plain(DISK, folder, path, most_bytes=most_bytes)
    except (OSError, ValueError):
        return None
