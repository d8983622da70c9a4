"""GSM8K on three simulated models with two system prompts: its rates are those of a script that knows nothing of ours.

And a judge of its answers that is killed: what a provider was paid for is what the run reports.

Skipped where the questions are not in `shared/data/` beside the checkout.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner import api
from batchrunner.core.part import WHOLE, PartOptions
from batchrunner.core.status import Report
from batchrunner.engine.work_queue import LoopClock
from batchrunner.report.comparing import CompareOptions
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.world import World
from tests.e2e.judging import in_flight
from tests.e2e.lives import run as started
from tests.e2e.runs import KEY_NAME, Simulator, run_job, simulator
from tests.support.torture import Tried, at_size
from tests.support.virtual_time import run_virtual

DATA = Path(__file__).parents[3] / "shared/data/gsm8k_test.jsonl"
QUESTIONS = 300
"""The first ones of 1,319: enough for right and wrong answers of every model in every style."""
MODELS = ("sim/a", "sim/b", "sim/c")
STYLES = ("Think step by step.", "Answer at once.")
JUDGED = at_size(40, 1_319)
"""Questions whose answers a judge is asked about: four answers each."""
AT_ONCE = 8
KILLS = at_size(1, 5)

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"GSM8K's questions are not at {DATA}")


def job(folder: Path, models: tuple[str, ...], *, name: str = "gsm8k", ask: str = "End with #### and") -> Path:
    (folder / "questions.jsonl").write_text("".join(DATA.read_text().splitlines(keepends=True)[:QUESTIONS]))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\nprovider: simulator\nmodels: {json.dumps(models)}\nsystem: '{{{{ style }}}}'\n"
        f"matrix: {{style: {json.dumps(STYLES)}}}\n"
        f"prompts: {{file: questions.jsonl, template: '{{{{ question }}}} {ask} the number.'}}\n"
        "limits: {concurrency: 400}\noutput: {report: false}\n"
        "checks: [{number: \"{{ answer.split('####')[1] }}\"}]\n"
    )
    return path


def run(path: Path, *, part: PartOptions = WHOLE, limit: int | None = None) -> Report:
    loaded = api.load_job(str(path))

    async def main() -> Report:
        clock, world = LoopClock(wall_at_zero=1_795_000_000.0), World()
        network = (
            SimulatedTransport(world, clock, timeouts=loaded.timeouts),
            SimulatedDownloads(world, clock, timeouts=loaded.timeouts),
        )
        return await api.run(loaded, clock=clock, network=network, say=lambda _: None, part=part, limit=limit)

    return run_virtual(main)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_right(row: dict[str, Any]) -> bool:
    reference = float(row["vars"]["answer"].split("####")[1].replace(",", ""))
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", row["output"]["text"])
    return bool(numbers) and float(numbers[-1].replace(",", "")) == reference


def counted_by_a_script(folder: Path) -> Counter[tuple[str, str, bool]]:
    return Counter((row["model"], row["vars"]["style"], is_right(row)) for row in lines(folder / "results.jsonl"))


def counted_by_checks(folder: Path) -> Counter[tuple[str, str, bool]]:
    styles = {row["index"]: row["vars"]["style"] for row in lines(folder / "results.jsonl")}
    scores = lines(folder / "scores.jsonl")
    return Counter((score["model"], styles[score["index"]], score["pass"]) for score in scores)


def test_rates_are_those_of_an_independent_script_and_a_fourth_model_sends_its_own_items_only(tmp_path: Path) -> None:
    first = run(job(tmp_path, MODELS))
    folder = Path(first.status.dir or "")
    assert (first.exit_status, first.status.items.done) == (0, 6 * QUESTIONS)
    expected = counted_by_a_script(folder)
    assert counted_by_checks(folder) == expected
    assert len({key for key, count in expected.items() if count}) == 12, "each model has right and wrong ones"

    comparison, missed = batchrunner.compare([str(folder)])
    assert missed == []
    for group in comparison.groups:
        right = sum(count for (model, _, passed), count in expected.items() if passed and model == group.name)
        assert (group.passed, group.decided) == (right, 2 * QUESTIONS)
    by_style, _ = batchrunner.compare([str(folder)], CompareOptions(by="style"))
    (pair,) = by_style.pairs
    assert (pair.pairs, pair.new, pair.gone, pair.changed) == (3 * QUESTIONS, 0, 0, 3 * QUESTIONS)

    before = {row["key"]: row for row in lines(folder / "results.jsonl")}
    fourth = run(job(tmp_path, (*MODELS, "sim/d")))
    after = lines(folder / "results.jsonl")
    assert (fourth.exit_status, fourth.status.sends.total) == (0, 8 * QUESTIONS)
    assert {row["model"] for row in after if row["key"] not in before} == {"sim/d"}
    kept = {row["key"]: row for row in after if row["key"] in before}
    assert {key: row["output"] for key, row in kept.items()} == {key: row["output"] for key, row in before.items()}
    assert counted_by_checks(folder) == counted_by_a_script(folder)


def right_ones(folder: Path) -> dict[tuple[str, str], bool]:
    """Whether each question was answered rightly in each style."""
    rows = lines(folder / "results.jsonl")
    return {(row["vars"]["question"], row["vars"]["style"]): is_right(row) for row in rows}


def test_forty_wrong_answers_are_asked_again_with_another_prompt_and_compared_with_before(tmp_path: Path) -> None:
    first = Path(run(job(tmp_path, ("sim/a",))).status.dir or "")
    before = {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()}
    again = run(
        job(tmp_path, ("sim/a",), name="again", ask="Say nothing but"),
        part=PartOptions(where=f"not pass and style == '{STYLES[0]}'", rows_from=str(first)),
        limit=40,
    )
    second = Path(again.status.dir or "")
    assert again.status.sends.total == 40
    then, now = right_ones(first), right_ones(second)
    assert len(now) == 40
    assert {style for _, style in now} == {STYLES[0]}
    assert not any(then[asked] for asked in now), "only wrong ones were asked again"
    assert any(now.values()), "some are right now"

    (pair,) = batchrunner.compare([str(first), str(second)], CompareOptions(by="run"))[0].pairs
    asked = {row["id"]: (row["vars"]["question"], row["vars"]["style"]) for row in lines(second / "results.jsonl")}
    assert {asked[new] for _, new in pair.won} == {one for one, right in now.items() if right}
    assert (len(pair.lost), pair.both_right, pair.both_wrong) == (0, 0, 40 - sum(now.values()))
    assert (pair.pairs, pair.new, pair.changed, pair.gone) == (40, 0, 40, len(then) - 40)
    assert {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()} == before


def judged_job(folder: Path, server: Simulator) -> Path:
    """A job of two models with two system prompts, and its judge, both at the same server."""
    provider = f'{{preset: openai, base_url: "{server.base_url}", api_key_env: {KEY_NAME}}}'
    (folder / "right.yaml").write_text(
        f"name: right\nprovider: {provider}\nmodel: sim/judge\n"
        "prompts: {run: outputs/gsm8k, template: '{{ prompt }} Answer: {{ text }} Is it right, from 0 to 1?'}\n"
        "schema:\n  type: object\n  required: [score]\n  properties: {score: {type: number, minimum: 0, maximum: 1}}\n"
        f"limits: {{concurrency: {AT_ONCE}}}\n"
    )
    path = folder / "gsm8k.yaml"
    path.write_text(
        f"name: gsm8k\nprovider: {provider}\nmodels: {json.dumps(MODELS[:2])}\nsystem: '{{{{ style }}}}'\n"
        f"matrix: {{style: {json.dumps(STYLES)}}}\n"
        f"prompts: {{file: {DATA}, template: '{{{{ question }}}} End with the number.', limit: {JUDGED}}}\n"
        "limits: {concurrency: 64}\noutput: {report: false}\n"
        "checks:\n  - number: \"{{ answer.split('####')[1] }}\"\n  - judge: {use: right.yaml, at_least: 0.5}\n"
    )
    return path


def test_a_judge_that_is_killed_is_paid_for_no_verdict_twice_beyond_what_it_reports(
    tmp_path: Path, tried: Tried
) -> None:
    answers, cut_off = 4 * JUDGED, Counter[str]()
    with simulator(tmp_path, "--latency", "first=0.02,spread=0.9") as server:
        path = judged_job(tmp_path, server)
        folder = tmp_path / "outputs" / "gsm8k"
        judge = folder / "judge" / "right"
        for number in range(1, KILLS + 1):
            with started(path) as life:
                least = answers * number // (KILLS + 1)
                assert life.watch(until=lambda: count_of_lines(judge / "results.jsonl") >= least)  # noqa: B023 - called within this round
                assert life.kill()
            cut_off += in_flight(judge)
        rows = (folder / "results.jsonl").read_bytes()
        ended, stats = run_job(path), server.stats()
    stands = batchrunner.status(str(judge))
    asked = len({row["key"] for row in lines(judge / "results.jsonl")})  # equal answers are asked about once
    assert (ended.status, stands.items.done, stats["paid"] - stats["paid_twice"]) == (0, answers, answers + asked)
    assert stats["paid_twice"] <= stands.sends.possible_duplicates <= cut_off.total() <= 2 * AT_ONCE * KILLS
    tried("judge killed: verdicts", asked)
    tried("judge killed: paid twice (lost: not told)", stats["paid_twice"])
    assert (folder / "results.jsonl").read_bytes() == rows

    scores = lines(folder / "scores.jsonl")
    assert len(scores) == answers
    assert {score["scores"]["right"]["verdict"] for score in scores} == {"pass", "fail"}
    numbers = Counter((score["index"], score["scores"]["number"]["verdict"] == "pass") for score in scores)
    assert numbers == Counter((row["index"], is_right(row)) for row in lines(folder / "results.jsonl"))


def count_of_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
