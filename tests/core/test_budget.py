"""What is counted against a budget, and what a ledger remembers for it."""

import msgspec
import pytest

from batchrunner.core.budget import (
    Amounts,
    Budget,
    Price,
    Tally,
    Tariff,
    Usages,
    answers_of,
    budget_lines,
    exceeded_by,
    figure,
    output_limit,
    unlimited,
)
from batchrunner.core.events import Accepted, Done, Event, Failed, Intent, Refused, Retry
from batchrunner.core.state import LedgerState
from batchrunner.report.summary import budget_line

CHAT = Tariff(
    price=Price(input_per_million=1_000_000, output_per_million=2_000_000, per_picture=5, per_call=3),
    points_per_call=0.5,
    unreported=Usages(input_tokens=10, output_tokens=100),
)
KEY = "00" * 16


def replayed(*events: Event) -> Tally:
    state = LedgerState()
    for event in events:
        state.apply(event, at=0.0)
    state.segment_ended()
    return state.tallies["m"]


def intent(number: int = 1) -> Intent:
    return Intent(i="x", k=KEY, n=number, a=0, model="m", account="")


def retry(kind: str, **more: int) -> Retry:
    return Retry(i="x", k=KEY, n=1, a=1, kind=kind, **more)  # type: ignore[arg-type] # token counts only


DONE = Done(i="x", k=KEY, n=2, a=1, crc="", length=1, input_tokens=7, output_tokens=70)


def test_a_call_that_was_turned_away_is_none() -> None:
    assert replayed(intent(), Refused(i="x", k=KEY, n=1, a=0, kind="throttle")).calls == 0


def test_each_call_is_weighed_by_what_was_known_of_it() -> None:
    told = replayed(intent(), retry("schema_miss", input_tokens=5, output_tokens=50), intent(2), DONE)
    assert (told.calls, told.done, told.measured, told.without_work) == (2, 1, 2, 0)
    assert CHAT.spent(told).tokens == 132


@pytest.mark.parametrize("kind", ["bad_request", "model_not_found", "connect"])
def test_a_call_for_which_the_server_did_nothing_uses_no_tokens(kind: str) -> None:
    failed = Failed(i="x", k=KEY, n=1, a=1, kind=kind, message="")
    spent = CHAT.spent(replayed(intent(), failed))
    assert (spent.calls, spent.tokens, spent.points) == (1, 0, 0.5)


def test_a_call_that_nobody_measured_counts_as_the_mean_and_as_a_guess_while_there_is_none() -> None:
    cut_off = replayed(intent())
    assert CHAT.spent(cut_off).tokens == 110
    among_others = replayed(intent(), retry("reset"), intent(2), DONE)
    assert CHAT.spent(among_others).tokens == 2 * 77


def test_an_end_between_two_sends_is_no_call_and_a_repeated_record_counts_once() -> None:
    ended = replayed(intent(), retry("reset"), Failed(i="x", k=KEY, n=1, a=1, kind="bad_request", message=""))
    assert (ended.calls, ended.without_work) == (1, 0)
    twice = replayed(intent(), DONE, DONE)
    assert (twice.done, twice.output_tokens) == (1, 70)


def test_an_accepted_picture_counts_before_it_is_there_and_once() -> None:
    pictures = Tariff(price=Price(per_picture=2), points_per_call=0, unreported=Usages(pictures=1))
    accepted = Accepted(i="x", k=KEY, n=1, a=0, task="t", model="m", account="")
    assert pictures.spent(replayed(intent(), accepted)).money == 2
    done = Done(i="x", k=KEY, n=1, a=1, crc="", length=1, images=3)
    assert pictures.spent(replayed(intent(), accepted, done)).money == 6


def test_many_models_are_distinguished_and_a_number_of_sends_never_runs_into_one() -> None:
    state = LedgerState()
    for number in range(300):
        key = f"{number:032x}"
        state.apply(Intent(i="x", k=key, n=70_000, a=300, model=f"m{number}", account=""), at=0.0)
        state.apply(Done(i="x", k=key, n=70_000, a=1, crc="", length=1, output_tokens=number), at=0.0)
        assert state.record(bytes.fromhex(key)).sends == 65_535
    assert [state.tallies[f"m{number}"].output_tokens for number in range(300)] == list(range(300))


def test_money_is_the_sum_of_what_each_thing_costs() -> None:
    amounts = CHAT.amounts(Usages(input_tokens=1, output_tokens=10, pictures=2), calls=4)
    assert amounts == Amounts(calls=4, tokens=11, points=2, money=4 * 3 + 1 + 20 + 10)


def test_a_budget_is_full_when_it_is_reached_and_not_before() -> None:
    budget = Budget(calls=10, money=1.0, prices={})
    assert exceeded_by(budget, Amounts(calls=9), Amounts(calls=1)) is None
    assert exceeded_by(budget, Amounts(calls=10), Amounts(calls=1)) == "calls"
    assert exceeded_by(budget, Amounts(money=0.1 * 3), Amounts(money=0.7)) is None
    assert unlimited(Budget(prices={"m": Price()}))
    assert not unlimited(budget)
    assert [line.unit for line in budget_lines(budget, Amounts(), Amounts())] == ["calls", "money"]


