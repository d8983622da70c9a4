"""What a run would do now: all items against the ledger, kept as counts and keys, never as items."""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from batchrunner.core.budget import BudgetLine
from batchrunner.core.errors import Mistake
from batchrunner.core.fallback import is_rerouted
from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import Job
from batchrunner.core.lifecycle import DOUBTFUL, IN_JOB, ITEM_STATE, ITEM_STATES, KNOWN, ItemState
from batchrunner.core.part import ChosenPart
from batchrunner.core.plan_costs import AnswersPlan, CostPlan, FallbackPlan, ToSend, requests_of
from batchrunner.core.rehearsal_report import Forecast
from batchrunner.core.state import LedgerState
from batchrunner.core.status import ItemCounts
from batchrunner.core.upstream import UpstreamStatus
from batchrunner.core.values import dataclass, field

HELD: Final = "HELD"
"""A key of `Totals.vanished` beside the names of standings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointBalance:
    """What an account has at ModelScope; `available` is None when it could not be learnt, and `why` says why."""

    account: str
    available: float | None = None
    total: float | None = None
    frozen: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsPlan:
    """What the sends of a run without trouble would cost in points."""

    needed: float
    per_day: float | None
    """Of all accounts together."""
    days: float | None
    """Days' worth of points; they do not refill by themselves, somebody has to claim them."""
    assumed: bool
    """True while the price of a call or the points of a day are the program's guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePlan:
    """What a judge of the job would be asked."""

    name: str
    dir: str
    to_send: int
    """Requests about answers that are there."""
    later: int
    """At most, about answers that are still to come."""
    estimated_input_tokens: int
    """Of both; answers that are still to come are taken to be as long as others, or as long as may be."""
    cost: CostPlan | None = None
    """Of both; None without prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """What files that are still to come will need on the disk."""

    items: int
    """That are to make them."""
    measured: int
    """Files that came so far and were looked at."""
    needed_bytes: int | None
    """None while none came."""
    free_bytes: int | None
    """Where they will lie; None where the system does not say."""

    @property
    def fits(self) -> bool | None:
        """Whether they will find room; None where that is not known."""
        if self.needed_bytes is None or self.free_bytes is None:
            return None
        return self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer of `batchrunner plan`."""

    job: str
    dir: str
    items: ItemCounts
    to_send: int
    """Paid POSTs that a run without any trouble would make."""
    to_poll: int
    """Accepted tasks that it would follow to their end."""
    identical: int
    """Items that share the answer of another one."""
    superseded: int
    """Done items of earlier versions of the job that it has no more."""
    skipped_rows: int
    estimated_input_tokens: int
    """A quarter of the characters to send: a rule of thumb, no tokenizer's count."""
    answers: AnswersPlan | None = None
    """Tokens of the answers; None for pictures, and when nothing is left to send."""
    max_calls: int
    """POSTs if every attempt of every item were used up."""
    quota_days: float | None
    """Days that `limits.requests_per_day` stretches the run to; None without such a limit."""
    notes: tuple[str, ...] = ()
    points: PointsPlan | None = None
    """None where calls cost no points."""
    cost: CostPlan | None = None
    """None without prices."""
    budget: tuple[BudgetLine, ...] = ()
    """What is gone of the job's budget."""
    forecast: Forecast | None = None
    """About when it would end; None when nothing is left to send."""
    skipped: tuple[Mistake, ...] = ()
    """What is wrong with the first 20 bad rows that are left out."""
    balances: tuple[PointBalance, ...] = ()
    """What each account has, asked when the job says `balance: true`."""
    judges: tuple[JudgePlan, ...] = ()
    fallbacks: tuple[FallbackPlan, ...] = ()
    """Models that are asked where others give no answer."""
    upstream: tuple[UpstreamStatus, ...] = ()
    """The run that the job reads, the one that this one read, and so on."""
    reused: int = 0
    """Answers that would be taken from other runs; nothing is sent for them."""
    disk: DiskPlan | None = None
    """Of pictures and other files; None for jobs without, and when nothing is left to make."""


