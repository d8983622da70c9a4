"""The ledger's writer, and that reading gives back what was written."""

import asyncio
import errno
import json
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchrunner.core.errors import LedgerDamagedError, StoreBrokenError
from batchrunner.core.events import (
    Accepted,
    Close,
    Done,
    Event,
    Failed,
    Intent,
    Open,
    Parked,
    Ready,
    Refused,
    Requeued,
    Resumed,
    Retry,
    Rewritten,
)
from batchrunner.stores.files import DISK, Disk
from batchrunner.stores.ledger import LedgerWriter, encode_line
from batchrunner.stores.ledger_line import MAX_LINE_BYTES
from batchrunner.stores.ledger_reader import read_ledger

KEY = "0123456789abcdef" * 2
EVERY_EVENT: tuple[Event, ...] = (
    Intent(i="blue", k=KEY, n=1, a=0, model="Qwen/Qwen-Image", account="MODELSCOPE_API_KEY"),
    Refused(i="blue", k=KEY, n=1, a=0, kind="throttle", wait=2.5),
    Accepted(i="blue", k=KEY, n=2, a=0, task="5075521", model="Qwen/Qwen-Image", account="MODELSCOPE_API_KEY"),
    Ready(i="blue", k=KEY, urls=("https://store.example/a.png?x=1&y=2",)),
    Retry(i="blue", k=KEY, n=2, a=1, kind="reset", ambiguous=True),
    Done(i="blue", k=KEY, n=2, a=1, crc="89abcdef", length=100, files=(("images/blue.png", 3, "ff"),), images=1),
    Failed(i="red", k=KEY, n=1, a=1, kind="bad_request", message='"quoted"\n中文 \x00 \U0001f408', request_id="r"),
    Parked(account="A", model="", kind="quota_account", reason="明天再来", until=1_790_000_000.5),
    Resumed(account="A", model=""),
    Requeued(i="red", k=KEY),
    Rewritten(length=12, labels="aa"),
)


@dataclass
class SetClock:
    now: float = 1_790_000_000.1234

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def open_ledger(folder: Path, files: Disk = DISK, clock: SetClock | None = None) -> LedgerWriter:
    return LedgerWriter.open(folder, run="r1", job="digest", program="0.1", clock=clock or SetClock(), files=files)


def intent(name: str) -> Intent:
    return Intent(i=name, k=KEY, n=1, a=0, model="m", account="a")


def write_all_events(folder: Path) -> None:
    async def run() -> None:
        ledger = open_ledger(folder)
        for event in EVERY_EVENT:
            ledger.note(event)
        await ledger.close()

    asyncio.run(run())


def test_every_event_comes_back_as_it_was_with_its_time_and_number(tmp_path: Path) -> None:
    write_all_events(tmp_path / "ledger")
    reading = read_ledger(tmp_path / "ledger")
    records = list(reading)
    opened = Open(version=1, run="r1", segment=1, job="digest", program="0.1")
    assert [record.event for record in records] == [opened, *EVERY_EVENT, Close(records=len(EVERY_EVENT) + 2)]
    assert [record.sequence for record in records] == list(range(len(EVERY_EVENT) + 2))
    assert {(record.at, record.segment) for record in records} == {(1_790_000_000.123, 1)}
    assert reading.left_out == ()
    (segment,) = reading.segments
    assert (segment.closed, segment.records, segment.opened) == (True, len(records), opened)


def test_a_line_is_ascii_json_whose_last_field_is_the_checksum_of_all_but_17_bytes(tmp_path: Path) -> None:
    write_all_events(tmp_path / "ledger")
    for line in (tmp_path / "ledger" / "000001.jsonl").read_bytes().splitlines(keepends=True):
        assert line.isascii()
        record = json.loads(line)
        assert list(record)[:2] == ["s", "t"]
        assert list(record)[-1] == "c"
        assert line[-17:] == b',"c":"%08x"}\n' % zlib.crc32(line[:-17])
        assert record["c"] == f"{zlib.crc32(line[:-17]):08x}"


