"""One job, one provider and one disk over several lives of a process; every life may end at any call.

The engine, the stores and the world are the real ones. Only the disk is pretended, and the doors to the world are
watched: a dead process reaches neither.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from batchrunner import app
from batchrunner.assembly import assemble
from batchrunner.core.errors import ExitStatus, StoreBrokenError
from batchrunner.core.events import Accepted, Done, Event, Failed, Intent, Retry
from batchrunner.core.job import Job
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import Ledger
from batchrunner.core.status import Status
from batchrunner.core.version import VERSION
from batchrunner.core.wire import Decoder, Request
from batchrunner.engine.clock import LoopClock
from batchrunner.engine.runner import Wishes
from batchrunner.engine.survey import lane_concurrency
from batchrunner.prompts import items_of
from batchrunner.report.standing import LEDGER
from batchrunner.simulator.crashing_disk import CrashingDisk, Trouble
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.one_thread import OneThreadLoop
from batchrunner.simulator.world import World
from batchrunner.stores.ledger_line import is_sound
from batchrunner.stores.run_directory import take_directory
from batchrunner.stores.run_file import check_claim, make_run_folder

T = TypeVar("T")

RUN = Path("/run")
MONDAY_EVENING = 1_795_000_000.0
LONGEST_LIFE_S = 5 * 86_400.0

JOBS = {
    "chat": "model: sim/chat\ndurability: full\n",
    "chat-result": "model: sim/chat\nlimits: {concurrency: 2}\n",
    "chat-each": 'model: sim/chat\noutput: {each: "answers/{{ id }}.md"}\n',
    "image": "model: Qwen/Qwen-Image\nkind: image\nparams: {size: 64x64}\ntimeouts: {task_s: 3600}\n",
}


@cache
def job_of(kind: str, items: int, more: str = "") -> Job:
    prompts = "".join(f"  - item number {number}\n" for number in range(items))
    text = f"name: job\nprovider: simulator\n{JOBS[kind]}{more}\nprompts:\n{prompts}"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(text, "utf-8")
        return app.load_job(str(path), simulate=True, out=str(RUN))


@cache
def keys_of(job_kind: str, items: int, more: str = "") -> dict[str, bytes]:
    """Prompt to key: how the doors know whose request comes by."""

    async def read() -> dict[str, bytes]:
        return {item.prompt: bytes.fromhex(item.key) async for item in items_of(job_of(job_kind, items, more)).stream()}

    return asyncio.run(read())


@dataclass
class Witness:
    """What the outside knows for certain, over all lives: what was sent, and what was acknowledged as durable."""

    posts: Counter[bytes] = field(default_factory=Counter)
    submitted_again: list[bytes] = field(default_factory=list)
    """Items that were posted although a task of theirs was known to be under way."""
    done: set[bytes] = field(default_factory=set)
    failed: set[bytes] = field(default_factory=set)
    tasks: dict[bytes, str] = field(default_factory=dict)
    posts_after_refusal: int = 0
    posts_too_early: int = 0
    """POSTs whose intent was not where the job's durability wants it before they leave."""
    lives: list[str] = field(default_factory=list)

    def acknowledged(self, event: Event) -> None:
        """The ledger says that this is on the disk."""
        match event:
            case Done():
                self.done.add(bytes.fromhex(event.k))
                self.tasks.pop(bytes.fromhex(event.k), None)
            case Failed():
                self.failed.add(bytes.fromhex(event.k))
                self.tasks.pop(bytes.fromhex(event.k), None)
            case Accepted():
                self.tasks[bytes.fromhex(event.k)] = event.task
            case _:
                pass

    def begun(self, event: Event) -> None:
        """The engine wants this to be written: a task whose end was seen needs not be remembered any more."""
        if isinstance(event, Retry):
            self.tasks.pop(bytes.fromhex(event.k), None)


@dataclass
class WatchedLedger:
    """Tells the witness what was acknowledged."""

    inner: Ledger
    witness: Witness

    def note(self, event: Event) -> None:
        self.inner.note(event)

    async def write(self, event: Event) -> None:
        self.witness.begun(event)
        await self.inner.write(event)

    async def commit(self, event: Event) -> None:
        self.witness.begun(event)
        await self.inner.commit(event)
        self.witness.acknowledged(event)


@dataclass
class IntentNotSynced(WatchedLedger):
    """A mutant: paid POSTs leave before their intent is on the disk."""

    async def commit(self, event: Event) -> None:
        if isinstance(event, Intent):
            self.inner.note(event)
        else:
            await super().commit(event)


@dataclass
class NoIntent(WatchedLedger):
    """A mutant: nothing is written before a paid POST."""

    async def commit(self, event: Event) -> None:
        if not isinstance(event, Intent):
            await super().commit(event)

    async def write(self, event: Event) -> None:
        if not isinstance(event, Intent):
            await super().write(event)


Wrap = Callable[[Ledger, Witness], Ledger]


