"""The planning pass: every item once, streamed and hashed, before the first send."""

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Container, Iterable, Sequence
from contextlib import aclosing
from urllib.parse import SplitResult, urlsplit

from batchrunner.core.item import Item
from batchrunner.core.job import Job, LaneSettings, setting_of_account
from batchrunner.core.lifecycle import ItemState, OpenTask
from batchrunner.core.plan import HELD, PlanningCounter, PlanningPass, Totals, count_items
from batchrunner.core.ports import Items
from batchrunner.core.presets import PRESETS
from batchrunner.core.state import LedgerState
from batchrunner.engine.run_status import left_words
from batchrunner.engine.work_queue import WorkQueue


async def run_planning_pass(
    items: Items,
    state: LedgerState,
    *,
    limit: int | None = None,
    part: Collection[bytes] | None = None,
    hold: bool = False,
    adopting: frozenset[bytes] = frozenset(),
    reusing: Container[bytes] | None = None,
) -> PlanningPass:
    """Compare the job's items with the ledger. `hold`: doubtful ones wait for a person.

    Those in `adopting` will be done before anything is sent: their rows are there. Those in `reusing` have an answer in
    another run, which is taken.

    Raises:
        JobMistakesError: a source cannot be read, or has a bad row and `on_bad_row` is `fail`.
    """
    counter = PlanningCounter(state=state, limit=limit, part=part, hold=hold, adopting=adopting, reusing=reusing)
    async with aclosing(items.batches()) as batches:
        async for batch in batches:
            counter.take(batch)
    return counter.result(skipped_rows=items.skipped_rows, of_job=items.of_job)


def reuse_planning_pass(state: LedgerState, totals: Totals, *, digest: str) -> PlanningPass | None:
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
        of_job=totals.of_job,
    )


def has_batches(job: Job, state: LedgerState) -> bool:
    """Whether a run may order batches, or has some to follow."""
    return job.batch.use != "never" or bool(state.batches.open)


async def one_by_one(batches: AsyncGenerator[Sequence[Item], None]) -> AsyncGenerator[Item, None]:
    """The items of the batches."""
    async with aclosing(batches):
        async for batch in batches:
            for item in batch:
                yield item


def lane_concurrency(job: Job) -> int:
    """Sends in flight at once on each lane: the job's number, else where the preset starts."""
    return job.limits.concurrency or PRESETS[job.provider.preset].first_concurrency


def lane_settings(job: Job, *, window: int | None, most_in_flight: int, has_tasks: bool) -> LaneSettings:
    """What a lane is made with. `window`: how many at once last worked there, for `concurrency: auto`."""
    preset, limits = PRESETS[job.provider.preset], job.limits
    auto = limits.concurrency is None
    concurrency = window if auto and window is not None else lane_concurrency(job)
    return LaneSettings(
        concurrency=min(concurrency, most_in_flight),
        ceiling=most_in_flight,
        adaptive=auto,
        in_flight_tasks=(limits.in_flight_tasks or preset.in_flight_tasks or 1) if has_tasks else None,
        limits=limits,
        breaker=job.breaker,
        day_offset_s=preset.day_offset_s,
        shard=job.shard,
    )


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
        of_job=found.of_job,
        windows=windows or {},
        digest=digest,
    )


# What an earlier process left: tasks whose items the job has no more are paid for, so they are followed and kept.


def vanished_item(key: bytes, task: OpenTask) -> Item:
    """The item's state in the ledger; its row moves to `superseded.jsonl` when the run settles."""
    return Item(
        id=task.item_id,
        prompt_id=task.item_id,
        index=0,
        key=key.hex(),
        model=task.model,
        prompt="",
        turns=(),
        stem=f"superseded-{key.hex()[:12]}",
    )


def closed_queue(model: str) -> WorkQueue:
    """A queue for a model that the job has no more: nothing comes from it."""
    queue = WorkQueue(model, wanted=lambda _: 0, keys=set())
    queue.exhausted = True
    return queue


def same_server(origin: str, base_url: str) -> bool:
    """Whether a task that was accepted at one base URL can be asked for at another. Older ledgers do not say where."""
    return not origin or _place(origin) == _place(base_url)


def why_left(task: OpenTask, job: Job, accounts: Collection[str]) -> str:
    """Why accepted tasks cannot be polled, in words for several; empty if they can.

    Its key is not among `accounts`, or its server is not the job's: no key goes to a host that the job does not name.
    Pictures whose addresses are known can be had all the same.
    """
    if task.account not in accounts:
        if task.account in job.provider.accounts:
            return f"waiting for the API key in {task.account}, which is not set"
        return f"started with the API key in {task.account}; add it to {setting_of_account(task.account)} to fetch them"
    if same_server(task.origin, job.provider.base_url):
        return ""
    at = task.origin
    return f"started at {at}; set provider.base_url back to it to fetch their pictures (no new request is sent)"


def left_notes(tasks: Iterable[OpenTask], job: Job, accounts: Collection[str]) -> tuple[str, ...]:
    """Notes for `plan`: how many accepted tasks a run of this job could not poll, one line for each reason."""
    causes = Counter(why_left(task, job, accounts) for task in tasks if not task.urls)
    return tuple(left_words(count, why) for why, count in causes.items() if why)


def _place(url: str) -> tuple[str, str, int | None, str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", url, "", ""), None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").rstrip("."), port or usual, parts.path.rstrip("/").removesuffix("/v1")
