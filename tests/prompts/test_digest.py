"""The digest of what a job's items are made of: the same while they are, another one or none when they may not be."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.job import Job, ListedPrompt, Listing
from batchrunner.core.values import replace
from batchrunner.prompts import digest_of_items
from tests.prompts.jobs import job_of, listing, source

PNG = b"\x89PNG\r\n\x1a\n"


def rows(folder: Path) -> Job:
    return job_of(source(folder / "rows.csv", "q\none\n", template="{{ q }}"))


def texts(folder: Path) -> Job:
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "texts" / "a.txt").write_text("one")
    (folder / "texts" / "b.md").write_text("two")
    return job_of(source(folder / "texts"))


def pictures(folder: Path) -> Job:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a.png").write_bytes(PNG)
    asked = source(folder / "in", template="What is it?")
    return job_of(asked, images=("{{ file }}",), folder=folder, picture_folders=(str(folder),))


def one_picture(folder: Path) -> Job:
    (folder / "a.png").write_bytes(PNG)
    return job_of(listing("x"), images=("a.png", "https://x.test/b.png"), folder=folder, picture_folders=(str(folder),))


def own_picture(folder: Path) -> Job:
    (folder / "a.png").write_bytes(PNG)
    entry = ListedPrompt(prompt="x", images=("a.png",))
    return job_of(Listing(entries=(entry,)), folder=folder, picture_folders=(str(folder),))


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], Job], Callable[[Path], object]]] = {
    "another byte": (rows, write("rows.csv", b"q\nonf\n")),
    "a row more": (rows, write("rows.csv", b"q\none\ntwo\n")),
    "a row less": (rows, write("rows.csv", b"q\n")),
    "a file more": (texts, write("texts/c.txt", b"three")),
    "a file less": (texts, lambda folder: (folder / "texts" / "a.txt").unlink()),
    "a file renamed": (texts, lambda folder: (folder / "texts" / "a.txt").rename(folder / "texts" / "c.txt")),
    "two files swapped": (texts, lambda f: [write("texts/a.txt", b"two")(f), write("texts/b.md", b"one")(f)]),
    "bytes moved to the next file": (
        texts,
        lambda f: [write("texts/a.txt", b"on")(f), write("texts/b.md", b"etwo")(f)],
    ),
    "a picture of the folder": (pictures, write("in/a.png", PNG + b"x")),
    "the picture of all": (one_picture, write("a.png", PNG + b"x")),
    "a prompt's own picture": (own_picture, write("a.png", PNG + b"x")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_an_item_changes_the_digest(tmp_path: Path, name: str) -> None:
    make, change = CHANGES[name]
    job = make(tmp_path)
    before = digest_of_items(job)
    assert before is not None
    assert digest_of_items(make(tmp_path)) == before
    change(tmp_path)
    assert digest_of_items(job) not in {before, None}


@pytest.mark.parametrize(
    "changed",
    [
        {"models": ("a/Two",)},
        {"matrix": {"seed": (1, 2)}},
        {"params": {"seed": 1}},
        {"params": {"seed": 1.0}},
        {"system": "Be brief."},
        {"schema": {"type": "object"}},
        {"replicas": 2},
        {"images": ("https://x.test/a.png",)},
        {"kind": "image"},
        {"prompts": listing("one", "two")},
    ],
)
def test_whatever_changes_in_the_job_itself_does_too(changed: dict[str, object]) -> None:
    job = job_of(listing("one"))
    found = {digest_of_items(job), digest_of_items(replace(job, **changed)), digest_of_items(replace(job, name="b"))}  # type: ignore[arg-type]  # fields by name
    assert len(found) == 2
    assert None not in found


UNKNOWN: dict[str, Callable[[Path], Job]] = {
    "no file": lambda folder: job_of(source(folder / "none.csv")),
    "a picture of the row": lambda folder: replace(rows(folder), images=("{{ q }}",)),
    "a picture of the variables": lambda _: job_of(listing("x"), images=("{{ row }}.png",)),
    "a picture that is missing": lambda folder: job_of(listing("x"), images=("no.png",), folder=folder),
    "a picture elsewhere": lambda folder: job_of(listing("x"), images=("/etc/hostname",), folder=folder),
    "a picture of no name": lambda folder: job_of(listing("x"), images=("a\0b",), folder=folder),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_known_without_the_rows_has_no_digest(tmp_path: Path, name: str) -> None:
    assert digest_of_items(UNKNOWN[name](tmp_path)) is None


def test_a_pipe_has_no_digest_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    assert digest_of_items(job_of(source(tmp_path / "rows.jsonl"))) is None


def test_a_file_that_grows_while_it_is_hashed_has_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = rows(tmp_path)
    whole = os.fstat
    seen: list[int] = []

    def growing(descriptor: int) -> os.stat_result:
        seen.append(descriptor)
        if len(seen) == 2:
            with (tmp_path / "rows.csv").open("a") as file:
                file.write("two\n")
        return whole(descriptor)

    monkeypatch.setattr("batchrunner.prompts.job_items.os.fstat", growing)
    assert digest_of_items(job) is None
