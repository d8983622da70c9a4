"""Time for the engine: waits by the running loop's clock, so that a loop in virtual time needs nothing else."""

import asyncio
import time
from collections.abc import Callable


class LoopClock:
    """Implements `core.ports.Clock`. In virtual time, `wall_at_zero` is the date at the loop's time zero."""

    __slots__ = ("wall", "wall_at_zero")

    def __init__(self, wall_at_zero: float | None = None) -> None:
        self.wall_at_zero = wall_at_zero
        self.wall: Callable[[], float] = time.time if wall_at_zero is None else self._virtual_wall
        """Seconds since 1970. Read several times an item: the system's own function where that is the answer."""

    def __repr__(self) -> str:
        return f"LoopClock(wall_at_zero={self.wall_at_zero})"

    @staticmethod
    def monotonic() -> float:
        """Seconds."""
        return asyncio.get_running_loop().time()

    def _virtual_wall(self) -> float:
        return (self.wall_at_zero or 0.0) + asyncio.get_running_loop().time()
