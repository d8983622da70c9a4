"""The planning pass: every item once, streamed and hashed, before the first send."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from batchrunner.core.item import Item
from batchrunner.core.job import PRESETS, Job
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.plan import HELD, PlanningCounter, PlanningPass, Totals, count_items
from batchrunner.core.ports import Items
from batchrunner.core.state import LedgerState


async def survey(
    items: Items,
    state: LedgerState,
    *,
    limit: int | None = None,
    hold: bool = False,
    adopting: frozenset[bytes] = frozenset(),
) -> PlanningPass:
    """Count the job's items against what the ledger knows. `hold`: doubtful ones wait for a person.

    Those in `adopting` will be done before anything is sent: their rows are there.

    Raises:
        JobMistakesError: a source cannot be read, or has a bad row and `on_bad_row` is `fail`.
    """
    counter = PlanningCounter(state=state, limit=limit, hold=hold, adopting=adopting)
    async with aclosing(items.batches()) as batches:
        async for batch in batches:
            counter.take(batch)
    return counter.result(skipped_rows=items.skipped_rows)


def survey_again(state: LedgerState, totals: Totals, *, digest: str) -> PlanningPass | None:
    """What the last whole pass found, without another one, where that is certain and nothing is left to do.

    `digest` is of the job and of what its items are made of now, see `Totals`. None: the items have to be looked at.
    """
    if not digest or digest != totals.digest or state.tasks or state.kept_tasks or state.lost:
        return None
    if state.labels - {totals.labels} or (totals.shared and state.unsettled):
        return None  # rows have to be written anew
    items = count_items(state, totals, now=0.0)
    if items.pending or items.accepted or items.timed_out or items.lost:
        return None
    held = totals.vanished.get(HELD, 0)
    return PlanningPass(
        total=totals.total,
        labels=totals.labels,
        shared={bytes.fromhex(key): extra for key, extra in totals.shared.items()},
        vanished={item_state: totals.vanished.get(item_state.name, 0) for item_state in ItemState},
        vanished_held=held,
        vanished_kept=held,
        per_model={},
        to_send=0,
        prompt_chars=0,
        lost=frozenset(),
        resumable=(),
    )


async def one_by_one(batches: AsyncGenerator[Sequence[Item], None]) -> AsyncGenerator[Item, None]:
    """The items of the batches."""
    async with aclosing(batches):
        async for batch in batches:
            for item in batch:
                yield item


def lane_concurrency(job: Job) -> int:
    """Sends in flight at once on each lane: the job's number, else where the preset starts."""
    return job.limits.concurrency or PRESETS[job.provider.preset].first_concurrency


def totals_of(
    job: Job, found: PlanningPass, *, accounts: int, windows: dict[str, int] | None = None, digest: str = ""
) -> Totals:
    """What `run.json` keeps of it; `digest` as there."""
    hold = job.on_ambiguous == "hold"
    vanished_held = found.vanished_held if hold else found.vanished_kept
    return Totals(
        total=found.total,
        labels=found.labels,
        shared={key.hex(): extra for key, extra in found.shared.items()},
        vanished={item_state.name: count for item_state, count in found.vanished.items() if count}
        | ({HELD: vanished_held} if vanished_held else {}),
        hold=hold,
        task_s=job.timeouts.task_s,
        concurrency=lane_concurrency(job) * len(job.models) * max(1, accounts),
        synced_intents=job.durability == "full",
        lost=sum(1 + found.shared.get(key, 0) for key in found.lost),
        windows=windows or {},
        digest=digest,
    )
