"""How many bytes of replies are held at once, whatever the number of connections: the rest stays with its servers.

A reply takes room as it is read and gives it back when it was decoded. When the room is full all but the oldest wait,
so there is always one that goes on, and memory ends at the room and one reply. A large answer that is not on the disk
yet takes room, too: a quick server must not fill the memory in front of a slow disk. Refuses to know what a reply is.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

ROOM_BYTES: Final = 24 * 1024 * 1024
"""Less than two of the longest answers, so that the second is not decoded while the first is written down."""
_LOOK_AGAIN_S: Final = 0.5
HELD_FROM_BYTES: Final = 64 * 1024
"""A smaller answer is on the disk before it is worth counting."""


@dataclass(slots=True)
class Room:
    """One for all connections of a run."""

    size_bytes: int = ROOM_BYTES
    held_bytes: int = 0
    shares: list["Share"] = field(default_factory=list)
    """Those that hold something, the oldest first."""
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    """Replies that wait for room: without one nobody need be told that some is free."""

    def __repr__(self) -> str:
        return f"<Room {self.held_bytes} of {self.size_bytes} B held by {len(self.shares)}>"

    def share(self) -> "Share":
        """For one reply; use it as a context."""
        return Share(self)

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a reply of this size may be read at once; one that is decoded before any other takes no share."""
        return self.held_bytes + size_bytes <= self.size_bytes

    def hold(self, size_bytes: int) -> AbstractContextManager[object]:
        """For an answer that was decoded, until it is kept; it never waits."""
        if size_bytes < HELD_FROM_BYTES:
            return nullcontext()
        share = Share(self, held_bytes=size_bytes)
        self.held_bytes += size_bytes
        self.shares.insert(0, share)  # the disk always goes on, so that every reader may wait for it
        return share


@dataclass(slots=True, eq=False)
class Share:
    """What one reply holds."""

    room: Room
    held_bytes: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held_bytes:
            self.give_back()

    def give_back(self) -> None:
        """Hold nothing more."""
        room = self.room
        room.held_bytes -= self.held_bytes
        room.shares.remove(self)
        if room.waiting:
            freed, room.freed = room.freed, asyncio.Event()
            freed.set()

    def takes_at_once(self, size_bytes: int) -> bool:
        """Take so many bytes more if there is room for them now; False: `take` has to wait for it."""
        room = self.room
        if room.held_bytes + size_bytes > room.size_bytes:
            return False
        if size_bytes and not self.held_bytes:
            room.shares.append(self)
        self.held_bytes += size_bytes
        room.held_bytes += size_bytes
        return True

    async def take(self, size_bytes: int, *, waiting: Callable[[], None]) -> None:
        """Take so many bytes more, then wait while the room is full and an older reply is there to empty it.

        `waiting` is called again and again meanwhile: it is not the server that is slow.
        """
        room = self.room
        if size_bytes and not self.held_bytes:
            room.shares.append(self)
        self.held_bytes += size_bytes
        room.held_bytes += size_bytes
        while room.held_bytes > room.size_bytes and room.shares[0] is not self:
            waiting()
            room.waiting += 1
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await room.freed.wait()
            finally:
                room.waiting -= 1
