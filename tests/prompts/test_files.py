"""Documents and sound given to a model: known by their bytes, refused where the dialect has no part for them."""

import base64
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.input_files import TAKEN
from batchrunner.core.job import DialectName, ListedPrompt
from batchrunner.core.values import replace
from batchrunner.prompts import items_of
from batchrunner.prompts.input_pictures import PICTURE_LIMIT_BYTES
from batchrunner.prompts.job_items import digest_of_items
from tests.prompts.batches import batch, body, speaking
from tests.prompts.jobs import items, job_of, listing, mistake, source, stream

PDF = b"%PDF-1.7\nrest"
WAV = b"RIFF\x00\x00\x00\x00WAVErest"
MP3 = b"ID3\x04rest"
PNG = b"\x89PNG\r\n\x1a\nrest"


def packed(found: bytes) -> str:
    return base64.b64encode(found).decode()


@pytest.mark.parametrize(
    ("found", "kind", "media_type"),
    [
        (PDF, "pdf", "application/pdf"),
        (WAV, "wav", "audio/wav"),
        (MP3, "mp3", "audio/mpeg"),
        (b"\xff\xfb\x90\x64rest", "mp3", "audio/mpeg"),
        (b"\xff\xf3\x40\xc4rest", "mp3", "audio/mpeg"),
        (b"fLaCrest", "flac", "audio/flac"),
        (b"\0\0\0\x20ftypM4A rest", "mp4", "audio/mp4"),
        (b"OggSrest", "ogg", "audio/ogg"),
        (b"\x1aE\xdf\xa3rest", "webm", "audio/webm"),
    ],
)
def test_a_local_file_is_known_by_its_bytes_whatever_its_name(
    tmp_path: Path, found: bytes, kind: str, media_type: str
) -> None:
    (tmp_path / "f.png").write_bytes(found)
    takes: DialectName = "openai-chat" if kind in TAKEN["openai-chat"] else "openai-transcriptions"
    (item,) = items(speaking(takes, job_of(listing("what?"), folder=tmp_path, files=("f.png",))))
    (file,) = item.files
    assert (file.name, file.kind, file.sha256) == ("f.png", kind, sha256(found).hexdigest())
    assert file.url == f"data:{media_type};base64,{packed(found)}"
    assert item.pictures == ()


def test_the_key_follows_the_bytes_not_the_name(tmp_path: Path) -> None:
    for name, found in (("a.pdf", PDF), ("b.pdf", PDF), ("c.pdf", PDF + b"!")):
        (tmp_path / name).write_bytes(found)
    rows = source(tmp_path / "a.csv", "prompt,paper\nx,a.pdf\nx,b.pdf\nx,c.pdf\nx,\n")
    one, other, different, without = items(job_of(rows, folder=tmp_path, files=("{{ paper }}",)))
    assert one.key == other.key
    assert len({one.key, different.key, without.key}) == 3


def test_a_picture_and_a_document_at_the_same_address_are_two_items(tmp_path: Path) -> None:
    link = "https://h.test/a"
    job = speaking("anthropic-messages", job_of(listing("x"), folder=tmp_path))
    (shown,), (read,) = items(replace(job, images=(link,))), items(replace(job, files=(link,)))
    assert shown.key != read.key


def test_a_listed_prompt_names_its_file_among_its_variables(tmp_path: Path) -> None:
    (tmp_path / "own.pdf").write_bytes(PDF)
    prompts = listing("x", ListedPrompt(prompt="y", vars={"paper": "own.pdf"}))
    found = items(job_of(prompts, folder=tmp_path, files=("{{ paper }}",)))
    assert [[file.name for file in item.files] for item in found] == [[], ["own.pdf"]]


