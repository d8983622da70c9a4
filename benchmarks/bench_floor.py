"""Floors: the least that a run has to do for its promises, in a bare loop, without the engine. Prints one line of JSON.

Run as a process of its own by `bench.py stream` and `bench.py pictures`:

    python bench_floor.py stream JOB.yaml AT_ONCE     each item of the job: intent written, request sent, its stream
                                                      read, row durable, `done` durable; `span_s`
    python bench_floor.py pictures FOLDER COUNT [--thumbnails]
                                                      the picture in FOLDER so many times in two threads of lower
                                                      priority, while the loop has nothing to do but a timer of 5 ms;
                                                      `stalls`: (seconds too late, those of the own CPU)

Transport, decoder, ledger and results are the program's own, so that the rest of a run is what its engine costs: queue,
lanes, limiter, attempts, the state in memory, progress. Items are read before the span begins, keys are known.
"""

import argparse
import asyncio
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvloop
from bench_bare import kept_picture

from batchrunner.api import load_job
from batchrunner.core.events import Done, Intent
from batchrunner.core.item import Item
from batchrunner.core.outcome import Answer, Revision
from batchrunner.core.ports import Place
from batchrunner.core.row import Effort, answer_output, result_row
from batchrunner.engine.send_records import rfc3339
from batchrunner.engine.work_queue import LoopClock
from batchrunner.prompts import items_of
from batchrunner.providers import dialect_for
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.threads import Threads
from batchrunner.transport import ApiTransport, read_keys


class Written:
    """The gate of a request: open once its intent is written."""

    def __init__(self) -> None:
        self.is_open = False
        self.waiting: Callable[[], None] | None = None

    def __call__(self, call: Callable[..., None], /, *args: object) -> None:
        if self.is_open:
            call(None, *args)
        else:
            self.waiting = partial(call, None, *args)

    def written(self, error: Exception | None) -> None:
        assert error is None, error
        self.is_open = True
        if self.waiting is not None:
            self.waiting()


class Records:
    """Row, then `done`, then it is over: as the recorder does it, without a state."""

    def __init__(self, out: Path, *, clock: LoopClock, count: int) -> None:
        out.mkdir()
        self.ledger = LedgerWriter.open(out / "ledger", run="floor", job="", program="", clock=clock)
        self.results = ResultsFile(out)
        self.results.recover(0)
        self.clock = clock
        self.left, self.ended = count, asyncio.Event()

    def intend(self, item: Item, account: str) -> Written:
        gate = Written()
        self.ledger.write_soon(Intent(i=item.id, k=item.key, n=1, a=1, model=item.model, account=account), gate.written)
        return gate

    def keep(self, item: Item, answer: Answer, began: float, began_wall: float) -> None:
        seconds, started_at = round(self.clock.monotonic() - began, 3), rfc3339(began_wall)
        effort = Effort(attempts=1, ambiguous=0, recovered=False, started_at=started_at, seconds=seconds)
        row = result_row(item, answer_output(answer, path=None), usage=answer.usage, task_id=None, effort=effort)
        self.results.put(row, partial(self.row_is_durable, item, answer))

    def row_is_durable(self, item: Item, answer: Answer, place: object) -> None:
        assert isinstance(place, Place), place
        asked, said = (answer.usage.input_tokens, answer.usage.output_tokens) if answer.usage else (None, None)
        crc, length = place.crc, place.length
        event = Done(i=item.id, k=item.key, n=1, a=1, crc=crc, length=length, input_tokens=asked, output_tokens=said)
        self.ledger.commit_soon(event, self.done)

    def done(self, error: Exception | None) -> None:
        assert error is None, error
        self.left -= 1
        if not self.left:
            self.ended.set()


async def streamed(job_file: Path, at_once: int) -> float:
    """Seconds from the first intent to the last durable `done`."""
    job, clock = load_job(str(job_file)), LoopClock()
    keys, _ = read_keys(job.provider.key_env, os.environ)
    account, dialect = next(iter(keys), ""), dialect_for(job.provider)
    items = [item async for some in items_of(job).batches() for item in some]
    records = Records(job_file.parent / "floor", clock=clock, count=len(items))

    async def slot(numbers: Iterator[Item]) -> None:
        for item in numbers:
            began, began_wall = clock.monotonic(), clock.wall()
            gate = records.intend(item, account)
            request, decoder = dialect.encode(item, Revision()), dialect.decoder(item)
            answer = await transport.exchange(request, decoder, account=account, gate=gate)
            assert isinstance(answer, Answer), answer
            records.keep(item, answer, began, began_wall)

    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # as the program
    async with ApiTransport(job.provider, timeouts=job.timeouts, keys=keys, wall=clock.wall) as transport:
        numbers = iter(items)
        start = time.perf_counter()
        await asyncio.gather(*(slot(numbers) for _ in range(at_once)))
        await records.ended.wait()
        return time.perf_counter() - start


async def pictures(folder: Path, count: int, *, thumbnails: bool) -> list[tuple[float, float]]:
    """How late a timer of 5 ms came, each time, and how much of that the process itself was busy."""
    data = (folder / "picture.png").read_bytes()
    threads = Threads("picture", count=2, yielding=True)
    lags: list[tuple[float, float]] = []

    async def watch() -> None:
        while True:
            asked, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.005)
            lag = time.perf_counter() - asked - 0.005
            lags.append((lag, max(0.0, min(lag, time.process_time() - used - 0.005))))

    watching = asyncio.create_task(watch())
    steps = (threads.run(kept_picture, data, folder, number, thumbnails=thumbnails) for number in range(count))
    await asyncio.gather(*steps)
    watching.cancel()
    threads.close()
    return lags


def main() -> None:
    shape = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = shape.add_subparsers(dest="way", required=True)
    stream, picture = ways.add_parser("stream"), ways.add_parser("pictures")
    stream.add_argument("job", type=Path)
    stream.add_argument("at_once", type=int)
    picture.add_argument("folder", type=Path)
    picture.add_argument("count", type=int)
    picture.add_argument("--thumbnails", action="store_true")
    given = shape.parse_args()
    if given.way == "stream":
        print(json.dumps({"span_s": uvloop.run(streamed(given.job, given.at_once))}))
    else:
        lags = uvloop.run(pictures(given.folder, given.count, thumbnails=given.thumbnails))
        print(json.dumps({"stalls": lags}))


if __name__ == "__main__":
    main()
