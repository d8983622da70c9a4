"""How long a rehearsal takes, and how near it comes to a run of the same world through real sockets and real stores.

The run goes through the HTTP server on a virtual-time loop, in one process: aiohttp on both sides, every sync and every
picture of it, in a folder in memory. Pictures are a single pixel on both sides. Run: make bench, or

    python benchmarks/rehearse.py [ITEMS]
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from batchrunner import api
from batchrunner.core.rehearsal_report import Rehearsal
from batchrunner.core.status import Report
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.http_server import serve
from batchrunner.simulator.profiles import profile_of
from batchrunner.simulator.rehearsal import world_of
from tests.support.virtual_time import run_virtual

BEGAN = datetime.fromisoformat("2026-11-23T20:00+08:00").timestamp()
ROUNDS = 3
KEY = "BENCHMARK_KEY"
URL = "http://127.0.0.1:1/v1"


@dataclass(frozen=True)
class Ran:
    seconds: float
    took_s: float
    calls: int
    refused: int
    polls: int


def job_file(folder: Path, items: int) -> Path:
    (folder / "prompts.txt").write_text("\n".join(f"a cat on wall number {number}" for number in range(items)))
    path = folder / "job.yaml"
    provider = f"{{preset: modelscope, base_url: '{URL}', api_key_env: {KEY}}}"
    path.write_text(
        f"name: cats\nkind: image\nprovider: {provider}\nmodel: Qwen/Qwen-Image\nprompts: {{file: prompts.txt}}\n"
    )
    return path


def rehearsed(items: int, profile: str, seed: int) -> Rehearsal:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        job = api.load_job(str(job_file(Path(folder), items)), out=f"{folder}/out")
        return api.rehearse(job, profile=profile, seed=seed, began=BEGAN)


def run(items: int, profile: str, seed: int) -> Ran:
    """The whole program against the world's HTTP server."""
    began = time.perf_counter()

    async def main(folder: str) -> Ran:
        clock = LoopClock(wall_at_zero=BEGAN)
        file = str(job_file(Path(folder), items))
        supposed = api.load_job(file, out=f"{folder}/out")
        world = world_of(supposed, profile_of(supposed, profile), seed=seed)
        server = await serve(world, wall=clock.wall)
        try:
            job = api.load_job(file, out=f"{folder}/out", overrides=[f"provider.base_url={server.api_url}/v1"])
            report: Report = await api.run(job, clock=clock, say=lambda _: None)
            seconds = clock.monotonic()
        finally:
            await server.close()
        assert report.status.items.done == items, report
        stats = world.stats()
        return Ran(seconds, time.perf_counter() - began, stats.sends, stats.refused, stats.polls)

    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        return run_virtual(lambda: main(folder))


def memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def large() -> None:
    told = [rehearsed(10_000, "per_day=3500,account_per_day=none", seed) for seed in range(ROUNDS)]
    took = [each.took_seconds for each in told]
    print("10,000 images over three quota days (3,500 calls a day), rehearsed:")
    print(f"  real seconds   {min(took):.1f}   {statistics.median(took):.1f}   {max(took):.1f}   (least, median, most)")
    for each in told:
        print(
            f"  seed {each.seed}: ends {each.ends}, {each.calls:,} calls, {each.refused} refused, "
            f"{each.polls:,} polls, {each.quota_days} days, {each.state}"
        )


WORLDS = {
    "three quota days": "per_day={third},account_per_day=none",
    "one day, no quota": "per_day=none,account_per_day=none",
    "one day, 2 % throttled, 1 % 500s": "per_day=none,account_per_day=none,faults=throttle=0.02+5xx=0.01",
    "one at a time, 30 a minute": "per_day=none,account_per_day=none,rpm=30,burst=1,concurrent=1",
}


def compared(items: int) -> None:
    print(f"\n{items} images: rehearsed, and run through the HTTP server at compressed time (predicted/run)")
    for name, profile in WORLDS.items():
        text = profile.format(third=items // 3 + items // 10)
        for seed in range(ROUNDS):
            told, real = rehearsed(items, text, seed), run(items, text, seed)
            off = 100.0 * (told.seconds / real.seconds - 1.0)
            print(
                f"  {name:<34} seed {seed}: {told.seconds:9.1f} s / {real.seconds:9.1f} s   {off:+5.2f} %   "
                f"calls {told.calls}/{real.calls}   refused {told.refused}/{real.refused}   "
                f"polls {told.polls}/{real.polls}   real time {told.took_seconds:.1f} s / {real.took_s:.1f} s"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "items", nargs="?", type=int, default=500, help="items of the run that is compared; default: 500"
    )
    items = parser.parse_args().items
    os.environ[KEY] = "not-a-real-key"
    large()
    compared(items)