class Labels:
    """A digest of (index, id, key) of items or of their rows, in order: of equal ones no row needs another label."""

    def __init__(self) -> None:
        self._hashed = blake2b(digest_size=16)

    def take(self, names: Iterable[tuple[int, str, str]]) -> None:
        """The next ones."""
        text = "".join([f"{index}\x1f{name}\x1f{key}\x1e" for index, name, key in names])
        self._hashed.update(text.encode("utf-8", "surrogatepass"))

    def digest(self) -> str:
        """32 hex digits."""
        return self._hashed.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningPass:
    """The planning pass's result: what totals are made of."""

    total: int
    labels: str
    """Of all items, see `Labels`."""
    shared: dict[bytes, int]
    """Further items per key that occurs more than once."""
    vanished: dict[ItemState, int]
    """Keys in the ledger that the job no longer has."""
    vanished_held: int
    """Pending ones among them whose last send got no clear answer."""
    vanished_kept: int
    """Pending ones among those that are held whatever `on_ambiguous` says."""
    per_model: dict[str, int]
    to_send: int
    prompt_chars: int
    """Characters of prompts still to send."""
    lost: frozenset[bytes]
    """Keys of done items whose row or picture is gone."""
    resumable: tuple[Item, ...]
    """Items whose tasks are accepted and not finished."""
    skipped_rows: int = 0
    of_job: int = 0
    """Items of the whole job, of which a shard has a part."""
    skipped: tuple[Mistake, ...] = ()
    """What is wrong with the first 20 bad rows that were left out."""
    ahead: dict[str, ToSend] = field(default_factory=dict)
    """What is still to be sent, by model."""
    unasked: dict[str, int] = field(default_factory=dict)
    """Of `per_model`: items that this run needs no request for, being identical to another, beyond the limit,
    answered by another run, or of a model that is asked only if another one gives no answer."""
    reused: int = 0
    """Items whose answers are to be taken from other runs."""
    rerouted: int = 0
    """Items that went to another model than the job names now."""
    stranded: int = 0
    """Items that went to another model which the job does not have any more: they are asked for again."""


