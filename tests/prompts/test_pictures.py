"""Pictures given to a model: files as data URLs, addresses as they are, and nothing else leaves the machine."""

import base64
import os
from hashlib import sha256
from pathlib import Path

import pytest

from batchrunner.core.job import ListedPrompt
from batchrunner.core.values import replace
from batchrunner.prompts import items_of
from batchrunner.prompts.input_pictures import PICTURE_LIMIT_BYTES
from tests.prompts.jobs import items, job_of, listing, mistake, source, stream

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


@pytest.mark.parametrize(
    ("found", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89arest", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPrest", "image/webp"),
    ],
)
def test_a_local_picture_is_sent_as_a_data_url(tmp_path: Path, found: bytes, media_type: str) -> None:
    (tmp_path / "p.bin").write_bytes(found)
    (item,) = items(job_of(listing("what?"), folder=tmp_path, images=("p.bin",)))
    (picture,) = item.pictures
    assert picture.name == "p.bin"
    assert picture.sha256 == sha256(found).hexdigest()
    assert picture.url == f"data:{media_type};base64,{base64.b64encode(found).decode()}"


def test_an_address_is_passed_on(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "prompt,photo\nx,https://h.test/a b.png?c=1\n")
    (picture,) = items(job_of(rows, images=("{{ photo }}",)))[0].pictures
    assert picture.name == picture.url == "https://h.test/a b.png?c=1"
    assert picture.sha256 == sha256(picture.url.encode()).hexdigest()


def test_the_key_follows_the_bytes_not_the_name(tmp_path: Path) -> None:
    for name, found in (("a.png", PNG), ("b.png", PNG), ("c.png", PNG + b"!")):
        (tmp_path / name).write_bytes(found)
    rows = source(tmp_path / "a.csv", "prompt,photo\nx,a.png\nx,b.png\nx,c.png\n")
    one, other, different = items(job_of(rows, folder=tmp_path, images=("{{ photo }}",)))
    assert one.key == other.key != different.key


def test_a_row_without_the_picture_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    text = '{"prompt": 1, "photo": "a.png"}\n{"prompt": 2, "photo": null}\n{"prompt": 3}\n{"prompt": 4, "photo": " "}\n'
    found = items(job_of(source(tmp_path / "a.jsonl", text), folder=tmp_path, images=("{{ photo }}",)))
    assert [len(item.pictures) for item in found] == [1, 0, 0, 0]


def test_an_image_template_that_no_row_can_fill_is_a_mistake(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", '{"prompt": 1, "photo": "a.png"}\n')
    assert "did you mean `photo`?" in mistake(job_of(rows, images=("{{ phto }}",)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.png", "cannot be read: No such file"),
        ("text.png", "is not a PNG, JPEG, WEBP or GIF"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("large.png", "larger than 20 MB"),
        ("/etc/passwd", "outside the folders"),
        ("file:///etc/passwd", "neither a file nor an http(s) address"),
        ("ftp://h.test/a.png", "neither a file nor an http(s) address"),
        ("https://", "neither a file nor an http(s) address"),
        ("https://[::1/a.png", "is not a valid address"),
        ("data:image/png;base64,AAAA", "neither a file nor an http(s) address"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_picture_is_a_bad_row(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.png").open("wb") as file:
        file.write(PNG)
        file.truncate(PICTURE_LIMIT_BYTES + 1)
    rows = source(tmp_path / "a.csv", f'prompt,photo\nfine,\nx,"{name}"\n')
    said = mistake(job_of(rows, folder=tmp_path, images=("{{ photo }}",)))
    assert said.startswith("a.csv:3: images[0]: ")
    assert says in said


def test_a_bad_picture_is_skipped_with_its_row(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "prompt,photo\nx,none.png\ny,\n", on_bad_row="skip")
    every = items_of(job_of(rows, folder=tmp_path, images=("{{ photo }}",)))
    assert [item.prompt for item in stream(every)] == ["y"]
    assert every.skipped_rows == 1


def test_the_pictures_of_a_listed_prompt_replace_those_of_the_job(tmp_path: Path) -> None:
    for name in ("job.png", "own.png"):
        (tmp_path / name).write_bytes(PNG)
    prompts = listing(
        "x",
        ListedPrompt(prompt="y", images=("{{ which }}.png",), vars={"which": "own"}),
        ListedPrompt(prompt="z", images=()),
    )
    found = items(job_of(prompts, folder=tmp_path, images=("job.png",)))
    assert [[picture.name for picture in item.pictures] for item in found] == [["job.png"], ["own.png"], []]


@pytest.mark.parametrize(
    "way", ["absolute", "above", "far above", "link", "linked folder", "above a folder", "missing"]
)
def test_a_row_sends_no_picture_from_outside_of_the_folders_that_the_job_names(tmp_path: Path, way: str) -> None:
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project / "pictures", outside):
        folder.mkdir(parents=True)
    (outside / "private.png").write_bytes(PNG)
    (project / "link.png").symlink_to(outside / "private.png")
    (project / "linked").symlink_to(outside)
    name = {
        "absolute": str(outside / "private.png"),
        "above": "../outside/private.png",
        "far above": "../" * 40 + f"{outside}/private.png",
        "link": "link.png",
        "linked folder": "linked/private.png",
        "above a folder": "pictures/../../outside/private.png",
        "missing": "../outside/none.png",
    }[way]
    job = job_of(source(project / "a.csv", f"prompt,photo\nfine,\nx,{name}\n"), folder=project, images=("{{ photo }}",))
    said = mistake(job)
    assert said.startswith(f"a.csv:3: images[0]: the picture `{name[:200]}` is outside the folders")
    assert "name its folder in `images_from`" in said
    named = replace(job, picture_folders=(str(outside),))
    if way == "missing":
        assert "No such file" in mistake(named)
    else:
        assert len(items(named)[1].pictures) == 1


def test_a_neighbour_whose_name_begins_like_the_folder_is_outside(tmp_path: Path) -> None:
    for name in ("set", "set-private"):
        (tmp_path / name).mkdir()
    (tmp_path / "set-private" / "p.png").write_bytes(PNG)
    job = job_of(listing("x"), folder=tmp_path / "set", images=("../set-private/p.png",))
    assert "outside the folders" in mistake(job)


def test_images_from_is_where_a_relative_name_is_looked_for_too(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "set" / "p.png").write_bytes(PNG)
    named = (str(tmp_path / "set"),)
    job = job_of(listing("x"), folder=tmp_path / "project", images=("p.png",), images_from=named, picture_folders=named)
    assert len(items(job)[0].pictures) == 1
    assert "outside the folders" in mistake(replace(job, images=("../set/../p.png",)))
