"""A rehearsal: the engine itself, unchanged, at work on a simulated provider in virtual time.

What is left of a job, according to its ledger, is sent to a world of its own, from now on, window after window, until
nothing is left or nothing advances. Opens no socket, writes nothing, and needs no key.
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from batchrunner.core.errors import ExitStatus
from batchrunner.core.events import Done, Event, Failed, Intent, Refused
from batchrunner.core.job import Job
from batchrunner.core.outcome import Problem
from batchrunner.core.pacing import day_of
from batchrunner.core.part import RunRequest
from batchrunner.core.ports import Downloads, Ports, TaskDialect, Write
from batchrunner.core.presets import PRESETS, Preset
from batchrunner.core.rehearsal_report import Rehearsal
from batchrunner.core.state import LedgerState
from batchrunner.core.status import Status, UsageCounts
from batchrunner.core.upstream import RunRows
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.planning import run_planning_pass, totals_of
from batchrunner.engine.run_status import with_end
from batchrunner.engine.runner import Runner
from batchrunner.engine.shutdown import Shutdown
from batchrunner.prompts import JobItems, items_of
from batchrunner.providers import dialect_for
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.light_loop import LightLoop
from batchrunner.simulator.null_stores import (
    PLACEHOLDER,
    NullLedger,
    NullMedia,
    NullPictures,
    NullResults,
    paint_placeholder,
)
from batchrunner.simulator.profiles import NO_FAULTS, Profile
from batchrunner.simulator.timeline import RehearsalTimeline
from batchrunner.simulator.virtual_time import VirtualClock
from batchrunner.simulator.world import World
from batchrunner.stores.timezones import offset_of_zone

_COLLECTED: Final = (50_000, 20, 50)
HORIZON_S: Final = 400 * 86_400.0
"""A rehearsal ends here."""
_PROGRESS_EVENTS: Final = 200
_PROGRESS_EVERY_S: Final = 0.5
_PICTURES_AT_ONCE: Final = "oi-ok"


def rehearse(
    job: Job,
    *,
    state: LedgerState,
    profile: Profile,
    wall: float,
    seed: int = 0,
    limit: int | None = None,
    windows: dict[str, int] | None = None,
    notes: tuple[str, ...] = (),
    progress: Callable[[int, int, float], None] | None = None,
    upstream: RunRows | None = None,
) -> Rehearsal:
    """Blocks for as long as it takes; not from within a running loop's thread.

    Args:
        job: what is to be run.
        state: what its ledger remembers; an empty one rehearses all of it. It is used up.
        profile: what is supposed of the provider.
        wall: the instant at which the run would begin, seconds since 1970.
        seed: of everything that looks like chance; the same seed gives the same prediction.
        limit: only the first so many items.
        windows: how many at once last worked, by `ACCOUNT MODEL`.
        notes: further notes for the report.
        progress: called every half second with the ended items, all items and the simulated seconds.
        upstream: the rows of the run that the job reads, if it reads one.

    Raises:
        JobMistakesError: a source of the job.
    """
    began = time.perf_counter()

    async def simulate() -> Rehearsal:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LightLoop)
        clock = VirtualClock(loop, wall_at_zero=wall)
        stage = _Stage(
            job=job, state=state, profile=profile, seed=seed, clock=clock, progress=progress, upstream=upstream
        )
        await stage.play(RunRequest(limit=limit), windows=windows or {})
        return stage.report(notes, took_s=time.perf_counter() - began)

    with _collected_rarely(), asyncio.Runner(loop_factory=lambda: LightLoop(random.Random(seed))) as runner:
        return runner.run(simulate())


@contextmanager
def _collected_rarely() -> Iterator[None]:
    """The cyclic collector looks at what is there already no more, and seldom at what is made: few cycles are."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def world_of(job: Job, profile: Profile, *, seed: int) -> World:
    """The provider that a profile supposes. Its pictures are specks."""
    at_once = _PICTURES_AT_ONCE if job.provider.dialect == "openai-images" else None
    return World(
        seed,
        scenario=job.scenario or at_once,
        latency=profile.latency,
        limits=profile.limits,
        quota=profile.quota,
        faults=profile.faults,
        answer_tokens=profile.answer_tokens,
        paint=paint_placeholder,
        films=job.kind == "media",
        log_size=0,
        unread=True,
    )