@dataclass(slots=True, kw_only=True)
class PlanningCounter:
    """Takes every item once, in order; `result()` gives the result. The state's table keeps which items the job has."""

    state: LedgerState
    limit: int | None = None
    """Only items up to this index count as to be sent."""
    part: Collection[bytes] | None = None
    """Only items with one of these keys count as to be sent."""
    hold: bool = False
    """`on_ambiguous: hold`: items whose last send got no clear answer are not to be sent."""
    adopting: frozenset[bytes] = frozenset()
    """Keys that will be done before anything is sent: their rows are there."""
    reusing: Container[bytes] | None = None
    """Keys whose answers other runs have."""
    _reused: int = 0
    _shared: dict[bytes, int] = field(default_factory=dict)
    _labels: Labels = field(default_factory=Labels)
    _per_model: dict[str, int] = field(default_factory=dict)
    _resumable: list[Item] = field(default_factory=list)
    _lost: set[bytes] = field(default_factory=set)
    _ahead: dict[str, ToSend] = field(default_factory=dict)
    _unasked: dict[str, int] = field(default_factory=dict)
    _stranded: int = 0
    _rerouted: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        self.state.table.forget_job()

    def take(self, items: Sequence[Item]) -> None:
        """The next items of the job."""
        if isinstance(items, AlikeItems):
            self._labels.take(
                zip(range(items.first_index, items.first_index + len(items)), items.ids, items.keys, strict=True)
            )
            keys = [bytes.fromhex(key) for key in items.keys]
        else:
            self._labels.take((item.index, item.id, item.key) for item in items)
            keys = [bytes.fromhex(item.key) for item in items]
        if not isinstance(items, AlikeItems) and (items[0].then is not None or items[0].fallback_keys):
            items = self._current(items)
            keys = [bytes.fromhex(item.key) for item in items]
            if not items:
                return
        self._total += len(items)
        words = self.state.table.claim_all(keys)
        if not self._take_alike(items, words):
            self._take_one_by_one(items, keys, words)

    def _take_alike(self, items: Sequence[Item], words: list[int]) -> bool:
        """Items of one model that are all new, or all done and there: most batches of most passes. False: others."""
        word = words[0]
        if words != [word] * len(words):
            return False
        if isinstance(items, AlikeItems):
            model = items.like.model
        elif len(models := {item.model for item in items}) == 1:
            (model,) = models
        else:
            return False
        if not word and self.limit is None and self.part is None and not self._takes_some:
            self._ahead.setdefault(model, ToSend()).take_all(items)
        elif word & IN_JOB or word & ITEM_STATE != ItemState.DONE or self.state.lost or self.state.kept_tasks:
            return False
        elif self.limit is not None or self.part is not None:
            self._leave_out(model, sum(self._is_outside(item, bytes.fromhex(item.key)) for item in items))
        self._count(model, len(items))
        return True

    def _current(self, items: Sequence[Item]) -> list[Item]:
        """Of jobs that ask their models one after another: those whose turn it is."""
        current: list[Item] = []
        for item in items:
            if self._is_current(item):
                current.append(item)
                continue
            self._count(item.model, 1)
            self._leave_out(item.model, 1)
            self._rerouted += is_rerouted(self.state, item)
            if not item.instead_of or self.state.is_replaced(item.instead_of):
                self.state.table.claim(bytes.fromhex(item.key))  # it is the job's, although another has its prompt
        return current

    def _is_current(self, item: Item) -> bool:
        """As the state says, and as it will say once the rows that are there are recorded."""
        if self.adopting:
            later = item
            while later.then is not None:
                later = later.then
                if bytes.fromhex(later.key) in self.adopting:
                    return False
            if bytes.fromhex(item.key) in self.adopting:
                return True
        return self.state.is_current(item)

    def _take_one_by_one(self, items: Sequence[Item], keys: list[bytes], words: list[int]) -> None:
        some_are_not_to_be_sent = self.limit is not None or self.part is not None or self._takes_some
        model, ahead, of_model = "", ToSend(), 0
        for item, key, word in zip(items, keys, words, strict=True):
            if item.model != model:
                self._count(model, of_model)
                model, of_model = item.model, 0
                ahead = self._ahead.get(model, ToSend())
            of_model += 1
            if word & IN_JOB:
                self._shared[key] = self._shared.get(key, 0) + 1
                self._leave_out(model, 1)
            elif word or some_are_not_to_be_sent:
                self._take_known(item, key, ITEM_STATES[word & ITEM_STATE])
                ahead = self._ahead.get(model, ahead)
            else:  # the ledger has no record of it
                if not ahead.calls:
                    self._ahead[model] = ahead
                ahead.take(item)
        self._count(model, of_model)

    @property
    def _takes_some(self) -> bool:
        return bool(self.adopting) or self.reusing is not None

    def _count(self, model: str, items: int) -> None:
        if items:
            self._per_model[model] = self._per_model.get(model, 0) + items

    def _leave_out(self, model: str, items: int) -> None:
        self._unasked[model] = self._unasked.get(model, 0) + items

    def _take_known(self, item: Item, key: bytes, item_state: ItemState) -> None:
        if key in self.state.tasks or key in self.state.kept_tasks:
            self._resumable.append(item)
        elif key in self.state.lost:
            self._lost.add(key)
        if self._is_outside(item, key):
            self._leave_out(item.model, 1)
            return
        if key in self.adopting:
            return
        if self.reusing is not None and item_state is ItemState.PENDING and key in self.reusing:
            self._reused += 1
            self._leave_out(item.model, 1)
            return
        stranded = item_state is ItemState.REPLACED
        self._stranded += stranded
        if stranded or (item_state is ItemState.PENDING and not self.state.waits_for_a_person(key, hold=self.hold)):
            self._ahead.setdefault(item.model, ToSend()).take(item)

    def _is_outside(self, item: Item, key: bytes) -> bool:
        """Whether the run is not asked for this item."""
        return (self.limit is not None and item.index > self.limit) or (self.part is not None and key not in self.part)

    def result(self, *, skipped_rows: int, of_job: int = 0) -> PlanningPass:
        """The result, once every item was taken."""
        vanished = dict.fromkeys(ItemState, 0)
        held = kept = 0
        for key, word in self.state.table.vanished():
            vanished[ItemState.DONE if key in self.adopting else ITEM_STATES[word & ITEM_STATE]] += 1
            held += bool(word & DOUBTFUL)
            kept += key in self.state.held
        vanished[ItemState.DONE] += sum(not self.state.table.word(key) & (KNOWN | IN_JOB) for key in self.adopting)
        return PlanningPass(
            total=self._total,
            labels=self._labels.digest(),
            shared=self._shared,
            vanished=vanished,
            vanished_held=held,
            vanished_kept=kept,
            per_model=self._per_model,
            to_send=sum(ahead.calls for ahead in self._ahead.values()),
            prompt_chars=sum(ahead.chars for ahead in self._ahead.values()),
            lost=frozenset(self._lost),
            resumable=tuple(self._resumable),
            skipped_rows=skipped_rows,
            of_job=of_job,
            ahead=self._ahead,
            unasked=self._unasked,
            reused=self._reused,
            stranded=self._stranded,
            rerouted=self._rerouted,
        )


