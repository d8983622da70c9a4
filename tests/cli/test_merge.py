"""`merge DIR` in real processes: what the merged run has, that it goes on, and what is refused."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import batchrunner as package
from batchrunner.core.state import LedgerState
from batchrunner.stores.checkpoint import restored
from batchrunner.stores.files import DISK, stands_as_marked
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.ledger_replay import replay_into
from batchrunner.stores.merging import Merge
from batchrunner.stores.run_file import read_run_file
from tests.support.command_line import CommandLine, Ran
from tests.support.ending_process import ends_at_call
from tests.support.json_lines import json_lines

OUT = "outputs/words.simulated"
JOB = """
name: words
provider: simulator
models: [{models}]
prompts:
  file: words.jsonl
  template: "Explain {{{{ word }}}}."
"""
COMPARED = ("id", "prompt", "params", "output", "key")
ITEMS = 24


def write(batchrunner: CommandLine, *, models: str = "sim/words", more: str = "") -> None:
    """A job of 24 items for each model, two of which are identical."""
    source = [{"word": f"w{n % (ITEMS - 1)}"} for n in range(ITEMS)]
    (batchrunner.folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in source))
    (batchrunner.folder / "job.yaml").write_text(JOB.format(models=models) + more)


def run_shards(batchrunner: CommandLine, of: int, *more: str, numbers: range | None = None) -> list[Ran]:
    every = range(of) if numbers is None else numbers
    return [batchrunner("run", "job.yaml", "--shard", f"{number}/{of}", "--json", *more) for number in every]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Somebody works on the run in this directory."""
    with (folder / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compared(folder: Path, name: str = "results.jsonl") -> list[tuple[int, list[Any]]]:
    rows = sorted(json_lines(folder / name), key=lambda row: int(row["index"]))
    return [(row["index"], [row.get(field) for field in COMPARED]) for row in rows]


def shard_folder(base: Path, number: int, of: int) -> Path:
    return base / "shards" / f"{number}-of-{of}" / "epoch-1"


def test_merged_rows_are_those_of_an_undivided_run_and_the_run_goes_on(batchrunner: CommandLine) -> None:
    write(batchrunner)
    assert batchrunner("run", "job.yaml", "--out", "one", "--quiet").status == 0
    run_shards(batchrunner, 3)
    base = batchrunner.folder / OUT
    merged = batchrunner("merge", OUT, "--json")
    assert merged.status == 0
    assert (merged.json["rows"], merged.json["whole"], merged.json["begun"]) == (ITEMS, True, 3)
    assert [row["index"] for row in json_lines(base / "results.jsonl")] == list(range(1, ITEMS + 1))
    assert compared(base) == compared(batchrunner.folder / "one")
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    status = batchrunner("status", OUT, "--json").json
    assert (status["items"]["done"], status["shards"], status["sends"]["total"]) == (ITEMS, [], ITEMS - 1)
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]["total"], ran.json["state"]) == (0, ITEMS - 1, "done")
    assert compared(base) == compared(batchrunner.folder / "one")
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    assert (base / "report.html").exists(), "the page is the whole run's"
    again = batchrunner("merge", OUT, "--json")
    assert (again.status, again.json["was_merged"]) == (0, True)


def test_without_the_shards_the_merged_run_is_whole(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    batchrunner("merge", OUT)
    shutil.rmtree(batchrunner.folder / OUT / "shards")
    assert batchrunner("verify", OUT).status == 0
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]["total"]) == (0, ITEMS - 1)


