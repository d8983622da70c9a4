"""Pictures that are like an earlier one, of their prompt or of the whole run; judged by comparing each with each."""

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchrunner.evaluation.check_kinds import CheckBrokenError
from batchrunner.report.picture_scores import PictureScores
from batchrunner.stores.picture_checks import look_of

Row = dict[str, Any]


def painted(seed: int, *, side: int = 72) -> Image.Image:
    random_source = random.Random(seed)
    picture = Image.frombytes("L", (9, 8), random_source.randbytes(72))
    return picture.convert("RGB").resize((side, side))


def row_of(folder: Path, name: str, picture: Image.Image, *, prompt: str, sha256: str | None = None) -> Row:
    picture.save(folder / name)
    return {
        "id": name.partition(".")[0],
        "prompt_id": prompt,
        "output": {"images": [{"path": name, "sha256": sha256 or name}]},
    }


@pytest.mark.parametrize(
    ("prompt", "in_prompt", "in_run"), [("cat", "pass", "pass"), ("dog", "fail", "pass")], ids=["same", "another"]
)
@pytest.mark.parametrize("form", ["b.png", "b.jpg", "small.png"])
def test_a_version_of_an_earlier_picture_is_found_in_its_prompt_and_in_the_whole_run(
    tmp_path: Path, prompt: str, in_prompt: str, in_run: str, form: str
) -> None:
    scores = PictureScores(tmp_path)
    other = painted(1, side=36 if form == "small.png" else 72)
    rows = [row_of(tmp_path, "a.png", painted(1), prompt="cat"), row_of(tmp_path, form, other, prompt=prompt)]
    for name, verdict in (("duplicate", in_prompt), ("duplicate_in_run", in_run)):
        first, second = (scores.score(name, row) for row in rows)
        assert (first.verdict, second.verdict) == ("fail", verdict)
        assert (second.reason == "the picture is like that of a") == (verdict == "pass")


@pytest.mark.parametrize("name", ["duplicate", "duplicate_in_run"])
def test_the_same_bytes_are_found_whatever_the_prompt_and_blank_pictures_are_like_none(
    tmp_path: Path, name: str
) -> None:
    scores = PictureScores(tmp_path)
    blank = Image.new("RGB", (64, 64))
    rows = [
        row_of(tmp_path, "a.png", painted(1), prompt="cat", sha256="aa"),
        row_of(tmp_path, "b.png", painted(1), prompt="dog", sha256="aa"),
        row_of(tmp_path, "c.png", blank, prompt="cat", sha256="bb"),
        row_of(tmp_path, "d.png", blank, prompt="cat", sha256="bb"),
    ]
    assert [scores.score(name, row).verdict for row in rows] == ["fail", "pass", "fail", "fail"]


def test_several_checks_of_one_row_never_find_it_like_itself(tmp_path: Path) -> None:
    scores = PictureScores(tmp_path)
    for number in range(3):
        row = row_of(tmp_path, f"{number}.png", painted(number), prompt="cat")
        for name in ("duplicate", "blank", "duplicate_in_run", "duplicate", "duplicate_in_run"):
            assert scores.score(name, row).verdict == "fail", (number, name)


def test_a_picture_that_is_gone_breaks_its_own_checks_and_no_other_ones(tmp_path: Path) -> None:
    scores = PictureScores(tmp_path)
    whole, gone = (row_of(tmp_path, f"{number}.png", painted(1), prompt="cat") for number in range(2))
    (tmp_path / "1.png").unlink()
    assert scores.score("duplicate_in_run", whole).verdict == "fail"
    for name in ("blank", "duplicate", "duplicate_in_run"):
        with pytest.raises(CheckBrokenError, match=r"1\.png is not there"):
            scores.score(name, gone)
    assert scores.score("duplicate_in_run", row_of(tmp_path, "2.png", painted(1), prompt="dog")).verdict == "pass"


def test_what_is_found_in_a_run_is_what_comparing_each_with_each_finds(tmp_path: Path) -> None:
    scores, hashes, found = PictureScores(tmp_path), list[int](), 0
    random_source = random.Random(5)
    for number in range(300):
        picture = painted(random_source.randrange(12))
        for _ in range(random_source.randrange(12)):  # versions that differ in few bits, and in too many
            x, y = random_source.randrange(72), random_source.randrange(72)
            picture.paste(random_source.choice(("black", "white")), (x, y, x + 10, y + 10))
        row = row_of(tmp_path, f"{number}.bmp", picture, prompt=str(number))
        look = look_of((tmp_path / f"{number}.bmp").read_bytes())
        assert look is not None
        expected = any((look.hash64 ^ other).bit_count() <= 2 for other in hashes)
        assert (scores.score("duplicate_in_run", row).verdict == "pass") is expected
        hashes.append(look.hash64)
        found += expected
    assert 30 < found < 270, "there are some of both"
