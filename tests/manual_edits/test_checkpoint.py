"""The checkpoint of a ledger: never needed, never believed when it or its segments are not what they were."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.events import Close
from batchrunner.core.state import LedgerState
from batchrunner.stores import checkpoint
from batchrunner.stores.files import DISK
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.run_file import read_run_file
from tests.manual_edits.cases import CHAT, IMAGE, TWINS, Fields

SHANGHAI_S = 8 * 3600.0
"""Where the simulator's days turn."""


def newest(folder: Path) -> Path:
    return max((folder / "ledger").glob("*.checkpoint"))


def everything_known(state: LedgerState) -> tuple[object, ...]:
    """All that a state knows."""
    state.segment_ended()
    marks = state.closed, state.torn, state.marked, state.intact_at
    figures = msgspec.to_builtins(state.figures())
    for name in ("uncorrected", "shared_tasks"):
        figures[name].sort()
    return figures, dict(state.table.known()), {key: state.crc(key) for key, _ in state.item_states()}, marks


def read(folder: Path) -> tuple[object, ...]:
    return everything_known(replay(folder, day_offset_s=SHANGHAI_S))


def read_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    with monkeypatch.context() as patch:
        patch.setattr("batchrunner.stores.ledger_replay.restored", lambda *_, **__: None)
        return read(folder)


def uses_it(folder: Path) -> bool:
    there = read_run_file(folder)
    assert there is not None
    return checkpoint.restored(DISK, folder / "ledger", there.checkpointed, day_offset_s=SHANGHAI_S) is not None


def resealed(path: Path, text: bytes) -> None:
    """Another checkpoint under the name of the right one, which `close` and run.json name as if it were that."""
    path.write_bytes(text)
    segment = path.with_suffix(".jsonl")
    *lines, last = segment.read_bytes().splitlines()
    record = json.loads(last)
    record.pop("c")
    record["checkpoint"] = [len(text), zlib.crc32(text), checkpoint.FORMAT]
    body = json.dumps(record, separators=(",", ":")).encode()[:-1]
    segment.write_bytes(b"\n".join([*lines, body + b',"c":"%08x"}' % zlib.crc32(body), b""]))
    run = json.loads((path.parent.parent / "run.json").read_text())
    run["checkpointed"] = checkpoint.segment_mark(DISK, path.parent, int(path.stem))
    run["segment_bytes"] = segment.stat().st_size
    (path.parent.parent / "run.json").write_text(json.dumps(run))


def _head(**changes: object) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        head, _, rest = text.partition(b"\n")
        known = json.loads(head)
        known.update({name: value for name, value in changes.items() if name in known})
        known["figures"].update({name: value for name, value in changes.items() if name not in known})
        return json.dumps(known).encode() + b"\n" + rest

    return change


def _words(change: Callable[[int], int]) -> Callable[[bytes], bytes]:
    def changed(text: bytes) -> bytes:
        head, _, rest = text.partition(b"\n")
        items = json.loads(head)["items"]
        words = [int.from_bytes(rest[16 * items + 8 * n : 16 * items + 8 * n + 8], "little") for n in range(items)]
        middle = b"".join(change(word).to_bytes(8, "little") for word in words)
        return head + b"\n" + rest[: 16 * items] + middle + rest[24 * items :]

    return changed


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in its head": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a bit of its head flipped": lambda path: path.write_bytes(_flipped(path.read_bytes(), 20)),
    "a bit of its middle flipped": lambda path: path.write_bytes(_flipped(path.read_bytes(), -70)),
    "its last bit flipped": lambda path: path.write_bytes(_flipped(path.read_bytes(), -1)),
    "a folder in its place": lambda path: _moved(path).mkdir(),
    "a link in its place": lambda path: _moved(path).symlink_to(path.with_suffix(".moved")),
    "nothing but brackets": lambda path: resealed(path, b"[" * 100_000 + b"\n"),
    "no line at all": lambda path: resealed(path, b"x" * 100),
    "of a later format": lambda path: resealed(path, _head(format=checkpoint.FORMAT + 1)(path.read_bytes())),
    "of another machine": lambda path: resealed(path, _head(byteorder="big")(path.read_bytes())),
    "of more items than there are": lambda path: resealed(path, _head(items=10**15)(path.read_bytes())),
    "of fewer items than there are": lambda path: resealed(path, _head(items=1)(path.read_bytes())),
    "of -1 items": lambda path: resealed(path, _head(items=-1)(path.read_bytes())),
    "with counts that are none": lambda path: resealed(path, _head(counts=[])(path.read_bytes())),
    "with other counts": lambda path: resealed(path, _head(counts=[9, 0, 0, 0, 0])(path.read_bytes())),
    "without models": lambda path: resealed(path, _head(models=[])(path.read_bytes())),
    "with a key that is none": lambda path: resealed(path, _head(uncorrected=["x"])(path.read_bytes())),
    "of another place's days": lambda path: resealed(path, _head(day_offset_s=0.0)(path.read_bytes())),
    "with standings that are none": lambda path: resealed(path, _words(lambda word: word | 7)(path.read_bytes())),
    "with models that are none": lambda path: resealed(
        path, _words(lambda word: word | 0xFFFF << 38)(path.read_bytes())
    ),
    "with items that nobody knows": lambda path: resealed(
        path, _words(lambda word: word & ~(1 << 54))(path.read_bytes())
    ),
    "its segment touched": lambda path: path.with_suffix(".jsonl").touch(),
    "an earlier segment touched": lambda path: path.with_name("000001.jsonl").touch(),
}


