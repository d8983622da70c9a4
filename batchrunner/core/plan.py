"""What a run would do now: the survey of all items against the ledger, kept as counts and keys, never as items."""

from dataclasses import dataclass, field
from hashlib import blake2b

from batchrunner.core.item import Item
from batchrunner.core.state import LedgerState, Standing
from batchrunner.core.status import ItemCounts


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
    max_calls: int
    """POSTs if every attempt of every item were used up."""
    quota_days: float | None
    """Days that `limits.requests_per_day` stretches the run to; None without such a limit."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The planning pass's result: what totals are made of."""

    total: int
    labels: str
    """Digest of all (index, id, key): equal labels mean that result rows need no relabelling."""
    shared: dict[bytes, int]
    """Further items per key that occurs more than once."""
    vanished: dict[Standing, int]
    """Keys that the ledger knows and the job has no more."""
    per_model: dict[str, int]
    to_send: int
    prompt_chars: int
    """Characters of prompts still to send."""
    resumable: tuple[Item, ...]
    """Items whose tasks are accepted and not finished."""
    skipped_rows: int = 0


@dataclass(slots=True, kw_only=True)
class Surveyor:
    """Takes every item once, in order; `survey()` gives the result. Holds 16 bytes an item until then."""

    state: LedgerState
    limit: int | None = None
    """Only items up to this index count as to be sent."""
    _seen: set[bytes] = field(default_factory=set)
    _shared: dict[bytes, int] = field(default_factory=dict)
    _labels: "blake2b" = field(default_factory=lambda: blake2b(digest_size=16))
    _per_model: dict[str, int] = field(default_factory=dict)
    _resumable: list[Item] = field(default_factory=list)
    _to_send: int = 0
    _chars: int = 0
    _total: int = 0

    def take(self, item: Item) -> None:
        """The next item of the job."""
        key = bytes.fromhex(item.key)
        self._total += 1
        self._per_model[item.model] = self._per_model.get(item.model, 0) + 1
        self._labels.update(f"{item.index}\x1f{item.id}\x1f{item.key}\x1e".encode("utf-8", "surrogatepass"))
        if key in self._seen:
            self._shared[key] = self._shared.get(key, 0) + 1
            return
        self._seen.add(key)
        standing = self.state.standing(key)
        if standing is Standing.ACCEPTED:
            self._resumable.append(item)
        if self.limit is not None and item.index > self.limit:
            return
        if standing is Standing.PENDING:
            self._to_send += 1
            self._chars += sum(len(turn.content) for turn in item.turns)

    def survey(self, *, skipped_rows: int) -> Survey:
        """The result, once every item was taken."""
        vanished = dict.fromkeys(Standing, 0)
        for key, standing in self.state.standings():
            if key not in self._seen:
                vanished[standing] += 1
        return Survey(
            total=self._total,
            labels=self._labels.hexdigest(),
            shared=self._shared,
            vanished=vanished,
            per_model=self._per_model,
            to_send=self._to_send,
            prompt_chars=self._chars,
            resumable=tuple(self._resumable),
            skipped_rows=skipped_rows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What `run.json` keeps of a survey, so that `status` needs no job file."""

    total: int
    labels: str
    shared: dict[str, int]
    vanished: dict[str, int]
    hold: bool
    """`on_ambiguous: hold`: items whose last send got no clear answer are held."""
    task_s: float
    concurrency: int
    """The most sends in flight at once, for `unaccounted_max`."""
    synced_intents: bool


def count_items(state: LedgerState, totals: Totals, *, now: float) -> ItemCounts:
    """Items by where they stand. `now` is wall clock, seconds since 1970."""
    by = {standing: state.count(standing) - totals.vanished.get(standing.name, 0) for standing in Standing}
    for key, extra in totals.shared.items():
        by[state.standing(bytes.fromhex(key))] += extra
    timed_out = state.timed_out(now=now, task_s=totals.task_s)
    held = state.doubtful_count if totals.hold else 0
    done, failed, accepted = by[Standing.DONE], by[Standing.FAILED], by[Standing.ACCEPTED] - timed_out
    return ItemCounts(
        total=totals.total,
        done=done,
        failed=failed,
        accepted=accepted,
        pending=totals.total - done - failed - accepted - timed_out - held,
        held=held,
        timed_out=timed_out,
    )
