"""A shard is taken over by its next epoch: what it has, what it does not pay for again, what a merge makes of both."""

import fcntl
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.errors import WrongDirectoryError
from batchrunner.core.part import Shard
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.shard_takeover import take_over_shard
from tests.support.command_line import CommandLine
from tests.support.ending_process import ends_at_call
from tests.support.json_lines import json_lines

OUT = "outputs/words.simulated"
JOB = """
name: words
provider: simulator
models: [{models}]
prompts:
  file: words.txt
"""
ITEMS = 24
SHARD = Shard(number=0, of=2)


def write(batchrunner: CommandLine, *, models: str = "sim/words", more: str = "") -> Path:
    (batchrunner.folder / "words.txt").write_text("".join(f"word {number}\n" for number in range(ITEMS)))
    (batchrunner.folder / "job.yaml").write_text(JOB.format(models=models) + more)
    return batchrunner.folder / OUT


def run(batchrunner: CommandLine, *more: str, shard: str = "0/2") -> Any:
    return batchrunner("run", "job.yaml", "--shard", shard, "--json", *more).json


def epoch(base: Path, number: int) -> Path:
    return base / "shards" / SHARD.folder / f"epoch-{number}"


def late_answers(batchrunner: CommandLine, base: Path, *limits: str) -> None:
    """The process of epoch 1 goes on to a limit, although epoch 2 has taken its shard over."""
    aside = epoch(base, 2).rename(base / "aside")
    run(batchrunner, *limits)
    aside.rename(epoch(base, 2))


def test_nothing_that_an_older_epoch_has_done_is_sent_again(batchrunner: CommandLine) -> None:
    base = write(
        batchrunner,
        models="sim/fine, sim/bad#content-filter, 'sim/doubt#reset-before-headers:9'",
        more="on_ambiguous: hold\n",
    )
    before = run(batchrunner)
    assert min(before["items"][state] for state in ("done", "failed", "held")) > 0
    assert take_over_shard(base, SHARD, 2) == epoch(base, 2)
    after = run(batchrunner)
    assert (after["sends"], after["items"]) == (before["sends"], before["items"])
    assert (epoch(base, 2) / "lock").exists(), "the next run is in the new epoch"


def test_tasks_of_an_older_epoch_are_followed_and_not_ordered_again(batchrunner: CommandLine) -> None:
    base = write(
        batchrunner,
        models="'sim/words#img-slow:600'",
        more="kind: image\nparams: {size: 64x64}\ntimeouts: {task_s: 1}\n",
    )
    before = run(batchrunner, "--limit", "4")
    take_over_shard(base, SHARD, 2)
    assert run(batchrunner, "--limit", "4")["sends"] == before["sends"]


def test_what_was_being_sent_is_unknown_in_the_next_epoch(batchrunner: CommandLine) -> None:
    """The older process is cut off, or stopped, right after an intent: its last line is half a record."""
    base = write(batchrunner)
    run(batchrunner)
    segment = epoch(base, 1) / "ledger" / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    cut = max(place for place, line in enumerate(lines) if b'"e":"intent"' in line) + 1
    segment.write_bytes(b"".join(lines[:cut]) + lines[cut][:30])
    (epoch(base, 1) / "ledger" / "000001.checkpoint").unlink(missing_ok=True)
    take_over_shard(base, SHARD, 2)
    assert (epoch(base, 2) / "ledger" / "000001.jsonl").read_bytes() == b"".join(lines[:cut])
    rows = json_lines(epoch(base, 1) / "results.jsonl")
    ended = run(batchrunner)
    assert (ended["items"]["done"], ended["sends"]["total"]) == (len(rows), len(rows)), (
        "rows without a record are adopted"
    )


def test_a_later_epoch_refuses_a_stale_takeover(batchrunner: CommandLine) -> None:
    base = write(batchrunner)
    run(batchrunner, "--limit", "4")
    take_over_shard(base, SHARD, 3)
    with pytest.raises(WrongDirectoryError, match="epoch 3"):
        take_over_shard(base, SHARD, 2)
    assert not epoch(base, 2).exists()
    assert take_over_shard(base, SHARD, 3) == epoch(base, 3), "one that has begun goes on"


def test_a_shard_that_has_sent_nothing_begins_as_its_epoch(batchrunner: CommandLine) -> None:
    base = write(batchrunner)
    run(batchrunner, shard="1/2")
    assert take_over_shard(base, SHARD, 4) == epoch(base, 4)
    assert not epoch(base, 4).exists()


