"""Other models for prompts that the first one gives no answer to: `models: {first, then, on, after}`.

A module of its own, because the table of problems, plans and statuses need these names and nothing else of a job.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
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


def fallback_counts(state: "LedgerState") -> tuple[FallbackCount, ...]:
    """Of every model that was asked in place of another one, as the ledger says."""
    counts = []
    for model, reasons in state.fallbacks.items():
        items = sum(reasons.values())
        tally = state.tallies.get(model)
        answered = min(items, tally.done) if tally is not None else 0
        counts.append(FallbackCount(model=model, items=items, answered=answered, reasons=dict(reasons)))
    return tuple(counts)
