"""A virtual-time loop whose executors are played on the loop itself, each job at a moment that the seed chooses.

Threads end in an order that no seed decides. Here a job begins as many turns of the loop later as the dice say, jobs of
one executor in their order where it has one thread; so the same seed gives the same trace. Refuses nothing: a job that
would block for long blocks the loop, which is right for jobs on a disk in memory.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple

from batchrunner.simulator.virtual_time import VirtualTimeLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MOST_TURNS: Final = 6


class OneThreadLoop(VirtualTimeLoop):
    """For simulations that must be the same for the same seed."""

    hears_nobody = True

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._queues: dict[int, list[Callable[[], None]]] = {}

    def __repr__(self) -> str:
        waiting = sum(map(len, self._queues.values()))
        return f"<OneThreadLoop at {self.time():.3f} s, {waiting} jobs waiting, closed={self.is_closed()}>"

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        """The job runs on the loop, some turns later."""
        future: asyncio.Future[T] = self.create_future()

        def job() -> None:
            try:
                value = func(*args)
            except BaseException as error:  # noqa: BLE001 - whatever a thread would have kept for its future
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(value)

        self._later(job, queue=_queue_of(executor))
        return future

    def _later(self, job: Callable[[], None], *, queue: int | None) -> None:
        turns = self._rng.randrange(_MOST_TURNS)
        if queue is None:
            self._count_down(job, turns)
            return
        waiting = self._queues.setdefault(queue, [])
        waiting.append(job)
        if len(waiting) == 1:
            self._count_down(lambda: self._next(queue), turns)

    def _next(self, queue: int) -> None:
        waiting = self._queues[queue]
        waiting[0]()
        waiting.pop(0)
        if waiting:
            self._count_down(lambda: self._next(queue), self._rng.randrange(_MOST_TURNS))

    def _count_down(self, job: Callable[[], None], turns: int) -> None:
        if turns == 0:
            self.call_soon(job)
        else:
            self.call_soon(self._count_down, job, turns - 1)


def _queue_of(executor: Executor | None) -> int | None:
    """One queue for each executor with a single thread; None where jobs may overtake each other."""
    single = isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1  # noqa: SLF001 - not told otherwise
    return id(executor) if single else None
