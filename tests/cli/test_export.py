"""`batchrunner export` in a real process: its words, its JSON, its exit status."""

import json
import os
import subprocess

import pytest

from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines_so_far
from tests.support.waiting import wait_until

OUT = "outputs/talk.simulated"
JOB = "models: [sim-model, 'sim-model#bad-model-id']\nprompts: [A, =B]\n"


@pytest.fixture
def finished(batchrunner: CommandLine) -> CommandLine:
    job = batchrunner.job("talk", JOB).removesuffix(".yaml")
    text = (batchrunner.folder / f"{job}.yaml").read_text().replace("model: sim-model\n", "")
    (batchrunner.folder / f"{job}.yaml").write_text(text)
    assert batchrunner("run", f"{job}.yaml", "--quiet").status == 1
    return batchrunner


def test_it_states_where_the_file_is_and_what_is_not_in_it(finished: CommandLine) -> None:
    told = finished("export", OUT, "--to", "csv")
    assert (told.status, told.out) == (0, "")
    assert "talk (simulated): 2 rows as csv" in told.err
    assert f"{OUT}/export/talk.csv" in told.err
    assert "2 failed items; add them with --failures" in told.err
    assert "replaced an earlier export" in finished("export", OUT, "--to", "csv").err


def test_json_is_one_object_with_everything_that_is_counted(finished: CommandLine) -> None:
    shown = finished("export", OUT, "--to", "jsonl", "--failures", "--out", "all.jsonl", "--json").json
    size_bytes = (finished.folder / "all.jsonl").stat().st_size
    expected = {"path": "all.jsonl", "format": "jsonl", "rows": 4, "failed": 2, "missing": 0, "bytes": size_bytes}
    assert expected.items() <= shown.items()


def test_text_goes_to_stdout_when_asked_to(finished: CommandLine) -> None:
    told = finished("export", OUT, "--to", "jsonl", "--out", "-")
    assert [json.loads(line)["index"] for line in told.out.splitlines()] == [1, 3]
    assert "2 rows as jsonl" in told.err
    assert not (finished.folder / OUT / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--to", "parquet", "--out", "-"),
            "parquet is a binary format and cannot be written to stdout; choose a file with --out",
        ),
        (("--to", "csv", "--out", "-", "--json"), "cannot both use stdout"),
        (
            ("--to", "exel"),
            "expected one of jsonl, csv, parquet, npy, hf",
        ),
        (("--to", "csv", "--out", "talk.yaml"), "talk.yaml: already exists"),
        ((), "--to"),
    ],
)
def test_a_wrong_command_line_ends_with_2(finished: CommandLine, arguments: tuple[str, ...], words: str) -> None:
    told = finished("export", OUT, *arguments)
    assert told.status == 2
    assert words in told.err


def test_what_is_no_run_ends_with_2(batchrunner: CommandLine) -> None:
    told = batchrunner("export", "nowhere", "--to", "csv", "--json")
    assert told.status == 2
    assert (
        "nowhere: not a run directory" in told.json["mistakes"][0]["file"] + ": " + told.json["mistakes"][0]["problem"]
    )


def test_damage_ends_with_4_after_everything_else_was_exported(finished: CommandLine) -> None:
    path = finished.folder / OUT / "results.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"id":', b'"id" ', 1))
    told = finished("export", OUT, "--to", "jsonl")
    assert told.status == 4
    assert "1 recorded line of results.jsonl cannot be read" in told.err
    assert (finished.folder / OUT / "export/talk.jsonl").read_bytes().count(b"\n") == 1


def test_a_reader_that_goes_away_is_reported_of_and_ends_with_4(batchrunner: CommandLine) -> None:
    job = batchrunner.job("long", f"prompts: [{'x' * 200_000}]\n")
    assert batchrunner("run", job, "--quiet").status == 0
    process = batchrunner.start("export", "outputs/long.simulated", "--to", "jsonl", "--out", "-")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert said == "error: stdout was closed before the export was finished\n"


def test_a_terminal_is_not_written_to(finished: CommandLine) -> None:
    ours, theirs = os.openpty()
    argv = finished.argv("export", OUT, "--to", "csv", "--out", "-")
    done = subprocess.run(
        argv, cwd=finished.folder, env=finished.environment, stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"stdout is a terminal" in done.stderr


def test_a_run_at_work_is_exported_as_far_as_it_is(batchrunner: CommandLine) -> None:
    slow = "prompts: [A, B, C, D]\nlimits: {concurrency: 1, requests_per_minute: 1}\n"
    process = batchrunner.start("run", batchrunner.job("slow", slow))
    rows = batchrunner.folder / "outputs/slow.simulated/results.jsonl"
    wait_until(lambda: json_lines_so_far(rows), "a row", process=process)
    told = batchrunner("export", "outputs/slow.simulated", "--to", "markdown")
    assert told.status == 0
    assert "; the run is in progress" in told.err
    assert process.poll() is None


def test_the_help_shows_an_example(batchrunner: CommandLine) -> None:
    shown = batchrunner("export", "--help")
    assert shown.status == 0
    assert "batchrunner export outputs/cats --to csv" in shown.out
