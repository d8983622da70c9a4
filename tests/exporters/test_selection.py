"""Which rows are exported, and into which split."""

import json
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.core.exports import Exported, ExportOptions, ExportPart
from batchrunner.stores.export_folder import OutgoingFolder
from tests.support.engine import RunHarness, chat


@pytest.fixture
def asked(harness: RunHarness) -> RunHarness:
    more = "matrix: {temperature: [0, 1]}"
    harness.run(chat(*(f"Question {number}" for number in range(30)), more=more))
    return harness


def export(harness: RunHarness, to: str = "jsonl", out: str | None = None, **options: Any) -> Exported:
    return batchrunner.export(str(harness.out), to=to, out=out, options=ExportOptions(**options))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def exported_rows(exported: Exported) -> list[dict[str, Any]]:
    assert exported.path is not None
    found = rows(Path(exported.path))
    assert len(found) == exported.rows
    return found


def refused(harness: RunHarness, **options: Any) -> str:
    with pytest.raises(JobMistakesError) as caught:
        export(harness, **options)
    assert not (harness.out / "export").exists() or not any((harness.out / "export").iterdir())
    return str(caught.value)


def test_a_condition_chooses_rows_and_the_others_are_counted(asked: RunHarness) -> None:
    exported = export(
        asked, where="temperature == 1 and prompt != 'Question 3'".replace("temperature", "params.temperature")
    )
    found = exported_rows(exported)
    assert len(found) == 29
    assert {row["params"]["temperature"] for row in found} == {1}
    assert list(exported.left_out.values()) == [31]
    assert [row["index"] for row in found] == sorted(row["index"] for row in found)


def test_ids_choose_rows_and_unknown_ones_are_counted(asked: RunHarness) -> None:
    wanted = [row["id"] for row in rows(asked.out / "results.jsonl")][:2]
    exported = export(asked, only=(*wanted, "nobody"))
    assert {row["id"] for row in exported_rows(exported)} == set(wanted)
    assert exported.left_out == {"not asked for (--only)": 58, "ids of --only that have no row": 1}


def test_marks_choose_rows_by_key_or_id(asked: RunHarness) -> None:
    first, second, third = rows(asked.out / "results.jsonl")[:3]
    lines = [
        {"id": "renamed", "key": first["key"], "mark": "4", "note": None},
        {"id": second["id"], "mark": 5},
        {"id": third["id"], "key": third["key"], "mark": "x", "note": "bad"},
        {"id": "noted", "key": "0" * 32, "mark": None, "note": "only a note"},
    ]
    marks = asked.folder / "marks.jsonl"
    marks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    good = export(asked, marks=str(marks), mark=("4", "5"))
    assert {row["id"] for row in exported_rows(good)} == {first["id"], second["id"]}
    assert export(asked, marks=str(marks)).rows == 3


def test_a_limit_takes_the_first_rows_of_those_that_were_chosen(asked: RunHarness) -> None:
    exported = export(asked, where="params.temperature == 1", limit=3)
    assert [row["prompt"] for row in exported_rows(exported)] == ["Question 0", "Question 1", "Question 2"]
    assert exported.left_out["beyond --limit"] == 27


SPLIT = (("train", 0.7), ("test", 0.2))


def sides(exported: Exported) -> dict[str, set[str]]:
    assert exported.path is not None
    found = {name: rows(Path(exported.path) / f"{name}.jsonl") for name in ("train", "test")}
    assert {name: len(lines) for name, lines in found.items()} == exported.splits
    return {name: {line["prompt_id"] for line in lines} for name, lines in found.items()}


def test_a_split_never_puts_one_prompt_on_both_sides(asked: RunHarness) -> None:
    for seed in range(5):
        exported = export(asked, split=SPLIT, seed=seed)
        found = sides(exported)
        assert not found["train"] & found["test"]
        assert min(map(len, found.values())) > 0
        assert exported.rows + exported.left_out.get("in no split", 0) == 60


def test_a_split_is_the_same_again_and_stays_when_rows_are_added(asked: RunHarness) -> None:
    before = sides(export(asked, split=SPLIT))
    assert sides(export(asked, split=SPLIT)) == before
    assert sides(export(asked, split=SPLIT, seed=1)) != before
    asked.run(chat(*(f"Question {number}" for number in range(60)), more="matrix: {temperature: [0, 1]}"))
    after = sides(export(asked, split=SPLIT))
    for name, prompts in before.items():
        assert prompts < after[name]


