"""`plan` and the disk: what files will need is measured, never guessed, and said beside what is free."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batchrunner.cli.main import main

JOB = "name: job\nprovider: simulator\nkind: image\nmodel: sim/painter\nprompts: [a, b, c, d, e, f]\n"
Planned = Callable[..., Any]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(name="plan")
def _plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Planned:
    """(its JSON, its text) on a disk with so much free; in this process, so that the disk can be another."""
    monkeypatch.chdir(tmp_path)

    def plan(*more: str, free_bytes: int) -> tuple[Any, str]:
        monkeypatch.setattr("batchrunner.report.disk_space.shutil.disk_usage", lambda _: Usage(1, 1, free_bytes))
        capsys.readouterr()
        assert main(["plan", "job.yaml", "--json", *more]) == 0
        told = json.loads(capsys.readouterr().out)
        assert main(["plan", "job.yaml", *more]) == 0
        return told, capsys.readouterr().err

    return plan


def test_a_plan_states_what_files_will_need_from_what_came_so_far(plan: Planned) -> None:
    Path("job.yaml").write_text(JOB)
    told, words = plan(free_bytes=3_000_000_000)
    assert told["disk"] == {"items": 6, "measured": 0, "needed_bytes": None, "free_bytes": 3_000_000_000}
    assert "unknown until a first file is there; 3.0 GB free" in words
    main(["run", "job.yaml", "--limit", "2"])
    told, words = plan(free_bytes=3_000_000_000)
    folder = Path(told["dir"])
    drawn = [path.stat().st_size for path in (folder / "images").iterdir()]
    thumbs = [path.stat().st_size for path in (folder / "thumbs").rglob("*.webp")]
    assert (told["disk"]["items"], told["disk"]["measured"]) == (4, 2)
    assert told["disk"]["needed_bytes"] == round(4 * (sum(drawn) / 2 + sum(thumbs) / len(thumbs)))
    assert "from 2 files so far; 3.0 GB free" in words
    assert "make room" not in words
    told, words = plan(free_bytes=20_000)
    assert "of 4 items: make room, or name another `output.dir`" in words


def test_videos_that_came_are_measured_as_pictures_are(plan: Planned) -> None:
    provider = "provider: {dialect: task, task: openai-videos, base_url: 'http://127.0.0.1:9/v1'}"
    Path("job.yaml").write_text(JOB.replace("kind: image", "kind: media").replace("provider: simulator", provider))
    main(["run", "job.yaml", "--limit", "2", "--simulate"])
    told, _ = plan("--simulate", free_bytes=3_000_000_000)
    films = [path.stat().st_size for path in (Path(told["dir"]) / "media").iterdir()]
    assert (told["disk"]["items"], told["disk"]["measured"]) == (4, 2)
    assert told["disk"]["needed_bytes"] == round(4 * sum(films) / 2)


def test_a_plan_without_files_to_make_states_nothing_of_the_disk(plan: Planned) -> None:
    Path("job.yaml").write_text("name: job\nprovider: simulator\nmodel: m\nprompts: [a]\n")
    assert plan(free_bytes=1)[0]["disk"] is None
    Path("job.yaml").write_text(JOB)
    main(["run", "job.yaml"])
    assert plan(free_bytes=1)[0]["disk"] is None