def points_plan(job: Job, ahead: dict[str, ToSend], *, accounts: int) -> PointsPlan | None:
    """Of these sends with that many keys; None where calls cost no points."""
    provider = job.provider
    if not provider.points_per_call:
        return None
    needed = sum(
        requests_of(job, to_send.calls) * provider.points_per_call.get(model, 0.0) for model, to_send in ahead.items()
    )
    per_day = provider.points_per_day * max(1, accounts) if provider.points_per_day else None
    return PointsPlan(
        needed=needed,
        per_day=per_day,
        days=needed / per_day if per_day else None,
        assumed=provider.points_assumed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What `run.json` keeps of a survey, so that `status` needs no job file."""

    total: int
    labels: str
    shared: dict[str, int]
    vanished: dict[str, int]
    """By state; HELD has those that are held, which are pending ones."""
    hold: bool
    """`on_ambiguous: hold`: items whose last send got no clear answer are held."""
    task_s: float
    concurrency: int
    """The most sends in flight at once, for `unaccounted_max`."""
    synced_intents: bool
    lost: int = 0
    """Done items whose row or picture was missing when the run began: for `status` during the run."""
    of_job: int = 0
    """Items of the whole job, of which a shard has a part; 0 where an earlier version has not counted them."""
    windows: dict[str, int] = field(default_factory=dict)
    """`ACCOUNT MODEL` -> how many at once last worked: where `concurrency: auto` begins the next run."""
    digest: str = ""
    """Of the job and of everything that its items are made of, as the pass that counted them found it; empty where that
    is not known, or rows were left out."""


def count_items(state: LedgerState, totals: Totals, *, now: float) -> ItemCounts:
    """Items by state. `now` is wall clock, seconds since 1970."""
    by = {item_state: state.count(item_state) - totals.vanished.get(item_state.name, 0) for item_state in ItemState}
    held = (state.doubtful_count if totals.hold else len(state.held)) - totals.vanished.get(HELD, 0)
    lost = len(state.lost)
    for key, extra in totals.shared.items():
        record = state.record(bytes.fromhex(key))
        by[record.item_state] += extra
        held += extra * state.waits_for_a_person(bytes.fromhex(key), hold=totals.hold)
        lost += extra * (bytes.fromhex(key) in state.lost)
    held_in_batches = min(state.batches.held_items, by[ItemState.ACCEPTED])
    by[ItemState.ACCEPTED] -= held_in_batches
    held += held_in_batches
    timed_out = min(state.timed_out(now=now, task_s=totals.task_s), by[ItemState.ACCEPTED])  # vanished items' are none
    done, failed, accepted = by[ItemState.DONE] - lost, by[ItemState.FAILED], by[ItemState.ACCEPTED] - timed_out
    return ItemCounts(
        total=totals.total,
        done=done,
        failed=failed,
        accepted=accepted,
        pending=totals.total - done - lost - failed - accepted - timed_out - held,
        held=held,
        timed_out=timed_out,
        lost=lost,
    )


def count_part(
    part: ChosenPart, state: LedgerState, *, moved: Mapping[bytes, bytes], hold: bool, now: float, task_s: float
) -> ItemCounts:
    """Items of a part by where they stand; identical ones count once. `now` is wall clock, seconds since 1970.

    `moved`: items of the part whose prompts went to another model since -> those of that model.
    """
    by: Counter[str] = Counter()
    for one in part.keys:
        key = one
        while key in moved:
            key = moved[key]
        item_state, task = state.item_state(key), state.tasks.get(key)
        if key in state.lost:
            by["lost"] += 1
        elif state.waits_for_a_person(key, hold=hold) or ((batch := state.batch_of(key)) is not None and batch.held):
            by["held"] += 1
        elif task is not None and task.has_timed_out(now=now, task_s=task_s):
            by["timed_out"] += 1
        else:
            by[item_state.name.lower()] += 1
    return ItemCounts(total=len(part.keys), **by)


def count_superseded(part: ChosenPart, state: LedgerState) -> int:
    """Answers to earlier requests that make room, once the items of the part have their own."""
    gone = (key for key in part.replaces if not state.table.word(key) & IN_JOB)
    return sum(state.item_state(key) is ItemState.DONE for key in gone)
