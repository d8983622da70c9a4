"""The invariants of tests/README.md that can be judged from outside, by number, after the end of any life.

Each is a function of a `Look` at a harness whose process is gone; it raises `Violation` with its number. Nothing here
knows how the engine works: only the bytes on the disk, what the world counted, and what was acknowledged. What must
hold at every event is in `watch`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final

from batchrunner.core.errors import ExitStatus
from batchrunner.core.lifecycle import ItemRecord, ItemState
from batchrunner.core.state import LedgerState
from batchrunner.core.status import Audit
from batchrunner.report.audit import audit
from batchrunner.stores.checkpoint import restored
from batchrunner.stores.ledger_line import LEDGER, Record
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.run_file import RUN_FILE, read_run_file
from tests.crash.invariant_error import Violation, need
from tests.crash.jobs import RUN
from tests.crash.ledger_tail import rows_on
from tests.crash.lives import CANARY, CrashHarness
from tests.crash.watch import SHANGHAI_S
from tests.support.disk_state import File

ENDS: Final = frozenset({ExitStatus.DONE, ExitStatus.FAILED})
_TOP: Final = RUN.parts[1]
_OTHERS: Final = 0o077


class Look:
    """The harness between two lives, everything in it read once and replayed once."""

    def __init__(self, harness: CrashHarness) -> None:
        self.harness = harness
        self.records: tuple[Record, ...] = tuple(read_ledger(RUN / LEDGER, files=harness.disk))
        self.state = LedgerState(day_offset_s=SHANGHAI_S)
        self.replay_into(self.state)
        touched = harness.watch.since_durable if harness.watch is not None else ()
        self.as_written = {key: _lasting(self.state.record(key)) for key in touched}
        """How items of the last life stand in the bytes, before what was being sent is called unknown."""
        self.state.segment_ended()

    @cached_property
    def audit(self) -> Audit:
        return audit(RUN, files=self.harness.disk)

    def replay_into(self, state: LedgerState, *, after: int = 0) -> None:
        """Everything after segment number `after` but the end of the last segment."""
        segment = 0
        for record in self.records:
            if record.segment <= after:
                continue
            if record.segment != segment:
                state.segment_ended()
                segment = record.segment
            state.apply(record.event, at=record.at)


def state_of(harness: CrashHarness) -> LedgerState:
    return Look(harness).state


def rows_of(harness: CrashHarness, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return rows_on(harness.disk, name)


# -- after any end of a life


def every_post_has_its_intent(look: Look) -> None:
    """Invariant 2. Where chat intents are not synced, a power loss may take as many as were in flight."""
    harness = look.harness
    sends = {body: sum(look.state.record(key).sends for key in keys) for body, keys in harness.bodies.items()}
    surplus = sum(max(0, count - sends[body]) for body, count in harness.witness.posts.items())
    need(2, f"{surplus} POSTs left without a trace in the ledger", holds=surplus <= harness.witness.unaccounted)


def paid_twice_is_reported(look: Look) -> None:
    """Invariant 3. Replicas are asked for, and so are answers that broke their schema: these are no repeats."""
    harness = look.harness
    wanted = sum((len(keys) - 1) for body, keys in harness.bodies.items() if harness.witness.posts[body])
    wanted += harness.witness.asked_again
    twice, told = harness.world.stats().paid_twice, look.state.ambiguous + look.state.unknown
    need(
        3,
        f"{twice} paid twice, {wanted} of them wanted, {told} told as possible",
        holds=twice <= told + wanted + harness.witness.unaccounted,
    )


def accepted_tasks_are_known(look: Look) -> None:
    """Invariant 4."""
    for key, task_id in look.harness.witness.tasks.items():
        known = look.state.tasks.get(key)
        ended = look.state.item_state(key) in {ItemState.DONE, ItemState.FAILED, ItemState.REPLACED}
        need(4, f"task {task_id} is forgotten", holds=ended or (known is not None and known.task_id == task_id))


def what_was_acknowledged_stands(look: Look) -> None:
    """Invariants 6 and 9."""
    witness = look.harness.witness
    kept = (ItemState.DONE, witness.done), (ItemState.FAILED, witness.failed), (ItemState.REPLACED, witness.replaced)
    for item_state, keys in kept:
        lost = [key for key in keys if look.state.item_state(key) is not item_state]
        need(6, f"{len(lost)} acknowledged {item_state.name} are gone", holds=not lost)


def the_bytes_match_what_the_engine_believed(look: Look) -> None:
    """Invariants 4 and 6, for every item with an event in this life: nothing that was acknowledged is forgotten."""
    harness, watch = look.harness, look.harness.watch
    for key, found in look.as_written.items():
        assert watch is not None, "an event has been seen"
        possible = [_lasting(record) for record in watch.may_stand(key, power_was_lost=harness.power_was_lost)]
        number = 6 if possible[0][0] in {ItemState.DONE, ItemState.FAILED, ItemState.REPLACED} else 4
        need(number, f"an item stands as {found} on the disk, not as one of {possible}", holds=found in possible)


def _lasting(record: ItemRecord) -> tuple[ItemState, int, int, int, bool]:
    """What a replay knows: everything but whose item it is."""
    return record.item_state, record.attempts, record.ambiguous, record.sends, record.doubtful


def a_checkpoint_knows_what_the_ledger_records(look: Look) -> None:
    """Invariant 7, for the state that a clean end kept apart: what follows its segment makes the same of it."""
    disk = look.harness.disk
    there = read_run_file(RUN, files=disk) if disk.exists(RUN / RUN_FILE) else None
    kept = restored(disk, RUN / LEDGER, there.checkpointed if there is not None else None, day_offset_s=SHANGHAI_S)
    if kept is None:
        return
    look.replay_into(kept.state, after=kept.segment)
    kept.state.segment_ended()
    for what, ask in _ASKED.items():
        known, told = ask(kept.state), ask(look.state)
        need(7, f"the checkpoint says {what} {known}, the ledger {told}", holds=known == told)


_ASKED: Final[dict[str, Callable[[LedgerState], object]]] = {
    "items": lambda state: {key: (state.record(key), state.crc(key)) for key, _ in state.item_states()},
    "standings": lambda state: [state.count(item_state) for item_state in ItemState],
    "sums": lambda state: (state.sends, state.refused, state.ambiguous, state.unknown, state.doubtful_count),
    "results": lambda state: (state.input_tokens, state.output_tokens, state.images, state.results_length),
    "rows": lambda state: (state.labels, state.unsettled, state.torn, state.closed, state.marked),
    "tasks": lambda state: {key: (task.task_id, task.urls, task.usage) for key, task in state.tasks.items()},
    "kept tasks": lambda state: (set(state.kept_tasks), state.shared_tasks, state.held),
    "lanes": lambda state: (state.days, {lane: (park.kind, park.until) for lane, park in state.parks.items()}),
    "fallbacks": lambda state: list(state.handed_over()),
    "budgets": lambda state: (state.tallies, state.segments),
}


def replay_is_idempotent(look: Look) -> None:
    """Invariant 8. Its standings stay; sums are counted twice from here on."""
    once = dict(look.state.item_states())
    look.replay_into(look.state)
    look.state.segment_ended()
    need(8, "replayed twice it stands differently", holds=once == dict(look.state.item_states()))


def attempts_stay_in_their_bounds(look: Look) -> None:
    """Invariant 10."""
    most = max((look.state.record(key).attempts for key, _ in look.state.item_states()), default=0)
    need(10, f"{most} attempts", holds=most <= look.harness.most_attempts)


def what_is_recorded_is_there(look: Look) -> None:
    """Invariants 5, 9, 10, 19 by the program's own audit: no damage, and nothing that the lifecycle does not know."""
    if not look.harness.disk.exists(RUN / RUN_FILE):
        need(5, "a run without run.json has a ledger", holds=not look.state.segments)
        return
    found = [finding for finding in look.audit.findings if finding.level != "note"]
    need(5, f"the audit found {found}", holds=not found)


