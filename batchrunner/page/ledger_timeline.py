"""What the ledger tells about the time of a run: lanes, waits, processes, and what happened to items on their way.

One streamed pass. Memory does not grow with the run's length: activity is counted in at most 480 steps of time, which
are doubled when they no longer suffice. Of items, only what was refused, tried again or done as a remote task is kept.
"""

from collections import Counter, defaultdict
from typing import Final, Protocol

from batchrunner.core.errors import BatchrunnerError
from batchrunner.core.events import (
    Accepted,
    Batched,
    BatchIntent,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Open,
    Parked,
    Ready,
    Refused,
    ReplacedBy,
    Requeued,
    Resumed,
    Retry,
)
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field
from batchrunner.stores.ledger_line import Batch
from batchrunner.stores.ledger_reader import LedgerReading

STEPS_MAX: Final = 480
LANES_MAX: Final = 40
"""Lanes beyond it are counted together."""
PARKS_MAX: Final = 2_000
LOG_ENTRIES_MAX: Final = 300_000
"""Entries in the logs of items, all together."""
OPEN_SHOWN: Final = 5_000
_COUNTS: Final = ("sent", "done", "bad", "flying", "input", "output", "cost")
Lane = tuple[str, str]
"""(account, model)."""


class PriceOf(Protocol):
    """What an answer of a model cost."""

    def __call__(self, model: str, event: Done, *, in_batch: bool = False) -> float:
        """`in_batch`: it came in a batch."""


@dataclass(slots=True)
class _Steps:
    """Sums in equal steps of time from `start` on."""

    start: float = 0.0
    width_s: float = 0.05
    used: int = 0
    lanes: dict[Lane, dict[str, list[float]]] = field(default_factory=dict)

    def at(self, moment: float) -> int:
        """The step of a moment; makes the steps longer if there are too many."""
        step = max(0, int((moment - self.start) / self.width_s))
        while step >= STEPS_MAX:
            self._double()
            step = int((moment - self.start) / self.width_s)
        if step >= self.used:
            self.used = step + 1
        return step

    def of(self, lane: Lane) -> dict[str, list[float]]:
        """The sums of a lane."""
        found = self.lanes.get(lane)
        if found is None:
            if len(self.lanes) >= LANES_MAX:
                lane = ("", "other lanes")
            found = self.lanes.setdefault(lane, {name: [0.0] * STEPS_MAX for name in _COUNTS})
        return found

    def _double(self) -> None:
        self.width_s *= 2
        for sums in self.lanes.values():
            for name, old in sums.items():
                pairs = [first + second for first, second in zip(old[::2], old[1::2], strict=True)]
                sums[name] = pairs + [0.0] * (STEPS_MAX - len(pairs))
        self.used = (self.used + 1) // 2

    def plain(self) -> list[Json]:
        """For the page: whole numbers where they are whole, without the steps that were not reached."""
        return [
            {
                "account": account,
                "model": model,
                **{name: _plain(sums[name][: self.used]) for name in _COUNTS if any(sums[name])},
            }
            for (account, model), sums in self.lanes.items()
        ]


def _plain(values: list[float]) -> list[Json]:
    return [int(value) if value == int(value) else round(value, 6) for value in values]


