"""A job's items from a source that takes its time: each one after a wait, which virtual time makes cheap.

Lists come all at once, and an engine that only ever met lists reads a source to its end before the first answer comes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from batchrunner.core.item import Item
from batchrunner.core.job import Job
from batchrunner.core.upstream import RunRows
from batchrunner.prompts import JobItems


class SlowItems(JobItems):
    """Each item comes `wait_s(index)` seconds after it is asked for."""

    def __init__(self, job: Job, wait_s: Callable[[int], float], upstream: RunRows | None = None) -> None:
        super().__init__(job, upstream)
        self._wait_s = wait_s
        self.passes = 0
        """How often somebody began to read it."""
        self.read = 0
        """Items read, over all passes."""

    async def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
        """As the job's own, one by one and slower."""
        self.passes += 1
        async with aclosing(super().batches(models)) as batches:
            async for batch in batches:
                for item in batch:
                    if (wait_s := self._wait_s(item.index)) > 0.0:
                        await asyncio.sleep(wait_s)
                    self.read += 1
                    yield [item]