def test_every_state_is_carried(batchrunner: CommandLine) -> None:
    """Done, failed, held and parked items: as the shards left them, and nothing is sent that had been paid."""
    write(
        batchrunner,
        models="sim/fine, sim/bad#content-filter, 'sim/doubt#reset-before-headers:9'",
        more="on_ambiguous: hold\n",
    )
    run_shards(batchrunner, 2)
    before = batchrunner("status", OUT, "--json").json
    assert before["items"]["failed"] > 0
    assert before["items"]["held"] > 0
    assert batchrunner("merge", OUT).status == 0
    after = batchrunner("status", OUT, "--json").json
    same = ("items", "sends", "usage")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert [group["count"] for group in after["failures"]] == [group["count"] for group in before["failures"]]
    assert {finding["level"] for finding in batchrunner("verify", OUT, "--json").json["findings"]} <= {"note"}
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.json["sends"], ran.json["items"]) == (before["sends"], before["items"])


@pytest.mark.parametrize(
    ("models", "more"),
    [
        ("sim/words", ""),
        ("sim/words", "kind: image\nparams: {size: 64x64}\n"),
        ("sim/fine, sim/bad#content-filter, 'sim/doubt#reset-before-headers:1'", ""),
    ],
)
def test_the_checkpoint_of_a_merged_run_is_what_its_ledger_says(
    batchrunner: CommandLine, models: str, more: str
) -> None:
    """So the next run reads neither the ledger nor the rows, and it finds the directory as it was left."""
    write(batchrunner, models=models, more=more)
    run_shards(batchrunner, 2)
    batchrunner("merge", OUT)
    base = batchrunner.folder / OUT
    there = read_run_file(base)
    assert there is not None
    kept = restored(DISK, base / "ledger", there.checkpointed, day_offset_s=None)
    assert kept is not None
    replayed = LedgerState()
    replay_into(replayed, read_ledger(base / "ledger"))
    replayed.segment_ended()
    assert kept.state.agrees_with(replayed)
    assert replayed.agrees_with(kept.state)
    assert stands_as_marked(DISK, base, replayed.marked)


def test_rows_of_a_merged_run_need_no_other_labels(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    batchrunner("merge", OUT)
    results = batchrunner.folder / OUT / "results.jsonl"
    before = results.stat().st_ino
    assert batchrunner("run", "job.yaml").status == 0
    assert results.stat().st_ino == before, "the file was not written again"


@pytest.mark.parametrize("changed", ["a row", "a byte of the ledger's times"])
def test_a_shard_that_was_changed_since_its_end_is_looked_at_row_by_row(batchrunner: CommandLine, changed: str) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    folder = shard_folder(batchrunner.folder / OUT, 0, 2)
    if changed == "a row":
        path = folder / "results.jsonl"
        first, rest = path.read_bytes().split(b"\n", 1)
        path.write_bytes(rest + first + b"\n")
    else:
        os.utime(folder / "ledger" / "000001.jsonl", (1, 1))
    assert batchrunner("merge", OUT).status == 0
    there = read_run_file(batchrunner.folder / OUT)
    assert there is not None
    assert there.checkpointed is None
    assert len(json_lines(batchrunner.folder / OUT / "results.jsonl")) == ITEMS
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]["total"]) == (0, ITEMS - 1)