def test_secrets_can_hide_in_the_ledger_so_only_its_owner_reads_it(tmp_path: Path) -> None:
    """Invariant 19."""
    write_all_events(tmp_path / "ledger")
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "ledger" / "000001.jsonl").stat().st_mode) == 0o600


def test_each_process_makes_its_own_segment_and_touches_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    write_all_events(folder)
    before = (folder / "000001.jsonl").read_bytes()
    write_all_events(folder)
    assert (folder / "000001.jsonl").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["000001.jsonl", "000002.jsonl"]
    assert {record.segment for record in read_ledger(folder)} == {1, 2}


def test_two_writers_never_share_a_segment(tmp_path: Path) -> None:
    """Invariant 17."""

    async def run() -> None:
        one, other = open_ledger(tmp_path / "ledger"), open_ledger(tmp_path / "ledger")
        assert one.path != other.path
        await asyncio.gather(one.close(), other.close())

    asyncio.run(run())


def test_512_committers_leave_a_gapless_ledger_with_all_their_records(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"

    async def run() -> None:
        ledger = open_ledger(folder)

        async def committer(number: int) -> None:
            for turn in range(6):
                await ledger.write(intent(f"{number}.{turn}"))
                await ledger.commit(Requeued(i=f"{number}.{turn}", k=KEY))

        await asyncio.gather(*(committer(number) for number in range(512)))
        await ledger.close()

    asyncio.run(run())
    text = (folder / "000001.jsonl").read_bytes()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["s"] for row in rows] == list(range(512 * 12 + 2))
    durable = [(row["d"], place) for place, row in enumerate(rows) if "d" in row]
    assert durable == sorted(durable)
    ends = {0}
    for line in text.splitlines(keepends=True):
        ends.add(max(ends) + len(line))
    assert {length for length, _ in durable} <= ends
    names = [record.event.i for record in read_ledger(folder) if isinstance(record.event, Requeued)]
    assert sorted(names) == sorted(f"{number}.{turn}" for number in range(512) for turn in range(6))
    for number in range(512):
        mine = [name for name in names if name.startswith(f"{number}.")]
        assert mine == sorted(mine)


