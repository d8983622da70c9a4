"""What an ordinary item costs between its slot and the ledger, in calls of Python functions: a budget that is kept.

Counted, not timed: the same on every machine. Two runs are compared that differ in their number of items, so that what
is done once a run does not count. Real stores in a folder; a transport that has the answer at once.
"""

import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

import pytest

from batchrunner import api
from batchrunner.core.http import Completed, Decoder, Gate, Request, ResponseHead
from batchrunner.core.job import Job
from batchrunner.engine.work_queue import LoopClock
from batchrunner.transport.deadlines import passed
from tests.support.virtual_time import run_virtual

T = TypeVar("T")
ROOT: Final = str(Path(api.__file__).parent) + "/"
ITEMS: Final = 300
OURS: Final = ("engine/", "stores/", "core/", "page/")
BODY: Final = (
    b'{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"forty-two"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":80}}'
)


RESPONSE: Final = (
    b'{"id":"r1","object":"response","created_at":1,"status":"completed","model":"m","output":[{"id":"m1","type":'
    b'"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"forty-two",'
    b'"annotations":[]}]}],"usage":{"input_tokens":9,"output_tokens":80,"total_tokens":89}}'
)


@dataclass
class Echo:
    """Answers every request alike, once its gate is open."""

    takes_gates: bool = True

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        if gate is not None:
            await passed(gate)
        decoder.begin(ResponseHead(status=200, headers={"content-type": "application/json"}, received_at=0.0))
        decoder.feed(RESPONSE if request.url.endswith("/responses") else BODY)
        return decoder.end(Completed())


class NoDownloads:
    async def fetch(self, url: str) -> bytes:
        raise AssertionError(url)


def run_counted(folder: Path, items: int, more: str, dialect: str) -> Counter[str]:
    """Calls by file, below the package."""
    folder.mkdir()
    (folder / "prompts.txt").write_text("".join(f"question number {number}\n" for number in range(items)), "utf-8")
    (folder / "job.yaml").write_text(
        "name: job\nprovider: {preset: openai, base_url: 'http://127.0.0.1:9/v1', api_key_env: [], auth: none}\n"
        f"model: m\nstream: false\nprompts: {{file: prompts.txt}}\n{more}\n"
        + ("" if "output:" in more else "output: {report: false}\n"),
        "utf-8",
    )
    chosen = (f"provider.dialect={dialect}",)
    job = api.load_job(str(folder / "job.yaml"), out=str(folder / "out"), overrides=chosen)
    counts = Counter[str]()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            counts[frame.f_code.co_filename.removeprefix(ROOT)] += 1

    before = sys.getprofile()
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        run_virtual(lambda: _run(job, items))
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return counts


async def _run(job: Job, items: int) -> None:
    network: Any = Echo(), NoDownloads()
    report = await api.run(job, clock=LoopClock(wall_at_zero=1_795_000_000.0), network=network, say=lambda _: None)
    assert report.status.items.done == items


def calls_an_item(folder: Path, more: str, dialect: str = "openai-chat") -> Counter[str]:
    """By room: what each further item adds."""
    run_counted(folder / "warm", 20, more, dialect)  # what is loaded late
    few, many = (run_counted(folder / str(items), items, more, dialect) for items in (ITEMS, 3 * ITEMS))
    each = Counter[str]()
    for file, calls in (many - few).items():
        each[file.partition("/")[0] + "/"] += calls
    return Counter({room: round(calls / (2 * ITEMS)) for room, calls in each.items()})


# Two above the quietest countings (75, 105, 108 …): beside twenty busy processes all three may be above them.
BUDGETS: Final = {
    "plain": ("limits: {concurrency: 64}", 77),
    "one at a time": ("limits: {concurrency: 1}", 110),
    "every intent on the disk": ("limits: {concurrency: 64}\ndurability: full", 78),
    "concurrency found by itself": ("", 109),
    "limits a minute": ("limits: {concurrency: 64, requests_per_minute: 1000000, tokens_per_minute: 100000000}", 98),
    "its row on the page": ("limits: {concurrency: 64}\noutput: {report: true}", 107),
    "a budget": ("limits: {concurrency: 64}\nbudget: {calls: 1000000}", 110),
}


BUDGET_OF_RESPONSES: Final = 82
"""Another dialect adds nothing between the slot and the ledger: what it reads is its own room's."""


def stays_within(tmp_path: Path, more: str, budget: int, dialect: str = "openai-chat") -> None:
    each = Counter[str]()
    for counting in range(3):  # other threads' turns add a call or two on a busy machine, and never take one away
        (folder := tmp_path / str(counting)).mkdir()
        each = calls_an_item(folder, more, dialect)
        if sum(each[room] for room in OURS) <= budget:
            return
    pytest.fail(f"more than {budget} calls an item in three countings: {each}")


def test_an_item_of_the_responses_dialect_costs_no_more(tmp_path: Path) -> None:
    stays_within(tmp_path, "limits: {concurrency: 64}", BUDGET_OF_RESPONSES, "openai-responses")


@pytest.mark.parametrize("kind", BUDGETS)
def test_an_ordinary_item_stays_within_its_budget_of_calls(tmp_path: Path, kind: str) -> None:
    """Who adds a little here looks at `engine.attempt` first, and raises a budget with a reason only."""
    stays_within(tmp_path, *BUDGETS[kind])
