"""What `scale.py` starts: a run against a network that answers at once, or the directory that such a run leaves.

Apart from it, since a process counts the peak memory of the one that started it.
"""

import argparse
import asyncio
import json
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from batchrunner import api
from batchrunner.core import VERSION
from batchrunner.core.events import Done, Intent
from batchrunner.core.http import Completed, ResponseHead
from batchrunner.core.outcome import Answer, Usage
from batchrunner.core.row import Effort, answer_output, result_row
from batchrunner.core.state import LedgerState
from batchrunner.engine.planning import run_planning_pass, totals_of
from batchrunner.engine.work_queue import LoopClock
from batchrunner.prompts import items_of
from batchrunner.stores.artifacts import Artifacts
from batchrunner.stores.directory_watch import DirectoryWatch
from batchrunner.stores.files import DISK
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.row_codec import encode_row
from batchrunner.stores.run_directory import digest_of_job, remember_totals, take_directory

ANSWER: Final = "forty-two " * 20
WALL: Final = 1_790_000_000.0


def make_finished(folder: Path) -> None:
    """The directory of a run that did every item, as its process left it."""

    async def make() -> None:
        job = api.load_job(str(folder / "job.yaml"))
        out = Path(job.output.dir)
        take_directory(out, job, program=VERSION, wall=WALL)
        state = LedgerState()
        found = await run_planning_pass(items_of(job), state)
        ledger = LedgerWriter.open(
            out / "ledger",
            run="scale",
            job=digest_of_job(job),
            program=VERSION,
            labels=found.labels,
            name=job.name,
            simulated=job.simulated,
            clock=LoopClock(),
        )
        remember_totals(out, totals_of(job, found, accounts=1), segment=ledger.number)
        results = ResultsFile(out)
        results.look()
        watch = DirectoryWatch(
            folder=out,
            files=DISK,
            state=state,
            results=results,
            artifacts=Artifacts(out, files=DISK),
            outputs=frozenset(),
        )
        watch.begin()
        state.apply(ledger.opened, at=WALL)
        answer = Answer(text=ANSWER, finish_reason="stop", usage=Usage(input_tokens=20, output_tokens=40))
        effort = Effort(attempts=1, ambiguous=0, recovered=False, started_at="2026-01-01T00:00:00.000Z", seconds=0.5)
        length = 0
        with (out / "results.jsonl").open("wb") as rows:
            async for item in items_of(job).stream():
                row = result_row(
                    item, answer_output(answer, path=None), usage=answer.usage, task_id=None, effort=effort
                )
                line = encode_row(row)
                rows.write(line + b"\n")
                length += len(line) + 1
                intent = Intent(i=item.id, k=item.key, n=1, a=0, model="m", account="")
                done = Done(
                    i=item.id,
                    k=item.key,
                    n=1,
                    a=1,
                    crc=f"{zlib.crc32(line):08x}",
                    length=length,
                    input_tokens=20,
                    output_tokens=40,
                )
                key = bytes.fromhex(item.key)
                ledger.note(intent)
                state.sent(key, model="m", account="", n=1, a=0, at=WALL)
                ledger.note(done)
                state.ended_well(key, a=1, crc=zlib.crc32(line), length=length, input_tokens=20, output_tokens=40)
                if length % 64 == 0:
                    await asyncio.sleep(0)
        await watch.close([ledger])

    asyncio.run(make())


def run_first(folder: Path) -> None:
    """A real run whose network answers at once."""

    head = ResponseHead(status=200, headers={"content-type": "application/json"}, received_at=WALL)
    body = json.dumps(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 40},
        }
    ).encode()

    class Network:
        async def exchange(self, request: object, decoder: object, *, account: str) -> object:  # noqa: ARG002
            await asyncio.sleep(0)
            decoder.begin(head)  # type: ignore[attr-defined]
            decoder.feed(body)  # type: ignore[attr-defined]
            return decoder.end(Completed())  # type: ignore[attr-defined]

        def hold(self, size_bytes: int) -> object:  # noqa: ARG002
            return nullcontext()

    network = Network()
    report = api.run_sync(api.load_job(str(folder / "job.yaml")), network=(network, network))  # type: ignore[typeddict-item]
    sys.exit(report.exit_status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {"make": make_finished, "first": run_first}
    parser.add_argument("kind", choices=kinds, help="`make` a finished directory, or run for the `first` time")
    kinds[parser.parse_args().kind](Path.cwd())