@dataclass(slots=True, kw_only=True)
class LedgerTimeline:
    """Give it a `LedgerReading` once; `plain` has what the page shows, `log_of` the way of an item."""

    price_of: PriceOf | None = None
    started: float | None = None
    ended: float = 0.0
    problem: str = ""
    """Why a part of the ledger could not be read."""
    _steps: _Steps = field(default_factory=_Steps)
    _under_way: dict[str, tuple[Lane, str]] = field(default_factory=dict)
    """Key → (lane, id) of what was sent and has not ended."""
    _batched: dict[str, Lane] = field(default_factory=dict)
    """Key → lane of what is in a batch."""
    _lanes_of_batches: dict[int, Lane] = field(default_factory=dict)
    _open: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Key → (id, state, why) of items that neither are done nor failed."""
    _logs: dict[str, list[Json]] = field(default_factory=dict)
    _entries: int = 0
    _parks: list[dict[str, Json]] = field(default_factory=list)
    _parked: dict[Lane, dict[str, Json]] = field(default_factory=dict)
    _processes: list[dict[str, Json]] = field(default_factory=list)
    _waits: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(lambda: [0, 0.0]))
    _failed: Counter[str] = field(default_factory=Counter)

    def read(self, reading: LedgerReading) -> None:
        """All of it; what cannot be read is left out, and `problem` says why."""
        try:
            for step in reading.steps():
                if isinstance(step, Batch):
                    for event in step.events:
                        if isinstance(event, Done):
                            self._on_done(event, event.t)
                        else:
                            self._on_intent(event, event.t)
                    self.ended = max(self.ended, step.at)
                else:
                    self._take(step.event, step.at)
        except BatchrunnerError as error:
            self.problem = str(error)

    def close(self, *, running: bool) -> None:
        """The end of the ledger: what is still under way was cut off, unless a process is at work."""
        if not running:
            self._end_process(self.ended, clean=False)
        for park in self._parked.values():
            park["to"] = park.get("until") if running else self.ended

    def log_of(self, key: str) -> list[Json]:
        """What happened to an item besides being sent and done; empty for most.

        Entries are [seconds since the run's first record, event, kind or task, wait in seconds].
        """
        return self._logs.get(key, [])

    def open_items(self) -> dict[str, Json]:
        """Id → [state, why] of items that have no row yet, `OPEN_SHOWN` of them at most."""
        shown: dict[str, Json] = {}
        for item_id, state, why in self._open.values():
            if len(shown) == OPEN_SHOWN:
                break
            shown[item_id] = [state, why]
        return shown

    def plain(self) -> dict[str, Json]:
        """What the page draws; times are seconds since 1970."""
        return {
            "start": self._steps.start,
            "step": self._steps.width_s,
            "steps": self._steps.used,
            "end": self.ended,
            "lanes": self._steps.plain(),
            "parks": [*self._parks],
            "processes": [*self._processes],
            "waits": [
                [what, kind, int(number), round(waited, 3)] for (what, kind), (number, waited) in self._waits.items()
            ],
            "problem": self.problem,
        }

    def _take(self, event: Event, at: float) -> None:
        self.ended = max(self.ended, at)
        match event:
            case Accepted() | Ready() | Refused() | Retry() | Failed() | ReplacedBy() | Requeued() | Lost():
                self._on_item(event, at)
            case Intent():
                self._on_intent(event, at)
            case Done():
                self._on_done(event, at)
            case BatchIntent():
                self._lanes_of_batches[event.b] = (event.account, event.model)
            case Batched():
                self._on_batched(event, at)
            case Open():
                self._on_open(event, at)
            case Close():
                self._end_process(at, clean=True)
            case Parked():
                self._on_parked(event, at)
            case Resumed():
                self._on_resumed((event.account, event.model), at)
            case _:
                pass

    def _on_open(self, event: Open, at: float) -> None:
        if self.started is None:
            self.started = self._steps.start = at
        elif self._processes and "to" not in self._processes[-1]:
            self._end_process(_number(self._processes[-1].get("last")) or at, clean=False)
        self._processes.append({"from": at, "program": event.program})

    def _end_process(self, at: float, *, clean: bool) -> None:
        if self._processes and "to" not in self._processes[-1]:
            self._processes[-1] |= {"to": at, "clean": clean}
        step = self._steps.at(at)
        for key, (lane, item_id) in self._under_way.items():
            self._steps.of(lane)["flying"][step] -= 1
            if self._open.get(key, ("", "", ""))[1] == "sending":
                self._open[key] = (item_id, "cut off", "its process ended while it was under way")
        self._under_way.clear()
        for lane in tuple(self._parked):
            self._on_resumed(lane, at)

    def _on_intent(self, event: Intent, at: float) -> None:
        lane = (event.account, event.model)
        step = self._steps.at(at)
        sums = self._steps.of(lane)
        sums["sent"][step] += 1
        if event.k not in self._under_way:
            sums["flying"][step] += 1
        self._under_way[event.k] = (lane, event.i)
        self._open[event.k] = (event.i, "sending", "")
        if self._processes:
            self._processes[-1]["last"] = at

    def _on_batched(self, event: Batched, at: float) -> None:
        """Sent, and not in flight: it may wait for a day, whether a process lives or not."""
        lane = self._lanes_of_batches.get(event.b, ("", ""))
        step = self._steps.at(at)
        self._steps.of(lane)["sent"][step] += 1
        self._batched[event.k] = lane
        self._open[event.k] = (event.i, "accepted", f"in batch number {event.b}")
        if self._processes:
            self._processes[-1]["last"] = at

    def _leave(self, key: str, at: float, end: str | None = None) -> None:
        """The item is no longer under way; it is counted in the sums `end` of its lane."""
        if (known := self._under_way.pop(key, None)) is not None:
            step = self._steps.at(at)  # first: it may replace the lists
            sums = self._steps.of(known[0])
            sums["flying"][step] -= 1
            if end is not None:
                sums[end][step] += 1
        elif (lane := self._batched.pop(key, None)) is not None and end is not None:
            step = self._steps.at(at)
            self._steps.of(lane)[end][step] += 1

    def _on_done(self, event: Done, at: float) -> None:
        self._open.pop(event.k, None)
        known, batched = self._under_way.pop(event.k, None), self._batched.pop(event.k, None)
        lane = known[0] if known is not None else batched
        if lane is None:
            return  # adopted, or a shared copy
        step = self._steps.at(at)  # as above
        sums = self._steps.of(lane)
        sums["flying"][step] -= known is not None
        sums["done"][step] += 1
        sums["input"][step] += event.input_tokens or 0
        sums["output"][step] += event.output_tokens or 0
        if self.price_of is not None:
            sums["cost"][step] += self.price_of(lane[1], event, in_batch=known is None)

    def _on_item(
        self, event: Refused | Retry | Failed | ReplacedBy | Accepted | Ready | Requeued | Lost, at: float
    ) -> None:
        kind, wait = None, None
        item_id = event.i or self._open.get(event.k, ("", "", ""))[0]
        match event:
            case Accepted():
                kind = event.task
                self._open[event.k] = (item_id, "accepted", "a remote task is running")
            case Ready():
                pass
            case Refused():
                kind, wait = event.kind, event.wait
                self._open[event.k] = (item_id, "waiting", kind)
                self._leave(event.k, at)
                self._wait("refused", kind, wait)
            case Retry():
                kind, wait = event.kind, event.wait
                self._open[event.k] = (item_id, "held" if event.held else "waiting", event.message or kind)
                self._leave(event.k, at, "bad")
                self._wait("tried again", kind, wait)
            case Failed() | ReplacedBy():
                kind = event.kind
                self._open.pop(event.k, None)
                self._leave(event.k, at, "bad")
            case _:
                self._open[event.k] = (item_id, "pending", "asked for again")
        if self._entries < LOG_ENTRIES_MAX and self.started is not None:
            self._entries += 1
            name = str(event.__struct_config__.tag)
            self._logs.setdefault(event.k, []).append([round(at - self.started, 3), name, kind, wait])

    def _wait(self, what: str, kind: str, wait: float | None) -> None:
        total = self._waits[what, kind]
        total[0] += 1
        total[1] += wait or 0.0

    def _on_parked(self, event: Parked, at: float) -> None:
        lane = (event.account, event.model)
        self._on_resumed(lane, at)
        park: dict[str, Json] = {
            "from": at,
            "account": event.account,
            "model": event.model,
            "kind": event.kind,
            "reason": event.reason[:400],
            "until": event.until,
        }
        self._parked[lane] = park
        if len(self._parks) < PARKS_MAX:
            self._parks.append(park)

    def _on_resumed(self, lane: Lane, at: float) -> None:
        park = self._parked.pop(lane, None)
        if park is not None:
            park["to"] = at
            self._wait("lane waited", str(park["kind"]), at - _number(park["from"]))


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
