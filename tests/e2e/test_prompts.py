"""Real prompts over real sockets, with faults on and processes killed: every promise of the first page at once."""

import json
from pathlib import Path

import pytest

from tests.e2e.runs import (
    CANARY,
    FAULTS,
    KEY_NAME,
    each_item_ended_once,
    kill_often,
    no_byte_holds,
    run_job,
    shared_file,
    simulator,
)
from tests.support.torture import at_size

pytestmark = pytest.mark.real
QUESTIONS, PICTURES = at_size(440, 1319), at_size(480, 1632)


def chat_job(folder: Path, base_url: str) -> Path:
    source = shared_file("gsm8k_test.jsonl")
    path = folder / "questions.yaml"
    path.write_text(f"""
provider: {{preset: openai, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
model: sim/chat
prompts: {{file: "{source}", template: "{{{{ question }}}}", id: "q{{{{ row }}}}", limit: {QUESTIONS}}}
limits: {{concurrency: 64}}
""")
    return path


def image_job(folder: Path, base_url: str) -> Path:
    source = shared_file("parti_prompts.tsv")
    path = folder / "pictures.yaml"
    path.write_text(f"""
provider: {{preset: modelscope, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
kind: image
model: Qwen/Qwen-Image
prompts: {{file: "{source}", limit: {PICTURES}}}
params: {{size: 128x128}}
limits: {{concurrency: 32, in_flight_tasks: 200, poll_per_second: 300}}
""")
    return path


def test_every_question_ends_once_under_faults(tmp_path: Path) -> None:
    with simulator(tmp_path, "--faults", FAULTS) as server:
        ended = run_job(chat_job(tmp_path, server.base_url))
        stats = server.stats()
    assert ended.status in {0, 1}, ended.stderr
    each_item_ended_once(tmp_path / "outputs" / "questions", items=QUESTIONS)
    assert stats["verdicts"]["throttled"] > 0
    assert stats["verdicts"]["cut"] > 0
    assert ended.report["sends"]["total"] == stats["sends"]
    assert stats["paid_twice"] <= ended.report["sends"]["possible_duplicates"]
    no_byte_holds(tmp_path, CANARY)


def test_every_picture_ends_once_under_faults(tmp_path: Path) -> None:
    with simulator(tmp_path, "--faults", FAULTS) as server:
        ended = run_job(image_job(tmp_path, server.base_url))
        stats = server.stats()
    assert ended.status in {0, 1}, ended.stderr
    out = tmp_path / "outputs" / "pictures"
    results = each_item_ended_once(out, items=PICTURES)
    for row in results:
        (picture,) = row["output"]["images"]
        assert (out / picture["path"]).stat().st_size == picture["bytes"]
    assert stats["paid_twice"] <= ended.report["sends"]["possible_duplicates"]
    assert stats["storage_credentials"] == {}
    no_byte_holds(tmp_path, CANARY)


def test_questions_survive_kills_with_nothing_lost_and_nothing_hidden(tmp_path: Path) -> None:
    with simulator(tmp_path, "--faults", FAULTS) as server:
        job = chat_job(tmp_path, server.base_url)
        out = tmp_path / "outputs" / "questions"
        assert kill_often(job, out, kills=5, whole_bytes=450 * QUESTIONS, seed=1) >= 3
        answered_before = {json.loads(line)["key"] for line in (out / "results.jsonl").read_bytes().split(b"\n")[:-1]}
        sent_before = server.stats()["verdicts"]["answered"]
        ended = run_job(job)
        stats = server.stats()
    assert ended.status in {0, 1}, ended.stderr
    results = each_item_ended_once(out, items=QUESTIONS)
    assert {row["key"] for row in results} >= answered_before
    newly_answered = stats["verdicts"]["answered"] - sent_before
    assert newly_answered <= QUESTIONS - len(answered_before), "an answered item was sent again"
    assert stats["paid_twice"] <= ended.report["sends"]["possible_duplicates"]
    assert run_job(job).report["sends"]["total"] == ended.report["sends"]["total"], "an unchanged job sent something"


def test_pictures_survive_kills_and_no_accepted_task_is_submitted_again(tmp_path: Path) -> None:
    with simulator(tmp_path, "--faults", FAULTS) as server:
        job = image_job(tmp_path, server.base_url)
        out = tmp_path / "outputs" / "pictures"
        assert kill_often(job, out, kills=5, whole_bytes=850 * PICTURES, seed=2) >= 3
        ended = run_job(job)
        stats = server.stats()
    assert ended.status in {0, 1}, ended.stderr
    each_item_ended_once(out, items=PICTURES)
    assert stats["paid_twice"] <= ended.report["sends"]["possible_duplicates"]
    records = [
        json.loads(line)
        for segment in sorted((out / "ledger").glob("*.jsonl"))
        for line in segment.read_bytes().split(b"\n")[:-1]
    ]
    open_tasks: set[str] = set()
    for record in records:
        if record["e"] == "accepted":
            open_tasks.add(record["k"])
        elif record["e"] == "intent":
            assert record["k"] not in open_tasks, "an accepted task was submitted again"
        elif record["e"] in {"done", "failed", "retry"}:
            open_tasks.discard(record["k"])
    assert not open_tasks
