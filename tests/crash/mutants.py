"""Programs that are broken on purpose, one rule each: whoever checks that rule must notice.

A mutant is a function of a life that is about to begin. It lies between the engine and its watch, or below the watch,
or turns something inside the engine. The watch itself is never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Accepted, Done, Event, Intent
from batchrunner.core.http import Decoder, Ending, Request, ResponseHead
from batchrunner.core.job import Limits, RetryPolicy
from batchrunner.core.lifecycle import Closed
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import Kept, Ledger, Place
from batchrunner.core.row import ResultRow
from batchrunner.core.values import field_names, replace
from batchrunner.engine.lanes import Lane
from batchrunner.engine.recorder import Recorder
from batchrunner.engine.runner import Runner
from batchrunner.engine.work_queue import Work, WorkQueue
from tests.crash.invariant_error import Violation
from tests.crash.lives import CANARY, CrashHarness, Mutant
from tests.crash.recording_ports import RecordingPorts, WatchedLedger, WatchedResults

T = TypeVar("T")
Lie = Callable[[Event], tuple[Event, ...]]
"""What is written for an event."""


# -- ledgers that lie


def _as_it_is(event: Event) -> tuple[Event, ...]:
    return (event,)


@dataclass
class LyingLedger:
    """Writes what `lie` makes of an event. Events of the classes `unsynced` are never synced for their own sake."""

    inner: Ledger
    lie: Lie = _as_it_is
    unsynced: tuple[type[Event], ...] = ()

    def note(self, event: Event) -> None:
        for told in self.lie(event):
            self.inner.note(told)

    async def write(self, event: Event) -> None:
        await self._commit_all(event, synced=False)

    async def commit(self, event: Event) -> None:
        await self._commit_all(event, synced=True)

    def write_soon(self, event: Event, then: Callable[[StoreBrokenError | None], None]) -> None:
        self._put(self.lie(event), then, synced=False, urgent=False)

    def commit_soon(
        self, event: Event, then: Callable[[StoreBrokenError | None], None], *, urgent: bool = False
    ) -> None:
        self._put(self.lie(event), then, synced=True, urgent=urgent)

    def _put(
        self, told: tuple[Event, ...], then: Callable[[StoreBrokenError | None], None], *, synced: bool, urgent: bool
    ) -> None:
        """One after the other."""
        if not told:
            then(None)
            return

        def go_on(error: StoreBrokenError | None) -> None:
            if error is not None:
                then(error)
                return
            try:
                self._put(told[1:], then, synced=synced, urgent=urgent)
            except Violation as violation:  # kept by the witness; whoever calls back must not be raised at
                then(StoreBrokenError(str(violation)))

        if synced and not isinstance(told[0], self.unsynced):
            self.inner.commit_soon(told[0], go_on, urgent=urgent)
        else:
            self.inner.write_soon(told[0], go_on)

    def sync_now(self, then: Callable[[StoreBrokenError | None], None]) -> None:
        self.inner.sync_now(then)

    async def _commit_all(self, event: Event, *, synced: bool) -> None:
        for told in self.lie(event):
            if synced and not isinstance(told, self.unsynced):
                await self.inner.commit(told)
            else:
                await self.inner.write(told)


def above(lie: Lie) -> Mutant:
    """The engine has something else written than it should."""

    def lies(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
        runner.recorder.ledger = LyingLedger(runner.recorder.ledger, lie)

    return lies


def below(lie: Lie = _as_it_is, *, unsynced: tuple[type[Event], ...] = ()) -> Mutant:
    """The store does something else than it says."""

    def lies(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
        watched = runner.recorder.ledger
        assert isinstance(watched, WatchedLedger)
        watched.inner = LyingLedger(watched.inner, lie, unsynced)

    return lies


def without(kind: type[Event]) -> Lie:
    return lambda event: () if isinstance(event, kind) else (event,)


def _done_twice(event: Event) -> tuple[Event, ...]:
    return (event, event) if isinstance(event, Done) else (event,)


def _another_row(event: Event) -> tuple[Event, ...]:
    return (msgspec.structs.replace(event, crc="00000000"),) if isinstance(event, Done) else (event,)


def _with_the_key(event: Event) -> tuple[Event, ...]:
    return (msgspec.structs.replace(event, i=CANARY),) if isinstance(event, Intent) else (event,)


class SilentRecorder(Recorder):
    """Tells nobody that a send got no clear answer."""

    async def retry(
        self,
        work: Work,
        problem: Problem,
        *,
        charged: int,
        ambiguous: bool,
        wait_s: float | None = None,
        held: bool = False,
    ) -> None:
        await Recorder.retry(self, work, problem, charged=charged, ambiguous=False, wait_s=wait_s, held=held)


def discreet(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    runner.recorder = SilentRecorder(**{name: getattr(runner.recorder, name) for name in field_names(Recorder)})


# -- ports and stores that do things twice


class _Unread:
    """Takes a reply that nobody asked for."""

    def begin(self, head: ResponseHead) -> None:
        pass

    def feed(self, data: bytes) -> bool:
        return False

    def end(self, ending: Ending) -> None:
        pass


@dataclass
class SendsTwice:
    inner: RecordingPorts

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        if request.method == "POST":
            await self.inner.exchange(request, _Unread(), account=account)
        return await self.inner.exchange(request, decoder, account=account)


def sends_twice(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    runner.ports = replace(runner.ports, transport=SendsTwice(ports))


@dataclass
class WritesTwice(WatchedResults):
    def put(self, row: ResultRow | bytes, then: Kept) -> None:
        def again(_: Place | StoreBrokenError) -> None:
            try:
                super(WritesTwice, self).put(row, then)
            except Violation as violation:  # as above
                then(StoreBrokenError(str(violation)))

        super().put(row, again)

    async def add(self, row: ResultRow) -> Place:
        await super().add(row)
        return await super().add(row)


def writes_rows_twice(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    watched = runner.recorder.results
    assert isinstance(watched, WatchedResults)
    runner.recorder.results = WritesTwice(watched.inner, watched.watch)


@dataclass
class IgnoresRefusals(WatchedResults):
    def put(self, row: ResultRow | bytes, then: Kept) -> None:
        nowhere = Place(crc="00000000", length=0)
        super().put(row, lambda place: then(nowhere if isinstance(place, StoreBrokenError) else place))

    async def add(self, row: ResultRow) -> Place:
        try:
            return await super().add(row)
        except StoreBrokenError:
            return Place(crc="00000000", length=0)


def ignores_refusals(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    watched = runner.recorder.results
    assert isinstance(watched, WatchedResults)
    runner.recorder.results = IgnoresRefusals(watched.inner, watched.watch)


def strays(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    stray = Path("/stray")
    harness.disk.close(harness.disk.open_append(stray, 0o600))


# -- an engine that is turned


def _in_lanes(turn: Callable[[Lane], None]) -> Mutant:
    def turns(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
        for lane in runner.lanes:
            turn(lane)

    return turns


def _wider(lane: Lane) -> None:
    lane.limiter.limit += 1


def _keeps_a_slot(lane: Lane) -> None:
    lane.enter()


def _without_pace(lane: Lane) -> None:
    lane._pace = None


def _without_tokens(lane: Lane) -> None:
    lane._tokens = None


def _without_days(lane: Lane) -> None:
    lane._settings = replace(lane._settings, limits=Limits())


def _without_budget(lane: Lane) -> None:
    setattr(lane, "retry_wait_s", lambda: 0.0)  # noqa: B010 - an assignment to a method is what mypy refuses


def _in_queues(turn: Callable[[WorkQueue], None]) -> Mutant:
    def turns(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
        for queue in runner.queues.values():
            turn(queue)

    return turns


def _forgets_what_returned(queue: WorkQueue) -> None:
    release = queue.release

    def forget(work: Work) -> None:
        release(work)
        queue._keys.discard(work.key)

    setattr(queue, "release", forget)  # noqa: B010 - as above


def _loses_wake_ups(queue: WorkQueue) -> None:
    setattr(queue._changed, "notify", lambda: None)  # noqa: B010 - as above


def _shut(lane: Lane) -> None:
    lane.close(Closed(kind="nothing", reason="a mutant", refused_account=False))


def polls_fast(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    runner.job = replace(runner.job, limits=replace(runner.job.limits, poll_per_second=1000.0))


def tries_for_ever(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    runner.job = replace(runner.job, retry=RetryPolicy(attempts=99))


def miscounts(harness: CrashHarness, runner: Runner, ports: RecordingPorts) -> None:
    runner.state.refused += 1


# -- the table


@dataclass(frozen=True)
class Broken:
    """A mutant, and the numbers of the invariants that may notice it first."""

    name: str
    numbers: frozenset[int]
    mutant: Mutant
    kinds: tuple[str, ...] = ("chat", "image")
    first_seed: int = 0
    """Where the nights begin that are told of it: what is rare is looked for near a night that shows it."""


def _of(name: str, numbers: int | tuple[int, ...], mutant: Mutant, *kinds: str, first_seed: int = 0) -> Broken:
    caught_by = frozenset(numbers if isinstance(numbers, tuple) else (numbers,))
    return Broken(name, caught_by, mutant, kinds or ("chat", "image"), first_seed)


MUTANTS = (
    _of("intents of chats are not synced", (1, 2), below(unsynced=(Intent,)), "chat"),
    _of("intents of pictures are not synced", (1, 2), below(unsynced=(Intent,)), "image"),
    _of("chats have no intents", (1, 2), below(without(Intent)), "chat"),
    _of("pictures have no intents", (1, 2), below(without(Intent)), "image"),
    _of("a door sends twice", 2, sends_twice),
    _of("doubtful sends are not told", 3, discreet, "chat", first_seed=7),
    _of("accepted tasks are not written", 4, below(without(Accepted)), "image"),
    _of("the memory of the engine is another one", 4, miscounts),
    _of("done names another row", 5, below(_another_row)),
    _of("done is not synced", 6, below(unsynced=(Done,)), first_seed=7),
    _of("done is written twice", 9, above(_done_twice)),
    _of("items are tried for ever", 10, tries_for_ever, first_seed=3),
    _of("rows are written twice", 11, writes_rows_twice),
    _of("a lane lets in one too many", 12, _in_lanes(_wider), first_seed=2),
    _of("a lane keeps an item", 12, _in_lanes(_keeps_a_slot)),
    _of("requests a minute do not count", 13, _in_lanes(_without_pace), first_seed=6),
    _of("tokens a minute do not count", 13, _in_lanes(_without_tokens), "chat", "whole"),
    _of("requests a day do not count", 13, _in_lanes(_without_days)),
    # An item that comes through gives its retry back: only a night of many lasting faults uses the budget up.
    Broken("retries have no budget", frozenset({14}), _in_lanes(_without_budget), ("chat",), first_seed=442),
    _of("polls are as fast as they like", 15, polls_fast, "image", first_seed=7),
    _of("rows that the disk refused are thought to stand", 16, ignores_refusals, "chat", first_seed=159),
    _of("a key stands in the ledger", 18, below(_with_the_key), "chat"),
    _of("a file lies elsewhere", 19, strays),
    _of("keys of returned items are forgotten", 23, _in_queues(_forgets_what_returned), first_seed=135),
    _of("wake-ups are lost", 20, _in_queues(_loses_wake_ups)),
    _of("a lane is shut", 20, _in_lanes(_shut)),
)
