"""How near a lane comes to limits that it has to find out, and how often it is refused on the way. Virtual time.

The engine's own `Lane` against simulated servers: token buckets (a rate and a burst), and servers that count what is in
flight. Refusals take 50 ms, answers as long as the table says, give or take a fifth. Run: make bench, or

    python benchmarks/limits.py [PART…]
"""

import argparse
import asyncio
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrunner.core.error_policy import POLICY
from batchrunner.core.job import LaneSettings, Limits
from batchrunner.core.outcome import Answer, Problem, ProblemKind
from batchrunner.core.pacing import backoff_s
from batchrunner.core.rate_limiter import Ticket
from batchrunner.engine.lanes import Lane
from batchrunner.engine.work_queue import LoopClock
from tests.support.virtual_time import run_virtual

SEEDS = (1, 2, 3)
REFUSAL_S = 0.05
WARM_S = 120.0
Rate = Callable[[float], float]


@dataclass
class Bucket:
    """Allows `per_minute`, in bursts of `burst`; `factor` changes the rate with time."""

    per_minute: float
    burst: float
    factor: Rate = lambda _: 1.0
    level: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def takes(self, now: float, _busy: int) -> bool:
        rate = self.per_minute / 60.0 * self.factor(now)
        self.level = min(self.burst, self.level + (now - self.at) * rate)
        self.at = now
        if self.level < 1.0 - 1e-9:
            return False
        self.level -= 1.0
        return True


@dataclass
class Slots:
    """Takes so many at once."""

    count: int

    def takes(self, _now: float, busy: int) -> bool:
        return busy < self.count


@dataclass
class LimitReq:
    """nginx's `limit_req`: `per_s`, a queue of `burst`; without `nodelay` what is queued waits for its turn."""

    per_s: float
    burst: float
    nodelay: bool
    excess: float = 0.0
    at: float = -1e9

    def takes(self, now: float, _busy: int) -> bool:
        excess = max(0.0, self.excess - (now - self.at) * self.per_s) + (1.0 if self.at > 0 else 0.0)
        if excess > self.burst:
            return False
        self.excess, self.at = excess, now
        return True

    @property
    def delay_s(self) -> float:
        return 0.0 if self.nodelay else self.excess / self.per_s


@dataclass
class Timeline:
    """What happened, by second."""

    done: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    ended: float = 0.0
    busy: int = 0

    def share(self, since: float, until: float, expected: float) -> float:
        return 100.0 * sum(since <= at < until for at in self.done) / expected

    def refusals(self, since: float) -> float:
        refused = sum(at >= since for at in self.refused)
        return 100.0 * refused / max(1, refused + sum(at >= since for at in self.done))


@dataclass(kw_only=True)
class Load:
    """One lane at work on a server until everything is done or the time is over."""

    server: Bucket | Slots | LimitReq
    latency_s: float
    seed: int
    items: int = 10**9
    until: float = 600.0
    start: int = 4
    fixed: int = 0
    failing: float = 0.0
    kind: ProblemKind = ProblemKind.THROTTLE
    waits: bool = False
    """Refused items wait by themselves before they are sent again, as in a run."""
    told: Timeline = field(default_factory=Timeline)

    async def run(self) -> Timeline:
        self.random_source, self.left, self.changed = random.Random(self.seed), self.items, asyncio.Event()
        settings = LaneSettings(
            concurrency=self.fixed or self.start,
            adaptive=not self.fixed,
            in_flight_tasks=None,
            limits=Limits(),
            breaker=20,
            day_offset_s=0,
        )
        self.lane = Lane("", "m", settings=settings, clock=LoopClock(wall_at_zero=0.0), sent_today=0)
        loop = asyncio.get_running_loop()
        loop.call_at(self.until, self.over)
        async with asyncio.TaskGroup() as group:
            while (ticket := await self.lane.acquire(fresh=True)) is not None:
                while not self.left and len(self.told.done) < self.items:
                    self.changed.clear()
                    await self.changed.wait()
                if len(self.told.done) >= self.items:
                    self.lane.give_up(ticket)
                    break
                self.left -= 1
                group.create_task(self.send(ticket))
        self.told.ended = self.told.done[-1]
        return self.told

    def over(self) -> None:
        self.items = 0
        self.lane.drain()
        self.changed.set()

    async def send(self, ticket: Ticket) -> None:
        now = asyncio.get_running_loop().time()
        outcome: Answer | Problem = Answer(text="")
        if not self.server.takes(now, self.told.busy):
            await asyncio.sleep(REFUSAL_S)
            outcome = Problem(kind=self.kind, message="")
            self.told.refused.append(now)
        else:
            self.told.busy += 1
            delay_s = self.server.delay_s if isinstance(self.server, LimitReq) else 0.0
            await asyncio.sleep(delay_s + self.latency_s * self.random_source.uniform(0.8, 1.2))
            self.told.busy -= 1
            if self.random_source.random() < self.failing:
                outcome = Problem(kind=ProblemKind.SERVER_ERROR, message="")
        self.lane.record_outcome(ticket, outcome, now=asyncio.get_running_loop().time())
        self.lane.release()
        if isinstance(outcome, Answer):
            self.told.done.append(asyncio.get_running_loop().time())
        else:
            if self.waits:
                rule = POLICY[self.kind]
                await asyncio.sleep(
                    backoff_s(first_s=rule.first_wait_s, cap_s=8.0, tries=0, random_source=self.random_source.random())
                )
            self.left += 1
        self.changed.set()


def spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):7.1f}  ({min(figures):.1f} to {max(figures):.1f})"


def steady() -> None:
    print("\na token bucket of unknown rate, minutes 2 to 10    goodput %, median (spread)   refused %")
    for per_minute in (60, 600, 6000):
        for burst in (1.0, per_minute / 6):
            for latency_s in (0.3, 2.0, 8.0):
                runs = [
                    run_virtual(Load(server=Bucket(per_minute, burst), latency_s=latency_s, seed=s).run) for s in SEEDS
                ]
                goodput = [told.share(WARM_S, 600.0, per_minute * 8.0) for told in runs]
                refused = [told.refusals(WARM_S) for told in runs]
                print(
                    f"  R {per_minute:5}/min, burst {burst:5.0f}, answers {latency_s:3} s     "
                    f"{spread(goodput)}   {spread(refused)}"
                )


WINDOWS = ((240, 300, 0.5), (300, 480, 0.5), (480, 540, 1.0), (540, 720, 1.0))


def halves(now: float) -> float:
    return 0.5 if 240.0 <= now < 480.0 else 1.0


def changing() -> None:
    print("\nthe rate halves at minute 4 and doubles back at minute 8: goodput % of what is allowed, median (spread)")
    print(f"{'':44}{'halved: first minute':>24}{'after it':>24}{'doubled: first minute':>24}{'after it':>24}")
    for per_minute in (60, 600, 6000):
        for burst in (1.0, per_minute / 6):
            for latency_s in (0.3, 2.0, 8.0):
                runs = [
                    run_virtual(
                        Load(server=Bucket(per_minute, burst, halves), latency_s=latency_s, seed=s, until=720.0).run
                    )
                    for s in SEEDS
                ]
                shares = [
                    spread([told.share(a, z, per_minute * (z - a) / 60.0 * part) for told in runs])
                    for a, z, part in WINDOWS
                ]
                print(
                    f"  R {per_minute:5}/min, burst {burst:5.0f}, answers {latency_s:3} s     "
                    + "".join(f"{share:>24}" for share in shares)
                )


def slots() -> None:
    print("\na server that takes c at once, 429 above: share of the ideal rate %, refused %")
    for count in (4, 16, 64, 256):
        for latency_s in (0.3, 2.0):
            items = int(count / latency_s * 400)
            runs = [
                run_virtual(Load(server=Slots(count), latency_s=latency_s, seed=s, items=items, until=1e6).run)
                for s in SEEDS
            ]
            rate = [100.0 * items * latency_s / count / told.ended for told in runs]
            refused = [told.refusals(0.0) for told in runs]
            print(f"  c {count:4}, answers {latency_s:3} s, {items:6} items    {spread(rate)}   {spread(refused)}")


def failing() -> None:
    print("\n5 % random 500s, a server that takes 16 at once: time of `auto` over time of a fixed 16")
    ratios = []
    for seed in SEEDS:
        common = {"latency_s": 0.5, "seed": seed, "items": 3000, "until": 1e6, "failing": 0.05}
        auto = run_virtual(Load(server=Slots(16), **common).run)  # type: ignore[arg-type]  # figures by name
        fixed = run_virtual(Load(server=Slots(16), fixed=16, **common).run)  # type: ignore[arg-type]  # as above
        ratios.append(auto.ended / fixed.ended)
    print(f"  ratio {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")


def short() -> None:
    """Short jobs behind nginx's limits, with its wordless 503: what a person with a few hundred items sees."""
    print("\nnginx with its default 503, from the first request on: share of the ideal time %, refused %")
    servers: dict[str, tuple[Callable[[], LimitReq | Slots], float]] = {
        "limit_req 20/s burst 5 nodelay": (lambda: LimitReq(20.0, 5.0, nodelay=True), 20.0),
        "limit_req 20/s burst 5": (lambda: LimitReq(20.0, 5.0, nodelay=False), 20.0),
        "limit_conn 8": (lambda: Slots(8), 8.0),
    }
    for name, (server, figure) in servers.items():
        for latency_s in (0.5,) if "conn" in name else (0.02, 0.2, 1.0):
            per_s = figure / latency_s if "conn" in name else figure
            for items in (300, 1200):
                runs = [
                    run_virtual(
                        Load(
                            server=server(),
                            latency_s=latency_s,
                            seed=seed,
                            items=items,
                            until=1e6,
                            kind=ProblemKind.OVERLOADED,
                            waits=True,
                        ).run
                    )
                    for seed in SEEDS
                ]
                ideal_s = items / per_s + (0.0 if "conn" in name else latency_s)
                ratio = [100.0 * ideal_s / told.ended for told in runs]
                refused = [told.refusals(0.0) for told in runs]
                print(f"  {name:31}, answers {latency_s:4} s, {items:5} items   {spread(ratio)}   {spread(refused)}")


if __name__ == "__main__":
    parts = {"steady": steady, "changing": changing, "slots": slots, "failing": failing, "short": short}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(parts)}; default: all")
    chosen = parser.parse_args().parts
    if unknown := [name for name in chosen if name not in parts]:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(parts)}")
    for name in chosen or parts:
        parts[name]()
