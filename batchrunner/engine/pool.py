"""What is still to do for one model: fresh items from the source, and items that a lane gave back unchanged.

Its lanes (one per account) draw from it, so that the load goes where it can be taken. It reads the source one item at
a time, only when a lane has a slot for it; a parked lane of another model holds nothing up here.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from batchrunner.core.item import Item
from batchrunner.core.outcome import Adaptation, Problem, ProblemKind, Revision


@dataclass(slots=True, kw_only=True)
class Work:
    """An item in somebody's hands, with what this process learned about it."""

    item: Item
    key: bytes
    revision: Revision = field(default_factory=Revision)
    kinds: dict[ProblemKind, int] = field(default_factory=dict)
    """Tries per kind of problem, for kinds with a cap of their own and for growing waits."""
    began_wall: float | None = None
    began: float | None = None
    """Monotonic seconds of the first send in this process."""


class Pool:
    """One model's work."""

    def __init__(self, model: str, items: AsyncGenerator[Item, None], *, wanted: Callable[[Item, bytes], bool]) -> None:
        self.model = model
        self.exhausted = False
        self.condemned: Problem | None = None
        """Why every item of this model fails without being sent, once two have agreed."""
        self.accused: tuple[bytes, ProblemKind] | None = None
        self.adapted: frozenset[Adaptation] = frozenset()
        """What the server asked to change once: later items are sent like that at once."""
        self._items = items
        self._wanted = wanted
        self._returned: deque[Work] = deque()
        self._active: set[bytes] = set()
        self._ahead: Work | None = None
        self._reading = asyncio.Lock()
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Pool {self.model}: {len(self._active)} active, {len(self._returned)} given back>"

    @property
    def drained(self) -> bool:
        """Nothing is left, and nothing can come back."""
        return self.exhausted and self._ahead is None and not self._active and not self._returned

    @property
    def nothing_to_send(self) -> bool:
        """Every item has been handed out; one may still come back."""
        return self.exhausted and self._ahead is None and not self._returned

    async def take(self) -> Work | None:
        """The next item to send; None when there is none at the moment.

        One item is read ahead, so that the end of the source is known when its last item is handed out: nobody then
        waits for a slot that nobody needs.

        Raises:
            JobMistakesError: the source has become unreadable.
        """
        if self._returned:
            return self._hand_out(self._returned.popleft())
        async with self._reading:
            work = self._ahead or await self._read()
            self._ahead = None
            if work is None:
                return None
            self._hand_out(work)
            self._ahead = await self._read()
            return work

    async def _read(self) -> Work | None:
        while not self.exhausted:
            item = await anext(self._items, None)
            if item is None:
                self.exhausted = True
                self.change()
                return None
            key = bytes.fromhex(item.key)
            if key not in self._active and self._wanted(item, key):
                return Work(item=item, key=key)
        return None

    def claim(self, work: Work) -> None:
        """An item that came another way (an accepted task) is in somebody's hands."""
        self._active.add(work.key)

    def give_back(self, work: Work) -> None:
        """The item is unchanged and may be sent by any lane of the model."""
        self._returned.append(work)
        self.left(work)

    def left(self, work: Work) -> None:
        """The item is in nobody's hands any more."""
        self._active.discard(work.key)
        self.change()

    def accuse(self, work: Work, problem: Problem) -> None:
        """This item says that the model itself is refused; the second different one condemns all others."""
        if self.accused is not None and self.accused[0] != work.key and self.accused[1] is problem.kind:
            self.condemned = problem
        self.accused = (work.key, problem.kind)

    def absolve(self) -> None:
        """An item of the model came through."""
        self.accused = None

    async def close(self) -> None:
        """The source is read no further. Left to the loop's end, its streams would be closed in the wrong order."""
        async with self._reading:
            await self._items.aclose()

    def change(self) -> None:
        """Wake whoever waits for work."""
        self._changed.set()

    async def wait(self) -> None:
        """Until something changed."""
        self._changed.clear()
        await self._changed.wait()

    def _hand_out(self, work: Work) -> Work:
        self._active.add(work.key)
        return work
