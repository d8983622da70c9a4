"""A real file system that is full: the run stops with 4 and a clear sentence, and goes on when there is room again."""

from pathlib import Path

import pytest

from tests.e2e.disks import SmallDisk, small_disk
from tests.e2e.jobs import chat_job, image_job
from tests.e2e.judging import (
    Account,
    account_of,
    is_intact,
    ledger_records,
    nothing_is_wrong,
    pictures_are_what_was_sent,
    texts_are_what_was_sent,
    write_prompts,
)
from tests.e2e.lives import life
from tests.e2e.runs import CANARY, Ended, Simulator, no_byte_holds, simulator
from tests.support.json_lines import json_lines_so_far

pytestmark = pytest.mark.real
ROOM_BYTES = 512 * 1024
ANSWERS, PICTURES = 1_000, 200


def run_there(disk: SmallDisk, job: Path) -> Ended:
    with life(job.parent, "run", str(job), "--json", "--out", str(disk.there / "out"), before=disk.door) as living:
        return living.end()


def fills_and_goes_on(disk: SmallDisk, job: Path, server: Simulator, *, items: int) -> Account:
    out = disk.here / "out"
    ended = run_there(disk, job)
    assert ended.status == 4, ended
    assert "no space left" in ended.stderr.lower(), ended.stderr
    assert "Traceback" not in ended.stderr
    is_intact(out)
    done = {record["k"] for record in ledger_records(out) if record["e"] == "done"}
    assert 0 < len(done) < items
    assert server.stats()["in_flight"] == 0
    still = run_there(disk, job)
    assert still.status == 4, still
    assert "no space left" in still.stderr.lower(), still.stderr
    is_intact(out)
    disk.grow()
    last = run_there(disk, job)
    assert last.status == 0, last.stderr
    is_intact(out)
    no_byte_holds(out, CANARY)
    account = account_of(out, server.stats(), items=items)
    nothing_is_wrong(account)
    return account


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_answers_on_a_full_disk_are_kept_and_the_rest_follows_when_there_is_space(tmp_path: Path, kind: str) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=ANSWERS)
    with small_disk(tmp_path, kind, size_bytes=ROOM_BYTES) as disk, simulator(tmp_path) as server:
        fills_and_goes_on(disk, chat_job(tmp_path, server.base_url), server, items=ANSWERS)
        texts_are_what_was_sent(disk.here / "out", prompts)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_tasks_accepted_before_the_disk_was_full_are_followed_and_not_paid_again(tmp_path: Path, kind: str) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=PICTURES)
    with small_disk(tmp_path, kind, size_bytes=ROOM_BYTES) as disk, simulator(tmp_path) as server:
        job = image_job(tmp_path, server.base_url, in_flight=50)
        fills_and_goes_on(disk, job, server, items=PICTURES)
        pictures_are_what_was_sent(disk.here / "out", prompts)


def test_a_folder_that_turns_read_only_while_a_run_works_ends_it_and_loses_no_picture(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", items=60)
    with (
        small_disk(tmp_path, "tmpfs", size_bytes=16 * ROOM_BYTES) as disk,
        simulator(tmp_path, "--latency", "task=1.5,spread=0.5") as server,
    ):
        job = image_job(tmp_path, server.base_url, in_flight=10)
        out, images = disk.here / "out", f"'{disk.there}/out/images'"
        with life(tmp_path, "run", str(job), "--json", "--out", str(disk.there / "out"), before=disk.door) as living:
            assert living.watch(until=lambda: len(json_lines_so_far(out / "results.jsonl")) >= 3)
            assert not disk.do(f"mount --bind {images} {images} && mount -o remount,bind,ro {images}")
            ended = living.end()
        assert ended.status == 4, ended
        assert "read-only" in ended.stderr.lower(), ended.stderr
        assert "Traceback" not in ended.stderr
        sends = server.stats()["sends"]
        still = run_there(disk, job)
        assert (still.status, server.stats()["sends"]) == (4, sends), still
        assert not disk.do(f"umount {images}")
        is_intact(out)
        assert run_there(disk, job).status == 0
        is_intact(out)
        assert server.stats()["sends"] == 60, "something was ordered again"
        pictures_are_what_was_sent(out, prompts)
        assert not disk.do(f"mount -o remount,ro '{disk.there}'")
        for command in ("status", "verify"):
            with life(tmp_path, command, str(disk.there / "out"), "--json", before=disk.door) as living:
                assert living.end().status == 0
        refused = run_there(disk, job)
        assert (refused.status, server.stats()["sends"]) == (4, 60)
        assert "read-only" in refused.stderr.lower()