def test_a_name_that_no_row_has_is_a_mistake(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", '{"prompt": 1, "paper": "a.pdf"}\n')
    assert "did you mean `paper`?" in mistake(job_of(rows, files=("{{ papr }}",)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.pdf", "the file `none.pdf` cannot be read: No such file"),
        ("text.pdf", "`text.pdf` is not a PDF, WAV, MP3 file"),
        ("picture.pdf", "`picture.pdf` is not a PDF, WAV, MP3 file"),
        ("webp.wav", "is not a PDF, WAV, MP3 file"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("large.pdf", "larger than 20 MB"),
        ("/etc/passwd", "the file `/etc/passwd` is outside the folders"),
        ("file:///etc/passwd", "neither a file nor an http(s) address"),
        ("https://h.test/a.pdf", "takes no files by their address"),
    ],
)
def test_what_cannot_be_given_is_a_bad_row(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "text.pdf").write_text("no document")
    (tmp_path / "picture.pdf").write_bytes(PNG)
    (tmp_path / "webp.wav").write_bytes(b"RIFF\x00\x00\x00\x00WEBPrest")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.pdf").open("wb") as file:
        file.write(PDF)
        file.truncate(PICTURE_LIMIT_BYTES + 1)
    rows = source(tmp_path / "a.csv", f'prompt,paper\nfine,\nx,"{name}"\n')
    said = mistake(job_of(rows, folder=tmp_path, files=("{{ paper }}",)))
    assert said.startswith("a.csv:3: files[0]: ")
    assert says in said


def test_a_dialect_without_a_part_for_the_kind_refuses_it_and_states_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(MP3)
    said = mistake(speaking("anthropic-messages", job_of(listing("x"), folder=tmp_path, files=("a.mp3",))))
    assert "`a.mp3` is MP3, for which the dialect anthropic-messages has no part: it takes PDF" in said


@pytest.mark.parametrize("dialect", ["anthropic-messages", "openai-responses"])
def test_an_address_is_passed_on_where_the_dialect_fetches_documents(tmp_path: Path, dialect: DialectName) -> None:
    link = "https://h.test/a b.pdf?c=1"
    (item,) = items(speaking(dialect, job_of(listing("x"), folder=tmp_path, files=(link,))))
    (file,) = item.files
    assert (file.name, file.url, file.kind) == (link, link, "pdf")
    assert file.sha256 == sha256(link.encode()).hexdigest()


def test_a_bad_file_is_skipped_with_its_row(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "prompt,paper\nx,none.pdf\ny,\n", on_bad_row="skip")
    every = items_of(job_of(rows, folder=tmp_path, files=("{{ paper }}",)))
    assert [item.prompt for item in stream(every)] == ["y"]


def test_a_file_that_changed_is_another_job_for_a_quick_resume(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(PDF)
    job = job_of(listing("x"), folder=tmp_path, files=("a.pdf",))
    before = digest_of_items(job)
    (tmp_path / "a.pdf").write_bytes(PDF + b"!")
    assert None is not before != digest_of_items(job)


# -- ready requests

SOUND = {"type": "input_audio", "input_audio": {"data": packed(MP3), "format": "mp3"}}
PAPER = {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{packed(PDF)}"}}
WORDS = {"type": "text", "text": "what?"}


def ready(*content: dict[str, Any]) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": list(content)}])


@pytest.mark.parametrize(
    ("part", "name", "found"), [(SOUND, "data:audio/mp3;base64", MP3), (PAPER, "a.pdf", PDF)], ids=["sound", "paper"]
)
def test_a_ready_request_is_sent_as_it_stands_and_its_file_is_reported(
    tmp_path: Path, part: dict[str, Any], name: str, found: bytes
) -> None:
    asked = ready(WORDS, part)
    (item,) = items(job_of(batch(tmp_path, asked), folder=tmp_path))
    assert item.turns[-1].raw == asked["body"]["messages"][0]
    assert [(file.name, file.sha256) for file in item.files] == [(name, sha256(found).hexdigest())]


def test_a_document_of_a_ready_message_may_be_an_address(tmp_path: Path) -> None:
    link = "https://h.test/a.pdf"
    document = {"type": "document", "source": {"type": "url", "url": link}, "title": "A"}
    asked = ready(document, WORDS) | {"url": "/v1/messages"}
    asked["body"]["max_tokens"] = 10
    (item,) = items(speaking("anthropic-messages", job_of(batch(tmp_path, asked), folder=tmp_path)))
    assert item.turns[-1].raw == asked["body"]["messages"][0]
    assert [file.url for file in item.files] == [link]


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "input_audio", "input_audio": {"data": packed(b"no sound"), "format": "wav"}}, "is not a PDF, WAV"),
        ({"type": "input_audio", "input_audio": {"data": "é", "format": "wav"}}, "is not base64"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file.file_id` is not supported"),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": packed(PDF)}}, "neither a file nor an http(s)"),
    ],
)
def test_what_is_no_file_in_a_ready_request_is_a_bad_row(tmp_path: Path, part: dict[str, Any], says: str) -> None:
    assert says in mistake(job_of(batch(tmp_path, ready(WORDS, part)), folder=tmp_path))