def test_shares_of_many_prompts_come_near_to_what_was_asked_for(harness: RunHarness) -> None:
    harness.run(chat(*(f"Question {number}" for number in range(1000))))
    found = sides(export(harness, split=SPLIT))
    assert abs(len(found["train"]) - 700) < 60
    assert abs(len(found["test"]) - 200) < 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": "pompt == 1"}, "pompt"),
        ({"where": "{{ 1 +"}, "--where"),
        ({"split": (("a", 0.9), ("b", 0.2))}, "come to 1 at most"),
        ({"split": (("a", 0.5), ("a", 0.2))}, "is not the name of a split"),
        ({"split": (("a", 0.5), ("A", 0.2))}, "is not the name of a split"),
        ({"split": (("../a", 0.5),)}, "is not the name of a split"),
        ({"split": (("a", 0.5),), "split_by": "topic"}, "has no `topic`"),
        ({"marks": "/nowhere/marks.jsonl"}, "cannot be read"),
    ],
)
def test_what_cannot_choose_is_a_mistake_and_nothing_is_written(
    asked: RunHarness, options: dict[str, Any], words: str
) -> None:
    assert words in refused(asked, **options)


def test_a_file_that_holds_no_marks_is_a_mistake(asked: RunHarness) -> None:
    marks = asked.folder / "marks.jsonl"
    for content in ("no json", '{"mark": 4}', "[1]"):
        marks.write_text(content)
        assert "is not a mark" in refused(asked, marks=str(marks))


# -- folders


def test_a_folder_replaces_an_earlier_export_and_nothing_else(asked: RunHarness) -> None:
    place = asked.out / "export/job-jsonl"
    assert not export(asked, split=SPLIT).replaced
    assert export(asked, split=(("all", 1.0),)).replaced
    assert sorted(path.name for path in place.iterdir()) == [".batchrunner-export", "all.jsonl"]
    for name in ("mine.txt", "all.jsonl"):
        (place / "mine.txt").unlink(missing_ok=True)
        (place / name).write_text("edited")
        with pytest.raises(JobMistakesError, match="was added or changed since the earlier export"):
            export(asked, split=SPLIT)
    assert (place / "all.jsonl").read_text() == "edited"
    assert sorted(path.name for path in (asked.out / "export").iterdir()) == ["job-jsonl"]


@pytest.mark.parametrize("stands", ["file", "folder", "link"])
def test_a_folder_is_never_put_in_the_place_of_other_things(asked: RunHarness, stands: str) -> None:
    place = asked.out / "export/job-jsonl"
    place.parent.mkdir()
    if stands == "file":
        place.write_text("mine")
    elif stands == "folder":
        place.mkdir()
    else:
        place.symlink_to(asked.folder)
    with pytest.raises(JobMistakesError, match="is not an earlier export"):
        export(asked, split=SPLIT)
    with pytest.raises(JobMistakesError, match="already exists"):
        export(asked, split=SPLIT, out=str(place))
    assert [path.name for path in place.parent.iterdir()] == ["job-jsonl"]


def test_a_folder_that_could_not_be_finished_leaves_the_earlier_one(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with OutgoingFolder(place, replaces=True) as folder:
        folder.write(ExportPart(path="a/b.txt", content=b"first"))
        folder.finish()

    def half(trouble: type[BaseException]) -> None:
        with OutgoingFolder(place, replaces=True) as folder:
            folder.write(ExportPart(path="a/b.txt", content=b"second", more=True))
            raise trouble

    for trouble in (KeyboardInterrupt, StoreBrokenError):
        with pytest.raises(trouble):
            half(trouble)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (place / "a/b.txt").read_bytes() == b"first"


def test_what_a_killed_export_left_is_removed_by_the_next_one_unless_it_lives(tmp_path: Path) -> None:
    (tmp_path / ".123-4.unfinished").mkdir()
    (tmp_path / ".123-4.unfinished/half").write_text("half")
    with OutgoingFolder(tmp_path / "a", replaces=False) as living:
        assert len(list(tmp_path.iterdir())) == 1
        with OutgoingFolder(tmp_path / "b", replaces=False) as other:
            other.write(ExportPart(path="x", content=b"x"))
            other.finish()
        living.write(ExportPart(path="y", content=b"y"))
        living.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_run_goes_on_beside_what_a_killed_export_left(asked: RunHarness) -> None:
    half = asked.out / "export/.123-4.unfinished"
    half.mkdir(parents=True)
    (half / "half").write_text("half")
    assert asked.run(chat("One more")).exit_status == 0
    export(asked, split=SPLIT)
    assert not half.exists()
    assert [finding.kind for finding in batchrunner.verify(str(asked.out)).findings] == []