@dataclass(slots=True, kw_only=True)
class _Stage:
    """One rehearsal: the simulated provider, its state, and the timeline."""

    job: Job
    state: LedgerState
    profile: Profile
    seed: int
    clock: VirtualClock
    progress: Callable[[int, int, float], None] | None = None
    upstream: RunRows | None = None
    world: World = field(init=False)
    timeline: RehearsalTimeline = field(init=False)
    random_source: random.Random = field(init=False)
    starts: int = 0
    _ahead: int = 0
    _unreported: int = 0
    _reported_at: float = field(default_factory=time.perf_counter)
    _before: UsageCounts = field(init=False)
    _status: Status = field(init=False)
    _exit_status: ExitStatus = field(init=False)
    _began: float = field(init=False)
    _ended: float = field(init=False)

    def __post_init__(self) -> None:
        state = self.state
        self.job = _with_simulated_paths(self.job, in_one_piece=self.profile.faults == NO_FAULTS)
        self.world = world_of(self.job, self.profile, seed=self.seed)
        self.timeline = RehearsalTimeline(clock=self.clock, state=state, offset_s=self._preset.day_offset_s)
        self.random_source = random.Random(self.seed)
        self._before = UsageCounts(
            input_tokens=state.input_tokens, output_tokens=state.output_tokens, images=state.images
        )

    async def play(self, run_request: RunRequest, *, windows: dict[str, int]) -> None:
        """Run it, and start it again whenever its window has closed, as somebody would the next evening."""
        self._began = self.clock.wall()
        self._take_over()
        self.timeline.note("begins")
        while True:
            runner = await self._runner(run_request, windows)
            self.starts += 1
            done_before = self.timeline.totals[Intent]
            await self._one_run(runner)
            ending = runner.ending()
            self._exit_status = ending.exit_status()
            self._status = with_end(runner.snapshot(), self._exit_status, message=ending.message(), next_command=None)
            self._ended = self.clock.wall()
            windows = {f"{lane.account} {lane.model}": lane.limit for lane in runner.lanes}
            went_on = self.timeline.totals[Intent] > done_before
            if not went_on or not self._goes_on_next_evening(runner):
                break
            self.timeline.note("pauses", self._status.message or "")
            self.state.segment_ended()
        self.timeline.close()
        self.timeline.note("ends", self._status.message or "")

    async def _one_run(self, runner: Runner) -> None:
        left_s = max(0.0, HORIZON_S - (self.clock.wall() - self._began))
        words = f"a rehearsal ends after {HORIZON_S / 86_400:.0f} simulated days"
        horizon = asyncio.get_running_loop().call_later(left_s, runner.shutdown.pause, words)
        try:
            await runner.run()
        finally:
            runner.shutdown.over()
            horizon.cancel()

    def _goes_on_next_evening(self, runner: Runner) -> bool:
        paused = self._exit_status is ExitStatus.PAUSED and runner.shutdown.paused is not None
        far = self.clock.wall() - self._began >= HORIZON_S
        return paused and self.job.window is not None and self.job.deadline is None and not far

    # -- before the first call

    def _take_over(self) -> None:
        """The provider starts with what the ledger has: today's calls and the accepted tasks."""
        state, now = self.state, self.clock.wall()
        today = day_of(wall=now, offset_s=self._preset.day_offset_s)
        for account, model in state.days:
            calls = state.sent_today(account, model, day=today)
            self.world.remember(token=account or "in-process", model=model, calls=calls, now=now)
        for task in state.tasks.values():
            if task.task_id:
                self.world.tasks.adopt(task.task_id, model=task.model, accepted_at=task.accepted_at)
        state.live = True

    async def _runner(self, run_request: RunRequest, windows: dict[str, int]) -> Runner:
        items = items_of(self.job, self.upstream)
        items.keeps = True
        found = await run_planning_pass(
            items, self.state, limit=run_request.limit, hold=self.job.on_ambiguous == "hold"
        )
        self._ahead = max(self._ahead, found.to_send + len(self.state.tasks))
        ports = self._ports(items)
        return Runner(
            job=self.job,
            ports=ports,
            state=self.state,
            found=found,
            totals=totals_of(self.job, found, accounts=len(ports.accounts), windows=windows),
            run_request=run_request,
            shutdown=Shutdown(),
            random_source=self.random_source,
            say=lambda _: None,
            offset_at=offset_of_zone(self.job.timezone),
        )

    def _ports(self, items: JobItems) -> Ports:
        job, clock, world = self.job, self.clock, self.world
        dialect = dialect_for(job.provider)
        known = frozenset(url for task in self.state.tasks.values() for url in task.urls)
        return Ports(
            clock=clock,
            items=items,
            dialect=dialect,
            tasks=dialect if isinstance(dialect, TaskDialect) else None,
            transport=SimulatedTransport(world, clock, timeouts=job.timeouts),
            downloads=_Fetching(
                known=known,
                otherwise=SimulatedDownloads(world, clock, timeouts=job.timeouts),
                seconds=self.profile.latency.download_s,
            ),
            ledger=NullLedger(self.timeline.take if self.progress is None else self._take),
            results=NullResults(self.state.results_length),
            pictures=NullPictures(),
            media=NullMedia(),
            each=None,
            accounts=job.provider.accounts or ("",),
            remember=lambda _: None,
        )

    def _take(self, event: Event) -> None:
        """An event for the timeline, and now and then a word on how far it is."""
        self.timeline.take(event)
        self._unreported += 1
        if self._unreported < _PROGRESS_EVENTS:
            return
        self._unreported = 0
        if self.progress is not None and time.perf_counter() - self._reported_at >= _PROGRESS_EVERY_S:
            self._reported_at = time.perf_counter()
            ended = self.timeline.totals[Done] + self.timeline.totals[Failed]
            self.progress(ended, self._ahead, self.clock.wall() - self._began)

    # -- afterwards

    def report(self, notes: tuple[str, ...], *, took_s: float) -> Rehearsal:
        """The prediction."""
        status, stats, timeline = self._status, self.world.stats(), self.timeline
        days = timeline.days()
        return Rehearsal(
            job=self.job.name,
            dir=self.job.output.dir,
            profile=self.profile.shown(),
            seed=self.seed,
            state=status.state,
            exit_status=self._exit_status,
            message=status.message,
            began=timeline.shown(self._began),
            ends=timeline.shown(self._ended),
            seconds=round(self._ended - self._began, 3),
            items=status.items,
            calls=timeline.totals[Intent],
            refused=timeline.totals[Refused],
            retried=timeline.retried,
            polls=stats.polls,
            downloads=stats.downloads,
            quota_days=sum(1 for day in days if day.calls),
            starts=self.starts,
            peak_concurrency=stats.max_in_flight,
            peak_tasks=timeline.peak_tasks,
            parked_seconds=round(timeline.parked_s, 3),
            usage=self._used(status.usage),
            failures=status.failures,
            budget=status.budget,
            hours=timeline.hours(),
            days=days,
            moments=tuple(timeline.moments),
            notes=notes,
            took_seconds=round(took_s, 3),
        )

    def _used(self, after: UsageCounts) -> UsageCounts:
        return UsageCounts(
            input_tokens=_minus(after.input_tokens, self._before.input_tokens),
            output_tokens=_minus(after.output_tokens, self._before.output_tokens),
            images=after.images - self._before.images,
        )

    @property
    def _preset(self) -> Preset:
        return PRESETS[self.job.provider.preset]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetching:
    """`core.ports.Downloads`: pictures that an earlier run left on a real host are there, too."""

    known: frozenset[str]
    otherwise: Downloads
    seconds: float

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:
        """See `core.ports.Downloads`."""
        if url not in self.known:
            return await self.otherwise.fetch(url, account=account)
        await asyncio.sleep(self.seconds)
        return PLACEHOLDER

    async def fetch_into(self, url: str, write: Write, *, account: str = "") -> Problem | None:
        """See `core.ports.Downloads`."""
        fetched = await self.fetch(url, account=account)
        if isinstance(fetched, Problem):
            return fetched
        await write(fetched)
        return None


def _with_simulated_paths(job: Job, *, in_one_piece: bool) -> Job:
    """The same job with the provider's paths where the world has them; its limits and its dialect stay.

    Where nothing shall go wrong within a stream, answers come `in_one_piece`: the world lets that take as long, and to
    make and read a dozen pieces of each answer would be most of the work.
    """
    provider = replace(job.provider, base_url=PRESETS["simulator"].base_url, balance=False)
    stream = job.stream and not (in_one_piece and job.scenario is None)
    return replace(job, provider=provider, stream=stream)


def _minus(after: int | None, before: int | None) -> int | None:
    return after if after is None else after - (before or 0)
