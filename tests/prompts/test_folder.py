"""A folder of texts or pictures: a row for each file, in the order in which people count."""

import asyncio
import os
from hashlib import sha256
from pathlib import Path

import pytest

from batchrunner.core.job import Output, Source, Turn
from batchrunner.prompts import items_of
from batchrunner.prompts.sources import FOLDER, SOURCES
from batchrunner.prompts.sources.base import LINE_LIMIT_BYTES, SourceRow
from batchrunner.spec import load_job
from tests.prompts.jobs import items, job_of, mistake, mistakes, source, stream

PNG = b"\x89PNG\r\n\x1a\n"


def folder(path: Path, files: dict[str, bytes | str]) -> Path:
    path.mkdir()
    for name, found in files.items():
        (path / name).write_bytes(found if isinstance(found, bytes) else found.encode())
    return path


def rows(path: Path) -> list[SourceRow]:
    async def collect() -> list[SourceRow]:
        return [row async for rows in SOURCES[FOLDER].read(str(path)) for row in rows if isinstance(row, SourceRow)]

    return asyncio.run(collect())


def test_texts_are_prompts_without_a_template(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {"b.md": "\ufeff# Two\r\nlines\r\n\r\n", "a.TXT": "one"})
    found = items(job_of(source(texts)))
    assert [item.prompt for item in found] == ["one", "# Two\r\nlines"]
    assert [item.vars for item in found] == [
        {"path": "a.TXT", "name": "a", "suffix": ".TXT"},
        {"path": "b.md", "name": "b", "suffix": ".md"},
    ]


def test_files_come_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    names = ["10.txt", "2.txt", "1.txt", "a10b2.txt", "a9b10.txt", "a9b9.txt", "B.txt", "c.txt", "C.txt", "01.txt"]
    found = rows(folder(tmp_path / "t", dict.fromkeys(names, "x")))
    ordered = ["01.txt", "1.txt", "2.txt", "10.txt", "a9b9.txt", "a9b10.txt", "a10b2.txt", "B.txt", "C.txt", "c.txt"]
    assert [row.values["path"] for row in found] == ordered
    assert [row.number for row in found] == [*range(1, 11)]


def test_hidden_files_are_nothing_and_subfolders_are_not_entered(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {".DS_Store": "x", "a.txt": "a"})
    folder(texts / "deeper", {"b.txt": "b"})
    folder(texts / "looks.txt", {"c.txt": "c"})
    assert [item.prompt for item in items(job_of(source(texts)))] == ["a"]


def test_a_folder_without_files_is_a_mistake(tmp_path: Path) -> None:
    folder(folder(tmp_path / "t", {}) / "deeper", {"b.txt": "b"})
    assert mistake(job_of(source(tmp_path / "t"))).startswith("t: has no files; hidden files do not count, and subfol")


def test_pictures_are_given_by_their_file(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"10.jpg": b"\xff\xd8\xff10", "9.png": PNG})
    job = job_of(source(photos, template="What is on {{ name }}?"), folder=tmp_path, images=("{{ file }}",))
    nine, ten = items(job)
    assert (nine.prompt, ten.prompt) == ("What is on 9?", "What is on 10?")
    assert nine.pictures[0].name == "photos/9.png"
    assert nine.pictures[0].sha256 == sha256(PNG).hexdigest()
    assert ten.pictures[0].url.startswith("data:image/jpeg;base64,")
    assert nine.vars == {"path": "9.png", "name": "9", "suffix": ".png"}


@pytest.mark.parametrize("shown", ["photos", "photos/", "./photos", "../data/photos", "ABSOLUTE"])
def test_pictures_are_found_wherever_the_job_file_and_the_command_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    jobs = folder(tmp_path / "jobs", {})
    photos = tmp_path / ("data/photos" if "data" in shown else "jobs/photos")
    photos.parent.mkdir(exist_ok=True)
    folder(photos, {"a b.png": PNG})
    where = str(photos) if shown == "ABSOLUTE" else shown
    text = f'provider: openai\nmodel: m\nimages: ["{{{{ file }}}}"]\nprompts: {{file: "{where}", template: "what?"}}\n'
    (jobs / "job.yaml").write_text(text)
    for here, path in ((tmp_path, "jobs/job.yaml"), (jobs, "job.yaml"), (Path("/"), str(jobs / "job.yaml"))):
        monkeypatch.chdir(here)
        (item,) = items(load_job(path))
        assert item.pictures[0].sha256 == sha256(PNG).hexdigest()
        assert item.pictures[0].name == where.rstrip("/") + "/a b.png"


