"""What is still to do for one model, and the one owner of every key that is live: at most one work item a key.

A key is live from the moment its item is read until the item has left: read ahead, active in somebody's hands, or
returned and waiting to be sent again. The source never brings it a second time meanwhile, whoever else asks for it: an
identical item of the job, or the task of an earlier process that failed and is to be sent once more.

The lanes of the model (one per account) draw from it, so that the load goes where it can be taken. The source is read
ahead by a task of its own, a few items at most: no lane keeps a slot while it is read, and a parked lane holds nothing
up here.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Final

from batchrunner.core.errors import JobMistakesError, LifecycleError, Mistake
from batchrunner.core.item import Item
from batchrunner.core.outcome import Adaptation, Problem, ProblemKind, Revision

# The one way to wait in the engine for something that others bring about: a condition that is looked at again.
#
# An event that one waiter clears may be the news of another, or come between a look and the wait for it. Here nothing
# is cleared: who waits looks first, sleeps only while the condition does not hold, and looks again after every wake-up.


class Condition:
    """Wakes everybody who waits; each one looks at what it waits for. All on the loop's thread, so there is no lock."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}
        """In the order in which they came, which is the order in which they are woken."""

    def __repr__(self) -> str:
        return f"<Condition: {len(self._waiters)} waiting>"

    def notify(self) -> None:
        """Wake waiters after a change. Costs nothing if there are none."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as `holds()` is true when it is asked; at once if it is true now."""
        while not holds():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)


# Time for the engine: waits by the running loop's clock, so that a loop in virtual time needs nothing else.


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


READ_AHEAD: Final = 32
"""Items of a model that wait for a slot, at most, or twice as many as are in somebody's hands, up to `READ_AHEAD_MOST`:
reading continues once half of them are taken, so that all slots that are free in one turn of the loop find their next
items there."""
READ_AHEAD_MOST: Final = 2048
READ_AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Of their texts and pictures: no further item is read while those that wait have as much."""


AS_WRITTEN: Final = Revision()


class Work:
    """An item in somebody's hands, with what this process learned about it.

    What nearly every item leaves as it is stands in the class: a run makes one of these for each item.
    """

    revision: Revision = AS_WRITTEN
    kinds: Mapping[ProblemKind, int] = MappingProxyType({})
    """Tries per kind of problem, for kinds with a cap of their own and for growing waits. `tried` adds to them."""
    answers_seen: int | None = None
    """`WorkQueue.answers` when something else than the API last answered this item."""
    singled_out: int = 0
    """How often it was turned away so although others got through in between."""
    rides: bool = False
    """It goes with the request of another item."""
    retried: bool = False
    """Its last send was one more try after a failure, and took from the lane's budget of them."""
    began_wall: float | None = None
    began: float | None = None
    """Monotonic seconds of the first send in this process."""
    size_bytes: int = 0
    """About how much it holds, while it is read ahead."""

    def __init__(self, *, item: Item, key: bytes, number: int = 0) -> None:
        self.item = item
        self.key = key
        self.number = number
        """In the state's table of items; 0 where it was not looked up."""

    def __repr__(self) -> str:
        return f"<Work {self.item.id}>"

    def tried(self, kind: ProblemKind) -> int:
        """One more try that met this problem; how many now."""
        count = self.kinds.get(kind, 0) + 1
        self.kinds = {**self.kinds, kind: count}
        return count


