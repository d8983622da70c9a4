"""`run --shard I/N` in real processes: which items each sends, where they lie, and what is refused."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import CommandLine, Ran
from tests.support.json_lines import json_lines

OUT = "outputs/words.simulated"
JOB = """
name: words
provider: simulator
model: sim/words
prompts:
  file: words.jsonl
  template: "Explain {{ word }} in {{ n }} words."
"""
COMPARED = ("id", "index", "prompt", "params", "output", "key")
ITEMS = 40


@pytest.fixture
def words(batchrunner: CommandLine) -> CommandLine:
    """A job of 40 items, of which two are identical."""
    source = [{"word": f"w{n % (ITEMS - 1)}", "n": n % 1} for n in range(ITEMS)]
    (batchrunner.folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in source))
    (batchrunner.folder / "job.yaml").write_text(JOB)
    return batchrunner


def shard(batchrunner: CommandLine, number: int, of: int, *more: str) -> Ran:
    return batchrunner("run", "job.yaml", "--shard", f"{number}/{of}", *more)


def compared(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return sorted(([row["index"], *(json.dumps(row.get(name)) for name in COMPARED)] for row in rows), key=str)


def folder_of(batchrunner: CommandLine, number: int, of: int) -> Path:
    return batchrunner.folder / OUT / "shards" / f"{number}-of-{of}" / "epoch-1"


def test_all_shards_together_have_the_rows_of_one_run(words: CommandLine) -> None:
    assert words("run", "job.yaml", "--out", "one", "--quiet").status == 0
    sends = 0
    rows: list[dict[str, Any]] = []
    for number in range(3):
        ran = shard(words, number, 3, "--json")
        assert (ran.status, ran.json["items"]["pending"], ran.json["state"]) == (0, 0, "done")
        sends += ran.json["sends"]["total"]
        own = json_lines(folder_of(words, number, 3) / "results.jsonl")
        assert {int(row["key"], 16) % 3 for row in own} <= {number}
        rows += own
    assert compared(rows) == compared(json_lines(words.folder / "one" / "results.jsonl"))
    assert sends == ITEMS - 1, "identical items are of one shard, and share one request"


def test_a_shard_that_is_run_again_sends_nothing(words: CommandLine) -> None:
    first, again = (shard(words, 1, 2, "--json") for _ in range(2))
    assert (again.status, again.json["sends"]) == (0, first.json["sends"])
    assert again.json["items"]["done"] > 0


def test_the_command_that_continues_a_shard_names_it(words: CommandLine) -> None:
    ran = shard(words, 1, 2, "--limit", "5", "--json")
    assert ran.json["next_command"].endswith("run job.yaml --shard 1/2")


def test_layout_json_states_how_a_job_is_divided(words: CommandLine) -> None:
    shard(words, 0, 2, "--quiet")
    layout = json.loads((words.folder / OUT / "shards" / "layout.json").read_text())
    assert layout == {"version": 1, "job": "words", "simulated": True, "shards": 2}


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        (("--shard", "0/3"), "--shard 0/2"),
        (("--shard", "2/3"), "--shard 1/2"),
        ((), "batchrunner run JOB --shard I/2"),
        (("--adopt-rows",), "batchrunner run JOB --shard I/2"),
    ],
)
def test_another_division_is_refused_with_the_way_on(words: CommandLine, arguments: tuple[str, ...], way: str) -> None:
    shard(words, 0, 2, "--quiet")
    refused = words("run", "job.yaml", *arguments)
    assert refused.status == 4
    assert way in refused.err
    assert not (words.folder / OUT / "run.json").exists()


def test_a_run_of_the_whole_job_refuses_shards_in_its_directory(words: CommandLine) -> None:
    assert words("run", "job.yaml", "--quiet").status == 0
    refused = shard(words, 0, 2)
    assert refused.status == 4
    assert "without --shard" in refused.err
    assert not (words.folder / OUT / "shards").exists()
    assert words("plan", "job.yaml", "--shard", "0/2").status == 4


def test_a_shard_beside_a_run_that_begins_is_refused_and_leaves_no_layout(words: CommandLine) -> None:
    base = words.folder / OUT
    base.mkdir(parents=True)
    with (base / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert shard(words, 0, 2).status == 4
    assert not (base / "shards" / "layout.json").exists()
    assert shard(words, 0, 2).status == 0


def test_another_job_is_refused_where_shards_are(words: CommandLine) -> None:
    shard(words, 0, 2, "--quiet")
    (words.folder / "other.yaml").write_text(JOB.replace("name: words", "name: others"))
    refused = words("run", "other.yaml", "--shard", "0/2", "--out", OUT)
    assert (refused.status, "of the job `words`" in refused.err) == (4, True)


def test_a_damaged_layout_is_reported_with_its_path(words: CommandLine) -> None:
    shard(words, 0, 2, "--quiet")
    path = words.folder / OUT / "shards" / "layout.json"
    for text in ("", "{", '{"version": 1, "job": "words", "simulated": true, "shards": 2.5}', '{"version": 2}'):
        path.write_text(text)
        refused = shard(words, 0, 2)
        assert (refused.status, "layout.json" in refused.err) == (4, True), text


def test_plan_is_about_the_shard_or_about_all_of_them(words: CommandLine) -> None:
    whole = words("plan", "job.yaml", "--json").json
    parts = [words("plan", "job.yaml", "--shard", f"{n}/2", "--json").json for n in range(2)]
    assert sum(part["to_send"] for part in parts) == whole["to_send"] == ITEMS - 1
    assert not (words.folder / "outputs").exists(), "a plan writes nothing"
    shard(words, 0, 2, "--quiet")
    left = words("plan", "job.yaml", "--json").json
    assert left["to_send"] == parts[1]["to_send"]
    assert any("divided into 2 shards" in note for note in left["notes"])


def test_status_reports_that_the_job_file_was_changed_between_shards(words: CommandLine) -> None:
    shard(words, 0, 3, "--quiet")
    shard(words, 1, 3, "--quiet", "--set", "limits.concurrency=3")
    assert not any("was changed" in note for note in words("status", OUT, "--json").json["notes"])
    shard(words, 2, 3, "--quiet", "--set", "params.max_tokens=7")
    (told,) = (note for note in words("status", OUT, "--json").json["notes"] if "was changed" in note)
    assert "(0/3, 1/3; 2/3)" in told


def test_status_and_ls_add_the_shards_up(words: CommandLine) -> None:
    shard(words, 0, 2, "--quiet")
    half = words("status", OUT, "--json").json
    assert [(one["shard"], one["state"], one["items"] is None) for one in half["shards"]] == [
        ("0/2", "done", False),
        ("1/2", "pending", True),
    ]
    assert half["state"] == "pending"
    assert any("1 of 2 shards have not begun" in note for note in half["notes"])
    shard(words, 1, 2, "--limit", "1", "--quiet")
    assert words("status", OUT, "--json").json["items"]["total"] == ITEMS
    shard(words, 1, 2, "--quiet")
    whole = words("status", OUT, "--json").json
    assert (whole["items"]["done"], whole["state"], whole["sends"]["total"]) == (ITEMS, "done", ITEMS - 1)
    assert whole["next_command"] == f"batchrunner merge {OUT}"
    assert "2: 2 done" in words("status", OUT).err
    assert [run["dir"] for run in words("ls", "--json").json["runs"]] == [OUT]


@pytest.mark.parametrize("command", [("verify", OUT), ("pause", OUT), ("export", OUT, "--to", "csv")], ids=" ".join)
def test_commands_for_one_run_state_where_the_shards_are(words: CommandLine, command: tuple[str, ...]) -> None:
    shard(words, 0, 2, "--quiet")
    refused = words(*command)
    assert (refused.status, "divided into shards" in refused.err) == (4, True)


def test_a_shard_gets_its_share_of_the_limits(words: CommandLine) -> None:
    limited = ("--set", "limits.requests_per_minute=6000", "--set", "limits.requests_per_day=1001")
    ran = shard(words, 0, 2, *limited)
    assert "shard 0/2: its share of the job's limits is 3,000 requests a minute, 501 requests a day" in ran.err
    assert (
        words("plan", "job.yaml", "--shard", "1/2", *limited, "--json").json["notes"][0].endswith("500 requests a day")
    )


def test_a_job_smaller_than_its_shards_leaves_some_with_nothing_to_do(words: CommandLine) -> None:
    for number in range(4):
        ran = shard(words, number, 4, "--limit", "1", "--set", "prompts.limit=1", "--json")
        assert (ran.status, ran.json["items"]["total"]) in {(0, 0), (0, 1)}