def test_a_shard_that_was_cut_off_keeps_its_doubts_and_its_torn_row_is_not_merged(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    folder = shard_folder(batchrunner.folder / OUT, 0, 2)
    segment = folder / "ledger" / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    done = next(place for place, line in enumerate(lines) if b'"e":"done"' in line)
    segment.write_bytes(b"".join(lines[: done + 1]) + lines[done + 1][:40])
    for name in ("run.json", "results.jsonl"):
        path = folder / name
        if name == "run.json":
            kept = json.loads(path.read_text()) | {"segment_bytes": None, "segment_left": None, "checkpointed": None}
            path.write_text(json.dumps(kept))
        else:
            path.write_bytes(path.read_bytes() + b'{"id": "half')
    (folder / "ledger" / "000001.checkpoint").unlink()
    assert batchrunner("merge", OUT).status == 0
    rows = json_lines(batchrunner.folder / OUT / "results.jsonl")
    assert len(rows) == ITEMS, "rows whose record was lost are paid for, and are taken over"
    assert batchrunner("verify", OUT).status == 0
    ran = batchrunner("run", "job.yaml", "--json")
    assert ran.json["sends"]["total"] <= ITEMS - 1
    assert (ran.status, ran.json["items"]["done"]) == (0, ITEMS)


def test_a_shard_at_work_refuses_the_merge_and_can_be_merged_in_part(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2, numbers=range(1))
    run_shards(batchrunner, 2, "--limit", "6", numbers=range(1, 2))
    base = batchrunner.folder / OUT
    with held(shard_folder(base, 1, 2)):
        refused = batchrunner("merge", OUT)
        assert (refused.status, "--partial" in refused.err, "shard 1/2" in refused.err) == (4, True, True)
        partial = batchrunner("merge", OUT, "--partial", "--json")
        assert (partial.status, partial.json["whole"], partial.json["next_command"]) == (0, False, None)
    so_far = len(json_lines(base / "results.jsonl"))
    assert 0 < so_far < ITEMS
    assert batchrunner("export", OUT, "--to", "csv").status == 0
    assert batchrunner("run", "job.yaml").status == 4, "the shards go on"
    assert run_shards(batchrunner, 2, numbers=range(1, 2))[0].status == 0, "a refused merge closes no shard"
    assert batchrunner("merge", OUT).status == 0
    assert len(json_lines(base / "results.jsonl")) == ITEMS
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    assert batchrunner("run", "job.yaml", "--json").json["sends"]["total"] == ITEMS - 1
    assert run_shards(batchrunner, 2, numbers=range(1))[0].status == 4, "after a whole merge no shard starts"


def test_shards_that_never_began_are_left_to_the_merged_run(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 3, numbers=range(1, 2))
    merged = batchrunner("merge", OUT)
    assert "2 shards have not begun" in merged.err
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["items"]["done"], ran.json["sends"]["total"]) == (0, ITEMS, ITEMS - 1)


def test_pictures_get_a_second_name_and_are_as_recorded(batchrunner: CommandLine) -> None:
    write(batchrunner, more="kind: image\nparams: {size: 64x64}\n")
    run_shards(batchrunner, 2)
    merged = batchrunner("merge", OUT, "--json")
    assert merged.json["files"] == ITEMS - 1
    base = batchrunner.folder / OUT
    for row in json_lines(base / "results.jsonl"):
        path = row["output"]["images"][0]["path"]
        number = int(row["key"], 16) % 2
        assert (base / path).samefile(shard_folder(base, number, 2) / path)
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]["total"]) == (0, ITEMS - 1)


def test_tasks_that_a_server_accepted_are_followed_by_the_merged_run_and_not_ordered_again(
    batchrunner: CommandLine,
) -> None:
    write(
        batchrunner,
        models="'sim/words#img-slow:600'",
        more="kind: image\nparams: {size: 64x64}\ntimeouts: {task_s: 1}\n",
    )
    run_shards(batchrunner, 2, "--limit", "4")
    before = batchrunner("status", OUT, "--json").json
    assert before["items"]["timed_out"] == 4
    assert batchrunner("merge", OUT).status == 0
    after = batchrunner("status", OUT, "--json").json
    assert (after["items"], after["sends"]) == (before["items"], before["sends"])
    ran = batchrunner("run", "job.yaml", "--limit", "4", "--json")
    assert ran.json["sends"] == before["sends"]