def test_pictures_of_an_older_epoch_have_a_second_name(batchrunner: CommandLine) -> None:
    base = write(batchrunner, more="kind: image\nparams: {size: 64x64}\n")
    before = run(batchrunner)
    take_over_shard(base, SHARD, 2)
    for row in json_lines(epoch(base, 2) / "results.jsonl"):
        path = row["output"]["images"][0]["path"]
        assert (epoch(base, 2) / path).samefile(epoch(base, 1) / path)
    after = run(batchrunner)
    assert (after["sends"], after["state"]) == (before["sends"], "done")


def test_late_answers_of_an_older_epoch_are_counted_as_duplicates_and_kept(batchrunner: CommandLine) -> None:
    base = write(batchrunner)
    run(batchrunner, "--limit", "10")
    take_over_shard(base, SHARD, 2)
    shared = len(json_lines(epoch(base, 2) / "results.jsonl"))
    late_answers(batchrunner, base, "--limit", "20")
    late = len(json_lines(epoch(base, 1) / "results.jsonl")) - shared
    assert late > 0
    run(batchrunner)
    run(batchrunner, shard="1/2")
    merged = batchrunner("merge", OUT, "--json").json
    assert (merged["rows"], merged["duplicates"]) == (ITEMS, late)
    assert len(json_lines(base / "superseded.jsonl")) == late
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    assert batchrunner("run", "job.yaml", "--json").json["sends"]["total"] == ITEMS


@pytest.mark.parametrize("kind", ["chat", "image"])
def test_an_answer_that_only_an_older_epoch_has_counts(batchrunner: CommandLine, kind: str) -> None:
    base = write(batchrunner, more="kind: image\nparams: {size: 64x64}\n" if kind == "image" else "")
    run(batchrunner, "--limit", "10")
    take_over_shard(base, SHARD, 2)
    late_answers(batchrunner, base)
    run(batchrunner, "--limit", "10")
    run(batchrunner, shard="1/2")
    merged = batchrunner("merge", OUT, "--json").json
    assert (merged["rows"], merged["duplicates"]) == (ITEMS, 0)
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["items"]["done"]) == (0, ITEMS)
    assert len(json_lines(base / "results.jsonl")) == ITEMS


def test_a_process_that_holds_an_older_epoch_keeps_no_merge_away(batchrunner: CommandLine) -> None:
    base = write(batchrunner)
    for shard in ("0/2", "1/2"):
        run(batchrunner, shard=shard)
    take_over_shard(base, SHARD, 2)
    run(batchrunner)
    with (epoch(base, 1) / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert batchrunner("merge", OUT, "--json").json["rows"] == ITEMS


def test_status_counts_the_newest_epoch(batchrunner: CommandLine) -> None:
    base = write(batchrunner)
    for shard in ("0/2", "1/2"):
        run(batchrunner, shard=shard)
    before = batchrunner("status", OUT, "--json").json
    take_over_shard(base, SHARD, 2)
    after = batchrunner("status", OUT, "--json").json
    assert (after["items"], after["sends"]) == (before["items"], before["sends"])
    assert batchrunner("plan", "job.yaml", "--json").json["to_send"] == 0


# A takeover that ends at any call to the disk, as a kill ends it: the next one comes to the same.


def test_a_takeover_that_is_killed_at_any_call_can_be_done_again(batchrunner: CommandLine) -> None:
    base = write(batchrunner, more="kind: image\nparams: {size: 64x64}\n")
    before = run(batchrunner)
    records = sum(1 for _ in read_ledger(epoch(base, 1) / "ledger"))
    first = {path: path.read_bytes() for path in epoch(base, 1).rglob("*") if path.is_file()}
    ended = 0
    while ends_at_call(lambda: take_over_shard(base, SHARD, 2), ended):
        ended += 1
        if epoch(base, 2).exists():  # killed after the last step: it is whole
            assert sum(1 for _ in read_ledger(epoch(base, 2) / "ledger")) == records
            shutil.rmtree(epoch(base, 2))
    assert ended > 15
    assert not list((base / "shards" / SHARD.folder).glob("taking-over-*"))
    assert {path: path.read_bytes() for path in epoch(base, 1).rglob("*") if path.is_file()} == first
    after = run(batchrunner)
    assert (after["sends"], after["items"]) == (before["sends"], before["items"])