class WorkQueue:
    """One model's work. `keys` is shared by all queues of a run: the keys that are live anywhere.

    `wanted` gives the number of the item with this key in the state's table; 0 where it is not to be sent.
    """

    def __init__(self, model: str, *, wanted: Callable[[bytes], int], keys: set[bytes], together: int = 1) -> None:
        self.model = model
        self.exhausted = False
        """The source has nothing more for this run."""
        self.rejected: Problem | None = None
        """Why every item of this model fails without being sent, once two have agreed."""
        self.adapted: frozenset[Adaptation] = frozenset()
        """What the server asked to change once: later items are sent like that at once."""
        self.answers = 0
        """Good answers of this model in this run: one is enough to know that it is there."""
        self.finished = 0
        """Those that were results, and not only tasks that were accepted."""
        self._wanted = wanted
        self._keys = keys
        self._ahead: deque[Work] = deque()
        self._ahead_bytes = 0
        self._refill_at = 0
        """The source is read on once so few wait, if it was stopped."""
        self._returned: deque[Work] = deque()
        self._active: dict[bytes, Work] = {}
        self._rejected_by: tuple[bytes, ProblemKind] | None = None
        self._rejected_by_task = False
        self.together = together
        """Items that a request may carry; see `carry`."""
        self._rests = False
        """The source waits for room."""
        self.is_fed = False
        """Items of another model may come here, which its own source does not bring."""
        self.feeds = False
        """Its own may go to another model."""
        self.overflowed = False
        """Some of those did not find room: they are to be read from the source."""
        self._changed = Condition()
        self._room = Condition()

    def __repr__(self) -> str:
        waiting = f"{len(self._returned)} returned, {len(self._ahead)} read ahead"
        return f"<WorkQueue {self.model}: {len(self._active)} active, {waiting}>"

    @property
    def drained(self) -> bool:
        """Nothing is left, and nothing can come back."""
        return self.nothing_to_send and not self._active

    @property
    def nothing_to_send(self) -> bool:
        """Every item has been handed out; one may still come back."""
        return self.exhausted and not self._ahead and not self._returned

    def live(self) -> Iterator[Work]:
        """Every item that has been read and has not left."""
        yield from self._active.values()
        yield from self._returned
        yield from self._ahead

    # -- the source

    async def read(
        self,
        batches: AsyncGenerator[Sequence[Item], None],
        *,
        limit: int | None,
        surveyed: int,
        is_chosen: Callable[[Item, bytes], bool] | None = None,
    ) -> None:
        """Read what is wanted, as there is room for it, to the end of the source or of the first `limit` items.

        `is_chosen`: whether the run is about the item with this key, and it is its turn; None: all of them.

        A task beside the lanes; cancelled when they need nothing more. `surveyed`: how many of
        the model's items the planning pass counted.

        Raises:
            JobMistakesError: the source has become unreadable, shorter or longer since then.
        """
        count = 0
        async with aclosing(batches):
            async for batch in batches:
                for item in batch:
                    if limit is not None and item.index > limit:
                        self.nothing_to_read()
                        return
                    count += 1
                    if count > surveyed:
                        raise _changed_source(f"more than {surveyed:,} prompts for {self.model}", surveyed)
                    key = bytes.fromhex(item.key)
                    if is_chosen is not None and not is_chosen(item, key):
                        continue
                    if key not in self._keys and (number := self._wanted(key)):
                        self._keys.add(key)
                        self._put_ahead(Work(item=item, key=key, number=number))
                        most = min(max(READ_AHEAD, 2 * self.together, 2 * len(self._active)), READ_AHEAD_MOST)
                        if len(self._ahead) >= most or self._ahead_bytes >= READ_AHEAD_BYTES:
                            self._refill_at, self._rests = most // 2, True
                            self._changed.notify()
                            await self._room.until(self._has_capacity)
                if limit is not None and batch[-1].index >= limit:
                    break
            else:
                if count < surveyed:
                    raise _changed_source(f"{count:,} prompts for {self.model}", surveyed)
        self.nothing_to_read()

    def nothing_to_read(self) -> None:
        """The source is known to have nothing that is wanted."""
        self.exhausted = not self.is_fed
        self._changed.notify()

    def feeding_ended(self) -> None:
        """No other model's items come any more."""
        self.is_fed = False
        self.nothing_to_read()

    @property
    def waiting(self) -> int:
        """Items that wait for a slot."""
        return len(self._returned) + len(self._ahead)

    @property
    def is_active(self) -> bool:
        """Items are in somebody's hands."""
        return bool(self._active)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a change after which `holds()` is true."""
        await self._changed.until(holds)

    async def wait_for_space(self, *, unless: Callable[[], bool]) -> None:
        """Wait until few items of other models wait here; not once `unless()` is true."""
        self._refill_at = max(self._refill_at, READ_AHEAD // 2)
        await self._room.until(lambda: len(self._ahead) <= READ_AHEAD // 2 or unless())

    def bring(self, work: Work) -> None:
        """The item of another model comes here, if there is room; its key may be live by an earlier process's task."""
        if work.key in self._keys:
            return
        if self.waiting >= READ_AHEAD_MOST or self._ahead_bytes >= READ_AHEAD_BYTES:
            self.overflowed = True
            return
        self._keys.add(work.key)
        self._put_ahead(work)

    def _has_capacity(self) -> bool:
        return len(self._ahead) <= self._refill_at and self._ahead_bytes < READ_AHEAD_BYTES

    def _put_ahead(self, work: Work) -> None:
        ahead, item, size_bytes = self._ahead, work.item, 0
        for turn in item.turns:
            size_bytes += len(turn.content)
        if item.pictures or item.files:  # what is sent along stands in it whole
            size_bytes += item.media_chars
        work.size_bytes = size_bytes
        self._ahead_bytes += size_bytes
        ahead.append(work)
        if len(ahead) in {1, self.together}:  # else whoever waits for one has been woken already
            self._changed.notify()

    # -- the lanes

    async def ready(self, *, stopped: Callable[[], bool]) -> bool:
        """Wait until there is an item to take; False when there never will be, or the lane that asks has stopped."""
        if self.together == 1:
            await self._changed.until(lambda: bool(self._returned or self._ahead) or self.drained or stopped())
        else:
            await self._changed.until(lambda: (self.is_filled and self._has_some) or self.drained or stopped())
        return bool(self._returned or self._ahead) and not stopped()

    def take(self) -> Work | None:
        """The next item to send, returned ones first; None when another lane was faster."""
        if self._returned:
            work = self._returned.popleft()
        elif self._ahead:
            work = self._ahead.popleft()
            self._ahead_bytes -= work.size_bytes
            self._taken()
        else:
            return None
        self._active[work.key] = work
        return work

    def _taken(self) -> None:
        if len(self._ahead) <= self._refill_at:
            self._rests = self._rests and not self._has_capacity()
            self._room.notify()

    @property
    def _has_some(self) -> bool:
        return bool(self._returned or self._ahead)

    @property
    def is_filled(self) -> bool:
        """Whether a request finds all the items that it may carry, or the source brings no more for now."""
        return self.exhausted or self._rests or len(self._returned) + len(self._ahead) >= self.together

    def carry(self, most: int) -> None:
        """From now on a request may carry this many items."""
        if most != self.together:
            self.together = most
            self._changed.notify()

    def take_company(self, first: Work, fits: Callable[[Work], bool]) -> list[Work]:
        """Further items that may share a request with `first`, returned ones first; others keep their places."""
        found: list[Work] = []
        for waiting in (self._returned, self._ahead):
            passed: list[Work] = []
            while waiting:
                work = waiting.popleft()
                same = work.item.params is first.item.params or work.item.params == first.item.params
                if same and fits(work):
                    found.append(work)
                    self._active[work.key] = work
                    self._ahead_bytes -= work.size_bytes if waiting is self._ahead else 0
                else:
                    passed.append(work)
                    if same:
                        break
            waiting.extendleft(reversed(passed))
        self._taken()
        return found

    def is_live(self, key: bytes) -> bool:
        """Whether it is in somebody's hands or waits, here or in another queue of the run."""
        return key in self._keys

    def claim(self, work: Work) -> None:
        """An item that came another way (an accepted task of an earlier process) is in somebody's hands.

        Raises:
            LifecycleError: its key is live already.
        """
        if work.key in self._keys:
            raise LifecycleError(f"item {work.item.id} is already being processed")
        self._keys.add(work.key)
        self._active[work.key] = work

    def bring_back(self, work: Work) -> bool:
        """The user asked for a failed item again; False if it is live already, or nothing is sent here any more."""
        if work.key in self._keys or self.drained:
            return False
        self._keys.add(work.key)
        self._returned.append(work)
        self._changed.notify()
        return True

    def requeue(self, work: Work, *, first: bool = False, last: bool = False) -> None:
        """The item is to be sent again by any lane of the model, before or after those that wait. It stays live."""
        del self._active[work.key]
        if last:
            self._put_ahead(work)
        elif first:
            self._returned.appendleft(work)
        else:
            self._returned.append(work)
        self._changed.notify()

    def release(self, work: Work) -> None:
        """Whoever had the item is through with it; it leaves unless it was requeued."""
        if self._active.get(work.key) is work:
            del self._active[work.key]
            self._keys.discard(work.key)
        if self.exhausted or self.feeds:  # it may have been the last one
            self._changed.notify()

    def notify(self) -> None:
        """A lane has stopped: whoever waits here for it looks again."""
        self._changed.notify()
        self._room.notify()

    # -- the model

    def model_rejected(self, work: Work, problem: Problem) -> None:
        """This item says that the model itself is refused; once a second item says so, all others fail alike.

        Not once the model has answered: then it is the item that was refused, whatever the words are.
        """
        if self.finished if problem.of_task else self.answers:
            return
        by = self._rejected_by
        if by is not None and by[0] != work.key and by[1] is problem.kind:
            self.rejected = problem
        self._rejected_by = (work.key, problem.kind)
        self._rejected_by_task = problem.of_task

    def model_works(self) -> None:
        """An item of the model succeeded."""
        self._rejected_by = None
        self.answers += 1
        self.finished += 1

    def task_taken(self) -> None:
        """A task of the model was accepted, which says nothing against one that has failed."""
        self.answers += 1
        if not self._rejected_by_task:
            self._rejected_by = None

    def single_out(self, work: Work) -> int:
        """A machine on the way turned this item away; how often that was while others got through in between."""
        if work.answers_seen is not None and self.answers > work.answers_seen:
            work.singled_out += 1
        work.answers_seen = self.answers
        return work.singled_out


def _changed_source(found: str, surveyed: int) -> JobMistakesError:
    problem = f"the source now has {found}; it had {surveyed:,} when the run began"
    return JobMistakesError((Mistake(key="prompts", problem=problem),))
