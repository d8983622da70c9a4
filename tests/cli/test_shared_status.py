"""What `status`, `ls` and `merge` say of a job that several processes share, and the commands that they name."""

import json
import shlex
from typing import Any

import pytest

from batchrunner import load_job
from batchrunner.stores.run_directory import digest_of_job
from tests.support.command_line import CommandLine

OUT = "outputs/words.simulated"
ITEMS = 40


@pytest.fixture
def words(batchrunner: CommandLine) -> CommandLine:
    rows = "".join(json.dumps({"word": f"w{n}"}) + "\n" for n in range(ITEMS))
    (batchrunner.folder / "words.jsonl").write_text(rows)
    (batchrunner.folder / "job.yaml").write_text(
        "name: words\nprovider: simulator\nmodel: sim/words\n"
        'prompts: {file: words.jsonl, template: "Explain {{ word }}."}\n'
    )
    return batchrunner


def budget(words: CommandLine) -> dict[str, tuple[float, float]]:
    lines: list[dict[str, Any]] = words("status", OUT, "--json").json["budget"]
    return {line["unit"]: (line["spent"], line["limit"]) for line in lines}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_one_budget_and_its_limit_is_reported_once(words: CommandLine, processes: int) -> None:
    ran = words("run", "job.yaml", "--processes", str(processes), "--quiet", "--json", "--set", "budget.calls=11")
    assert (ran.status, [line["limit"] for line in ran.json["budget"]]) == (3, [11.0])
    assert budget(words) == {"calls": (11.0, 11.0)}


def test_a_budget_that_was_raised_counts_as_it_is_now_for_shards_that_ended_before(words: CommandLine) -> None:
    run = ("run", "job.yaml", "--processes", "2", "--quiet", "--json")
    assert words(*run, "--set", "budget.calls=5").status == 3
    assert words(*run, "--set", "budget.calls=12", "--set", "budget.tokens=9000").status == 3
    found = budget(words)
    assert found["calls"] == (12.0, 12.0)
    assert found["tokens"][1] == 9000.0


def test_parts_of_a_budget_add_up_to_the_whole(words: CommandLine) -> None:
    for number in range(3):
        words("run", "job.yaml", "--shard", f"{number}/3", "--quiet", "--set", "budget.calls=50")
        assert budget(words)["calls"][1] == sum((17, 17, 16)[: number + 1])
    assert budget(words)["calls"] == (40.0, 50.0)


def test_shards_that_have_not_begun_are_named_where_items_are_counted(words: CommandLine) -> None:
    words("run", "job.yaml", "--shard", "0/3", "--quiet")
    assert "in 1 of 3 shards; the others have not begun" in words("status", OUT).err
    (listed,) = words("ls", "--json").json["runs"]
    assert listed["shards"] == {"begun": 1, "of": 3}
    assert "1 of 3 shards begun" in words("ls").out
    for number in (1, 2):
        words("run", "job.yaml", "--shard", f"{number}/3", "--quiet")
    assert "have not begun" not in words("status", OUT).err
    words("merge", OUT)
    (listed,) = words("ls", "--json").json["runs"]
    assert listed["shards"] is None


def typed(command: str) -> list[str]:
    """The arguments of a command that was told."""
    words = shlex.split(command)
    return words[words.index("run") :]


@pytest.fixture
def coordinated(words: CommandLine) -> CommandLine:
    """Two shards of a coordinator that has gone, at an address with a blank; the budget has ended them."""
    limited = ("--set", "budget.calls=30", "--quiet")
    serve = words.start("coordinate", "job.yaml", "--listen", "unix:a b", "--shards", "2", *limited)
    assert serve.stderr is not None
    while "coordinating" not in serve.stderr.readline():
        assert serve.poll() is None
    ran = words("run", "job.yaml", "--coordinator", "unix:a b", *limited)
    assert ran.status == 3, ran.err
    serve.communicate(timeout=60)
    return words


def test_the_way_on_after_a_coordinator_has_gone_is_a_command_that_works(coordinated: CommandLine) -> None:
    told = coordinated("status", OUT, "--json").json["next_command"]
    assert "--coordinator" not in told
    assert "--processes" in told
    ran = coordinated(*typed(told), "--set", "budget.calls=100", "--quiet", "--json")
    assert (ran.status, ran.json["items"]["done"]) == (0, ITEMS), ran.err


def test_the_way_on_after_a_merge_names_neither_a_coordinator_nor_processes(coordinated: CommandLine) -> None:
    merged = coordinated("merge", OUT, "--json")
    assert merged.status == 0
    told = typed(merged.json["next_command"])
    assert told == ["run", "job.yaml", "--set", "budget.calls=30"]
    assert coordinated(*told, "--set", "budget.calls=100", "--quiet").status == 0


def test_processes_may_have_the_job_in_different_folders(words: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on two machines that share only the directory of the run: a coordinator compares digests of the job."""
    other = words.folder / "deeper" / "there"
    other.mkdir(parents=True)
    for name in ("job.yaml", "words.jsonl"):
        (other / name).write_bytes((words.folder / name).read_bytes())
    monkeypatch.chdir(words.folder)
    files = ("job.yaml", "deeper/there/job.yaml", str(other / "job.yaml"))
    assert len({digest_of_job(load_job(file, out="shared")) for file in files}) == 1
    for number, file in enumerate(files):
        assert words("run", file, "--shard", f"{number}/3", "--out", "shared", "--quiet").status == 0
    status = words("status", "shared", "--json").json
    assert status["items"]["done"] == ITEMS
    assert not any("was changed between" in note for note in status["notes"])
    assert words("merge", "shared").status == 0


def test_an_address_that_is_taken_is_an_error_and_nothing_else(words: CommandLine) -> None:
    first = words.start("coordinate", "job.yaml", "--listen", "unix:c", "--quiet")
    try:
        assert first.stderr is not None
        while "coordinating" not in first.stderr.readline():
            assert first.poll() is None
        second = words("coordinate", "job.yaml", "--listen", "unix:c", "--out", "elsewhere")
        assert (second.status, second.err.count("\n")) == (4, 1), second.err
        assert "another coordinator listens there" in second.err
        assert (
            words("coordinate", "job.yaml", "--listen", "unix:no/such/folder/c", "--out", "other").err.count("\n") == 1
        )
    finally:
        first.terminate()
        first.communicate(timeout=60)