def test_of_two_epochs_the_later_one_counts_and_the_other_s_rows_are_kept(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    base = batchrunner.folder / OUT
    first = shard_folder(base, 0, 2)
    second = first.with_name("epoch-2")
    shutil.copytree(first, second)
    changed = (second / "results.jsonl").read_bytes().replace(b'"attempts":1', b'"attempts":2')
    (second / "results.jsonl").write_bytes(changed)
    own = len(json_lines(first / "results.jsonl"))
    merged = batchrunner("merge", OUT, "--json")
    assert (merged.json["rows"], merged.json["duplicates"]) == (ITEMS, own)
    rows = {row["index"]: row for row in json_lines(base / "results.jsonl")}
    assert sum(row["attempts"] == 2 for row in rows.values()) == own
    assert len(json_lines(base / "superseded.jsonl")) == own
    assert batchrunner("verify", OUT).status == 0


def test_a_damaged_shard_is_reported_and_the_shards_stay_open(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    base = batchrunner.folder / OUT
    segment = shard_folder(base, 1, 2) / "ledger" / "000001.jsonl"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:300].replace(b"e", b"f", 3) + whole[300:])
    (segment.with_suffix(".checkpoint")).unlink()
    refused = batchrunner("merge", OUT)
    assert (refused.status, "1-of-2" in refused.err) == (4, True)
    segment.write_bytes(whole)
    assert run_shards(batchrunner, 2, numbers=range(1))[0].status == 0
    assert batchrunner("merge", OUT).status == 0


@pytest.mark.parametrize("missing", ["results.jsonl", "images"])
def test_a_shard_that_has_lost_rows_or_pictures_is_not_merged_in_silence(
    batchrunner: CommandLine, missing: str
) -> None:
    write(batchrunner, more="kind: image\n" if missing == "images" else "")
    run_shards(batchrunner, 2)
    shard = shard_folder(batchrunner.folder / OUT, 1, 2)
    (shard / missing).rename(batchrunner.folder / "kept")
    refused = batchrunner("merge", OUT)
    assert refused.status == 4
    assert "have lost a row or a picture" in refused.err
    (batchrunner.folder / "kept").rename(shard / missing)
    merged = batchrunner("merge", OUT, "--json")
    assert (merged.status, merged.json["rows"]) == (0, ITEMS)


def test_two_different_files_of_one_name_refuse_the_merge(batchrunner: CommandLine) -> None:
    write(batchrunner, more="kind: image\nparams: {size: 64x64}\n")
    run_shards(batchrunner, 2)
    base = batchrunner.folder / OUT
    picture = next((shard_folder(base, 0, 2) / "images").glob("*.*"))
    (shard_folder(base, 1, 2) / "images" / picture.name).write_bytes(b"another")
    refused = batchrunner("merge", OUT)
    assert (refused.status, picture.name in refused.err) == (4, True)


@pytest.mark.parametrize("place", ["nowhere", "one"])
def test_a_directory_without_shards_is_a_mistake(batchrunner: CommandLine, place: str) -> None:
    write(batchrunner)
    if place == "one":
        batchrunner("run", "job.yaml", "--out", "one", "--quiet")
    refused = batchrunner("merge", place)
    assert (refused.status, "--shard" in refused.err) == (2, True)


def test_batches_of_shards_have_numbers_and_files_of_their_own(batchrunner: CommandLine) -> None:
    write(batchrunner, more="batch: {use: always, look_every: 1s}\n")
    run_shards(batchrunner, 2)
    before = batchrunner("status", OUT, "--json").json
    assert len(before["batches"]) >= 2
    assert batchrunner("merge", OUT).status == 0
    after = batchrunner("status", OUT, "--json").json
    assert [batch["number"] for batch in after["batches"]] == list(range(1, len(before["batches"]) + 1))
    assert [batch["done"] for batch in after["batches"]] == [batch["done"] for batch in before["batches"]]
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]) == (0, before["sends"])


# A merge that ends at any call to the disk, as a kill ends it: the next one comes to the same.


def test_a_merge_that_is_killed_at_any_call_can_be_run_again(batchrunner: CommandLine) -> None:
    write(batchrunner, more="kind: image\nparams: {size: 64x64}\n")
    run_shards(batchrunner, 2)
    base = batchrunner.folder / OUT
    shards = {path: path.read_bytes() for path in (base / "shards").rglob("*") if path.is_file()}
    ended = 0
    while ends_at_call(lambda: Merge(base, partial=False).run(), ended):
        ended += 1
        if ended % 10 == 5:
            with pytest.raises(package.BatchrunnerError, match="merge"):
                package.run_sync(package.load_job(str(batchrunner.folder / "job.yaml"), out=str(base)))
    assert ended > 40
    assert len(json_lines(base / "results.jsonl")) == ITEMS
    for path, data in shards.items():
        assert path.read_bytes() == data, "nothing in the shards is touched"
    assert not list(base.rglob("*.tmp"))
    assert not list((base / "shards").glob("merg*.ledger"))
    assert batchrunner("verify", OUT, "--json").json["findings"] == []
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]["total"]) == (0, ITEMS - 1)


