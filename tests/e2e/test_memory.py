"""How large the program grows: with many items, with huge answers, with hostile ones. Beside a run of one item."""

from pathlib import Path

import pytest

from tests.e2e.giants import GIANTS, PICTURES, REFUSED, giant_server
from tests.e2e.jobs import CHAT_FAULTS, chat_job, image_job
from tests.e2e.judging import is_intact, texts_are_what_was_sent, write_prompts
from tests.e2e.lives import Life, run
from tests.e2e.runs import KEY_NAME, simulator
from tests.support.json_lines import json_lines
from tests.support.torture import TORTURE, Tried, at_size

pytestmark = pytest.mark.real
MEGABYTE = 1024 * 1024
MOST_ABOVE_IDLE = 256 * MEGABYTE
ANSWERS, DOWNLOADS = at_size(2_000, 20_000), at_size(16, 64)
GIANT_ANSWERS, GIANT_PICTURES = at_size(8, 96), at_size(8, 32)


@pytest.fixture(scope="module")
def idle_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The peak of a run with one item."""
    folder = tmp_path_factory.mktemp("idle")
    write_prompts(folder / "prompts.jsonl", items=1)
    with simulator(folder) as server, run(chat_job(folder, server.base_url)) as living:
        assert living.end().status == 0
    if not living.peak_bytes:
        pytest.skip("the size of a process is read from /proc, which is not here")
    return living.peak_bytes


def stays_small(living: Life, idle_bytes: int, what: str, tried: Tried) -> None:
    above = living.peak_bytes - idle_bytes
    tried(f"MB above idle: {what}", above // MEGABYTE)
    assert above < MOST_ABOVE_IDLE, f"{what}: {above // MEGABYTE} MB above the {idle_bytes // MEGABYTE} MB of one item"


def test_many_answers_take_no_more_memory_than_few(tmp_path: Path, idle_bytes: int, tried: Tried) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=ANSWERS)
    with simulator(tmp_path, "--faults", CHAT_FAULTS) as server, run(chat_job(tmp_path, server.base_url)) as living:
        ended = living.end()
    assert ended.status == 0, ended.stderr
    texts_are_what_was_sent(tmp_path / "outputs" / "answers", prompts)
    stays_small(living, idle_bytes, f"{ANSWERS} answers", tried)


@pytest.mark.parametrize("at_once", [8, 64] if TORTURE else [64])
@pytest.mark.parametrize("name", GIANTS)
def test_giant_answers_are_kept_or_refused_in_bounded_memory(
    tmp_path: Path, idle_bytes: int, tried: Tried, name: str, at_once: int
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", items=GIANT_ANSWERS)
    job = tmp_path / "giants.yaml"
    giant = GIANTS[name]
    with giant_server(giant) as base_url:
        job.write_text(f"""
provider: {{preset: openai, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
model: m
stream: {str(giant.media_type == "text/event-stream").lower()}
prompts: {{file: prompts.jsonl}}
limits: {{concurrency: {at_once}}}
retry: {{attempts: 1}}
""")
        with run(job) as living:
            ended = living.end()
    out = tmp_path / "outputs" / "giants"
    assert ended.status == (1 if name in REFUSED else 0), ended.stderr[-2000:]
    assert len(json_lines(out / "results.jsonl")) == (0 if name in REFUSED else GIANT_ANSWERS)
    is_intact(out)
    stays_small(living, idle_bytes, f"{GIANT_ANSWERS} answers, {name}, {at_once} at once", tried)


def test_downloads_beyond_the_cap_are_cut_off_in_bounded_memory(tmp_path: Path, idle_bytes: int, tried: Tried) -> None:
    write_prompts(tmp_path / "prompts.jsonl", items=DOWNLOADS)
    with simulator(tmp_path, "--scenario", "dl-huge", "--latency", "task=0") as server:
        job = image_job(tmp_path, server.base_url, in_flight=DOWNLOADS)
        with run(job, "--set", "timeouts.task_s=5") as living:
            ended = living.end()
    assert ended.status == 3, ended
    assert ended.report["items"]["done"] == 0
    stays_small(living, idle_bytes, f"{DOWNLOADS} pictures beyond the cap", tried)


@pytest.mark.parametrize("at_once", [2, 16] if TORTURE else [16])
def test_giant_pictures_inside_of_replies_are_kept_in_bounded_memory(
    tmp_path: Path, idle_bytes: int, tried: Tried, at_once: int
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", items=GIANT_PICTURES)
    job = tmp_path / "giants.yaml"
    with giant_server(PICTURES) as base_url:
        job.write_text(f"""
provider: {{preset: openai, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
kind: image
model: m
prompts: {{file: prompts.jsonl}}
limits: {{concurrency: {at_once}}}
retry: {{attempts: 1}}
""")
        with run(job) as living:
            ended = living.end()
    assert ended.status == 0, ended.stderr[-2000:]
    stays_small(living, idle_bytes, f"{GIANT_PICTURES} pictures of 35 MB, {at_once} at once", tried)
