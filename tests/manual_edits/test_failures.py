"""Rows of failures.jsonl that hands removed or changed: made again from the ledger, and told; nothing is sent."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from tests.manual_edits.cases import CHAT, Field, Fields

FAILING = CHAT.replace("sim/chat", "sim/chat#content-filter")


def failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text("utf-8").splitlines()]


def change(make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(make(path.read_bytes()))


def rows(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


HANDS: dict[str, tuple[Callable[[Path], object], int]] = {
    "the file deleted": (Path.unlink, 5),
    "emptied": (change(lambda _: b""), 5),
    "the first removed": (change(lambda text: b"".join(rows(text)[1:])), 1),
    "the last removed": (change(lambda text: b"".join(rows(text)[:-1])), 1),
    "two in the middle removed": (change(lambda text: b"".join(rows(text)[:1] + rows(text)[3:])), 2),
    "one broken": (change(lambda text: text.replace(b'{"id"', b'"id"', 1)), 1),
    "one doubled, one removed": (change(lambda text: b"".join(rows(text)[:1] * 2 + rows(text)[2:])), 1),
}


@pytest.mark.parametrize("hand", HANDS)
def test_a_row_of_a_failed_item_that_is_gone_is_made_again_and_reported(fields: Fields, hand: str) -> None:
    run = fields(FAILING)
    sends, before = run.sends, failures(run.folder)
    spoil, gone = HANDS[hand]
    spoil(run.folder / "failures.jsonl")
    assert run.verify().exit_status is ExitStatus.STOPPED
    ended = run.run()
    assert (ended.exit_status, ended.status.items.failed, run.sends) == (ExitStatus.FAILED, 5, sends)
    told = [said for said in run.said if "missing row" in said]
    assert len(told) == 1
    assert f"{gone} missing row" in told[0]
    after = failures(run.folder)
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert [row["error"]["class"] for row in after] == ["content_filter"] * 5
    for row, was in zip(after, before, strict=True):
        assert row["error"]["message"] == was["error"]["message"]
        assert (row["attempts"], row["prompt"], row["key"]) == (was["attempts"], was["prompt"], was["key"])
    assert run.verify().exit_status is ExitStatus.DONE
    run.run()
    assert run.said == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_failures_in_another_form_are_taken(fields: Fields, encoding: str) -> None:
    run = fields(FAILING)
    before = failures(run.folder)
    change(lambda text: text.decode().encode(encoding))(run.folder / "failures.jsonl")
    assert run.verify().exit_status is ExitStatus.DONE
    assert len(run.status().failures) == 1
    assert run.run().exit_status is ExitStatus.FAILED
    assert failures(run.folder) == before


def test_an_item_that_failed_and_came_through_later_gets_no_row_again(fields: Fields) -> None:
    run = fields(FAILING)
    run.job = fields(CHAT).job  # another model: other items, and those of before are none of the job's any more
    (run.folder / "failures.jsonl").unlink(missing_ok=True)
    assert run.run().exit_status is ExitStatus.DONE
    assert not (run.folder / "failures.jsonl").exists() or failures(run.folder) == []


def segment(run: Field, number: int) -> Path:
    return run.folder / "ledger" / f"{number:06d}.jsonl"


SPOILT: dict[str, Callable[[Field], object]] = {
    "the middle segment gone": lambda run: segment(run, 2).unlink(),
    "the first segment gone": lambda run: segment(run, 1).unlink(),
    "the middle segment's records gone": lambda run: change(lambda text: b"".join(rows(text)[:1]))(segment(run, 2)),
    "only what says that they failed gone": lambda run: [
        change(lambda text: b"".join(row for row in rows(text) if b'"e":"failed"' not in row))(path)
        for path in (run.folder / "ledger").glob("*.jsonl")
    ],
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_salvage_sends_no_failed_item_again_unasked(fields: Fields, tmp_path: Path, case: str) -> None:
    """Where the ledger lost its word of a failure, the row has it; where the row is gone, the ledger has it."""
    run = fields(FAILING, limit=4)
    run.run()
    before = failures(run.folder)
    assert len(before) == 5
    SPOILT[case](run)
    salvaged = api.verify(str(run.folder), salvage=str(tmp_path / "new")).salvaged
    assert salvaged is not None
    shutil.rmtree(run.folder)
    (tmp_path / "new").rename(run.folder)
    assert run.status().items.failed == 5
    sends = run.sends
    ended = run.run()
    assert (ended.exit_status, ended.status.items.failed, run.sends) == (ExitStatus.FAILED, 5, sends)
    assert [row["error"] for row in failures(run.folder)] == [row["error"] for row in before]
    assert run.verify().exit_status is ExitStatus.DONE
    assert run.run(retry_failed=True).status.sends.total == sends + 5, "asked for"


def test_failures_are_adopted_also_of_items_that_had_been_tried_before(fields: Fields) -> None:
    """The newest segment is gone, and with it the end of items of which an older one knows a try."""
    run = fields(CHAT.replace("sim/chat", "sim/chat#5xx:9") + "retry: {attempts: 1}\n", limit=2)
    if len(list((run.folder / "ledger").glob("*.jsonl"))) < 2:
        run.run(retry_failed=True)
    failed, sends = run.status().items.failed, run.sends
    max((run.folder / "ledger").glob("*.jsonl")).unlink()
    ended = run.run(adopt_rows=True, limit=2)
    assert ended.status.items.failed == failed
    assert ended.status.sends.total <= sends