def test_parameters_state_how_much_may_come_back() -> None:
    assert (answers_of({}), answers_of({"n": 3}), answers_of({"n": True}), answers_of({"n": "3"})) == (1, 3, 1, 1)
    assert (output_limit({}), output_limit({"max_tokens": 9, "max_completion_tokens": 5})) == (None, 5)


def test_figures_are_short_and_exact() -> None:
    assert [figure(x) for x in (1234567, 0.5, 20.0, 0.12345, 0)] == ["1,234,567", "0.5", "20", "0.1235", "0"]


@pytest.mark.parametrize("amount", [9.99e-4, 5e-4, 1.23456e-5, 2e-7, 1e-9, -3e-6])
def test_what_is_small_is_not_shown_as_nothing(amount: float) -> None:
    assert float(figure(amount)) == pytest.approx(amount, rel=0.05)
    assert "e" not in figure(amount)


def test_a_tiny_limit_of_money_is_shown_and_kept() -> None:
    budget = Budget(money=2e-6, prices={})
    (line,) = budget_lines(budget, Amounts(money=1.4e-7), Amounts(money=3e-8))
    assert budget_line(line) == "0.00000014 of 0.000002 money, 0.00000003 more in flight"
    assert exceeded_by(budget, Amounts(money=1.9e-6), Amounts(money=2e-7)) == "money"
    assert exceeded_by(budget, Amounts(money=1.9e-6), Amounts(money=1e-7)) is None


def test_calls_in_batches_cost_their_share_and_use_up_as_much() -> None:
    tally = Tally(calls=4, done=4, measured=4, input_tokens=40, output_tokens=8)
    tally.batched = Tally(calls=3, done=3, measured=3, input_tokens=30, output_tokens=6)
    whole = CHAT.spent(Tally(calls=4, done=4, measured=4, input_tokens=40, output_tokens=8))
    batched = CHAT.spent(Tally(calls=3, done=3, measured=3, input_tokens=30, output_tokens=6))
    found = CHAT.spent(tally)
    assert found.money == pytest.approx(whole.money - batched.money / 2)
    assert (found.calls, found.tokens, found.points) == (whole.calls, whole.tokens, whole.points)
    assert CHAT.in_batches().amounts(Usages(input_tokens=2), calls=2).money == pytest.approx(4)


CACHED = Price(input_per_million=10, output_per_million=100, cache_read_per_million=1, cache_write_per_million=12.5)


@pytest.mark.parametrize(
    ("price", "cost"),
    [
        (CACHED, 5 * 10 + 3 * 1 + 2 * 12.5),
        (Price(input_per_million=10), 10 * 10),
        (Price(input_per_million=10, cache_read_per_million=0), 7 * 10),
        (Price(input_per_million=10, cache_write_per_million=20), 8 * 10 + 2 * 20),
        (CACHED.in_batches(), (5 * 10 + 3 * 1 + 2 * 12.5) / 2),
    ],
)
def test_input_from_a_cache_has_its_own_price_or_that_of_all_input(price: Price, cost: float) -> None:
    assert price.input_cost(10e6, 3e6, 2e6) == pytest.approx(cost)


def test_a_server_that_reports_more_from_a_cache_than_it_read_costs_nothing_less_than_nothing() -> None:
    assert CACHED.input_cost(1, 1000, 0) == 0


def test_cached_tokens_of_all_calls_are_counted_apart_whatever_became_of_them() -> None:
    done = msgspec.structs.replace(DONE, cache_read=4, cache_write=2)
    told = replayed(intent(), retry("schema_miss", input_tokens=5, output_tokens=50, cache_read=3), intent(2), done)
    assert (told.input_tokens, told.cache_read, told.cache_write) == (12, 7, 2)
    tariff = Tariff(price=CACHED, points_per_call=0, unreported=Usages())
    assert tariff.spent(told).money * 1e6 == pytest.approx(3 * 10 + 7 * 1 + 2 * 12.5 + 120 * 100)


def test_what_a_replay_counts_of_caches_does_not_depend_on_how_it_reads() -> None:
    cached = msgspec.structs.replace(DONE, n=1, cache_read=4, cache_write=2)
    one_by_one, at_once = LedgerState(), LedgerState()
    for event in (intent(), cached):
        one_by_one.apply(event, at=0.0)
    at_once.apply_all([bytes(16)] * 2, [intent(), cached], [0.0, 0.0])
    assert one_by_one.sums() == at_once.sums()
    assert (at_once.cache_read, at_once.cache_write) == (4, 2)


def test_records_of_earlier_programs_state_nothing_of_caches() -> None:
    state = LedgerState()
    for event in (intent(), msgspec.structs.replace(DONE, n=1)):
        state.apply(event, at=0.0)
    assert (state.cache_read, state.cache_write) == (None, None)
    assert state.tallies["m"].cache_read == 0
