"""How many bytes of replies are held at once, whatever the number of connections: the rest stays with its servers.

A reply reserves bytes as it is read and releases them when it was decoded. When the budget is used up all but the
oldest wait, so one always continues, and memory ends at the budget and one reply. A large answer that is
not on the disk yet holds bytes, too: a quick server must not fill the memory in front of a slow disk. Refuses to
know what a reply is.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Final, Self

from batchrunner.core.values import dataclass, field

MEMORY_BUDGET_BYTES: Final = 24 * 1024 * 1024
"""Less than two of the longest answers, so that the second is not decoded while the first is written down."""
_LOOK_AGAIN_S: Final = 0.5
HELD_FROM_BYTES: Final = 64 * 1024
"""A smaller answer is on the disk before it is worth counting."""


@dataclass(slots=True)
class MemoryBudget:
    """One for all connections of a run."""

    size_bytes: int = MEMORY_BUDGET_BYTES
    held_bytes: int = 0
    reservations: list["Reservation"] = field(default_factory=list)
    """Those that hold something, the oldest first."""
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    """Replies that wait for room: without one, freed room need not be announced."""

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.held_bytes} of {self.size_bytes} B held by {len(self.reservations)}>"

    def reservation(self) -> "Reservation":
        """For one reply; use it as a context."""
        return Reservation(self)

    def hold(self, size_bytes: int) -> AbstractContextManager[object]:
        """For an answer that was decoded, until it is kept; it never waits."""
        if size_bytes < HELD_FROM_BYTES:
            return nullcontext()
        reservation = Reservation(self, held_bytes=size_bytes)
        self.held_bytes += size_bytes
        self.reservations.insert(0, reservation)  # the disk always makes progress, so that every reader may wait for it
        return reservation


@dataclass(slots=True, eq=False)
class Reservation:
    """What one reply holds."""

    memory_budget: MemoryBudget
    held_bytes: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held_bytes:
            self.release()

    def release(self) -> None:
        """Hold nothing more."""
        memory_budget = self.memory_budget
        memory_budget.held_bytes -= self.held_bytes
        memory_budget.reservations.remove(self)
        if memory_budget.waiting:
            freed, memory_budget.freed = memory_budget.freed, asyncio.Event()
            freed.set()

    def grow_now(self, size_bytes: int) -> bool:
        """Take so many bytes more if there is room for them now; False: `grow` has to wait for it."""
        memory_budget = self.memory_budget
        if memory_budget.held_bytes + size_bytes > memory_budget.size_bytes:
            return False
        if size_bytes and not self.held_bytes:
            memory_budget.reservations.append(self)
        self.held_bytes += size_bytes
        memory_budget.held_bytes += size_bytes
        return True

    async def grow(self, size_bytes: int, *, waiting: Callable[[], None]) -> None:
        """Take so many bytes more, then wait while the budget is used up and an older reply is there to empty it.

        `waiting` is called again and again meanwhile: it is not the server that is slow.
        """
        memory_budget = self.memory_budget
        if size_bytes and not self.held_bytes:
            memory_budget.reservations.append(self)
        self.held_bytes += size_bytes
        memory_budget.held_bytes += size_bytes
        while memory_budget.held_bytes > memory_budget.size_bytes and memory_budget.reservations[0] is not self:
            waiting()
            memory_budget.waiting += 1
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await memory_budget.freed.wait()
            finally:
                memory_budget.waiting -= 1