def every_file_is_below_the_run_and_keeps_the_key_out(look: Look) -> None:
    """Invariants 18 and 19."""
    canary = CANARY.encode()
    for path, node in look.harness.disk.walk():
        need(19, f"{path} is not below the run's directory", holds=path.parts[1:2] in {(), (_TOP,)})
        if path.parts[2:3] in {(LEDGER,), (RUN_FILE,), ("lock",)}:
            need(19, f"{path} can be read by others: {node.mode:o}", holds=not node.mode & _OTHERS)
        need(18, f"the key stands in {path}", holds=not (isinstance(node, File) and canary in node.seen))
    told = [line for line in look.harness.said if CANARY in line]
    need(18, f"the key is told: {told}", holds=not told)


ALWAYS: Final[tuple[Callable[[Look], None], ...]] = (
    every_file_is_below_the_run_and_keeps_the_key_out,
    every_post_has_its_intent,
    paid_twice_is_reported,
    accepted_tasks_are_known,
    what_was_acknowledged_stands,
    the_bytes_match_what_the_engine_believed,
    attempts_stay_in_their_bounds,
    what_is_recorded_is_there,
    a_checkpoint_knows_what_the_ledger_records,
    replay_is_idempotent,
)


def check(harness: CrashHarness) -> Look:
    """Everything that holds at any time."""
    look = Look(harness)
    for invariant in ALWAYS:
        invariant(look)
    return look


# -- when the job is finished


def check_end(harness: CrashHarness, ended: ExitStatus | None) -> None:
    """Invariants 11, 12 and 20, and what must not be left behind."""
    look = check(harness)
    need(20, f"the last life ended with {ended}", holds=ended in ENDS)
    rows = rows_of(harness)
    ids = Counter(row["id"] for row in rows)
    need(11, f"rows {ids.most_common(3)}", holds=all(count == 1 for count in ids.values()))
    done, failed = _ids(look, ItemState.DONE), _ids(look, ItemState.FAILED)
    open_ = {item.id for item in harness.present if look.state.is_current(item)} - done - failed
    need(11, f"without an outcome: {open_}", holds=not open_)
    need(11, f"{len(ids)} rows of {len(done)}", holds=set(ids) == done)
    shown = {row["id"] for row in rows_of(harness, "failures.jsonl")}
    need(11, "failures.jsonl shows other items than those that failed", holds=shown == failed)
    notes = [finding for finding in look.audit.findings if finding.kind not in {"torn_tail", "stray"}]
    need(11, f"left behind: {notes}", holds=not notes)
    need(12, f"descriptors left open: {harness.disk.open_descriptors}", holds=not harness.disk.open_descriptors)


def _ids(look: Look, item_state: ItemState) -> set[str]:
    return set(_ids_in_state(look, item_state))


def _ids_in_state(look: Look, item_state: ItemState) -> Iterator[str]:
    for item in look.harness.present:
        if look.state.item_state(bytes.fromhex(item.key)) is item_state:
            yield item.id


__all__ = ["ENDS", "Violation", "check", "check_end", "rows_of", "state_of"]
