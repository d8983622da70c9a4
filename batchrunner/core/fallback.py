"""Other models for prompts that the first one gives no answer to: `models: {first, then, on, after}`.

A module of its own, because the table of problems, plans and statuses need these names and nothing else of a job.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from batchrunner.core.values import dataclass

if TYPE_CHECKING:
    from batchrunner.core.events import ReplacedBy
    from batchrunner.core.item import Item
    from batchrunner.core.item_table import ItemTable
    from batchrunner.core.state import LedgerState

FallbackReason: TypeAlias = Literal["content_filter", "schema_miss", "overloaded", "quota"]
FALLBACK_REASONS: tuple[FallbackReason, ...] = get_args(FallbackReason)
AFTER_S = 600.0
"""Seconds of standing still before a model's items go to the next one, unless the job says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """How a job asks its models one after another; `Job.models` has them in that order."""

    on: tuple[FallbackReason, ...]
    """What has to have become of an item, so that the next model is asked."""
    after_s: float = AFTER_S
    """How long `overloaded` and `quota` have to last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackCount:
    """Prompts that went to a model because the one before it gave no answer, over all runs."""

    model: str
    items: int
    answered: int
    """Of `items`: those that this model has answered."""
    reasons: dict[str, int]
    """Class of problem -> items."""


class HandOvers:
    """Which item has the prompt of which other one, and why: 6 bytes each.

    While an item is replaced its checksum in the table of items, which has no row to be of, is the number of its entry.
    """

    def __init__(self, by: str = "", causes: Sequence[int] = (), named: Sequence[tuple[str, str]] = ()) -> None:
        self.named = list(named)
        """(model, class of problem), as often as there are different ones."""
        self._by = by
        self._numbers: array[int] = array("I")
        self._causes: array[int] = array("H", causes)
        """An index in `named`, or `_OVER`."""
        self._unanswered: list[int] | None = None
        """Entries whose item was not done when it was looked at last; None: all are to be looked at."""
        self._answered: list[int] = []

    def __repr__(self) -> str:
        return f"<HandOvers: {len(self._causes)}>"

    def known_in(self, table: "ItemTable") -> None:
        """Those of a checkpoint take their places in the table. Raises ValueError."""
        keys = bytes.fromhex(self._by)
        if len(keys) != 16 * len(self._causes) or any(c != _OVER and c >= len(self.named) for c in self._causes):
            raise ValueError(self._by)
        self._numbers = array("I", table.add_all(keys[at : at + 16] for at in range(0, len(keys), 16)))

    def dumped(self, table: "ItemTable") -> tuple[str, list[int], list[tuple[str, str]]]:
        """What makes them again, for a checkpoint."""
        return b"".join(map(table.key, self._numbers)).hex(), list(self._causes), self.named

    def take(self, table: "ItemTable", number: int, event: "ReplacedBy | None", *, again: bool) -> None:
        """The item with this number was replaced, or has its prompt back; `again`: another one had it before."""
        if again:
            self._end(table, number)
        if event is None:
            return
        cause = event.model, event.kind
        if cause not in self.named:
            self.named.append(cause)
        table.crcs[number] = len(self._causes) + 1
        self._numbers.append(table.add(bytes.fromhex(event.by)))
        self._causes.append(min(self.named.index(cause), _OVER))
        if self._unanswered is not None:
            self._unanswered.append(len(self._causes) - 1)

    def _end(self, table: "ItemTable", number: int) -> None:
        """The item with this number has its prompt back."""
        if 0 < (entry := table.crcs[number]) <= len(self._causes):
            self._causes[entry - 1] = _OVER
        table.crcs[number] = 0
        self.look_again()

    def look_again(self) -> None:
        """An item that was done is not, or one has its prompt back."""
        self._unanswered = None

    def of(self, table: "ItemTable", key: bytes) -> tuple[bytes, str, str] | None:
        """(key, model, class of problem) of the item that has the prompt of the replaced item with this key."""
        entry = table.crcs[table.find(key)]
        if not 0 < entry <= len(self._causes) or (cause := self._causes[entry - 1]) == _OVER:
            return None
        return table.key(self._numbers[entry - 1]), *self.named[cause]

    def counts(self, words: "array[int]", *, state: int, done: int) -> Iterator[tuple[str, str, int, int]]:
        """(model, class of problem, items, those that are done) of each cause."""
        if self._unanswered is None or len(self._answered) != len(self.named):
            self._unanswered, self._answered = list(range(len(self._causes))), [0] * len(self.named)
        left: list[int] = []
        for entry in self._unanswered:
            if (cause := self._causes[entry]) == _OVER:
                continue
            if words[self._numbers[entry]] & state == done:
                self._answered[cause] += 1
            else:
                left.append(entry)
        self._unanswered = left
        items = Counter(self._causes[entry] for entry in left)
        for cause, (model, kind) in enumerate(self.named):
            if count := items[cause] + self._answered[cause]:
                yield model, kind, count, self._answered[cause]


_OVER: Final = 0xFFFF


def is_rerouted(state: "LedgerState", item: "Item") -> bool:
    """Whether the item's prompt went to another model than the job names now."""
    if item.then is None or not state.is_replaced(item.key):
        return False
    found = state.hand_overs.of(state.table, bytes.fromhex(item.key))
    return found is not None and found[:2] != (bytes.fromhex(item.then.key), item.then.model)


def fallback_counts(state: "LedgerState") -> tuple[FallbackCount, ...]:
    """Of every model that was asked in place of another one, as the ledger says."""
    reasons: dict[str, dict[str, int]] = {}
    answered: Counter[str] = Counter()
    for model, kind, items, done in state.handed_over():
        if model:  # else the rows that were found do not say which one it was
            reasons.setdefault(model, {})[kind] = items
            answered[model] += done
    return tuple(
        FallbackCount(model=model, items=sum(kinds.values()), answered=answered[model], reasons=kinds)
        for model, kinds in reasons.items()
    )
