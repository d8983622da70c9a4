"""Time for the engine: waits by the running loop's clock, so that a loop in virtual time needs nothing else."""

import asyncio
import time
from dataclasses import dataclass


@dataclass(slots=True)
class LoopClock:
    """Implements `core.ports.Clock`. In virtual time, `wall_at_zero` is the date at the loop's time zero."""

    wall_at_zero: float | None = None

    def monotonic(self) -> float:
        """Seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time() if self.wall_at_zero is None else self.wall_at_zero + self.monotonic()
