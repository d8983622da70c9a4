"""Stores that keep nothing: what the engine writes down in a rehearsal is counted and forgotten.

A ledger that hands events to a timeline, results that are only as long as they would be counted, pictures that
are looked at just enough to notice a broken download. Nothing here touches a disk.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Event
from batchrunner.core.item import Item
from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import AudioBytes, Problem, ProblemKind
from batchrunner.core.ports import Fill, Kept, Place
from batchrunner.core.row import Audio, FailureRow, MediaFile, Picture, PictureOrigin, ResultRow
from batchrunner.core.values import dataclass

PLACEHOLDER: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
"""The smallest whole PNG: what every picture of a rehearsal is."""


def paint_placeholder(_prompt: str, _size: tuple[int, int], _seed: int) -> bytes:
    """Paints nothing; see `simulator.drawing.Paint`."""
    return PLACEHOLDER


class NullLedger:
    """`core.ports.Ledger` of a process that need not remember: the state in memory is all there is."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event

    def note(self, event: Event) -> None:
        """Told at once."""
        self._on_event(event)

    async def write(self, event: Event) -> None:
        """As `note`."""
        self._on_event(event)

    async def commit(self, event: Event) -> None:
        """As `note`."""
        self._on_event(event)

    def write_soon(self, event: Event, then: Callable[[StoreBrokenError | None], None]) -> None:
        """As `note`."""
        self._on_event(event)
        then(None)

    def commit_soon(
        self, event: Event, then: Callable[[StoreBrokenError | None], None], *, urgent: bool = False
    ) -> None:
        """As `note`."""
        del urgent
        self._on_event(event)
        then(None)

    def sync_now(self, then: Callable[[StoreBrokenError | None], None]) -> None:
        """There is nothing to wait for."""
        then(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replaced:
    length: int
    made: int = 0
    stayed: int = 0


class NullResults:
    """`core.ports.Results`: a row is a unit of length, no more."""

    def __init__(self, length: int = 0) -> None:
        self._length = length

    def put(self, row: ResultRow | bytes, then: Kept) -> None:
        """One more row."""
        del row
        self._length += 1
        then(Place(crc="00000000", length=self._length))

    async def add(self, row: ResultRow) -> Place:
        """One more row."""
        del row
        self._length += 1
        return Place(crc="00000000", length=self._length)

    async def add_failure(self, row: FailureRow) -> None:
        """Failures are counted from the ledger's events."""

    async def rewrite(self, items: AsyncIterator[Item], *, is_done: Callable[[bytes], bool]) -> _Replaced:
        """There is nothing to put in order."""
        del items, is_done
        return _Replaced(length=self._length)

    async def settle_failures(
        self, items: AsyncIterator[Item], *, is_failed: Callable[[bytes], bool], count: int = 0
    ) -> _Replaced:
        """As `rewrite`."""
        del items, is_failed, count
        return _Replaced(length=0)

    async def failures_are_settled(self, *, count: int, is_failed: Callable[[bytes], bool]) -> bool:
        """There is nothing to put in order."""
        del count, is_failed
        return True


class NullPictures:
    """`core.ports.PictureStore`: takes the speck for a picture, and everything else for a broken download."""

    async def save(
        self, data: bytes, *, stem: str, into: PictureFormat | None, origin: PictureOrigin
    ) -> Picture | Problem:
        """A picture of no file, or a BAD_PICTURE problem."""
        del into, origin
        if data != PLACEHOLDER:
            return Problem(kind=ProblemKind.BAD_PICTURE, message="the server sent something else than a picture")
        return Picture(path=stem, sha256="", width=1, height=1, format="PNG", bytes=len(data))

    async def save_audio(self, audio: AudioBytes, *, stem: str) -> Audio:
        """A audio of no file."""
        return Audio(path=stem, sha256="", format="BIN", bytes=len(audio.data), transcript=audio.transcript)


class NullMedia:
    """`core.ports.MediaStore`: counts the bytes and keeps none."""

    async def save(self, fill: Fill, *, stem: str) -> MediaFile | Problem:
        """A file of no type, or why it did not come."""
        length = 0

        async def write(data: bytes) -> None:
            nonlocal length
            length += len(data)

        problem = await fill(write)
        return problem or MediaFile(path=stem, sha256="", type="video/mp4", format="MP4", bytes=length)