def test_the_key_follows_the_bytes_not_the_path(tmp_path: Path) -> None:
    keys = []
    for place, name in (("one", "a.png"), ("two", "b.gif"), ("three", "c.png")):
        photos = folder(tmp_path / place, {name: PNG + b"!" * (place == "three")})
        job = job_of(source(photos, template="what?"), folder=tmp_path, images=("{{ file }}",))
        keys.append(items(job)[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_a_picture_without_template_or_messages_is_a_bad_row(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a.png": PNG})
    said = mistake(job_of(source(photos), folder=tmp_path, images=("{{ file }}",)))
    assert said.startswith("photos/a.png: prompts.template: there is no column `prompt`; the columns are `path`")
    turns = (Turn(role="user", content="What is {{ path }}?"),)
    (item,) = items(job_of(source(photos), folder=tmp_path, images=("{{ file }}",), messages=turns))
    assert item.prompt == "What is a.png?"
    assert len(item.pictures) == 1


def test_a_file_of_another_kind_is_a_bad_row_and_not_a_question_without_its_picture(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a.png": PNG, "Thumbs.db": "x", "README": "x"})
    job = job_of(source(photos, template="what?"), folder=tmp_path, images=("{{ file }}",))
    first, second = mistakes(job)
    assert str(first).startswith("photos/README: the file is none of these: text (.txt, .md), a picture (.png")
    assert second.file == "photos/Thumbs.db"
    skipping = items_of(
        job_of(source(photos, template="what?", on_bad_row="skip"), folder=tmp_path, images=("{{ file }}",))
    )
    assert len(stream(skipping)) == 1
    assert skipping.skipped_rows == 2


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (b"caf\xe9", "not UTF-8: byte 4 is 0xe9"),
        ("Hi there".encode("utf-16-le"), "it looks like UTF-16: write `encoding: utf-16-le`"),
        ("你好，请翻译".encode("gb18030"), "it looks like GB18030"),
        (b"a\0b", "NUL byte in the file, at byte 2"),
        (b"x" * (LINE_LIMIT_BYTES + 1), "longer than 16 MiB"),
        (b" \n", "`text` is empty"),
    ],
)
def test_a_file_that_is_no_text_is_a_bad_row(tmp_path: Path, found: bytes, says: str) -> None:
    texts = folder(tmp_path / "t", {"a.txt": "a", "b.txt": found})
    said = mistake(job_of(source(texts)))
    assert said.startswith("t/b.txt: ")
    assert says in said


def test_a_pipe_a_lost_link_and_a_name_that_is_no_text_are_bad_rows(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {"a.txt": "a"})
    os.mkfifo(texts / "b.txt")
    (texts / "c.txt").symlink_to(tmp_path / "none")
    (Path(os.fsdecode(os.fsencode(texts) + b"/\xe9.txt"))).write_text("x")
    found = mistakes(job_of(source(texts)))
    assert [(m.file, m.problem) for m in found] == [
        ("t/b.txt", "it is not a regular file"),
        ("t/c.txt", "it is not a regular file"),
        ("t/?.txt", "the file's name is not UTF-8"),
    ]


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {})
    (tmp_path / "real.txt").write_text("real")
    (texts / "link.txt").symlink_to(tmp_path / "real.txt")
    assert [item.prompt for item in items(job_of(source(texts)))] == ["real"]


def test_templates_see_the_text_and_results_do_not(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {"a.txt": "A long text.", "b.md": "Another."})
    job = job_of(source(texts, template="{{ text }} Sum up {{ name }}.", id="{{ name }}"), matrix={"tone": ("dry",)})
    assert [(item.id, item.prompt, item.vars) for item in items(job)] == [
        ("a-tonedry", "A long text. Sum up a.", {"path": "a.txt", "name": "a", "suffix": ".txt"}),
        ("b-tonedry", "Another. Sum up b.", {"path": "b.md", "name": "b", "suffix": ".md"}),
    ]


def test_files_may_be_named_by_the_rows_own_names(tmp_path: Path) -> None:
    photos = folder(tmp_path / "t", {"a.txt": "x"})
    assert items(job_of(source(photos), output=Output(dir="o", name="{{ name }}")))[0].stem == "a"


def test_a_matrix_name_called_like_a_column_is_shown(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {"a.txt": "x"})
    (item,) = items(job_of(source(texts, template="{{ text }}"), matrix={"text": ("matrix",)}))
    assert (item.prompt, item.vars["text"]) == ("matrix", "matrix")


def test_a_limit_counts_files(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {f"{n}.txt": f"text {n}" for n in range(12)})
    assert [item.prompt for item in items(job_of(source(texts, limit=3)))] == ["text 0", "text 1", "text 2"]


def test_a_folder_with_an_ending_is_still_a_folder(tmp_path: Path) -> None:
    texts = folder(tmp_path / "looks.jsonl", {"a.txt": "x"})
    assert [item.prompt for item in items(job_of(source(texts)))] == ["x"]


def test_a_folder_that_is_missing_or_closed_is_a_mistake(tmp_path: Path) -> None:
    assert "no ending" in mistake(job_of(Source(path=str(tmp_path / "none"), shown="none")))


def test_texts_of_a_folder_are_read_in_the_encoding_that_the_job_names(tmp_path: Path) -> None:
    texts = folder(tmp_path / "t", {"a.txt": "你好".encode("gb18030")})
    assert [item.prompt for item in items(job_of(source(texts, encoding="gb18030")))] == ["你好"]
    marked = folder(tmp_path / "m", {"a.txt": "你好".encode("utf-16")})
    assert [item.prompt for item in items(job_of(source(marked)))] == ["你好"]
