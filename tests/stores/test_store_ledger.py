"""The ledger in a store: one writer at a time; what a folder lacks comes back, what the store lacks goes up."""

from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.errors import LedgerDamagedError, LockHeldError
from batchrunner.stores import store_ledger
from batchrunner.stores.files import RESULTS
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.store_ledger import StoreFiles, StoreLedger

MemoryStore = pytest.importorskip(
    "obstore.store", reason="obstore is not installed: see the extra `remote`"
).MemoryStore
KEYS = ("0" * 31 + "1", "0" * 31 + "2")
ROWS = [b'{"index":%d,"id":"x","key":"%s"}\n' % (place, key.encode()) for place, key in enumerate(KEYS, 1)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In memory: also for those who open it by its address."""
    made = MemoryStore()
    monkeypatch.setattr(store_ledger, "open_store", lambda _: made)
    monkeypatch.setattr(store_ledger, "require_reachable", lambda _: None)
    return made


def machine(folder: Path, name: str) -> StoreLedger:
    """Another folder is another machine."""
    (folder / name).mkdir(exist_ok=True)
    return StoreLedger(folder / name, "s3://runs/night")


def written(ledger: StoreLedger, folder: Path, segment: bytes, rows: bytes = b"") -> StoreFiles:
    """What a process appends and syncs."""
    files = StoreFiles(ledger, folder)
    if rows:
        descriptor = files.open_append(folder / RESULTS, 0o666)
        files.write(descriptor, rows)
        files.fsync(descriptor)
    number = len(list((folder / LEDGER).iterdir())) + 1
    descriptor = files.open_new(folder / LEDGER / f"{number:06d}.jsonl", 0o600)
    files.write(descriptor, segment)
    files.fsync(descriptor)
    return files


def test_what_was_synced_is_in_the_store_and_comes_back_on_another_machine(store: Any, tmp_path: Path) -> None:
    first = machine(tmp_path, "first")
    first.take()
    written(first, tmp_path / "first", b'{"s":0}\n{"e":"close","s":1}\n', b"".join(ROWS))
    first.close()
    second = machine(tmp_path, "second")
    second.take()
    second.close()
    for name in (f"{LEDGER}/000001.jsonl", RESULTS):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_a_second_machine_is_refused_while_the_first_works(store: Any, tmp_path: Path) -> None:
    first = machine(tmp_path, "first")
    first.take()
    written(first, tmp_path / "first", b'{"s":0}\n')
    with pytest.raises(LockHeldError, match="another process works on this run"):
        machine(tmp_path, "second").take()
    first.keep(LEDGER, b'{"s":1}\n')
    first.close()


def test_whoever_was_thought_dead_cannot_write_any_more(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine(tmp_path, "first")
    first.take()
    written(first, tmp_path / "first", b'{"s":0}\n')
    monkeypatch.setattr(store_ledger, "DEAD_S", -1.0)
    second = machine(tmp_path, "second")
    second.take()
    second.close()
    with pytest.raises(OSError, match="another process has taken over"):
        first.keep(LEDGER, b'{"s":1}\n')
    assert (tmp_path / "second" / LEDGER / "000001.jsonl").read_bytes() == b'{"s":0}\n'


def test_the_same_machine_goes_on_at_once_and_brings_what_a_kill_left_here(store: Any, tmp_path: Path) -> None:
    first, folder = machine(tmp_path, "first"), tmp_path / "first"
    first.take()
    written(first, folder, b'{"s":0}\n', ROWS[0])
    first.close()
    with (folder / LEDGER / "000001.jsonl").open("ab") as file:
        file.write(b'{"s":1}\n')
    with (folder / RESULTS).open("ab") as file:
        file.write(ROWS[1])
    again = machine(tmp_path, "first")
    again.take()
    written(again, folder, b'{"e":"close","s":0}\n')
    again.close()
    other = machine(tmp_path, "other")
    other.take()
    other.close()
    assert (tmp_path / "other" / LEDGER / "000001.jsonl").read_bytes() == b'{"s":0}\n{"s":1}\n'
    assert (tmp_path / "other" / LEDGER / "000002.jsonl").read_bytes() == b'{"e":"close","s":0}\n'
    assert (tmp_path / "other" / RESULTS).read_bytes() == b"".join(ROWS)


def test_a_run_that_began_without_the_store_brings_its_ledger(store: Any, tmp_path: Path) -> None:
    (tmp_path / "first" / LEDGER).mkdir(parents=True)
    (tmp_path / "first" / LEDGER / "000001.jsonl").write_bytes(b'{"e":"close","s":0}\n')
    first = machine(tmp_path, "first")
    first.take()
    written(first, tmp_path / "first", b'{"e":"close","s":1}\n')
    first.close()
    second = machine(tmp_path, "second")
    second.take()
    second.close()
    assert (tmp_path / "second" / LEDGER / "000001.jsonl").read_bytes() == b'{"e":"close","s":0}\n'
    assert (tmp_path / "second" / LEDGER / "000002.jsonl").read_bytes() == b'{"e":"close","s":1}\n'


def test_two_runs_that_know_nothing_of_each_other_share_no_place(store: Any, tmp_path: Path) -> None:
    first = machine(tmp_path, "first")
    first.take()
    written(first, tmp_path / "first", b'{"e":"close","s":0}\n')
    first.close()
    (tmp_path / "second" / LEDGER).mkdir(parents=True)
    (tmp_path / "second" / LEDGER / "000001.jsonl").write_bytes(b'{"e":"close","s":9}\n')
    with pytest.raises(LedgerDamagedError, match="know nothing of each other"):
        machine(tmp_path, "second").take()


def test_a_put_whose_answer_was_lost_is_no_other_writer(store: Any, tmp_path: Path) -> None:
    first = machine(tmp_path, "first")
    first.take()
    store.put("0001/0001.jsonl", b'{"s":0}\n')
    first.keep(LEDGER, b'{"s":0}\n')
    store.put("0001/0002.jsonl", b"other\n")
    with pytest.raises(OSError, match="taken over"):
        first.keep(LEDGER, b'{"s":1}\n')
