"""An event loop whose clock jumps to the next timer: hours of waiting take no time.

When nothing is ready and nothing outside the loop is under way, the clock jumps to the next timer instead of waiting.
What counts as under way, and holds the clock still:

- a job given to `run_in_executor` or `asyncio.to_thread` (look-ups of names are such jobs, too), until its result has
  reached the loop;
- bytes between sockets of this process. A kernel delivers loopback traffic while the sender is still in its call, or
  moments later when it is busy; so, as long as any socket is registered with the loop, each jump is preceded by a real
  wait of GRACE_S for it, and any event in that time means: do not jump. A peer in another process is beyond this rule,
  because what it is about to send is unknown.

With no timer at all the loop waits in real time, and raises `StandstillError` when nothing can come any more: no job,
no socket, or STALL_S without a sign of life. A job that itself waits for a timer of the loop stops it, too.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

from batchrunner.core.errors import BatchrunnerError

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

GRACE_S = 0.001
STALL_S = 30.0
_MOST_UNASKED = 100


class StandstillError(BatchrunnerError):
    """The loop waits for something that cannot come."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector loop in virtual time, which begins at 0.0 seconds."""

    has_no_signals = False
    """True where no thread comes back to it: then the system need not be asked at every turn."""

    def __init__(self, *, stall_s: float = STALL_S, grace_s: float = GRACE_S) -> None:
        self._now = 0.0
        self._under_way = 0
        self._jumper = _JumpingSelector(self, stall_s=stall_s, grace_s=grace_s)
        super().__init__(self._jumper)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="virtual")
        self.set_default_executor(self._pool)
        # The loop's own wake-up socket is registered by now and is no sign of traffic
        self._jumper.own_sockets = self._jumper.sockets

    def __repr__(self) -> str:
        return f"<VirtualTimeLoop at {self._now:.3f} s, {self._under_way} under way, closed={self.is_closed()}>"

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    @property
    def held(self) -> bool:
        """Whether anything could come from outside of the loop: a job's end, or bytes on a socket."""
        return self._under_way > 0 or self._jumper.sockets > self._jumper.own_sockets

    @property
    def under_way(self) -> int:
        """How many things outside the loop hold its clock still."""
        return self._under_way

    def jump(self, seconds: float) -> None:
        """Go on in time; only the selector calls this."""
        self._now += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        """As the base class does it; the clock does not advance until the result has reached the loop."""
        if self.is_closed():
            raise RuntimeError("the loop is closed")
        job = (executor or self._pool).submit(func, *args)
        self._under_way += 1
        future = asyncio.wrap_future(job, loop=self)
        # After wrap_future: the result is put in line first, only then may the clock advance
        job.add_done_callback(lambda _: self._job_is_over())
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the base's name
        """Let the default executor's threads end."""
        self._pool.shutdown(wait=timeout is None or timeout > 0)

    def close(self) -> None:
        """Close the loop and its executor."""
        self._pool.shutdown(wait=False)
        super().close()

    def _job_is_over(self) -> None:
        if not self.is_closed():
            try:
                self.call_soon_threadsafe(self._count_job)
            except RuntimeError:
                # Closed in the meantime: no clock is held any more
                return

    def _count_job(self) -> None:
        self._under_way -= 1


class VirtualClock:
    """Implements `core.ports.Clock` on a loop in virtual time, in fewer steps than one that asks which loop runs."""

    __slots__ = ("_loop", "_zero", "monotonic")

    def __init__(self, loop: VirtualTimeLoop, *, wall_at_zero: float) -> None:
        self._loop = loop
        self._zero = wall_at_zero
        self.monotonic: Callable[[], float] = loop.time
        """Seconds."""

    def __repr__(self) -> str:
        return f"<VirtualClock {self.wall():.3f}>"

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._zero + self._loop._now  # noqa: SLF001 - asked ten times an item


class _JumpingSelector(selectors.BaseSelector):
    """The system's selector; only waiting is different."""

    def __init__(self, loop: VirtualTimeLoop, *, stall_s: float, grace_s: float) -> None:
        self._real = selectors.DefaultSelector()
        self._loop = loop
        self._stall_s = stall_s
        self._grace_s = grace_s
        self.own_sockets = 1
        self.sockets = 0
        """How many are registered."""
        self._unasked = 0

    def register(self, fileobj: "FileDescriptorLike", events: int, data: object = None) -> selectors.SelectorKey:
        key = self._real.register(fileobj, events, data)
        self.sockets += 1
        return key

    def unregister(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        key = self._real.unregister(fileobj)
        self.sockets -= 1
        return key

    def modify(self, fileobj: "FileDescriptorLike", events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping["FileDescriptorLike", selectors.SelectorKey]:
        return self._real.get_map()

    def get_key(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Events that are there already; else, by the module's rule, those of a real wait, or a jump."""
        events = self._real.select(0) if self._looks() else []
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._loop.under_way:
            return self._real.select(self._stall_s) or self._stalled()
        traffic = self.sockets > self.own_sockets
        if timeout is None:
            return (self._real.select(self._stall_s) if traffic else []) or self._stalled()
        if traffic and (events := self._real.select(self._grace_s)):
            return events
        self._loop.jump(timeout)
        return []

    def _looks(self) -> bool:
        """Whether the system is asked this time: where nothing can come but a signal's wake-up, every so many times."""
        if self._loop.under_way or not self._loop.has_no_signals or self.sockets > self.own_sockets:
            return True
        self._unasked += 1
        if self._unasked < _MOST_UNASKED:
            return False
        self._unasked = 0
        return True

    def _stalled(self) -> list[tuple[selectors.SelectorKey, int]]:
        raise StandstillError(
            f"{self._loop!r} cannot advance: nothing is ready, no timer is set, and "
            f"{self._loop.under_way} executor jobs and {self.sockets - self.own_sockets} sockets did not respond"
        )


# A virtual-time loop whose executors are played on the loop itself, each job at a moment that the seed chooses.
#
# Threads end in an order that no seed decides. Here a job begins a random number of turns of the loop later, jobs
# of one executor in their order where it has one thread; so the same seed gives the same trace. Refuses nothing: a job
# that would block for long blocks the loop, which is right for jobs on a disk in memory.

_MOST_TURNS: Final = 6


class OneThreadLoop(VirtualTimeLoop):
    """For simulations that must be the same for the same seed."""

    has_no_signals = True

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
    single = isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1  # noqa: SLF001 - not known otherwise
    return id(executor) if single else None
