"""A ledger of format version 1 is read for ever as it was read on its first day.

The files were made once, by hand, with every event in them, an event and a field of a later program of the same
version, a segment without an end and one with a torn end. They are never made again.
"""

import hashlib
import shutil
from pathlib import Path

import pytest

from batchrunner.core.lifecycle import ItemRecord, ItemState, OpenTask, Park
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.ledger_replay import replay

GOLDEN = Path(__file__).parent / "golden" / "ledger-v1"
SHA256 = {
    "000001.jsonl": "cd48c872de98fcfb0ec7b94f4118f01fca359c6983d0da4892ea218fbf850035",
    "000002.jsonl": "4106e6dd08d98a84899833028560d528c83116c157bd085655897d515d330bd1",
    "000003.jsonl": "62443de6aaea0678c1a97071ef4a3d030d9cb712690be59e2aeb08787e44ac10",
}
ITEM_STATES = {  # standing, attempts, ambiguous, sends, doubtful
    1: (ItemState.DONE, 2, 1, 3, False),
    2: (ItemState.DONE, 1, 0, 1, False),
    3: (ItemState.FAILED, 1, 0, 1, False),
    4: (ItemState.PENDING, 0, 1, 1, False),
    5: (ItemState.ACCEPTED, 0, 0, 1, False),
    6: (ItemState.PENDING, 1, 1, 1, True),
    7: (ItemState.DONE, 1, 0, 1, False),
    8: (ItemState.PENDING, 1, 1, 1, True),
    9: (ItemState.PENDING, 1, 1, 1, True),
}
T = 1_790_000_000.0
LANE = ("KEY_A", "Qwen/Qwen-Image")


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.mark.parametrize(("name", "sha256"), SHA256.items())
def test_the_golden_segments_are_the_first_ones(name: str, sha256: str) -> None:
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == sha256


def test_the_golden_ledger_replays_to_the_state_that_it_had_on_its_first_day(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "ledger")
    said: list[str] = []
    state = replay(tmp_path, day_offset_s=0.0, say=said.append)
    assert {where: state.record(where) for where, _ in state.item_states()} == {
        key(number): ItemRecord(
            item_state=item_state, attempts=attempts, ambiguous=ambiguous, sends=sends, doubtful=doubtful, fresh=False
        )
        for number, (item_state, attempts, ambiguous, sends, doubtful) in ITEM_STATES.items()
    }
    assert state.tasks == {
        key(5): OpenTask(
            task_id="77",
            item_id="open-task",
            account=LANE[0],
            model=LANE[1],
            accepted_at=T + 17,
            urls=("https://files.example/c.png",),
        )
    }
    assert state.parks == {
        LANE: Park(kind="quota_model", reason="daily quota of the model", until=T + 3600, since=T + 19)
    }
    assert state.days == {LANE: (20719, 1)}
    assert state.labels == {"bb" * 16}
    assert (state.sends, state.refused, state.ambiguous, state.unknown) == (11, 1, 2, 3)
    assert (state.images, state.input_tokens, state.output_tokens) == (2, 11, 22)
    assert (state.results_length, state.segments, state.closed) == (1900, 3, False)
    (torn,) = said
    assert "000003.jsonl: 131 bytes" in torn


def test_the_golden_ledger_keeps_how_each_segment_ended() -> None:
    reading = read_ledger(GOLDEN)
    assert sum(1 for _ in reading) == 24 + 1 + 5 + 2
    assert [(end.number, end.records, end.closed) for end in reading.segments] == [
        (1, 26, False),
        (2, 5, True),
        (3, 2, False),
    ]
