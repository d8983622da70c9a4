"""A task follower in virtual time before a server that is told when each task ends and which polls it refuses."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from batchrunner.core.http import Completed, Decoder, Request, ResponseHead
from batchrunner.core.job import Json, Provider
from batchrunner.engine.task_poller import StillRunning, TaskEnd, TaskPoller
from batchrunner.engine.work_queue import LoopClock
from batchrunner.providers.modelscope_images import ModelScopeImages
from tests.support.virtual_time import run_virtual

T = TypeVar("T")
BEGAN = 1_795_000_000.0


@dataclass(frozen=True, kw_only=True)
class Polled:
    """One poll as the server saw it."""

    at: float
    task: int
    account: str
    refused: bool


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A task: accepted at a second of the run (negative: by an earlier run), ended at another."""

    accepted: float
    ends: float
    account: str = ""
    model: str = "m"
    resumed: bool = False
    says: Callable[[float], tuple[str, str]] | None = None
    """(word, address) of the replies at a second of the run, instead of running and done."""


@dataclass
class Server:
    """A `Transport`."""

    tasks: Sequence[Remote]
    refuses: Callable[[float, str], bool]
    polls: list[Polled] = field(default_factory=list)

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        now = asyncio.get_running_loop().time()
        number = int(request.url.rpartition("/")[2])
        refused = self.refuses(now, account)
        self.polls.append(Polled(at=now, task=number, account=account, refused=refused))
        task = self.tasks[number]
        status, body = 200, _status_of(number, ended=now >= task.ends)
        if task.says is not None:
            body["task_status"], url = task.says(now)
            body["output_images"] = [url] if url else []
        if refused:
            status, body = 429, {"errors": {"message": "Too many requests"}, "request_id": "r"}
        await asyncio.sleep(0.05)
        decoder.begin(
            ResponseHead(status=status, headers={"content-type": "application/json"}, received_at=BEGAN + now)
        )
        decoder.feed(json.dumps(body).encode())
        return decoder.end(Completed())


def _status_of(number: int, *, ended: bool) -> dict[str, Json]:
    if ended:
        urls: list[Json] = ["https://files.invalid/0.png"]
        return {"task_id": str(number), "task_status": "SUCCEED", "output_images": urls, "request_id": "r"}
    return {"task_id": str(number), "task_status": "RUNNING", "request_id": "r"}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What came of following them all."""

    polls: list[Polled]
    ends: list[TaskEnd]
    noticed: list[float]
    """Seconds of the run, by task."""

    @property
    def left_open(self) -> list[StillRunning]:
        return [end for end in self.ends if isinstance(end, StillRunning)]


def watch(
    tasks: Sequence[Remote],
    *,
    poll_per_second: float = 10.0,
    task_s: float = 100_000.0,
    refuses: Callable[[float, str], bool] = lambda _at, _account: False,
    seed: int = 1,
) -> Watched:
    """Follow these tasks to their ends."""
    server = Server(tasks, refuses)

    async def main() -> Watched:
        clock = LoopClock(wall_at_zero=BEGAN)
        follower = TaskPoller(
            dialect=ModelScopeImages(
                Provider(
                    preset="modelscope",
                    dialect="modelscope-images",
                    base_url="https://api.invalid/v1",
                    key_env=(),
                    auth="none",
                )
            ),
            transport=server,
            clock=clock,
            random_source=random.Random(seed),
            poll_per_second=poll_per_second,
            task_s=task_s,
        )

        async def one(number: int, task: Remote) -> tuple[TaskEnd, float]:
            await asyncio.sleep(max(0.0, task.accepted))
            end = await follower.wait_for(
                str(number),
                account=task.account,
                model=task.model,
                accepted_at=BEGAN + task.accepted,
                resumed=task.resumed,
            )
            return end, clock.monotonic()

        asking = asyncio.create_task(follower.run())
        told = await asyncio.gather(*(one(number, task) for number, task in enumerate(tasks)))
        asking.cancel()
        return Watched(polls=server.polls, ends=[end for end, _ in told], noticed=[at for _, at in told])

    return run_virtual(main)
