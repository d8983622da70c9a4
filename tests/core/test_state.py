"""The state of items: the quick steps do what the events do, whatever happened to the item before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.errors import LifecycleError
from batchrunner.core.events import (
    Accepted,
    Done,
    Event,
    Failed,
    Intent,
    Lost,
    Refused,
    Requeued,
    Retry,
    Rewritten,
)
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.state import LedgerState

KEYS = tuple(f"{number:032x}" for number in (1, 2, 3))
MODELS = ("m", "n")
AT = 1_790_000_000.0

_keys = st.sampled_from(KEYS)
_tokens = st.none() | st.integers(0, 99)
_named = {"i": st.just("blue"), "k": _keys}
_numbered = {**_named, "n": st.integers(0, 70_000), "a": st.integers(0, 300)}
_usual: st.SearchStrategy[Intent | Done] = st.one_of(
    st.builds(Intent, **_numbered, model=st.sampled_from(MODELS), account=st.sampled_from(["", "KEY"])),
    st.builds(
        Done,
        **_numbered,
        crc=st.sampled_from(["", "00000000", "0badcafe", "ffffffff"]),
        length=st.integers(0, 9999),
        input_tokens=_tokens,
        output_tokens=_tokens,
        images=st.integers(0, 2),
    ),
)
_events: st.SearchStrategy[Event | str] = st.one_of(
    _usual,
    st.builds(
        Retry,
        **_numbered,
        kind=st.sampled_from(["schema_miss", "timeout"]),
        ambiguous=st.booleans(),
        held=st.booleans(),
    ),
    st.builds(Refused, **_numbered, kind=st.just("throttle")),
    st.builds(Accepted, **_numbered, task=st.just("t"), model=st.just("m"), account=st.just("")),
    st.builds(Failed, **_numbered, kind=st.sampled_from(["internal", "invalid_request"]), message=st.just("no")),
    st.builds(Requeued, **_named),
    st.builds(Lost, **_named),
    st.builds(Rewritten, length=st.integers(0, 99), labels=st.just("l")),
    st.just("the segment ends"),
)
_steps = st.lists(_events, max_size=30)


def quickly(state: LedgerState, event: Event | str, at: float) -> None:
    """Take an event by the quick way where there is one."""
    if isinstance(event, str):
        state.segment_ended()
    elif isinstance(event, Intent):
        state.sent(bytes.fromhex(event.k), model=event.model, account=event.account, n=event.n, a=event.a, at=at)
    elif isinstance(event, Done):
        state.ended_well(
            bytes.fromhex(event.k),
            a=event.a,
            crc=int(event.crc, 16) if event.crc else None,
            length=event.length,
            input_tokens=event.input_tokens,
            output_tokens=event.output_tokens,
            images=event.images,
        )
    else:
        state.apply(event, at=at)


def slowly(state: LedgerState, event: Event | str, at: float) -> None:
    if isinstance(event, str):
        state.segment_ended()
    else:
        state.apply(event, at=at)


def everything_known(state: LedgerState) -> dict[str, object]:
    """Everything that can be asked."""
    keys = [bytes.fromhex(key) for key in KEYS]
    return {
        "records": [state.record(key) for key in keys],
        "knows": [state.knows(key) for key in keys],
        "crcs": [state.crc(key) for key in keys],
        "held": [(state.waits_for_a_person(key, hold=True), state.waits_for_a_person(key, hold=False)) for key in keys],
        "counts": [state.count(item_state) for item_state in ItemState],
        "standings": sorted(state.item_states()),
        "sums": (state.sends, state.refused, state.ambiguous, state.unknown, state.doubtful_count, state.most_sending),
        "tokens": (state.input_tokens, state.output_tokens, state.images),
        "rows": (state.results_length, state.unsettled, state.lost),
        "tallies": state.tallies,
        "days": state.days,
        "tasks": (state.tasks, state.kept_tasks, state.held, state.shared_tasks),
    }


@given(steps=_steps)
def test_the_quick_steps_do_what_the_events_do(steps: list[Event | str]) -> None:
    quick, slow = LedgerState(), LedgerState()
    for number, event in enumerate(steps):
        quickly(quick, event, AT + 40_000 * number)
        slowly(slow, event, AT + 40_000 * number)
    assert everything_known(quick) == everything_known(slow)


@given(before=_steps, steps=_steps)
def test_a_live_process_takes_only_steps_of_the_lifecycle_quick_or_not(
    before: list[Event | str], steps: list[Event | str]
) -> None:
    quick, slow = LedgerState(), LedgerState()
    for event in before:
        slowly(quick, event, AT)
        slowly(slow, event, AT)
    quick.live = slow.live = True
    for event in steps:
        raised = [False, False]
        for which, (state, take) in enumerate(((quick, quickly), (slow, slowly))):
            try:
                take(state, event, AT)
            except LifecycleError:
                raised[which] = True
        assert raised[0] == raised[1]
        if not isinstance(event, str):
            assert everything_known(quick) == everything_known(slow)


@given(steps=_steps, key=_keys)
def test_a_send_gets_the_numbers_that_follow_what_the_ledger_knows_and_only_while_the_item_is_pending(
    steps: list[Event | str], key: str
) -> None:
    state = LedgerState()
    for event in steps:
        slowly(state, event, AT)
    record = state.record(bytes.fromhex(key))
    assert state.effort(bytes.fromhex(key)) == (record.sends, record.attempts, record.ambiguous, record.fresh)
    if record.item_state is ItemState.PENDING:
        assert state.next_send(bytes.fromhex(key), "x") == (record.sends + 1, record.attempts)
    else:
        with pytest.raises(LifecycleError, match="`intent` of item blue, which is"):
            state.next_send(bytes.fromhex(key), "blue")


@given(steps=_steps, batches=st.lists(st.lists(_usual, max_size=12), max_size=4))
def test_many_sends_and_good_answers_at_once_do_what_they_do_one_by_one(
    steps: list[Event | str], batches: list[list[Intent | Done]]
) -> None:
    quick, slow = LedgerState(), LedgerState()
    for state in (quick, slow):
        for event in steps:
            slowly(state, event, AT)
    for batch in batches:
        ats = [AT + 40_000 * number for number, _ in enumerate(batch)]
        quick.apply_all([bytes.fromhex(event.k) for event in batch], batch, ats)
        for event, at in zip(batch, ats, strict=True):
            slow.apply(event, at=at)
        assert everything_known(quick) == everything_known(slow)
    for state in (quick, slow):
        state.segment_ended()
    assert everything_known(quick) == everything_known(slow)
