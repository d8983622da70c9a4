"""One job, one provider and one disk over several lives of a process; every life may end at any call.

The engine, the stores and the world are the real ones. Only the disk is pretended, and the ports to the world are
watched: a dead process reaches neither.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from dataclasses import replace as replaced

from batchrunner.core import VERSION
from batchrunner.core.errors import ExitStatus, StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.core.part import RunRequest
from batchrunner.core.status import Status
from batchrunner.core.values import replace
from batchrunner.engine.planning import lane_concurrency
from batchrunner.engine.runner import Runner
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.virtual_time import OneThreadLoop
from batchrunner.simulator.world import World
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.run_directory import take_directory
from batchrunner.stores.run_file import check_claim, make_run_folder
from batchrunner.transport import Secret
from batchrunner.wiring import assemble
from tests.crash.invariant_error import Violation
from tests.crash.jobs import RUN, Shape, items_in, job_of
from tests.crash.ledger_tail import rows_on
from tests.crash.recording_ports import RecordingPorts, WatchedLedger, WatchedResults
from tests.crash.watch import SHANGHAI_S, Body, Known, Watch, Witness
from tests.support.crashing_disk import CrashingDisk, Trouble
from tests.support.slow_source import SlowItems

MONDAY_EVENING = 1_795_000_000.0
LONGEST_LIFE_S = 60 * 86_400.0  # three calls a day, most of them in vain
CANARY = "sk-canary-5f0c2e"


@dataclass
class CrashHarness:
    """Lives of one job. `live` is one of them."""

    seed: int
    kind: str = "chat"
    items: int = 4
    """Prompts of the job; the items are more where it has several models, replicas or twins."""
    shape: Shape | None = None
    world: World = field(default_factory=World)
    mutant: "Mutant" = lambda harness, runner, ports: None
    wall: float = MONDAY_EVENING
    witness: Witness = field(default_factory=Witness)
    posts_left: int = 0
    """The life ends right after so many POSTs more; 0: it does not."""
    said: list[str] = field(default_factory=list)
    status: Status | None = None
    watch: Watch | None = None
    """Of the last life; None when it ended before anything could be sent."""
    power_was_lost: bool = False
    """At the end of the last life."""
    most_attempts: int = 0
    item_s: Callable[[int], float] = lambda _: 0.0
    """Seconds until the source gives the item with that index to a run's lanes."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.disk = CrashingDisk(self.seed)
        self.known_items: dict[bytes, Item] = {}
        self.bodies: dict[Body, frozenset[bytes]] = {}
        self._shape = self.shape or Shape(kind=self.kind)
        self.change(self.items)

    def change(self, prompts: int, shape: Shape | None = None) -> None:
        """A person makes the job shorter or longer between two runs, or turns its settings."""
        self.items = prompts
        self._shape = shape or self._shape
        self.job = job_of(self._shape, prompts)
        self.present = items_in(self._shape, prompts)
        self.most_attempts = max(self.most_attempts, self.job.retry.attempts)
        for item in self.present:
            key, body = bytes.fromhex(item.key), (item.model, item.prompt)
            self.known_items[key] = item
            self.bodies[body] = self.bodies.get(body, frozenset()) | {key}

    def turn(self, **settings: object) -> None:
        """The same prompts with other settings (fields of `Shape`)."""
        self.change(self.items, replaced(self._shape, **settings))  # type: ignore[arg-type]  # names stand in the seeded runs

    def live(
        self,
        *,
        trouble: Trouble | None = None,
        dies_at_s: float | None = None,
        dies_at_post: int = 0,
        asked_at_s: tuple[float, ...] = (),
        run_request: RunRequest | None = None,
    ) -> ExitStatus | None:
        """One process; None when it died. A disk that refuses ends it with STOPPED. `asked_at_s`: Ctrl-C, then again.

        Raises:
            Violation: an invariant did not hold at some event.
        """
        self.disk.trouble = trouble
        self.posts_left = dies_at_post
        self.watch, self.power_was_lost = None, False
        with asyncio.Runner(loop_factory=lambda: OneThreadLoop(random.Random(self.rng.random()))) as runner:
            ended = runner.run(self._life(dies_at_s, asked_at_s, run_request or RunRequest()))
        if self.witness.violation is not None:
            raise self.witness.violation
        if ended not in {None, ExitStatus.STOPPED, ExitStatus.INTERRUPTED}:
            self._slots_came_back()
        return ended

    def _slots_came_back(self) -> None:
        if self.watch is not None:
            self.watch.over()

    def wake(self, *, power_was_lost: bool) -> None:
        """What the next life will find."""
        if power_was_lost and self.job.durability == "result":
            lanes = len(self.job.models) * max(1, len(self.job.provider.key_env))
            self.witness.unaccounted += lane_concurrency(self.job) * lanes
        self.power_was_lost = power_was_lost
        self.disk.wake(power_was_lost=power_was_lost)
        self.disk.capacity_bytes = None  # a person has made room

    async def _life(
        self, dies_at_s: float | None, asked_at_s: tuple[float, ...], run_request: RunRequest
    ) -> ExitStatus | None:
        loop = asyncio.get_running_loop()
        clock = LoopClock(wall_at_zero=self.wall)
        self.disk.clock = loop.time
        working = asyncio.ensure_future(self._work(clock, asked_at_s, run_request))

        def die() -> None:
            loop.call_soon(working.cancel)

        self.disk.on_death = die
        if dies_at_s is not None:
            loop.call_later(dies_at_s, self.disk.die)
        ended: ExitStatus | None = None
        try:
            async with asyncio.timeout(LONGEST_LIFE_S):
                ended = await working
        except TimeoutError:  # the watchdog: a run waits for something that cannot come, or goes round in circles
            raise Violation(
                20, f"nothing came to an end in {LONGEST_LIFE_S / 86_400:.0f} days: {self.status}"
            ) from None
        except asyncio.CancelledError:
            assert self.disk.dead or self.witness.violation, "somebody else cancelled the run"
        except StoreBrokenError as error:
            self.said.append(str(error))
            ended = None if self.disk.dead else ExitStatus.STOPPED
        self.wall = clock.wall() + 1.0
        died = self.disk.dead
        self.witness.lives.append("died" if died else str(ended and ended.name))
        return None if died else ended

    async def _work(self, clock: LoopClock, asked_at_s: tuple[float, ...], run_request: RunRequest) -> ExitStatus:
        disk, job = self.disk, self.job
        check_claim(RUN, job_name=job.name, simulated=job.simulated, files=disk)
        make_run_folder(RUN, files=disk)
        async with AsyncExitStack() as stack:
            take_directory(RUN, job, program=VERSION, wall=clock.wall(), adopt_rows=run_request.adopt_rows, files=disk)
            ports = RecordingPorts(
                disk=disk,
                transport=SimulatedTransport(self.world, clock, timeouts=job.timeouts),
                downloads=SimulatedDownloads(self.world, clock, timeouts=job.timeouts),
                key_of=lambda account: f"{CANARY}-{account}" if account else "",
                on_post=self._count_down,
            )
            runner = await assemble(
                job,
                stack,
                clock=clock,
                keys={account: Secret(f"{CANARY}-{account}") for account in job.provider.key_env},
                folder=RUN,
                run_request=run_request,
                say=self.said.append,
                network=(ports, ports),
                files=disk,
                random_source=random.Random(self.rng.random()),
            )
            ports.watch = self.watch = self._watch(clock, runner)
            runner.ports = replace(runner.ports, items=SlowItems(job, self.item_s))
            runner.recorder.ledger = WatchedLedger(runner.recorder.ledger, self.watch)
            runner.recorder.results = WatchedResults(runner.recorder.results, self.watch)
            self.mutant(self, runner, ports)
            try:
                return await self._run(runner, asked_at_s)
            finally:
                self.status = runner.snapshot()

    async def _run(self, runner: Runner, asked_at_s: tuple[float, ...]) -> ExitStatus:
        """With Ctrl-C as `app.run` hears it."""
        loop, shutdown = asyncio.get_running_loop(), runner.shutdown
        running = asyncio.ensure_future(runner.run())
        shutdown.watch_over(running)
        asking = [loop.call_later(at_s, shutdown.request) for at_s in asked_at_s]
        try:
            await running
        except asyncio.CancelledError:
            if not shutdown.requests or self.disk.dead:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
                raise
        finally:
            shutdown.over()
            for asked in asking:
                asked.cancel()
        return runner.ending().exit_status()

    def _watch(self, clock: LoopClock, runner: Runner) -> Watch:
        rows = {bytes.fromhex(row["key"]) for row in rows_on(self.disk)}
        known = Known(
            disk=self.disk,
            job=self.job,
            clock=clock,
            witness=self.witness,
            bodies=self.bodies,
            items=self.known_items,
            most_attempts=self.most_attempts,
            rows=rows,
            shadow=replay(RUN, day_offset_s=SHANGHAI_S, files=self.disk),
        )
        return Watch(known, runner)

    def _count_down(self) -> None:
        self.posts_left -= 1
        if self.posts_left == 0:
            asyncio.get_running_loop().call_soon(self.disk.die)


Mutant = Callable[[CrashHarness, Runner, RecordingPorts], None]
"""Breaks something in a life that is about to begin."""
