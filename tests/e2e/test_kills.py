"""kill -9 of the real program at random moments, again and again, and then its end: nothing lost, nothing silent.

At full size (`make torture`): 20 kills over 20,000 answers at concurrency 64, and 20 over 2,000 pictures with 200 tasks
in flight.
"""

from pathlib import Path

import pytest

from tests.e2e.jobs import CHAT_FAULTS, IMAGE_FAULTS, chat_job, image_job, intact_job, vector_job
from tests.e2e.judging import (
    Till,
    account_of,
    chat_order,
    every_row_reports_its_own_doubts,
    image_order,
    is_intact,
    ledger_records,
    nothing_is_wrong,
    open_tasks,
    pictures_are_what_was_sent,
    polled_tasks_were_recorded,
    texts_are_what_was_sent,
    write_prompts,
)
from tests.e2e.lives import kill_again_and_again, run
from tests.e2e.runs import CANARY, no_byte_holds, simulator
from tests.support.json_lines import json_lines
from tests.support.torture import Tried, at_size

pytestmark = pytest.mark.real
KILLS = at_size(5, 20)
SOUNDS = at_size(200, 2_000)
ANSWERS, PICTURES = at_size(2_000, 20_000), at_size(300, 2_000)
IN_FLIGHT = at_size(100, 200)


def test_answers_survive_kills_each_once_and_as_they_were_sent(tmp_path: Path, tried: Tried) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=ANSWERS)
    out = tmp_path / "outputs" / "answers"
    with simulator(tmp_path, "--auth", "--faults", CHAT_FAULTS, "--latency", "first=0.05,spread=0.9") as server:
        till, job = Till(server), chat_job(tmp_path, server.base_url)

        def look() -> None:
            is_intact(out)
            till.look()

        kills = kill_again_and_again(job, out, kills=KILLS, lines=2 * ANSWERS, seed=1, after_each=look)
        with run(job) as last:
            ended = last.end()
        till.look()
        stats = server.stats()
        with run(job) as again:
            unchanged = again.end()
        sends_afterwards = server.stats()["sends"]
    account = account_of(out, stats, items=ANSWERS)
    tried("kills: chat", kills.hit, lost=account.lost)
    tried("kills: chat: paid twice (lost: not told)", account.paid_twice, lost=account.silent)
    tried("kills: chat: told as possible duplicates", account.reported)
    assert ended.status == 0, ended.stderr
    assert kills.hit == KILLS
    nothing_is_wrong(account)
    texts_are_what_was_sent(out, prompts)
    every_row_reports_its_own_doubts(out, till, [chat_order(prompt) for prompt in prompts])
    assert stats["max_in_flight"] > 32
    assert (unchanged.status, sends_afterwards) == (0, stats["sends"])
    is_intact(out)
    no_byte_holds(tmp_path, CANARY)


