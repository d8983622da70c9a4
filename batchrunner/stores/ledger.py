"""The ledger's writer: one process, one segment, which no other process ever appends to.

Refuses: an existing segment, anything after the first refused write or sync, records without checksum.
"""

import re
import zlib
from pathlib import Path
from typing import Self

import msgspec

from batchrunner.core.events import (
    BATCH_VERSION,
    FALLBACK_VERSION,
    FORMAT_VERSION,
    NAMED_VERSION,
    STRICT_VERSION,
    CheckpointMark,
    Close,
    Event,
    Failed,
    Open,
    Parked,
    ReplacedBy,
)
from batchrunner.core.job import TASK_KINDS, Job
from batchrunner.core.ports import Clock
from batchrunner.core.text import repaired
from batchrunner.stores.appender import INLINE_BYTES, LEDGER_COMMITS, Appender, OnDurable
from batchrunner.stores.files import DISK, PRIVATE_FILE, PRIVATE_FOLDER, Files, Marks, broken, make_durable, write_all
from batchrunner.stores.ledger_line import MAX_LINE_BYTES, segment_numbers, segment_path

_ENVELOPE_BYTES = 128
"""More than `s`, `t`, `d` and the trailer can take."""
_LONG_BYTES = MAX_LINE_BYTES - _ENVELOPE_BYTES
_KEPT_CHARACTERS = 4096
"""Of a message in a record that is too long; at most 12 bytes each when escaped."""
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_encoder = msgspec.json.Encoder()


class LedgerWriter:
    """Implements `core.ports.Ledger` over one new segment. Made by `open`, ended by `close`."""

    def __init__(self, appender: Appender, *, clock: Clock, path: Path, number: int, opened: Open) -> None:
        self._appender = appender
        self._clock = clock
        self._sequence = 1
        self.path = path
        self.number = number
        self.opened = opened
        """The first record."""

    def __repr__(self) -> str:
        return f"<LedgerWriter segment={self.number} next={self._sequence} {self._appender!r}>"

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        run: str,
        job: str,
        program: str,
        labels: str = "",
        name: str = "",
        simulated: bool | None = None,
        version: int = FORMAT_VERSION,
        resends: bool = False,
        clock: Clock,
        wall: float | None = None,
        files: Files = DISK,
    ) -> Self:
        """Begin the next segment in `folder` (made when absent) with a durable `open`. For the holder of the lock.

        Args:
            folder: the run's `ledger` directory.
            run: name of this process's run.
            job: digest of the job as resolved.
            program: version of this program.
            labels: see `events.Open`.
            name: of the job.
            simulated: whether nothing is paid.
            version: of the format, which says what the segment may hold.
            resends: see `events.Open`.
            clock: `wall()` stamps the records.
            wall: when the segment begins; for threads, which cannot use a loop's clock. None: use the clock.
            files: the file system.

        Raises:
            StoreBrokenError: the disk refused.
        """
        try:
            files.make_folder(folder, PRIVATE_FOLDER)
            files.fsync_folder(folder.parent)  # also names that an earlier process made and could not sync
            number = max(segment_numbers(files.names(folder)), default=0) + 1
            make_durable(files, segment_path(folder, number - 1))
            before = _length_of(files, segment_path(folder, number - 1))
            files.fsync_folder(folder)  # names, too: a power loss must not take an older segment and leave a newer one
            path = segment_path(folder, number)
            descriptor = files.open_new(path, PRIVATE_FILE)
            event = Open(
                version=version,
                run=run,
                segment=number,
                job=job,
                program=program,
                labels=labels,
                name=name,
                simulated=simulated,
                resends=resends,
                before=before,
            )
            write_all(
                files, descriptor, encode_line(event, sequence=0, at=clock.wall() if wall is None else wall, durable=0)
            )
            files.fsync(descriptor)
            files.fsync_folder(folder)
        except OSError as error:
            raise broken(folder, error) from error
        return cls(
            Appender(files, descriptor, path, inline_bytes=INLINE_BYTES, timed=LEDGER_COMMITS),
            clock=clock,
            path=path,
            number=number,
            opened=event,
        )

    def note(self, event: Event) -> None:
        """See `core.ports.Ledger`. Raises StoreBrokenError, and ValueError for an event that fits no record."""
        self._append(event)
        self._appender.write_soon()

    async def write(self, event: Event) -> None:
        """See `core.ports.Ledger`."""
        self._append(event)
        await self._appender.written()

    async def commit(self, event: Event) -> None:
        """See `core.ports.Ledger`."""
        self._append(event)
        await self._appender.synced()

    def write_soon(self, event: Event, then: OnDurable) -> None:
        """See `core.ports.Ledger`."""
        appender = self._appender
        durable = None if appender.in_line else appender.durable_length
        line = encode_line(event, sequence=self._sequence, at=self._clock.wall(), durable=durable)
        appender.append_written(line, then)
        self._sequence += 1

    def commit_soon(self, event: Event, then: OnDurable, *, urgent: bool = False) -> None:
        """See `core.ports.Ledger`."""
        appender = self._appender
        durable = None if appender.in_line else appender.durable_length
        line = encode_line(event, sequence=self._sequence, at=self._clock.wall(), durable=durable)
        appender.append_durable(line, then, None, urgent=urgent)
        self._sequence += 1

    def sync_now(self, then: OnDurable) -> None:
        """See `core.ports.Ledger`."""
        self._appender.when_durable(then, urgent=True)

    def _append(self, event: Event) -> None:
        appender = self._appender
        durable = None if appender.in_line else appender.durable_length
        appender.append(encode_line(event, sequence=self._sequence, at=self._clock.wall(), durable=durable))
        self._sequence += 1

    @property
    def records(self) -> int:
        """How many records there are so far, written or in line."""
        return self._sequence

    async def synced(self) -> None:
        """Return when everything in line is on the disk. Raises StoreBrokenError."""
        await self._appender.synced()

    async def close(
        self, marks: Marks | None = None, *, torn: bool = False, checkpoint: CheckpointMark | None = None
    ) -> None:
        """Sync what is in line, then write and sync `close`: the mark of a clean end. Broken: only close the file.

        Args:
            marks: how the directory is left; None if it cannot be trusted.
            torn: results.jsonl holds more than its records say.
            checkpoint: of the file with the state up to here.

        Raises:
            StoreBrokenError: the disk refused these last records.
        """
        try:
            await self._appender.synced()
            await self.commit(
                Close(
                    records=self._sequence + 1,
                    files=None if marks is None else marks.files,
                    folders=() if marks is None else marks.folders,
                    torn=torn,
                    checkpoint=checkpoint,
                )
            )
        finally:
            await self._appender.close()