def _moved(path: Path) -> Path:
    path.rename(path.with_suffix(".moved"))
    return path


def _flipped(text: bytes, place: int) -> bytes:
    changed = bytearray(text)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("job", [CHAT, TWINS, IMAGE], ids=["chat", "twins", "image"])
def test_a_clean_end_leaves_one_checkpoint_which_close_names_and_which_knows_what_the_ledger_reports(
    fields: Fields, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fields(job, limit=4)
    (path,) = (run.folder / "ledger").glob("*.checkpoint")
    assert path.name == "000002.checkpoint"
    assert path.stat().st_mode & 0o777 == 0o600
    *_, last = read_ledger(run.folder / "ledger")
    assert isinstance(last.event, Close)
    assert last.event.checkpoint == (path.stat().st_size, zlib.crc32(path.read_bytes()), checkpoint.FORMAT)
    assert uses_it(run.folder)
    assert read(run.folder) == read_whole(run.folder, monkeypatch)
    assert run.verify().exit_status is ExitStatus.DONE


@pytest.mark.parametrize("case", HARM)
def test_a_harmed_checkpoint_is_passed_over_and_made_anew(
    fields: Fields, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fields(CHAT, limit=3)
    whole, sends = read_whole(run.folder, monkeypatch)[:3], run.sends
    HARM[case](newest(run.folder))
    assert not uses_it(run.folder)
    assert read(run.folder)[:3] == whole
    assert run.sends == sends
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5
    assert uses_it(run.folder)
    assert read(run.folder) == read_whole(run.folder, monkeypatch)
    assert run.verify().exit_status is ExitStatus.DONE


def test_the_segments_after_a_checkpoint_are_replayed_on_top_of_it(
    fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fields(CHAT, limit=3)
    path = newest(run.folder)
    kept = path.read_bytes(), json.loads((run.folder / "run.json").read_text())["checkpointed"]
    run.run()
    newest(run.folder).unlink()  # as if the last process had been killed before it made one
    path.write_bytes(kept[0])
    there = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**there, "checkpointed": kept[1]}))
    assert uses_it(run.folder)
    assert read(run.folder) == read_whole(run.folder, monkeypatch)
    assert run.status().items.done == 5


def test_a_copied_directory_is_read_from_its_ledger(fields: Fields, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fields(CHAT, limit=3)
    shutil.copytree(run.folder, run.folder.with_name("copy"))
    shutil.rmtree(run.folder)
    shutil.move(run.folder.with_name("copy"), run.folder)
    assert not uses_it(run.folder)
    assert read(run.folder) == read_whole(run.folder, monkeypatch)
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5


def test_verify_distinguishes_a_checkpoint_that_cannot_be_used_from_one_that_is_wrong_and_would_be_believed(
    fields: Fields,
) -> None:
    run = fields(CHAT, limit=3)
    path = newest(run.folder)
    right = path.read_bytes()
    path.write_bytes(_flipped(right, -1))
    assert run.found() == {"checkpoint_unusable": 1}
    assert run.verify().exit_status is ExitStatus.DONE
    path.write_bytes(right)
    assert run.found() == {}
    path.with_name("000007.checkpoint").touch(mode=0o600)
    assert run.found() == {}
    for change in (_words(lambda word: word + (1 << 22)), _head(sends=9), _head(results_length=1)):
        resealed(path, change(right))
        assert uses_it(run.folder)
        assert run.found() == {"checkpoint_wrong": 1}
        assert run.verify().exit_status is ExitStatus.STOPPED