def test_vectors_survive_kills_and_every_text_of_a_cut_request_is_reported(tmp_path: Path, tried: Tried) -> None:
    """Twenty texts a request: the server counts what it was paid for text by text."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=ANSWERS)
    out = tmp_path / "outputs" / "vectors"
    with simulator(tmp_path, "--auth", "--faults", CHAT_FAULTS, "--latency", "first=0.05,spread=0.9") as server:
        job = vector_job(tmp_path, server.base_url, together=20)
        kills = kill_again_and_again(
            job, out, kills=KILLS, lines=2 * ANSWERS, seed=3, after_each=lambda: is_intact(out)
        )
        with run(job) as last:
            ended = last.end()
        stats = server.stats()
    account = account_of(out, stats, items=ANSWERS)
    tried("kills: vectors", kills.hit, lost=account.lost)
    tried("kills: vectors: paid twice (lost: not told)", account.paid_twice, lost=account.silent)
    assert ended.status == 0, ended.stderr
    assert kills.hit == KILLS
    nothing_is_wrong(account)
    assert stats["paid"] - stats["paid_twice"] == ANSWERS, "every text was paid for"
    rows = json_lines(out / "results.jsonl")
    assert [row["prompt"] for row in sorted(rows, key=lambda row: int(row["index"]))] == prompts
    assert len({tuple(row["output"]["embedding"]) for row in rows}) == ANSWERS
    requests = sum(record["e"] == "intent" and "w" not in record for record in ledger_records(out))
    assert stats["sends"] <= requests < ANSWERS // 2, "many texts went together"
    no_byte_holds(tmp_path, CANARY)


def test_transcripts_survive_kills_and_no_audio_is_paid_twice_in_silence(tmp_path: Path, tried: Tried) -> None:
    out = tmp_path / "outputs" / "words"
    with simulator(tmp_path, "--auth", "--faults", CHAT_FAULTS, "--latency", "first=0.05,spread=0.9") as server:
        job = intact_job(tmp_path, server.base_url, sounds=SOUNDS)
        kills = kill_again_and_again(job, out, kills=KILLS, lines=2 * SOUNDS, seed=4, after_each=lambda: is_intact(out))
        with run(job) as last:
            ended = last.end()
        stats = server.stats()
        with run(job) as again:
            unchanged = again.end()
        sends_afterwards = server.stats()["sends"]
    account = account_of(out, stats, items=SOUNDS)
    tried("kills: transcripts", kills.hit, lost=account.lost)
    tried("kills: transcripts: paid twice (lost: not told)", account.paid_twice, lost=account.silent)
    assert ended.status == 0, ended.stderr
    nothing_is_wrong(account)
    assert stats["paid"] - stats["paid_twice"] == SOUNDS, "every sound was paid for"
    assert (unchanged.status, sends_afterwards) == (0, stats["sends"]), "nothing is sent again"
    rows = json_lines(out / "results.jsonl")
    assert len({row["files"][0]["sha256"] for row in rows}) == SOUNDS
    assert all(row["output"]["text"] for row in rows)


def test_pictures_survive_kills_and_no_accepted_task_is_submitted_a_second_time(tmp_path: Path, tried: Tried) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=PICTURES)
    out = tmp_path / "outputs" / "pictures"
    in_flight: list[int] = []

    with simulator(tmp_path, "--auth", "--faults", IMAGE_FAULTS, "--latency", "task=1.0,spread=0.5") as server:
        till, job = Till(server), image_job(tmp_path, server.base_url, in_flight=IN_FLIGHT)

        def look() -> None:
            is_intact(out)
            till.look()
            records = ledger_records(out)
            polled_tasks_were_recorded(records, till)
            in_flight.append(open_tasks(records))

        kills = kill_again_and_again(job, out, kills=KILLS, lines=4 * PICTURES, seed=2, after_each=look)
        with run(job) as last:
            ended = last.end()
        till.look()
        stats = server.stats()
        with run(job) as again:
            unchanged = again.end()
        sends_afterwards = server.stats()["sends"]
    account = account_of(out, stats, items=PICTURES)
    tried("kills: images", kills.hit, lost=account.lost)
    tried("kills: images: paid twice (lost: not told)", account.paid_twice, lost=account.silent)
    tried("kills: images: told as possible duplicates", account.reported)
    tried("kills: images: tasks in flight when killed", sum(in_flight), lost=account.submitted_again)
    assert ended.status == 0, ended.stderr
    assert kills.hit == KILLS
    nothing_is_wrong(account)
    assert open_tasks(ledger_records(out)) == 0
    pictures_are_what_was_sent(out, prompts)
    every_row_reports_its_own_doubts(out, till, [image_order(prompt) for prompt in prompts])
    assert max(in_flight) > IN_FLIGHT // 2
    assert stats["storage_credentials"] == {}
    assert (unchanged.status, sends_afterwards) == (0, stats["sends"])
    is_intact(out)
    no_byte_holds(tmp_path, CANARY)
