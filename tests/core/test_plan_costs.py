"""What a plan says of points and money: sums of what is told, and silence where nothing was told."""

import asyncio
import re
from pathlib import Path

import pytest

from batchrunner import plan
from batchrunner.cli.job_commands import table
from batchrunner.core.budget import Tally
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Turn
from batchrunner.core.plan import PlanningCounter, PointsPlan, points_plan
from batchrunner.core.plan_costs import AnswersPlan, BatchCost, CostPlan, ToSend, answers_plan, cost_plan
from batchrunner.core.state import LedgerState
from batchrunner.spec import load_job


def job(folder: Path, text: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(f"prompts: [a]\n{text}\n")
    return load_job(str(path))


def item(number: int, **params: int) -> Item:
    turns = (Turn(role="user", content="x" * 40),)
    return Item(
        id=f"i{number}",
        prompt_id="p",
        index=number,
        key=f"{number:032x}",
        model="m",
        prompt="",
        turns=turns,
        params=dict(params),
    )


def test_what_is_ahead_is_counted_by_model() -> None:
    counter = PlanningCounter(state=LedgerState(), limit=3)
    counter.take([item(1), item(1)])
    counter.take([item(2, max_tokens=5, n=2), item(4)])
    found = counter.result(skipped_rows=0)
    assert found.ahead == {
        "m": ToSend(calls=2, chars=80, turns=2, whole_chars=80, answers=3, most_output_tokens=10, unlimited=1)
    }
    assert (found.to_send, found.prompt_chars) == (2, 80)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("modelscope", PointsPlan(needed=300.0, per_day=400.0, days=0.75, assumed=True)),
        (
            "{preset: modelscope, points_per_call: 2, points_per_day: 100}",
            PointsPlan(needed=600.0, per_day=200.0, days=3.0, assumed=False),
        ),
        (
            "{preset: openai, points_per_call: {m: 0.5}}",
            PointsPlan(needed=150.0, per_day=None, days=None, assumed=False),
        ),
        ("openai", None),
    ],
)
def test_points_are_those_of_all_calls_and_all_accounts(
    tmp_path: Path, provider: str, expected: PointsPlan | None
) -> None:
    made = job(tmp_path, f"provider: {provider}\nmodel: m")
    assert points_plan(made, {"m": ToSend(calls=300)}, accounts=2) == expected


PRICED = "provider: openai\nmodel: m\nbudget: {currency: CNY, prices: {m: {input: 1000000, %s}}}"


@pytest.mark.parametrize(
    ("prices", "unlimited", "expected"),
    [
        ("output: 2000000", 0, CostPlan(currency="CNY", least=100.0, most=140.0, expected=140.0)),
        ("output: 2000000", 1, CostPlan(currency="CNY", least=100.0, most=None, expected=1140.0)),
        ("call: 3", 1, CostPlan(currency="CNY", least=130.0, most=130.0)),
    ],
)
def test_cost_has_an_upper_end_only_where_answers_have(
    tmp_path: Path, prices: str, unlimited: int, expected: CostPlan
) -> None:
    ahead = ToSend(calls=10, chars=400, answers=10, most_output_tokens=20, unlimited=unlimited)
    assert cost_plan(job(tmp_path, PRICED % prices), {"m": ahead}) == expected


def test_pictures_cost_by_their_number_and_a_job_without_prices_has_no_cost(tmp_path: Path) -> None:
    ahead = {"Qwen/Qwen-Image": ToSend(calls=2, chars=400, answers=6, unlimited=2)}
    text = "provider: modelscope\nkind: image\nmodel: Qwen/Qwen-Image\n"
    priced = job(tmp_path, text + "budget: {prices: {Qwen/Qwen-Image: {picture: 0.5, input: 9}}}")
    assert cost_plan(priced, ahead) == CostPlan(currency="money", least=3.0, most=3.0)
    assert cost_plan(job(tmp_path, text), ahead) is None


@pytest.mark.parametrize(
    ("more", "calls", "known", "expected"),
    [
        ("batch: {use: auto}", 20, False, BatchCost(used=True, least=50.0, most=60.0, expected=60.0)),
        ("batch: {use: auto}", 19, False, BatchCost(used=True, least=100.0, most=120.0, expected=120.0)),
        ("batch: {use: always}", 1, False, BatchCost(used=True, least=50.0, most=60.0, expected=60.0)),
        ("", 20, True, BatchCost(used=False, least=50.0, most=60.0, expected=60.0)),
        ("", 19, True, None),
        ("", 20, False, None),
    ],
)
def test_what_would_be_in_batches_costs_its_share_and_a_job_without_them_learns_what_it_could_save(
    tmp_path: Path, *, more: str, calls: int, known: bool, expected: BatchCost | None
) -> None:
    ahead = ToSend(calls=calls, chars=400, answers=calls, most_output_tokens=10)
    found = cost_plan(job(tmp_path, f"{PRICED % 'output: 2000000'}\n{more}"), {"m": ahead}, has_batches=known)
    assert found is not None
    assert (found.least, found.most, found.batch) == (100.0, 120.0, expected)