def test_the_first_record_of_a_batch_names_what_is_durable_and_the_others_do_not(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = open_ledger(tmp_path / "ledger")
        for batch in range(2):
            ledger.note(intent(f"{batch}.0"))
            await ledger.commit(intent(f"{batch}.1"))
        await ledger.close()

    asyncio.run(run())
    lines = (tmp_path / "ledger" / "000001.jsonl").read_bytes().splitlines(keepends=True)
    starts = [sum(map(len, lines[:place])) for place in range(len(lines))]
    assert [json.loads(line).get("d") for line in lines] == [0, starts[1], None, starts[3], None, starts[5]]


def test_what_was_only_written_is_never_named_durable(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = open_ledger(tmp_path / "ledger")
        for batch in range(3):
            await ledger.write(intent(str(batch)))
        await ledger.close()

    asyncio.run(run())
    lines = (tmp_path / "ledger" / "000001.jsonl").read_bytes().splitlines(keepends=True)
    first = len(lines[0])
    assert [json.loads(line)["d"] for line in lines] == [0, first, first, first, sum(map(len, lines[:4]))]


def test_a_new_segment_its_folder_and_the_one_before_are_durable_when_it_is_open(tmp_path: Path) -> None:
    class Watched(Disk):
        def __init__(self) -> None:
            self.synced: list[str] = []

        def fsync(self, descriptor: int) -> None:
            super().fsync(descriptor)
            name = Path(f"/proc/self/fd/{descriptor}").readlink().name
            self.synced.append(f"{name}:{self.length(descriptor)}")

        def fsync_folder(self, path: Path) -> None:
            super().fsync_folder(path)
            self.synced.append(path.name)

    write_all_events(tmp_path / "ledger")
    before = (tmp_path / "ledger" / "000001.jsonl").stat().st_size
    files = Watched()
    ledger = open_ledger(tmp_path / "ledger", files)
    size = ledger.path.stat().st_size
    assert size > 0
    above = tmp_path.name
    assert files.synced == [above, f"000001.jsonl:{before}", "ledger", f"000002.jsonl:{size}", "ledger"]
    asyncio.run(ledger._appender.close())


def test_a_refused_write_ends_the_ledger_and_the_next_run_starts_a_new_segment(tmp_path: Path) -> None:
    class FullDisk(Disk):
        full = False

        def write(self, descriptor: int, data: bytes | memoryview) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(descriptor, data)

    async def run() -> None:
        disk = FullDisk()
        ledger = open_ledger(tmp_path / "ledger", disk)
        await ledger.commit(intent("kept"))
        disk.full = True
        with pytest.raises(StoreBrokenError, match="No space left on device"):
            await ledger.commit(intent("lost"))
        disk.full = False
        for call in (ledger.commit, ledger.write):
            with pytest.raises(StoreBrokenError):
                await call(intent("never"))
        with pytest.raises(StoreBrokenError):
            ledger.note(intent("never"))
        with pytest.raises(StoreBrokenError):
            await ledger.close()
        again = open_ledger(tmp_path / "ledger", disk)
        assert again.number == 2
        await again.close()

    asyncio.run(run())
    reading = read_ledger(tmp_path / "ledger")
    assert [record.event.i for record in reading if isinstance(record.event, Intent)] == ["kept"]
    assert [segment.closed for segment in reading.segments] == [False, True]


def test_a_folder_that_cannot_be_written_is_reported_when_the_ledger_is_opened(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    with pytest.raises(StoreBrokenError, match="not a directory"):
        open_ledger(tmp_path / "ledger")


def test_a_linked_ledger_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ledger").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreBrokenError, match="link"):
        open_ledger(tmp_path / "ledger")


@pytest.mark.parametrize("letter", ["x", "中", "\U0001f408", "\x00", "\ud800"])
def test_a_long_message_is_cut_to_fit_a_record(letter: str) -> None:
    failed = Failed(i="i", k=KEY, n=1, a=1, kind="bad_request", message=letter * 200_000)
    line = encode_line(failed, sequence=1, at=0.0, durable=2**60)
    assert len(line) <= MAX_LINE_BYTES
    assert "more characters" in json.loads(line)["message"]


def test_text_that_no_utf8_can_carry_is_kept_as_far_as_it_goes() -> None:
    failed = Failed(i="a\ud800b", k=KEY, n=1, a=1, kind="k", message="\ud83d\udc08 \udc00")
    record = json.loads(encode_line(failed, sequence=1, at=0.0, durable=None))
    assert (record["i"], record["message"]) == ("a\ufffdb", "\U0001f408 \ufffd")


def test_what_must_not_be_cut_is_refused_when_it_fits_no_record() -> None:
    accepted = Accepted(i="i", k=KEY, n=1, a=1, task="t" * 70_000, model="m", account="a")
    with pytest.raises(ValueError, match="70"):
        encode_line(accepted, sequence=1, at=0.0, durable=None)


def test_a_ledger_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert list(read_ledger(tmp_path / "ledger")) == []


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    for _ in range(3):
        write_all_events(tmp_path / "ledger")
    (tmp_path / "ledger" / "000002.jsonl").unlink()
    with pytest.raises(LedgerDamagedError, match=r"000002\.jsonl: byte 0: this segment is missing"):
        list(read_ledger(tmp_path / "ledger"))


def test_a_renamed_segment_is_damage(tmp_path: Path) -> None:
    write_all_events(tmp_path / "ledger")
    text = (tmp_path / "ledger" / "000001.jsonl").read_bytes()
    (tmp_path / "ledger" / "000002.jsonl").write_bytes(text)
    with pytest.raises(LedgerDamagedError, match="segment 1"):
        list(read_ledger(tmp_path / "ledger"))
