"""A part of a job: which items a run is about, where it is not all of them.

A part is chosen once, before anything is sent, and is a set of keys from then on. What lies outside of it is neither
sent nor moved: rows of earlier requests stay where they are, although the job has other requests in their places.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.rate_limiter_tuning import CEILING
from batchrunner.core.values import dataclass, field_names

if TYPE_CHECKING:
    from batchrunner.core.lifecycle import ItemState
    from batchrunner.core.state import LedgerState

PartState: TypeAlias = Literal["done", "failed", "held", "pending"]
"""Where an item stands: it has an answer, it failed for good, it waits for a person, or none of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOptions:
    """How a part is chosen; an item has to fit everything that is given."""

    only: tuple[str, ...] = ()
    """Ids of items or prompts."""
    states: tuple[PartState, ...] = ()
    where: str | None = None
    """A condition over rows, see `prompts.row_condition`."""
    marks: str | None = None
    """A file of marks that the page of a run has exported."""
    mark: tuple[str, ...] = ()
    """The marks that count; all where it is empty."""
    rows_from: str | None = None
    """The directory of the run whose rows are looked at; the job's own where it is None."""

    @property
    def chooses(self) -> bool:
        """Whether anything is chosen at all."""
        return any(getattr(self, name) for name in field_names(PartOptions))


WHOLE: Final = PartOptions()
"""Chooses nothing: the whole job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The items of a job whose keys, as numbers, leave this remainder; for processes that share a job."""

    number: int
    """From 0."""
    of: int
    is_leased: bool = False
    """Its limits and its budget are those of the whole job, which a coordinator leases: nothing is divided."""

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        """Of its runs, below the job's."""
        return f"{self.number}-of-{self.of}"

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those that are the shard's, in order. Identical items, which have one key, are all of one shard."""
        number, of = self.number, self.of
        if of == 1:
            return items
        if isinstance(items, AlikeItems):
            return [items[place] for place, key in enumerate(items.keys) if int(key, 16) % of == number]
        return [item for item in items if int(item.key, 16) % of == number]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPart:
    """The items that a run is about."""

    keys: frozenset[bytes]
    replaces: Mapping[bytes, frozenset[bytes]]
    """Keys of earlier requests that have rows in the directory -> the items of this part that take their places."""
    notes: tuple[str, ...] = ()
    """What was chosen, for people."""

    def takes_place_of(self, key: bytes, state: "LedgerState", *ended: "ItemState") -> bool:
        """Whether an item of the part that has ended so takes the place of the row with this key."""
        return any(state.item_state(new) in ended for new in self.replaces.get(key, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What this run was asked for beyond the job."""

    limit: int | None = None
    """Only the first so many items of the job."""
    part: ChosenPart | None = None
    """Only these items."""
    retry_failed: bool = False
    resend_held: bool = False
    reformat: bool = False
    """Convert the pictures that are there to `output.format`, and send nothing."""
    most_in_flight: int = CEILING
    """Requests in flight on each lane that this machine has room for, whatever the job says."""
    resend_lost: bool = False
    """Pay again for done items whose row or picture is gone."""
    adopt_rows: bool = False
    """Go on without a ledger: what has a row is done, all else is not known."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen, for people."""
        return self.part.notes if self.part is not None else ()

    @property
    def changes_anything(self) -> bool:
        """Whether there is something to do although every item has come to its end."""
        asked = self.retry_failed or self.resend_held or self.reformat or self.resend_lost or self.adopt_rows
        return asked or self.part is not None
