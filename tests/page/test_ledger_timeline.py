"""What the page shows of the ledger: lanes in steps of time, waits, processes, and items that have no row yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrunner.core.events import (
    Batched,
    BatchIntent,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Open,
    Parked,
    Refused,
    ReplacedBy,
    Resumed,
    Retry,
)
from batchrunner.page.ledger_timeline import STEPS_MAX, LedgerTimeline
from batchrunner.stores.files import DISK
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_line import segment_path
from batchrunner.stores.ledger_reader import read_ledger

START = 1_790_000_000.0
KEY = f"{7:032x}"
OTHER = f"{8:032x}"


def opened(segment: int = 1) -> Open:
    return Open(version=1, run="r", segment=segment, job="j", program="0", name="n", simulated=True)


def intent(key: str = KEY, *, model: str = "m") -> Intent:
    return Intent(i=f"id-{key[-1]}", k=key, n=1, a=0, model=model, account="")


def done(key: str = KEY) -> Done:
    return Done(i=f"id-{key[-1]}", k=key, n=1, a=1, crc="00000000", length=1, input_tokens=10, output_tokens=5)


@dataclass
class Written:
    """Segments of a ledger, told as (seconds since the start, event)."""

    folder: Path

    def read(self, *segments: Sequence[tuple[float, Event]], running: bool = False, **options: Any) -> LedgerTimeline:
        self.folder.mkdir(exist_ok=True)
        for number, events in enumerate(segments, start=1):
            lines = [encode_line(event, sequence=n, at=START + at, durable=0) for n, (at, event) in enumerate(events)]
            segment_path(self.folder, number).write_bytes(b"".join(lines))
        timeline = LedgerTimeline(**options)
        timeline.read(read_ledger(self.folder, files=DISK))
        timeline.close(running=running)
        return timeline


def price(model: str, event: Done, *, in_batch: bool = False) -> float:
    """A whole one a token of the answer, half of it in a batch."""
    return (event.output_tokens or 0) * (0.5 if in_batch else 1.0)


def lane_of(timeline: LedgerTimeline) -> dict[str, Any]:
    lanes: Any = timeline.plain()["lanes"]
    assert len(lanes) == 1
    return dict(lanes[0])


def test_what_was_sent_and_done_is_counted_in_steps(tmp_path: Path) -> None:
    events: list[tuple[float, Event]] = [
        (0.0, opened()),
        (0.1, intent()),
        (0.4, done()),
        (0.4, intent(OTHER)),
        (0.9, done(OTHER)),
        (1.0, Close(records=5)),
    ]
    lane = lane_of(Written(tmp_path / "l").read(events, price_of=price))
    assert (sum(lane["sent"]), sum(lane["done"]), sum(lane["flying"])) == (2, 2, 0)
    assert (sum(lane["input"]), sum(lane["output"]), sum(lane["cost"])) == (20, 10, 10)


def test_items_in_batches_are_counted_at_their_price_whichever_process_reads_them(tmp_path: Path) -> None:
    batch = BatchIntent(b=1, key="k", items=2, model="m", account="", origin="o", sha256="", bytes=1)
    first: list[tuple[float, Event]] = [(0.0, opened()), (0.1, batch)]
    first += [(0.2, Batched(i=f"id-{key[-1]}", k=key, n=1, a=0, b=1)) for key in (KEY, OTHER)]
    second: list[tuple[float, Event]] = [
        (9.0, opened(2)),
        (9.1, done()),
        (9.2, Refused(i="", k=OTHER, n=1, a=0, kind="batch_unanswered")),
    ]
    told = Written(tmp_path / "l").read([*first, (0.3, Close(records=4))], second)
    assert told.open_items() == {"id-8": ["waiting", "batch_unanswered"]}
    lane = lane_of(Written(tmp_path / "m").read(first, second, price_of=price))
    assert (sum(lane["sent"]), sum(lane["done"]), sum(lane.get("flying", []))) == (2, 1, 0)
    assert sum(lane["cost"]) == 2.5


def test_a_long_run_has_no_more_steps_than_a_short_one(tmp_path: Path) -> None:
    keys = [f"{n:032x}" for n in range(300)]
    events: list[tuple[float, Event]] = [(0.0, opened())]
    for hour, key in enumerate(keys):
        events += [(3600.0 * hour, intent(key)), (3600.0 * hour + 60, done(key))]
    told = Written(tmp_path / "l").read(events)
    lane = lane_of(told)
    assert len(lane["sent"]) <= STEPS_MAX
    assert (sum(lane["sent"]), sum(lane["done"]), sum(lane["flying"])) == (300, 300, 0)


def test_a_killed_process_leaves_what_was_under_way_cut_off(tmp_path: Path) -> None:
    first: list[tuple[float, Event]] = [(0.0, opened()), (0.1, intent()), (0.2, intent(OTHER)), (0.3, done(OTHER))]
    told = Written(tmp_path / "l").read(first, [(60.0, opened(2)), (61.0, Close(records=1))])
    assert told.open_items() == {"id-7": ["cut off", "its process ended while it was under way"]}
    processes: Any = told.plain()["processes"]
    assert [process["clean"] for process in processes] == [False, True]
    assert processes[0]["to"] < START + 1


def test_an_item_whose_prompt_another_model_has_is_not_under_way(tmp_path: Path) -> None:
    replaced = ReplacedBy(i="id-7", k=KEY, n=1, a=1, by=OTHER, model="other", kind="content_filter", message="withheld")
    events: list[tuple[float, Event]] = [(0.0, opened()), (0.1, intent()), (0.2, replaced), (0.3, Close(records=4))]
    told = Written(tmp_path / "l").read(events)
    assert told.open_items() == {}
    lane = lane_of(told)
    assert (sum(lane["sent"]), sum(lane["bad"]), sum(lane["flying"])) == (1, 1, 0)


def test_waits_are_summed_by_their_cause(tmp_path: Path) -> None:
    retry = Retry(i="id-7", k=KEY, n=1, a=1, kind="timeout", wait=4.0)
    refused = Refused(i="id-8", k=OTHER, n=1, a=0, kind="throttle", wait=2.0)
    parked = Parked(account="", model="m", kind="quota_model", reason="spent", until=START + 500)
    events: list[tuple[float, Event]] = [
        (0.0, opened()),
        (0.1, intent()),
        (0.2, retry),
        (0.3, intent(OTHER)),
        (0.4, refused),
        (1.0, parked),
    ]
    told = Written(tmp_path / "l").read([*events, (101.0, Resumed(account="", model="m")), (102.0, Close(records=7))])
    assert told.plain()["waits"] == [
        ["tried again", "timeout", 1, 4.0],
        ["refused", "throttle", 1, 2.0],
        ["lane waited", "quota_model", 1, 100.0],
    ]
    assert told.log_of(KEY) == [[0.2, "retry", "timeout", 4.0]]
    assert told.open_items() == {"id-7": ["waiting", "timeout"], "id-8": ["waiting", "throttle"]}


def test_a_failed_item_waits_for_nothing(tmp_path: Path) -> None:
    failed = Failed(i="id-7", k=KEY, n=1, a=1, kind="invalid_request", message="no")
    told = Written(tmp_path / "l").read([(0.0, opened()), (0.1, intent()), (0.2, failed), (0.3, Close(records=3))])
    assert told.open_items() == {}
    assert sum(lane_of(told)["bad"]) == 1