@dataclass
class Doors:
    """The world behind a wall that a dead process cannot pass."""

    house: "CrashHouse"
    transport: SimulatedTransport
    downloads: SimulatedDownloads
    clock: LoopClock
    refused_at: float | None = None

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        await self._alive()
        if request.method == "POST":
            self._count(request)
        outcome = await self.transport.exchange(request, decoder, account=account)
        await self._alive()
        return outcome

    async def fetch(self, url: str) -> bytes | Problem:
        await self._alive()
        found = await self.downloads.fetch(url)
        await self._alive()
        return found

    def _count(self, request: Request) -> None:
        house = self.house
        key = house.keys[_prompt_of(request)]
        witness = house.witness
        witness.posts[key] += 1
        synced = house.job.durability == "full"
        witness.posts_too_early += house.intents_of(key, on_the_platter=synced) < witness.posts[key] - house.unaccounted
        if key in witness.tasks:
            witness.submitted_again.append(key)
        refused_at = house.disk.refused_at
        if refused_at is not None and self.clock.monotonic() > refused_at:
            witness.posts_after_refusal += 1
        house.posts_left -= 1
        if house.posts_left == 0:
            asyncio.get_running_loop().call_soon(house.disk.die)

    async def _alive(self) -> None:
        if self.house.disk.dead:
            await asyncio.get_running_loop().create_future()


@dataclass
class CrashHouse:
    """Lives of one job. `live` is one of them."""

    seed: int
    kind: str
    items: int = 4
    more: str = ""
    world: World = field(default_factory=World)
    wrap: Wrap = WatchedLedger
    wall: float = MONDAY_EVENING
    witness: Witness = field(default_factory=Witness)
    posts_left: int = 0
    """The life ends right after so many POSTs more; 0: it does not."""
    unaccounted: int = 0
    """POSTs whose unsynced intents power losses may have taken (`durability: result`)."""
    said: list[str] = field(default_factory=list)
    status: Status | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.disk = CrashingDisk(self.seed)
        self.keys: dict[str, bytes] = {}
        self.change(self.items)

    def change(self, items: int) -> None:
        """A person makes the job shorter or longer between two runs."""
        self.items = items
        self.job = job_of(self.kind, items, self.more)
        self.present = keys_of(self.kind, items, self.more)
        self.keys |= self.present

    def live(
        self, *, trouble: Trouble | None = None, dies_at_s: float | None = None, dies_at_post: int = 0
    ) -> ExitStatus | None:
        """One process; None when it died. A disk that refuses ends it with STOPPED."""
        self.disk.trouble = trouble
        self.posts_left = dies_at_post
        with asyncio.Runner(loop_factory=lambda: OneThreadLoop(random.Random(self.rng.random()))) as runner:
            return runner.run(self._life(dies_at_s))

    def intents_of(self, key: bytes, *, on_the_platter: bool) -> int:
        """Sound intents of an item in the ledger, as the system or only the platter has it."""
        marks = b'"e":"intent"', f'"k":"{key.hex()}"'.encode()
        count = 0
        for name in self.disk.names(RUN / LEDGER):
            text = self.disk.bytes_of(RUN / LEDGER / name, on_the_platter=on_the_platter)
            count += sum(all(mark in line for mark in marks) for line in text.split(b"\n") if is_sound(line))
        return count

    def wake(self, *, power_was_lost: bool) -> None:
        """What the next life will find."""
        if power_was_lost and self.job.durability == "result":
            self.unaccounted += lane_concurrency(self.job)
        self.disk.wake(power_was_lost=power_was_lost)
        self.disk.capacity_bytes = None  # a person has made room

    async def _life(self, dies_at_s: float | None) -> ExitStatus | None:
        loop = asyncio.get_running_loop()
        clock = LoopClock(wall_at_zero=self.wall)
        self.disk.clock = loop.time
        working = asyncio.ensure_future(self._work(clock))

        def die() -> None:
            loop.call_soon(working.cancel)

        self.disk.on_death = die
        if dies_at_s is not None:
            loop.call_later(dies_at_s, self.disk.die)
        try:
            async with asyncio.timeout(LONGEST_LIFE_S):
                ended = await working
        except asyncio.CancelledError:
            assert self.disk.dead, "somebody else cancelled the run"
            ended = None
        except StoreBrokenError as error:
            self.said.append(str(error))
            ended = None if self.disk.dead else ExitStatus.STOPPED
        self.wall = clock.wall() + 1.0
        died = self.disk.dead
        self.witness.lives.append("died" if died else str(ended and ended.name))
        return None if died else ended

    async def _work(self, clock: LoopClock) -> ExitStatus:
        disk, job = self.disk, self.job
        check_claim(RUN, job_name=job.name, simulated=job.simulated, files=disk)
        make_run_folder(RUN, files=disk)
        async with AsyncExitStack() as stack:
            take_directory(RUN, job, program=VERSION, wall=clock.wall(), files=disk)
            doors = Doors(
                house=self,
                transport=SimulatedTransport(self.world, clock, timeouts=job.timeouts),
                downloads=SimulatedDownloads(self.world, clock, timeouts=job.timeouts),
                clock=clock,
            )
            runner = await assemble(
                job,
                stack,
                clock=clock,
                keys={},
                folder=RUN,
                wishes=Wishes(),
                say=self.said.append,
                network=(doors, doors),
                files=disk,
                dice=random.Random(self.rng.random()),
            )
            runner.book.ledger = self.wrap(runner.book.ledger, self.witness)
            try:
                await runner.run()
            finally:
                self.status = runner.snapshot()
            return runner.ending().exit_status()


def _prompt_of(request: Request) -> str:
    body = json.loads(request.body or b"{}")
    prompt = body.get("prompt") or body["messages"][-1]["content"]
    assert isinstance(prompt, str)
    return prompt
