"""A run of transcriptions: each file's words in its own row, paid once, whatever the files are called or came to."""

import csv
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

import batchrunner
from batchrunner.core.errors import ExitStatus, JobMistakesError
from tests.support.engine import RunHarness, World

HEAD = "name: job\nprovider: simulator\nkind: transcription\n"
MP3, FLAC, WEBM = b"ID3\x04", b"fLaC", b"\x1aE\xdf\xa3"


def files(folder: Path, **named: bytes) -> None:
    """Sounds in `sounds/`; `_` in a name stands for the dot before its ending."""
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    for name, content in named.items():
        (folder / "sounds" / name.replace("_", ".")).write_bytes(content)


def job(more: str = "", *, model: str = "whisper-1", source: str = "{file: sounds}") -> str:
    return f'{HEAD}model: "{model}"\nprompts: {source}\n{more}\n'


def words(harness: RunHarness) -> dict[str, Any]:
    return {row["files"][0]["name"]: row["output"]["text"] for row in harness.rows()}


@pytest.fixture
def three(harness: RunHarness) -> RunHarness:
    files(harness.folder, one_mp3=MP3 + b"a" * 32_000, two_flac=FLAC + b"b" * 64_000, three_webm=WEBM + b"c" * 8_000)
    return harness


def test_a_folder_of_audio_files_needs_nothing_but_its_name(three: RunHarness) -> None:
    assert three.run(job()).exit_status is ExitStatus.DONE
    said = words(three)
    assert len(said) == len(set(said.values())) == 3
    assert {row["prompt"] for row in three.rows()} == {""}
    assert {re.sub("-[0-9a-f]{6}$", "", row["id"]) for row in three.rows()} == {"one-mp3", "two-flac", "three-webm"}
    by_file = {row["files"][0]["name"]: row["output"]["audio_seconds"] for row in three.rows()}
    assert by_file == {"sounds/one.mp3": 2, "sounds/two.flac": 4, "sounds/three.webm": 1}
    before = three.stats.sends
    assert three.run(job()).exit_status is ExitStatus.DONE
    assert (before, three.stats.sends, three.stats.paid_twice) == (3, 3, 0)


def test_every_accident_ends_with_the_same_words(three: RunHarness, tmp_path: Path) -> None:
    three.run(job())
    right = words(three)
    for scenario in ("5xx:1", "throttle:2", "reset-mid-stream:1", "tr-streamed"):
        harness = RunHarness(tmp_path / re.sub(r"\W", "-", scenario), world=World(scenario=scenario))
        files(
            harness.folder, one_mp3=MP3 + b"a" * 32_000, two_flac=FLAC + b"b" * 64_000, three_webm=WEBM + b"c" * 8_000
        )
        assert harness.run(job()).exit_status is ExitStatus.DONE, scenario
        assert words(harness) == right, scenario


def test_a_file_by_another_name_is_the_same_item_and_another_content_is_another(three: RunHarness) -> None:
    three.run(job())
    sounds = three.folder / "sounds"
    (sounds / "one.mp3").rename(sounds / "renamed.mp3")
    (sounds / "two.flac").write_bytes(FLAC + b"B")
    three.run(job())
    assert three.stats.sends == 4


def test_segments_stand_in_the_row_and_words_in_a_file_of_their_own(three: RunHarness) -> None:
    three.run(job('params: {response_format: verbose_json, timestamp_granularities: [word, segment]}\n'
                  'output: {each: "words/{{ name }}.txt"}'))  # fmt: skip
    for row in three.rows():
        told = row["output"]
        assert (told["language"], told["duration"] > 0) == ("english", True)
        assert "".join(part["text"] for part in told["segments"]).strip() == told["text"]
        assert " ".join(part["word"] for part in told["words"]) == told["text"]
        assert (three.out / told["path"]).read_text().strip() == told["text"]


def test_tokens_are_counted_where_the_model_counts_them(three: RunHarness) -> None:
    report = three.run(job(model="gpt-4o-transcribe"))
    assert report.status.usage.output_tokens == sum(row["usage"]["output_tokens"] for row in three.rows()) > 0


def test_silence_is_not_paid_for_again(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="tr-silent"))
    files(harness.folder, one_mp3=MP3)
    assert harness.run(job()).exit_status is ExitStatus.DONE
    ((row, sends),) = [(row, harness.stats.sends) for row in harness.rows()]
    assert (row["output"]["text"], row["output"]["flags"], sends) == ("", ["empty_transcript"], 1)


def test_an_audio_file_that_the_server_refuses_fails_alone_with_its_words(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, world=World(scenario="tr-too-short"))
    files(harness.folder, one_mp3=MP3)
    assert harness.run(job()).exit_status is ExitStatus.FAILED
    (failure,) = harness.rows("failures.jsonl")
    assert "too short" in failure["error"]["message"]
    assert harness.stats.paid == 0


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"fake_mp3": b"no sound at all"}, "is not a WAV, MP3, FLAC"),
        ({"paper_pdf": b"%PDF-1.7"}, "is PDF, for which the dialect openai-transcriptions has no part"),
        ({"huge_mp3": MP3 + b"\0" * (25 * 1024 * 1024)}, "larger than 25 MiB"),
        ({"notes_txt": b"a text"}, "names no file of sound"),
    ],
)
def test_what_is_no_audio_is_named_before_anything_is_sent(
    harness: RunHarness, named: dict[str, bytes], said: str
) -> None:
    files(harness.folder, **named)
    with pytest.raises(JobMistakesError) as mistakes:
        harness.run(job())
    assert said in str(mistakes.value)
    assert harness.stats.sends == 0


def test_a_table_names_the_files_and_a_prompt_states_how_names_are_written(three: RunHarness) -> None:
    (three.folder / "t.csv").write_text("call,who\nsounds/one.mp3,Zoë\nsounds/two.flac,\n", "utf-8")
    source = '{file: t.csv, template: "{{ who }}", id: "{{ row }}"}'
    assert three.run(job('files: ["{{ call }}"]', source=source)).exit_status is ExitStatus.DONE
    assert sorted(row["prompt"] for row in three.rows()) == ["", "Zoë"]


def test_every_table_has_transcripts_and_translations_side_by_side_with_their_files(three: RunHarness) -> None:
    three.run(job("matrix: {endpoint: [transcriptions, translations]}\nparams: {response_format: verbose_json}"))
    assert (three.stats.requests["transcription"], three.stats.requests["translation"]) == (3, 3)
    said = {(row["params"]["endpoint"], row["files"][0]["name"]): row["output"]["text"] for row in three.rows()}
    assert len(said) == 6
    for form in ("csv", "parquet"):
        exported = batchrunner.export(str(three.out), to=form)
        assert (exported.rows, exported.left_out) == (6, {})
        assert exported.path is not None
        if form == "parquet":
            table: list[dict[str, Any]] = pyarrow.parquet.read_table(exported.path).to_pylist()
        else:
            table = list(csv.DictReader(Path(exported.path).read_text("utf-8-sig").splitlines()))
        assert sorted(row["output.text"] for row in table) == sorted(said.values())
        assert all("one.mp3" in str(row) or "two.flac" in str(row) or "three.webm" in str(row) for row in table)
