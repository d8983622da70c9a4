"""What the dialects have in common once they run: quotas are quotas, usage is kept, pictures reach the wire."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchrunner.core.errors import ExitStatus
from batchrunner.simulator.script import Call, Script
from tests.support.engine import RunHarness, World, image

DIALECTS = [
    ("chat", "openai-chat", "sim/chat"),
    ("chat", "anthropic-messages", "sim/chat"),
    ("chat", "openai-responses", "sim/chat"),
    ("image", "modelscope-images", "Qwen/Qwen-Image"),
    ("image", "openai-images", "dall-e-2"),
    ("embedding", "openai-embeddings", "sim/vectors"),
    ("transcription", "openai-transcriptions", "whisper-1"),
]


def job(kind: str, dialect: str, model: str, *, more: str = "") -> str:
    """Three prompts."""
    provider = f"provider: {{preset: simulator, dialect: {dialect}}}"
    return f'name: job\n{provider}\nkind: {kind}\nmodel: "{model}"\nprompts: [a, b, c]\n{more}\n'


@pytest.mark.parametrize("way", DIALECTS, ids=lambda way: way[1])
@pytest.mark.parametrize(("told", "calls"), [("quota_model", 0), ("quota_model", 1), ("quota_account", 1)])
def test_a_spent_quota_parks_in_every_dialect_and_charges_no_attempt(
    tmp_path: Path, way: tuple[str, str, str], told: str, calls: int
) -> None:
    harness = RunHarness(tmp_path, world=World(scenario=f"{told.replace('_', '-')}:{calls}"))
    limits = "{concurrency: 1, inputs_per_request: 1}" if way[0] == "embedding" else "{concurrency: 1}"
    sound = 'files: ["sound.mp3"]\n' if way[0] == "transcription" else ""
    (tmp_path / "sound.mp3").write_bytes(b"ID3 a sound")
    report = harness.run(job(*way, more=f"on_quota: stop\nlimits: {limits}\n{sound}"))
    assert report.exit_status is ExitStatus.PAUSED
    assert {event["kind"] for event in harness.events("parked")} == {told}, "by its words, or by the headers before it"
    assert [row["attempts"] for row in harness.rows()] == [1] * calls
    assert harness.events("retry") == []


def test_a_picture_that_came_as_a_url_keeps_its_usage(harness: RunHarness) -> None:
    report = harness.run(job("image", "openai-images", "dall-e-2", more="params: {size: 64x64}"))
    usages = [row["usage"] for row in harness.rows()]
    assert [usage["output_tokens"] for usage in usages] == [1056] * 3
    assert report.status.usage.output_tokens == 3 * 1056
    assert harness.events("ready")[0]["output_tokens"] == 1056


def test_so_does_one_that_a_later_run_fetches(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="dl-404"))
    text = job("image", "openai-images", "dall-e-2", more="params: {size: 64x64}")
    assert harness.run(text).exit_status is ExitStatus.PAUSED
    assert (harness.stats.sends, harness.rows()) == (3, [])
    harness.world = World()
    assert harness.run(text).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 0, "nothing is ordered again"
    assert [row["usage"]["output_tokens"] for row in harness.rows()] == [1056] * 3


class Noticing(World):
    """A provider that remembers the bodies of its POSTs."""

    bodies: list[dict[str, Any]]

    def answer(self, call: Call, now: float) -> Script:
        """As ever."""
        if call.method == "POST":
            self.__dict__.setdefault("bodies", []).append(json.loads(call.body))
        return super().answer(call, now)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("[a.png]", ["data:image/png;base64,"]),
        ("[https://h.example/a.png]", "https://h.example/a.pn"),
        ("[a.png, https://h.example/a.png]", ["data:image/png;base64,", "https://h.example/a.pn"]),
    ],
)
def test_pictures_to_edit_go_as_a_url_or_as_a_list(tmp_path: Path, given: str, sent: object) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    world = Noticing()
    harness = RunHarness(tmp_path, world=world)
    report = harness.run(image("make it winter", model="Qwen/Qwen-Image-Edit", more=f"images: {given}"))
    said = world.bodies[0]["image_url"]
    assert report.exit_status is ExitStatus.DONE
    assert (said[:22] if isinstance(said, str) else [url[:22] for url in said]) == sent
    assert "data:" not in (harness.out / "results.jsonl").read_text()