def test_a_shard_that_comes_after_the_merge_is_taken_in_and_not_paid_for_again(batchrunner: CommandLine) -> None:
    write(batchrunner)
    sent = sum(ran.json["sends"]["total"] for ran in run_shards(batchrunner, 2))
    base, away = batchrunner.folder / OUT, batchrunner.folder / "another-machine"
    (base / "shards/1-of-2").rename(away)
    assert batchrunner("merge", OUT, "--json").json["begun"] == 1
    shutil.copytree(away, base / "shards/1-of-2")
    refused = batchrunner("run", "job.yaml")
    assert (refused.status, "shard 1/2 has come since" in refused.err) == (4, True)
    merged = batchrunner("merge", OUT, "--json").json
    assert (merged["rows"], merged["was_merged"], merged["whole"]) == (ITEMS, False, True)
    assert batchrunner("merge", OUT, "--json").json["was_merged"] is True
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["sends"]["total"]) == (0, sent)
    assert batchrunner("verify", OUT, "--json").json["findings"] == []


def test_a_shard_that_is_completed_after_the_merge_is_taken_in(batchrunner: CommandLine) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2, numbers=range(1))
    batchrunner("run", "job.yaml", "--shard", "1/2", "--limit", "6", "--quiet")
    base, whole = batchrunner.folder / OUT, batchrunner.folder / "another-machine"
    shutil.copytree(base / "shards/1-of-2", batchrunner.folder / "early")
    sent = batchrunner("run", "job.yaml", "--shard", "1/2", "--json").json["sends"]["total"]
    (base / "shards/1-of-2").rename(whole)
    shutil.copytree(batchrunner.folder / "early", base / "shards/1-of-2")
    assert batchrunner("merge", OUT, "--json").json["rows"] < ITEMS
    shutil.rmtree(base / "shards/1-of-2")
    shutil.copytree(whole, base / "shards/1-of-2")
    assert batchrunner("merge", OUT, "--partial", "--json").json["whole"] is True
    ran = batchrunner("run", "job.yaml", "--json")
    assert (ran.status, ran.json["items"]["done"]) == (0, ITEMS)
    assert ran.json["sends"]["total"] <= sent + ITEMS


def test_a_shard_that_comes_after_the_merged_run_has_gone_on_is_refused_with_a_way_to_use_it(
    batchrunner: CommandLine,
) -> None:
    write(batchrunner)
    run_shards(batchrunner, 2)
    base, away = batchrunner.folder / OUT, batchrunner.folder / "another-machine"
    (base / "shards/1-of-2").rename(away)
    batchrunner("merge", OUT)
    assert batchrunner("run", "job.yaml", "--limit", "1", "--quiet").status == 0
    shutil.copytree(away, base / "shards/1-of-2")
    refused = batchrunner("merge", OUT)
    assert (refused.status, "shard 1/2 has come" in refused.err, "`reuse`" in refused.err) == (4, True, True)
    before = batchrunner("status", OUT, "--json").json["sends"]["total"]
    with (batchrunner.folder / "job.yaml").open("a") as job:
        job.write("\nreuse: [away]\n")
    (batchrunner.folder / "away.simulated").symlink_to(base / "shards/1-of-2/epoch-1")  # as simulated runs are named
    ran = batchrunner("run", "job.yaml", "--json")
    assert ran.status == 0, ran.err
    assert (ran.json["items"]["done"], ran.json["sends"]["total"]) == (ITEMS, before)
