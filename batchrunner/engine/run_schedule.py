"""When a run may send: it waits for its window, and pauses when the window closes or its deadline comes.

Instants are the wall clock's, looked at again every minute: a machine that slept is not late by its sleep.
"""

import asyncio
from asyncio import FIRST_COMPLETED
from contextlib import suppress
from functools import partial
from typing import Final

from batchrunner.core.job import Job
from batchrunner.core.ports import Clock
from batchrunner.core.schedule import OffsetAt, Window, deadline_at, opening
from batchrunner.core.status import Wait
from batchrunner.core.values import dataclass, field
from batchrunner.engine.run_status import shown_time
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.work_queue import Condition

_LOOK_EVERY_S: Final = 60.0
_LEAST_S: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    at: float
    reason: str
    """Before it comes: what it is."""
    message: str
    """After it came: why the run paused, and when it continues."""


@dataclass(slots=True, kw_only=True)
class RunSchedule:
    """One for a run. Whoever begins calls `opened` once; `watch` runs beside the work."""

    job: Job
    clock: Clock
    shutdown: Shutdown
    offset_at: OffsetAt
    waiting: Wait | None = None
    """Set while the whole run waits for its window."""
    _ends: list[_End] = field(default_factory=list)
    _opened: bool = False
    _changes: int = 0
    """How often the ends have changed."""
    _changed: Condition = field(default_factory=Condition)

    def __post_init__(self) -> None:
        self._ends += self._deadline_end()

    def _deadline_end(self) -> list[_End]:
        deadline, now = self.job.deadline, self.clock.wall()
        if deadline is None:
            return []
        at = deadline_at(deadline, began=now, offset_at=self.offset_at)
        words = "was reached" if at > now else "is in the past; change `deadline` to continue"
        name = f"the deadline {deadline.shown}"
        return [_End(at=at, reason=name, message=f"{name} ({self._shown(at)}) {words}")]

    def change(self, job: Job) -> None:
        """Another window or deadline: counted from now, and the run pauses if it is over already."""
        before, self.job = self.job, job
        if (before.window, before.deadline) == (job.window, job.deadline):
            return
        self._ends[:] = self._deadline_end()
        if job.window is not None and self._opened:
            now = self.clock.wall()
            found = opening(job.window, wall=now, offset_at=self.offset_at)
            self._ends.append(self._closing(job.window, found.closes_at if found.opens_at <= now else now))
        self._changes += 1
        self._changed.notify()

    @property
    def ends(self) -> Wait | None:
        """What ends the run first, and when."""
        if not self._ends or self.waiting is not None:
            return None
        first = min(self._ends, key=lambda end: end.at)
        return Wait(reason=first.reason, until=self._shown(first.at))

    @property
    def ends_at(self) -> float | None:
        """Wall clock of what ends the run first."""
        return min((end.at for end in self._ends), default=None)

    async def opened(self) -> bool:
        """Wait until the window is open; True at once without one. False if the run has to end before that."""
        while (window := self.job.window) is not None:
            now = self.clock.wall()
            found = opening(window, wall=now, offset_at=self.offset_at)
            if self._over(now):
                return False
            if now >= found.opens_at:
                self._ends.append(self._closing(window, found.closes_at))
                self._changes += 1
                break
            if early := [end for end in self._ends if end.at <= found.opens_at]:
                self.shutdown.pause(f"{early[0].reason} is before the window opens at {self._shown(found.opens_at)}")
                return False
            self.waiting = Wait(reason=outside_words(window, self.job.timezone), until=self._shown(found.opens_at))
            if not await self._wait_until(found.opens_at):
                return False
        self._opened = True
        self._changed.notify()
        return not self._over(self.clock.wall())

    async def watch(self) -> None:
        """Pause the run when its first end comes; returns then. Sets no timer while there is none."""
        while True:
            await self._changed.until(lambda: bool(self._ends))
            now, changes = self.clock.wall(), self._changes
            if self._over(now):
                return
            left_s = min(end.at - now for end in self._ends)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(_LEAST_S, min(left_s, _LOOK_EVERY_S))):
                    await self._changed.until(partial(self._changed_since, changes))

    def _changed_since(self, changes: int) -> bool:
        return self._changes != changes

    async def _wait_until(self, at: float) -> bool:
        """Wait for the window that opens then, or until another one is set. False when the run drains."""
        changes = self._changes
        while not self.shutdown.draining.is_set() and self._changes == changes:
            left_s = at - self.clock.wall()
            if left_s <= 0:
                break
            news = [
                asyncio.create_task(self.shutdown.draining.wait()),
                asyncio.create_task(self._changed.until(partial(self._changed_since, changes))),
            ]
            try:
                await asyncio.wait(news, timeout=max(_LEAST_S, min(left_s, _LOOK_EVERY_S)), return_when=FIRST_COMPLETED)
            finally:
                for each in news:
                    each.cancel()
        self.waiting = None
        return not self.shutdown.draining.is_set()

    def _over(self, now: float) -> bool:
        """Pause the run if one of its ends will have come by then; true if so."""
        come = [end for end in self._ends if end.at <= now]
        if come:
            self.shutdown.pause(min(come, key=lambda end: end.at).message)
        return bool(come)

    def _closing(self, window: Window, closes_at: float) -> _End:
        again = opening(window, wall=closes_at, offset_at=self.offset_at).opens_at
        name = f"the window {window.shown} ({zone_words(self.job.timezone)})"
        return _End(
            at=closes_at,
            reason=f"the end of {name}",
            message=f"{name} closed at {self._shown(closes_at)} and opens again at {self._shown(again)}",
        )

    def _shown(self, at: float) -> str:
        return shown_time(at, offset_s=self.offset_at(at))


def zone_words(timezone: str | None) -> str:
    """The zone's name, or whose it is."""
    return timezone or "this machine's local time"


def outside_words(window: Window, timezone: str | None) -> str:
    """Why a run waits outside its window."""
    return f"outside the window {window.shown} ({zone_words(timezone)})"
