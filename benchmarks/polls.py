"""How many polls a remote task costs, and how soon its end is noticed. Virtual time.

The engine's own `TaskPoller` and the ModelScope dialect before a server whose tasks run as long as the table says;
a poll takes 0.1 s there and back, which counts as lateness. `any schedule` is a lower bound: no schedule that asks by
age alone, not even one that knows the distribution, has a median of 1 s or less with fewer polls than that (a straight
line below the best trade of polls for lateness, solved on a grid of quarter seconds). Run: make bench, or

    python benchmarks/polls.py
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from batchrunner.core.http import Completed, Decoder, Request, ResponseHead
from batchrunner.core.job import Provider
from batchrunner.core.ports import TaskDialect
from batchrunner.core.presets import PRESETS
from batchrunner.engine.task_poller import TaskPoller
from batchrunner.engine.work_queue import LoopClock
from batchrunner.providers.modelscope_images import ModelScopeImages
from tests.support.virtual_time import run_virtual

T = TypeVar("T")
Draw = Callable[[random.Random], float]
SEEDS = (1, 2, 3)
TASKS = 2000
POLL_S = 0.1
GRID_S = 0.25
MODEL = "Qwen/Qwen-Image"


@dataclass
class Server:
    """A `Transport`: tasks are known by their number and end when `ends` says."""

    clock: LoopClock
    ends: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        del account
        number = int(request.url.rpartition("/")[2])
        await asyncio.sleep(POLL_S / 2)
        self.asked.append(self.clock.monotonic())
        done = self.clock.monotonic() >= self.ends[number]
        body = {"task_id": str(number), "task_status": "SUCCEED" if done else "RUNNING", "request_id": "r"}
        if done:
            body["output_images"] = ["https://files.invalid/0.png"]  # type: ignore[assignment] # a list among texts
        await asyncio.sleep(POLL_S / 2)
        decoder.begin(
            ResponseHead(status=200, headers={"content-type": "application/json"}, received_at=self.clock.wall())
        )
        decoder.feed(json.dumps(body).encode())
        return decoder.end(Completed())


@dataclass
class Measured:
    """One run."""

    polls: float
    median_s: float
    p95_s: float
    mean_s: float
    most_per_s: float
    """Most polls in any ten seconds, a second."""


def measure(draw: Draw, seed: int, *, in_flight: int, poll_per_second: float) -> Measured:
    random_source = random.Random(seed)
    late: list[float] = []

    async def main() -> tuple[int, list[float]]:
        clock = LoopClock(wall_at_zero=1.8e9)
        server = Server(clock)
        poller = TaskPoller(
            dialect=dialect(),
            transport=server,
            clock=clock,
            random_source=random_source,
            poll_per_second=poll_per_second,
            task_s=36_000.0,
        )
        left = itertools.count()

        async def slot(number: int) -> None:
            await asyncio.sleep(number * 0.2 if in_flight < TASKS else 0.0)
            while next(left) < TASKS:
                ends = clock.monotonic() + draw(random_source)
                server.ends.append(ends)
                task = str(len(server.ends) - 1)
                await poller.wait_for(task, account="", model=MODEL, accepted_at=clock.wall(), resumed=False)
                late.append(clock.monotonic() - ends)

        asking = asyncio.create_task(poller.run())
        await asyncio.gather(*(slot(number) for number in range(in_flight)))
        asking.cancel()
        return poller.polls, server.asked

    polls, asked = run_virtual(main)
    late.sort()
    return Measured(
        polls=polls / TASKS,
        median_s=statistics.median(late),
        p95_s=late[int(0.95 * len(late))],
        mean_s=statistics.fmean(late),
        most_per_s=most_in(asked, 10.0) / 10.0,
    )


def dialect() -> TaskDialect:
    preset = PRESETS["modelscope"]
    return ModelScopeImages(
        Provider(
            preset="modelscope",
            dialect="modelscope-images",
            base_url=preset.base_url,
            key_env=(),
            auth="none",
        )
    )


def most_in(times: list[float], window_s: float) -> int:
    first, most = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


@cache
def bound(draw: Draw) -> float:
    """A lower bound for the polls a task of any schedule by age whose median lateness is at most a second."""
    random_source = random.Random(0)
    count = 100_000
    bins = [0] * (int(121 / GRID_S) + 1)
    for _ in range(count):
        bins[min(int(draw(random_source) / GRID_S), len(bins) - 1)] += 1
    reached = [1.0]
    for here in bins:
        reached.append(reached[-1] - here / count)
    return max([1.0, *(cheapest(reached, price) - price / 2.0 for price in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15))])


def cheapest(reached: list[float], price: float) -> float:
    """Least polls plus `price` for each task that is noticed more than a second late."""
    cost = [0.0] * len(reached)
    second = int(1.0 / GRID_S)
    for start in range(len(reached) - 2, -1, -1):
        here = reached[start]
        if here < 1e-6:
            continue
        cost[start] = here + min(
            price * (here - reached[max(ask - second, start)]) + cost[ask] for ask in range(start + 1, len(reached))
        )
    return cost[0]


def log_normal(middle_s: float, sigma: float) -> Draw:
    return lambda random_source: min(120.0, middle_s * math.exp(random_source.gauss(0.0, sigma)))


def either(share: float, first: Draw, second: Draw) -> Draw:
    return lambda random_source: first(random_source) if random_source.random() < share else second(random_source)


def uniform(low: float, high: float) -> Draw:
    return lambda random_source: random_source.uniform(low, high)


RUN_TIMES: dict[str, Draw] = {
    "log-normal 15 s, sigma 0.2": log_normal(15.0, 0.2),
    "log-normal 15 s, sigma 0.2, 5 % tail 20-120 s": either(0.95, log_normal(15.0, 0.2), uniform(20.0, 120.0)),
    "log-normal 15 s, sigma 0.25": log_normal(15.0, 0.25),
    "log-normal 15 s, sigma 0.35": log_normal(15.0, 0.35),
    "log-normal 15 s, sigma 0.5": log_normal(15.0, 0.5),
    "log-normal 15 s, sigma 0.6": log_normal(15.0, 0.6),
    "constant 8 s": lambda _: 8.0,
    "5 s or 60 s, sigma 0.1 each": either(0.5, log_normal(5.0, 0.1), log_normal(60.0, 0.1)),
    "uniform 1-120 s": uniform(1.0, 120.0),
}


def spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):5.2f} ({min(figures):.2f}-{max(figures):.2f})"


def table(title: str, cases: dict[str, Draw], *, in_flight: int, poll_per_second: float) -> None:
    sys.stdout.write(f"\n{title}: {in_flight} in flight, {poll_per_second:g} polls/s, {len(SEEDS)} seeds\n")
    heads = ("polls a task", "median late, s", "p95 late, s", "mean late, s", "most polls/s", "any schedule")
    sys.stdout.write(f"{'run times':46}" + "".join(f"{head:>22}" for head in heads) + "\n")
    for name, draw in cases.items():
        runs = [measure(draw, seed, in_flight=in_flight, poll_per_second=poll_per_second) for seed in SEEDS]
        figures = (
            spread([run.polls for run in runs]),
            spread([run.median_s for run in runs]),
            spread([run.p95_s for run in runs]),
            spread([run.mean_s for run in runs]),
            spread([run.most_per_s for run in runs]),
            f">= {bound(draw):.2f} polls",
        )
        sys.stdout.write(f"{name:46}" + "".join(f"{figure:>22}" for figure in figures) + "\n")
        sys.stdout.flush()


def main() -> None:
    sys.stdout.write(f"{TASKS} tasks each; median over the seeds (least-most)\n")
    table("as the modelscope preset", RUN_TIMES, in_flight=20, poll_per_second=10.0)
    crowd = {name: RUN_TIMES[name] for name in ("log-normal 15 s, sigma 0.25", "log-normal 15 s, sigma 0.5")}
    table("as the simulator preset", crowd, in_flight=64, poll_per_second=50.0)
    table("all at once, far more than may be asked", crowd, in_flight=TASKS, poll_per_second=10.0)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
