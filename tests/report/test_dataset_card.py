"""The dataset card of a run's directory: what `datasets` makes of it, and what it leaves alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner import api
from batchrunner.report.dataset_card import MARKER, write_card
from tests.support.engine import RunHarness, World, chat, image

CHAT = chat("one", "two", "three", more='matrix: {tone: [kind, curt]}\noutput: {each: "answers/{{ id }}.md"}')


@pytest.fixture
def harness(tmp_path: Path) -> RunHarness:
    return RunHarness(tmp_path, World())


def card_of(harness: RunHarness) -> str:
    return (harness.out / "README.md").read_text("utf-8")


def front_matter(harness: RunHarness) -> dict[str, Any]:
    before, text, _ = card_of(harness).split("---\n", 2)
    assert before == ""
    return dict(yaml.safe_load(text))


def loaded(folder: Path, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_run_ends_with_a_card_that_names_its_rows_and_no_place_of_this_machine(harness: RunHarness) -> None:
    harness.run(CHAT)
    assert front_matter(harness)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": ["results.jsonl"]}]}
    ]
    assert str(harness.folder) not in card_of(harness)
    assert str(Path.home()) not in card_of(harness)
    assert api.verify(str(harness.out)).findings == ()


def test_pictures_are_listed_with_their_prompts(harness: RunHarness) -> None:
    harness.run(image("a boat", "a barn"))
    lines = [json.loads(line) for line in (harness.out / "metadata.jsonl").read_text().splitlines()]
    assert sorted(line["prompt"] for line in lines) == ["a barn", "a boat"]
    assert all((harness.out / line["file_name"]).is_file() for line in lines)
    assert front_matter(harness)["configs"][0]["data_files"][0]["path"] == ["metadata.jsonl", "images/*"]
    assert api.verify(str(harness.out)).findings == ()


def test_a_readme_of_somebody_else_stays_and_one_of_ours_is_replaced(harness: RunHarness) -> None:
    harness.run(CHAT)
    for text in ("# My data\n", "---\nlicense: mit\n---\n", f"{MARKER}\n", ""):
        (harness.out / "README.md").write_text(text)
        write_card(harness.out)
        assert card_of(harness) == text
    (harness.out / "README.md").write_text(f"---\n{MARKER}\nold: 1\n---\n")
    write_card(harness.out)
    assert "old" not in card_of(harness)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_no_file_is_left_alone(harness: RunHarness, kind: str, tmp_path: Path) -> None:
    harness.run(CHAT)
    path = harness.out / "README.md"
    path.unlink()
    (tmp_path / "elsewhere").write_text(f"---\n{MARKER}\n")
    path.symlink_to(tmp_path / "elsewhere") if kind == "link" else path.mkdir()
    write_card(harness.out)
    assert path.is_symlink() or path.is_dir()
    assert (tmp_path / "elsewhere").read_text() == f"---\n{MARKER}\n"


def test_without_the_page_there_is_no_card(harness: RunHarness) -> None:
    harness.run(chat("one", more="output: {report: false}"))
    assert not (harness.out / "README.md").exists()


@pytest.mark.parametrize("name", ["a b (c)", "x-1.2", "1e5", "蓝"])
def test_any_name_of_a_job_and_a_model_makes_a_card_that_yaml_reads(harness: RunHarness, name: str) -> None:
    harness.run(CHAT.replace("name: job", f"name: {json.dumps(name)}").replace("sim/chat", "sim/*a*<b>---"))
    assert front_matter(harness)["pretty_name"] == name
    assert "<b>" not in card_of(harness).replace("\\<", "")


def test_datasets_loads_every_answer(harness: RunHarness, tmp_path: Path) -> None:
    harness.run(CHAT)
    rows = loaded(harness.out, tmp_path)
    assert len(rows) == 6
    assert sorted(rows["prompt"]) == sorted(["one", "two", "three"] * 2)
    assert all(output["text"] for output in rows["output"])


def test_datasets_loads_every_picture_with_its_prompt(harness: RunHarness, tmp_path: Path) -> None:
    harness.run(image("a boat", "a barn"))
    rows = loaded(harness.out, tmp_path)
    assert sorted(row["prompt"] for row in rows) == ["a barn", "a boat"]
    assert all(row["image"].size == (64, 64) for row in rows)
    assert {"id", "model", "params"} <= set(rows.column_names)
