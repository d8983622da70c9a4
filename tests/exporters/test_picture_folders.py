"""`hf`, `imagefolder`, `captions`, `webdataset`: read back by `datasets`, `webdataset` and Pillow."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from webdataset import tariterators

import batchrunner
from batchrunner.core.errors import JobMistakesError
from batchrunner.core.exports import Exported, ExportOptions
from batchrunner.report.wording import export_words
from tests.support.engine import RunHarness, chat, image

PROMPTS = ("A boat\non a lake", "A barn", "猫在窗边", "=cmd|' /C calc'!A0", "\x00 and \x85")


@pytest.fixture
def drawn(harness: RunHarness) -> RunHarness:
    harness.run(image(*PROMPTS, more="matrix: {seed: [1, 2]}"))
    return harness


def export(harness: RunHarness, to: str, **options: Any) -> Exported:
    exported = batchrunner.export(str(harness.out), to=to, options=ExportOptions(**options))
    assert exported.exit_status == 0
    return exported


def loaded(exported: Exported, **options: Any) -> Any:
    assert exported.path is not None
    cache = Path(exported.path).parent.parent / "cache"
    return datasets.load_dataset(exported.path, cache_dir=str(cache), **options)


def results(harness: RunHarness) -> list[dict[str, Any]]:
    return sorted(batchrunner.results(str(harness.out)), key=lambda row: row["index"])


def same_picture(harness: RunHarness, row: dict[str, Any], shown: Image.Image) -> bool:
    with Image.open(harness.out / row["output"]["images"][0]["path"]) as stored:
        return stored.size == shown.size and stored.convert("RGB").tobytes() == shown.convert("RGB").tobytes()


def test_datasets_finds_rows_and_pictures_in_hf(drawn: RunHarness) -> None:
    found = loaded(export(drawn, "hf"), split="train")
    rows = results(drawn)
    assert isinstance(found.features["image"], datasets.Image)
    assert len(found) == len(rows) == 10
    for row, read in zip(rows, found, strict=True):
        assert (read["id"], read["prompt"], read["params.seed"]) == (row["id"], row["prompt"], row["params"]["seed"])
        assert read["started_at"].isoformat(timespec="milliseconds").replace("+00:00", "Z") == row["started_at"]
        assert same_picture(drawn, row, read["image"])


def test_hf_has_splits_and_shards_and_loads_without_the_card_too(drawn: RunHarness) -> None:
    exported = export(drawn, "hf", split=(("train", 0.6), ("test", 0.4)), shard_bytes=4_000)
    assert exported.path is not None
    names = sorted(path.name for path in (Path(exported.path) / "data").iterdir())
    assert len(names) > 2
    assert {name.partition("-of-")[2] for name in names if name.startswith("train")} == {
        f"{sum(name.startswith('train') for name in names):05}.parquet"
    }
    found = loaded(exported)
    assert {name: len(split) for name, split in found.items()} == exported.splits
    sides = {name: set(split["prompt_id"]) for name, split in found.items()}
    assert not sides["train"] & sides["test"]
    (Path(exported.path) / "README.md").unlink()
    again = loaded(exported, download_mode="force_redownload")
    assert isinstance(again["test"].features["image"], datasets.Image)
    assert {name: len(split) for name, split in again.items()} == exported.splits


@pytest.mark.parametrize("to", ["hf", "jsonl", "csv", "parquet"])
def test_a_split_to_which_no_row_fell_is_left_out_and_reported_and_the_others_load(drawn: RunHarness, to: str) -> None:
    exported = export(drawn, to, limit=1, split=(("train", 0.5), ("validation", 0.2), ("test", 0.3)))
    assert sorted(exported.splits.values()) == [0, 0, 1]
    found = loaded(exported)
    assert {name: len(split) for name, split in found.items()} == {
        name: rows for name, rows in exported.splits.items() if rows
    }
    empty = " and ".join(name for name, rows in exported.splits.items() if not rows)
    assert f"no rows fell to {empty}, so the folder has no such split" in export_words(exported)


def test_the_card_of_hf_names_no_place_of_this_machine(drawn: RunHarness) -> None:
    exported = export(drawn, "hf")
    assert exported.path is not None
    card = (Path(exported.path) / "README.md").read_text("utf-8")
    assert str(drawn.folder) not in card
    assert "://" not in card
    assert "synthetic" in card
    assert "(simulated)" in card


@pytest.mark.parametrize(
    ("prompts", "shown"),
    [
        ({"path": "/home/me/rows.csv", "run": False, "count": None}, '"file": "rows.csv"'),
        ({"path": "/home/me/outputs/step1", "run": True, "count": None}, '"run": "step1"'),
        ({"path": ".", "run": False, "count": 15}, '"count": 15'),
    ],
)
def test_the_card_of_hf_states_what_a_job_read_without_the_places(
    drawn: RunHarness, prompts: dict[str, Any], shown: str
) -> None:
    path = drawn.out / "run.json"
    run = json.loads(path.read_text("utf-8"))
    places = {"python": "/home/me/mine.py:right", "judge": "/home/me/judges/helpful.yaml", "equals": "and/or"}
    run["job"]["checks"] = [{"name": kind, "kind": kind, "expected": text} for kind, text in places.items()]
    run["job"]["prompts"] = {**prompts, "template": "x"}
    path.write_text(json.dumps(run), "utf-8")
    exported = export(drawn, "hf")
    assert exported.path is not None
    card = (Path(exported.path) / "README.md").read_text("utf-8")
    assert shown in card
    assert "/home/me" not in card
    assert [f'"{name}"' in card for name in ("mine.py:right", "helpful.yaml", "and/or")] == [True] * 3


@pytest.mark.parametrize("how", ["path", "none"])
def test_hf_takes_paths_or_nothing_of_pictures_when_asked(drawn: RunHarness, how: str) -> None:
    found = loaded(export(drawn, "hf", images=how), split="train")
    assert "image" not in found.column_names
    expected = [row["output"]["images"][0]["path"] for row in results(drawn)]
    assert (list(found["output.images"]) == expected) if how == "path" else ("output.images" not in found.column_names)


def test_datasets_finds_every_picture_of_an_imagefolder_with_its_caption(drawn: RunHarness) -> None:
    exported = export(drawn, "imagefolder", split=(("train", 0.5), ("test", 0.5)))
    found = loaded(exported)
    rows = {row["id"]: row for row in results(drawn)}
    read = [line for split in found.values() for line in split]
    assert {line["id"] for line in read} == set(rows)
    assert len(read) == exported.rows == len(rows)
    for line in read:
        row = rows[line["id"]]
        assert line["text"] == line["prompt"] == row["prompt"]
        assert json.loads(line["params"]) == row["params"]
        assert same_picture(drawn, row, line["image"])


def test_captions_are_pairs_of_a_picture_and_a_line_of_text(drawn: RunHarness) -> None:
    exported = export(drawn, "captions")
    assert exported.path is not None
    folder = Path(exported.path)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().splitlines()]
    rows = results(drawn)
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in rows]
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), 1):
        assert line["image"] == f"{number:04}.png"
        text = (folder / f"{number:04}.txt").read_bytes().decode()
        assert text == " ".join(row["prompt"].split())
        with Image.open(folder / line["image"]) as shown:
            assert same_picture(drawn, row, shown)
    assert len(list(folder.iterdir())) == 2 * len(rows) + 2


def test_captions_come_from_a_run_that_was_shown_the_pictures(drawn: RunHarness, tmp_path: Path) -> None:
    rows = results(drawn)
    described = RunHarness(folder=tmp_path / "captions")
    described.folder.mkdir()
    described.run(chat(*(f"Describe {number}" for number in range(3))))
    path = described.out / "results.jsonl"
    told = [json.loads(line) for line in path.read_bytes().splitlines()]
    for row, line in zip(rows, told, strict=False):
        line["images"] = [{"name": "x.png", "sha256": row["output"]["images"][0]["sha256"]}]
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in told))
    for to in ("captions", "imagefolder"):
        exported = export(drawn, to, caption=str(described.out))
        assert (exported.rows, exported.left_out) == (3, {"pictures without a caption (--caption)": 7})
        assert exported.path is not None
        (metadata,) = Path(exported.path).rglob("metadata.jsonl")
        lines = [json.loads(line) for line in metadata.read_bytes().splitlines()]
        assert [line.get("prompt") if to == "captions" else line["text"] for line in lines] == [
            line["output"]["text"] for line in told
        ]


def test_simulated_captions_are_refused_for_real_pictures(drawn: RunHarness, tmp_path: Path) -> None:
    described = RunHarness(folder=tmp_path / "captions")
    described.folder.mkdir()
    described.run(chat("Describe it"))
    path = drawn.out / "run.json"
    path.write_text(path.read_text().replace('"simulated": true', '"simulated": false', 1))
    with pytest.raises(JobMistakesError, match="is a simulated run, which says nothing about real pictures"):
        batchrunner.export(str(drawn.out), to="captions", options=ExportOptions(caption=str(described.out)))


@pytest.mark.parametrize("shard_bytes", [None, 15_000])
def test_webdataset_reads_pictures_captions_and_rows(drawn: RunHarness, shard_bytes: int | None) -> None:
    exported = export(drawn, "webdataset", shard_bytes=shard_bytes)
    assert exported.path is not None
    place = Path(exported.path)
    shards = [place] if shard_bytes is None else sorted(place.glob("train-*.tar"))
    assert (len(shards) > 1) == (shard_bytes is not None)
    samples: list[dict[str, Any]] = []
    for shard in shards:  # opened here: `WebDataset` leaves files open
        with shard.open("rb") as stream:
            files = tariterators.tar_file_expander([{"url": shard.name, "stream": stream}])
            samples += tariterators.group_by_keys(files)
    rows = results(drawn)
    assert len(samples) == len(rows)
    for row, sample in zip(rows, samples, strict=True):
        assert json.loads(sample["json"]) == row
        assert sample["txt"].decode() == row["prompt"]
        with Image.open(io.BytesIO(sample["png"])) as shown:
            assert same_picture(drawn, row, shown)
    if shard_bytes is None:
        return
    found = loaded(exported, split="train")
    assert [line["txt"] for line in found] == [row["prompt"] for row in rows]
    assert all(same_picture(drawn, row, line["png"]) for row, line in zip(rows, found, strict=True))


@pytest.mark.parametrize("to", ["hf", "imagefolder", "captions"])
def test_a_picture_that_is_gone_leaves_the_others(drawn: RunHarness, to: str) -> None:
    rows = results(drawn)
    (drawn.out / rows[0]["output"]["images"][0]["path"]).unlink()
    exported = batchrunner.export(str(drawn.out), to=to)
    assert (exported.pictures_missing, exported.exit_status) == (1, 4)
    if to == "captions":
        assert exported.rows == 9
        return
    found = loaded(exported, split="train")
    assert sum(line["image"] is not None for line in found) == 9
    assert len(found) == (10 if to == "hf" else 9)


@pytest.mark.parametrize("to", ["hf", "imagefolder", "captions", "webdataset"])
def test_an_export_of_a_run_without_pictures_reports_it(harness: RunHarness, to: str) -> None:
    harness.run(chat("One", "Two"))
    exported = export(harness, to)
    if to in ("imagefolder", "captions"):
        assert (exported.rows, exported.left_out) == (0, {"rows without a picture": 2})
    elif to == "hf":
        found = loaded(exported, split="train")
        assert list(found["output.text"]) == [row["output"]["text"] for row in results(harness)]
