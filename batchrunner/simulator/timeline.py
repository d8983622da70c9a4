"""What happens in a rehearsal, by hours and by days of the provider, from the ledger's events. Keeps no items."""

from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Final

from batchrunner.core.events import Accepted, Done, Event, Failed, Intent, Parked, Refused, Resumed, Retry
from batchrunner.core.ports import Clock
from batchrunner.core.rehearsal_report import Moment, MomentKind, Span
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field

_HOUR_S: Final = 3600
_DAY_S: Final = 86_400

_COUNTED: Final[dict[type[Event], str]] = {Intent: "calls", Refused: "refused", Done: "done", Failed: "failed"}


@dataclass(slots=True, kw_only=True)
class RehearsalTimeline:
    """Takes every event as it is written; `offset_s` is the provider's zone, seconds east of UTC."""

    clock: Clock
    state: LedgerState
    """Only looked at: events come here before they are applied."""
    offset_s: float
    moments: list[Moment] = field(default_factory=list)
    totals: Counter[type[Event]] = field(default_factory=Counter)
    peak_tasks: int = 0
    parked_s: float = 0.0
    _hours: dict[int, Counter[str]] = field(default_factory=dict)
    _parked: set[tuple[str, str]] = field(default_factory=set)
    _parked_since: float = 0.0

    def __repr__(self) -> str:
        return f"<RehearsalTimeline: {len(self._hours)} hours, {len(self.moments)} moments>"

    def take(self, event: Event) -> None:
        """It happens now."""
        kind = type(event)
        if isinstance(event, Intent | Refused) and event.w:
            return  # no call of its own
        self.totals[kind] += 1
        if (name := _COUNTED.get(kind)) is not None:
            hour = int((self.clock.wall() + self.offset_s) // _HOUR_S)
            self._hours.setdefault(hour, Counter())[name] += 1
        elif isinstance(event, Accepted):
            self.peak_tasks = max(self.peak_tasks, len(self.state.tasks) + 1)
        elif isinstance(event, Parked):
            self._park(event)
        elif isinstance(event, Resumed):
            self._resume(event)

    def note(self, kind: MomentKind, words: str = "") -> None:
        """Something concerns the whole run."""
        self.moments.append(Moment(at=self.shown(self.clock.wall()), kind=kind, words=words))

    def close(self) -> None:
        """The rehearsal is over."""
        for lane in tuple(self._parked):
            self._unpark(lane)

    @property
    def retried(self) -> int:
        """Sends and tasks to be tried again."""
        return self.totals[Retry]

    def hours(self) -> tuple[Span, ...]:
        """Those in which something happened."""
        return tuple(self._span(hour * _HOUR_S, counts) for hour, counts in sorted(self._hours.items()))

    def days(self) -> tuple[Span, ...]:
        """The same by days."""
        by_day: dict[int, Counter[str]] = {}
        for hour, counts in sorted(self._hours.items()):
            by_day.setdefault(hour * _HOUR_S // _DAY_S, Counter()).update(counts)
        return tuple(self._span(day * _DAY_S, counts) for day, counts in by_day.items())

    def shown(self, wall: float) -> str:
        """RFC 3339 in the provider's zone."""
        zone = timezone(timedelta(seconds=self.offset_s))
        return datetime.fromtimestamp(wall, zone).isoformat(timespec="seconds")

    def _span(self, local_s: int, counts: Counter[str]) -> Span:
        began = self.shown(local_s - self.offset_s)
        return Span(
            began=began,
            calls=counts["calls"],
            refused=counts["refused"],
            done=counts["done"],
            failed=counts["failed"],
        )

    def _park(self, event: Parked) -> None:
        if not self._parked:
            self._parked_since = self.clock.monotonic()
        self._parked.add((event.account, event.model))
        self.moments.append(
            Moment(
                at=self.shown(self.clock.wall()),
                kind="parked",
                account=event.account,
                model=event.model,
                words=event.reason,
                until=self.shown(event.until) if event.until is not None else None,
            )
        )

    def _resume(self, event: Resumed) -> None:
        self._unpark((event.account, event.model))
        at = self.shown(self.clock.wall())
        self.moments.append(Moment(at=at, kind="resumed", account=event.account, model=event.model))

    def _unpark(self, lane: tuple[str, str]) -> None:
        if lane in self._parked:
            self._parked.discard(lane)
            if not self._parked:
                self.parked_s += self.clock.monotonic() - self._parked_since