def test_the_share_of_a_batch_may_be_given(tmp_path: Path) -> None:
    made = job(tmp_path, PRICED % "batch: 0.75" + "\nbatch: {use: auto}")
    found = cost_plan(made, {"m": ToSend(calls=20, chars=400, answers=20)})
    assert found is not None
    assert found.batch == BatchCost(used=True, least=75.0, most=75.0)


def test_plan_shows_both_prices_or_the_possible_saving(tmp_path: Path) -> None:
    prompts = ", ".join(f"question {number}" for number in range(30))
    text = f"name: n\nprovider: openai\nmodel: m\nprompts: [{prompts}]\n"
    text += "budget: {currency: USD, prices: {m: {call: 2}}}"
    path = tmp_path / "job.yaml"
    path.write_text(text)
    shown = list(table(asyncio.run(plan(load_job(str(path))))))
    assert "  cost in batches        about USD 30, 30 less: `batch: {use: auto}`" in shown
    path.write_text(text + "\nbatch: {use: auto}")
    shown = list(table(asyncio.run(plan(load_job(str(path))))))
    assert "  cost                   USD 60 for input, at most 60" in shown
    assert "  cost in batches        USD 30 for input, at most 30" in shown


def estimate(tokens: int, per_answer: float, *basis: str) -> AnswersPlan:
    return AnswersPlan(tokens=tokens, basis=basis, per_answer=per_answer)


@pytest.mark.parametrize(
    ("ahead", "tally", "expected"),
    [
        (
            ToSend(calls=10, answers=10, most_output_tokens=200),
            None,
            estimate(200, 20.0, "max_tokens"),
        ),
        (
            ToSend(calls=10, answers=10, unlimited=10),
            None,
            estimate(5000, 500.0, "guess"),
        ),
        (
            ToSend(calls=10, answers=10, unlimited=10),
            Tally(),
            estimate(5000, 500.0, "guess"),
        ),
        (
            ToSend(calls=10, answers=10, most_output_tokens=900),
            Tally(measured=4, output_tokens=120),
            estimate(300, 30.0, "measured"),
        ),
        (ToSend(), None, None),
    ],
)
def test_answers_are_as_long_as_those_so_far_or_as_their_limit_or_a_guess_that_is_named(
    tmp_path: Path, ahead: ToSend, tally: Tally | None, expected: AnswersPlan | None
) -> None:
    made = job(tmp_path, "provider: openai\nmodel: m")
    assert answers_plan(made, {"m": ahead}, {"m": tally} if tally else {}) == expected
    drawn = job(tmp_path, "provider: openai\nkind: image\nmodel: m")
    assert answers_plan(drawn, {"m": ahead}, {}) is None


def test_models_that_differ_are_estimated_each_by_what_is_known_of_it(tmp_path: Path) -> None:
    made = job(tmp_path, "provider: openai\nmodels: [a, b]")
    ahead = {"a": ToSend(calls=2, answers=2, unlimited=2), "b": ToSend(calls=2, answers=2, unlimited=2)}
    found = answers_plan(made, ahead, {"a": Tally(measured=1, output_tokens=7)})
    assert found == AnswersPlan(tokens=1014, basis=("guess", "measured"), per_answer=253.5)


def test_a_plan_for_people_has_one_forecast_and_states_what_its_estimates_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = "provider: modelscope\nmodel: m\nlimits: {requests_per_day: 2}\nprompts: [a, b, c, d, e]\n"
    path.write_text(text + "budget: {prices: {m: {input: 1000000, output: 2000000}}}\n")
    words = "\n".join(table(asyncio.run(plan(load_job(str(path))))))
    assert words.count("would finish") == 1
    assert not re.search(r"\d days? at|days by daily quota", words)
    assert "pictures, tools, schemas and retries are not counted" in words
    assert "about 2,500 (500 each, a guess" in words
    assert re.search(r"about 5,?0\d\d with answers, no upper bound", words)