def _length_of(files: Files, path: Path) -> int | None:
    """Bytes of the segment before; None when this is the first. Raises OSError."""
    if not files.exists(path):
        return None
    descriptor = files.open_read(path)
    try:
        return files.length(descriptor)
    finally:
        files.close(descriptor)


def segment_version(job: Job, *, resends: bool, batches: bool) -> int:
    """Of a segment of this job, by what it may hold: see `core.events`."""
    if job.fallback is not None:
        return FALLBACK_VERSION
    if batches:
        return BATCH_VERSION
    if job.provider.task is not None and job.provider.task.submit.client_id is not None:
        return NAMED_VERSION
    return STRICT_VERSION if resends or job.kind in TASK_KINDS else FORMAT_VERSION


# Lines: see `ledger_line` for what they look like.


def encode_line(event: Event, *, sequence: int, at: float, durable: int | None) -> bytes:
    """The record of an event, newline included.

    Raises:
        ValueError: the event is too long for a record although its messages were cut.
    """
    try:
        body = _encoder.encode(event)[1:-1]
    except UnicodeEncodeError:
        body = _encode_event(event)
    if not body.isascii() or len(body) > _LONG_BYTES:
        body = _encode_event(event)
    if durable is None:
        line = b'{"s":%d,"t":%.3f,%b' % (sequence, at, body)
    else:
        line = b'{"s":%d,"t":%.3f,"d":%d,%b' % (sequence, at, durable, body)
    return b'%b,"c":"%08x"}\n' % (line, zlib.crc32(line))


def _encode_event(event: Event) -> bytes:
    """The event's own fields, without the braces."""
    body = _encode_ascii(event)
    if len(body) > _LONG_BYTES:
        body = _encode_ascii(_shortened(event))
    if len(body) > _LONG_BYTES:
        raise ValueError(
            f"ledger record too long: {type(event).__name__.lower()}, {len(body)} bytes; the limit is {MAX_LINE_BYTES}"
        )
    return body


def _encode_ascii(event: Event) -> bytes:
    try:
        raw = _encoder.encode(event)
    except UnicodeEncodeError:
        raw = _encoder.encode(repaired(msgspec.to_builtins(event)))
    if not raw.isascii():
        raw = _NON_ASCII.sub(_escape, raw.decode()).encode("ascii")
    return raw[1:-1]


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _shortened(event: Event) -> Event:
    """Only messages are shortened: ids, URLs and names are complete or the record is refused."""
    if isinstance(event, Failed | ReplacedBy):
        request_id = None if event.request_id is None else event.request_id[:256]
        return msgspec.structs.replace(event, message=_cut(event.message), request_id=request_id)
    if isinstance(event, Parked):
        return msgspec.structs.replace(event, reason=_cut(event.reason))
    return event


def _cut(text: str) -> str:
    left_out = len(text) - _KEPT_CHARACTERS
    return text if left_out <= 0 else f"{text[:_KEPT_CHARACTERS]}… ({left_out} more characters)"
