"""`scores.jsonl` beside the rows: a line belongs to the answer that it was made of, and to no other."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.exports import ExportRow
from batchrunner.stores.score_file import SCORES, ScoreFile, open_for_more


def line(index: int, *, key: str = "k", passed: bool = True, **more: Any) -> dict[str, Any]:
    scores = {"number": {"verdict": "pass", "value": 18.0}}
    return {"id": f"q{index}", "index": index, "key": f"{key}{index}", "pass": passed, "scores": scores, **more}


def row(index: int, **fields: Any) -> ExportRow:
    made: dict[str, Any] = {"id": f"q{index}", "index": index, "key": f"k{index}", **fields}
    return ExportRow(line=json.dumps(made).encode(), fields=made, outcome="done")


def write(folder: Path, *lines: object) -> None:
    (folder / SCORES).write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))


@pytest.mark.parametrize("order", [range(200), range(199, -1, -1), [*range(100, 200), *range(100)]])
def test_every_row_finds_its_line_whatever_the_order_of_the_lines(tmp_path: Path, order: list[int]) -> None:
    write(tmp_path, *(line(index, mark=index) for index in order))
    with ScoreFile(tmp_path) as scores:
        assert len(scores) == 200
        for index in (0, 7, 199, 3, 100):
            found = scores.of(row(index).fields)
            assert found is not None
            assert found["mark"] == index


def test_a_line_of_an_earlier_answer_is_none_of_this_one(tmp_path: Path) -> None:
    write(tmp_path, line(0, key="other"), line(1))
    with ScoreFile(tmp_path) as scores:
        assert scores.of(row(0).fields) is None
        assert scores.of(row(1).fields) is not None
        assert scores.of({"id": "q1", "key": "k1"}) is None


def test_of_several_lines_of_a_row_the_last_counts(tmp_path: Path) -> None:
    write(tmp_path, line(0), line(1), line(0, passed=False))
    with ScoreFile(tmp_path) as scores:
        found = scores.of(row(0).fields)
    assert found is not None
    assert found["pass"] is False


def test_lines_that_are_no_scores_are_counted_and_the_end_of_one_being_written_is_not(tmp_path: Path) -> None:
    write(tmp_path, line(0), "[]", '{"id": "a"}', line(1))
    with (tmp_path / SCORES).open("a") as file:
        file.write('{"id": "q2", "ind')
    with ScoreFile(tmp_path) as scores:
        assert (len(scores), scores.damaged) == (2, [2, 3])


@pytest.mark.parametrize("index", [2**63, 10**30, -(10**30)])
def test_an_index_that_no_row_can_have_is_no_line_of_scores(tmp_path: Path, index: int) -> None:
    write(tmp_path, line(0), line(index), line(2**63 - 1))
    with ScoreFile(tmp_path) as scores:
        assert (len(scores), scores.damaged) == (2, [2])


def test_a_joined_row_has_its_verdicts_and_its_bytes_as_they_were(tmp_path: Path) -> None:
    write(tmp_path, line(0))
    with ScoreFile(tmp_path) as scores:
        joined, alone = scores.joined(row(0, big=2**80)), scores.joined(row(1))
    assert joined.line.startswith(row(0, big=2**80).line[:-1])
    assert json.loads(joined.line) == joined.fields
    assert joined.fields["pass"] is True
    assert joined.fields["score"] == {"number": 18.0}
    assert joined.fields["verdict"] == {"number": "pass"}
    assert (alone.fields["pass"], alone.fields["score"]) == (None, {})


def test_without_a_file_rows_stay_as_they_are(tmp_path: Path) -> None:
    with ScoreFile(tmp_path) as scores:
        assert scores.joined(row(0)) == row(0)


MADE = b'{"id":"q1","key":"k1","checks":"abc"}\n'


@pytest.mark.parametrize(
    ("there", "kept", "last"),
    [
        (b"", b"", None),
        (MADE, MADE, "k1"),
        (MADE + MADE.replace(b"k1", b"k2"), MADE + MADE.replace(b"k1", b"k2"), "k2"),
        (MADE + MADE[:20], MADE, "k1"),
        (MADE[:20], b"", None),
        (MADE.replace(b"abc", b"xyz") + MADE[:20], b"", None),
        (MADE + b"no scores\n", b"", None),
        (MADE.decode().encode("utf-16"), b"", None),
        (b"x" * 3_000_000, b"", None),
        (b"x" * 3_000_000 + b"\n" + MADE + b"y" * 500_000, b"x" * 3_000_000 + b"\n" + MADE, "k1"),
    ],
)
def test_more_lines_follow_whole_ones_of_the_same_checks_and_nothing_else(
    tmp_path: Path, there: bytes, kept: bytes, last: str | None
) -> None:
    (tmp_path / SCORES).write_bytes(there)
    descriptor, found = open_for_more(tmp_path, digest="abc")
    os.write(descriptor, MADE)
    os.close(descriptor)
    assert found == last
    assert (tmp_path / SCORES).read_bytes() == kept + MADE
