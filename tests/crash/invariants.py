"""The invariants of RELIABILITY section 4 that can be judged from outside, by number, after the end of any life.

Each is a function of a house whose process is gone; it raises `Violation` with its number. Nothing here knows how the
engine works: only the bytes on the disk, what the world counted, and what was acknowledged.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from crash_house import MONDAY_EVENING, RUN, CrashHouse

from batchrunner.core.errors import ExitStatus
from batchrunner.core.state import LedgerState, Standing
from batchrunner.report.audit import audit
from batchrunner.report.standing import LEDGER, replay
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.lines import read_lines

SHANGHAI_S: Final = 8 * 3600.0


class Violation(AssertionError):  # noqa: N818 - a word of the tests, not an error of the program
    """An invariant does not hold."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(f"invariant {number}: {words}")
        self.number = number


def need(number: int, words: str, *, holds: bool) -> None:
    if not holds:
        raise Violation(number, words)


def state_of(house: CrashHouse) -> LedgerState:
    return replay(RUN, day_offset_s=SHANGHAI_S, files=house.disk)


def rows_of(house: CrashHouse, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line.text) for line in read_lines(house.disk, RUN / name)]


# -- after any end of a life


def every_post_has_its_intent(house: CrashHouse, state: LedgerState) -> None:
    """Invariants 1 and 2. Where chat intents are not synced, a power loss may take as many as were in flight."""
    early = house.witness.posts_too_early
    need(1, f"{early} POSTs left before their intent was in the ledger", holds=not early)
    missing = {key: count - state.record(key).sends for key, count in house.witness.posts.items()}
    surplus = sum(count for count in missing.values() if count > 0)
    need(2, f"{surplus} POSTs left without a trace in the ledger", holds=surplus <= house.unaccounted)


def paid_twice_is_told(house: CrashHouse, state: LedgerState) -> None:
    """Invariant 3."""
    twice, told = house.world.stats().paid_twice, state.ambiguous + state.unknown
    need(3, f"{twice} paid twice, {told} told as possible", holds=twice <= told + house.unaccounted)


def accepted_tasks_are_known(house: CrashHouse, state: LedgerState) -> None:
    """Invariant 4, and no task is submitted again while it is under way."""
    for key, task_id in house.witness.tasks.items():
        known = state.tasks.get(key)
        ended = state.standing(key) in {Standing.DONE, Standing.FAILED}
        need(4, f"task {task_id} is forgotten", holds=ended or (known is not None and known.task_id == task_id))
    need(4, "an accepted task was submitted again", holds=not house.witness.submitted_again)


def what_was_acknowledged_stands(house: CrashHouse, state: LedgerState) -> None:
    """Invariants 6 and 9."""
    for standing, keys in ((Standing.DONE, house.witness.done), (Standing.FAILED, house.witness.failed)):
        lost = [key for key in keys if state.standing(key) is not standing]
        need(6, f"{len(lost)} acknowledged {standing.name} are gone", holds=not lost)


def replay_is_idempotent(house: CrashHouse, state: LedgerState) -> None:
    """Invariant 8."""
    twice = LedgerState(day_offset_s=SHANGHAI_S)
    for _ in range(2):
        segment = 0
        for record in read_ledger(RUN / LEDGER, files=house.disk):
            if record.segment != segment:
                twice.segment_ended()
                segment = record.segment
            twice.apply(record.event, at=record.at)
        twice.segment_ended()
    need(8, "replayed twice it stands differently", holds=dict(twice.standings()) == dict(state.standings()))


def attempts_stay_in_their_bounds(house: CrashHouse, state: LedgerState) -> None:
    """Invariant 10."""
    most = max((state.record(key).attempts for key, _ in state.standings()), default=0)
    need(10, f"{most} attempts", holds=most <= house.job.retry.attempts)


def what_is_recorded_is_there(house: CrashHouse, state: LedgerState) -> None:
    """Invariants 5, 9, 10, 19 by the program's own audit: no damage, and nothing that the lifecycle does not know."""
    if not house.disk.exists(RUN / "run.json"):
        need(5, "a run without run.json has a ledger", holds=not state.segments)
        return
    found = [finding for finding in audit(RUN, files=house.disk).findings if finding.level != "note"]
    need(5, f"the audit found {found}", holds=not found)


def nothing_is_sent_after_a_refusal(house: CrashHouse, state: LedgerState) -> None:
    """Invariant 16."""
    count = house.witness.posts_after_refusal
    need(16, f"{count} POSTs after the disk had refused", holds=not count)


ALWAYS: Final[tuple[Callable[[CrashHouse, LedgerState], None], ...]] = (
    every_post_has_its_intent,
    paid_twice_is_told,
    accepted_tasks_are_known,
    what_was_acknowledged_stands,
    replay_is_idempotent,
    attempts_stay_in_their_bounds,
    what_is_recorded_is_there,
    nothing_is_sent_after_a_refusal,
)


def check(house: CrashHouse) -> None:
    """Everything that holds at any time."""
    state = state_of(house)
    for invariant in ALWAYS:
        invariant(house, state)


# -- when the job is finished


def check_end(house: CrashHouse, ended: ExitStatus | None) -> None:
    """Invariants 11 and 20, and what must not be left behind."""
    check(house)
    state = state_of(house)
    need(20, f"the last life ended with {ended}", holds=ended in {ExitStatus.DONE, ExitStatus.FAILED})
    rows = rows_of(house)
    ids = Counter(row["id"] for row in rows)
    need(11, f"rows {ids.most_common(3)}", holds=all(count == 1 for count in ids.values()))
    wanted: dict[Standing, set[bytes]] = {standing: set() for standing in Standing}
    for key in house.present.values():
        wanted[state.standing(key)].add(key)
    finished = len(wanted[Standing.DONE]) + len(wanted[Standing.FAILED])
    need(11, f"{finished} of {house.items} items have an outcome", holds=finished == house.items)
    shown = {bytes.fromhex(row["key"]) for row in rows}
    need(11, f"{len(shown)} rows of {len(wanted[Standing.DONE])}", holds=shown == wanted[Standing.DONE])
    failed = {bytes.fromhex(row["key"]) for row in rows_of(house, "failures.jsonl")}
    need(11, "failures.jsonl shows other items than those that failed", holds=failed == wanted[Standing.FAILED])
    notes = [finding for finding in audit(RUN, files=house.disk).findings if finding.kind not in {"torn_tail", "stray"}]
    need(11, f"left behind: {notes}", holds=not notes)
    need(12, f"descriptors left open: {house.disk.open_descriptors}", holds=not house.disk.open_descriptors)


__all__ = ["MONDAY_EVENING", "Violation", "check", "check_end", "rows_of", "state_of"]
