"""`results.jsonl`: rows in the contract's shape, adoption after a crash, torn ends."""

import asyncio
import json
import zlib
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.events import Done
from batchrunner.core.job import Json
from batchrunner.core.outcome import ToolCall, Usage
from batchrunner.core.row import ChatOutput, FailureRow, ImageOutput, Picture, ResultRow, ShownPicture
from batchrunner.core.state import LedgerState
from batchrunner.stores.files import Disk
from batchrunner.stores.inspection import inspect
from batchrunner.stores.results import Recovered, ResultsFile
from batchrunner.stores.row_codec import Label, encode_row, iter_results, relabelled, shared_copy


def key_of(number: int) -> str:
    return f"{number:032x}"


def chat(text: str = "4", *, parsed: Json = None, flags: tuple[str, ...] = (), path: str | None = None) -> ChatOutput:
    return ChatOutput(
        text=text,
        reasoning=None,
        tool_calls=None,
        parsed=parsed,
        finish_reason="stop",
        truncated=False,
        flags=flags,
        path=path,
    )


def row_of(number: int, output: ChatOutput | ImageOutput | None = None, **changes: object) -> ResultRow:
    row = ResultRow(
        id=f"q{number}",
        prompt_id=f"q{number}",
        index=number,
        model="m",
        prompt="2+2?",
        vars={"question": "2+2?"},
        params={"seed": 1},
        output=output or chat(),
        task_id=None,
        usage=Usage(input_tokens=3, output_tokens=1),
        attempts=1,
        ambiguous=0,
        recovered=False,
        started_at="2026-11-22T21:14:03.120Z",
        seconds=1.5,
        key=key_of(number),
    )
    for name, value in changes.items():
        setattr(row, name, value)
    return row


def failure_of(number: int) -> FailureRow:
    return FailureRow(
        id=f"q{number}",
        prompt_id=f"q{number}",
        index=number,
        model="m",
        prompt="2+2?",
        vars={},
        params={},
        error={"class": "bad_request", "message": "no", "status": 400, "code": None, "request_id": None},
        task_id=None,
        attempts=1,
        ambiguous=0,
        failed_at="2026-11-22T21:14:03.120Z",
        key=key_of(number),
    )


def write_rows(folder: Path, *numbers: int) -> list[int]:
    """The lengths that `add` told, in order."""

    async def run() -> list[int]:
        results = ResultsFile(folder)
        places = await asyncio.gather(*(results.add(row_of(number)) for number in numbers))
        await results.close()
        return [place.length for place in places]

    return asyncio.run(run())


class HastyDisk(Disk):
    """A disk that says it has synced: byte-level tests make thousands of files."""

    def fsync(self, descriptor: int) -> None:
        pass

    def fsync_folder(self, path: Path) -> None:
        pass


def recover(folder: Path, known_length: int) -> Recovered:
    return ResultsFile(folder, files=HastyDisk()).recover(known_length)


def adopted(folder: Path, known_length: int = 0) -> list[Done]:
    """What the next process would record of rows beyond the known length: those before are done."""
    state = LedgerState()
    text = (folder / "results.jsonl").read_bytes()[:known_length]
    for line in text.splitlines():
        key = json.loads(line)["key"]
        state.apply(Done(i="x", k=key, n=1, a=1, crc="", length=0), at=0.0)
    found = inspect(HastyDisk(), folder, state)
    return [event for event in found.adopted(state) if isinstance(event, Done)]


def test_a_chat_row_has_the_contracts_fields_in_their_order_with_null_for_what_is_absent() -> None:
    row = json.loads(encode_row(row_of(1)))
    assert list(row) == [
        *("id", "prompt_id", "index", "model", "prompt", "system", "vars", "params", "output", "task_id", "usage"),
        *("attempts", "ambiguous", "recovered", "started_at", "seconds", "key"),
    ]
    assert list(row["output"]) == ["text", "reasoning", "tool_calls", "parsed", "finish_reason", "truncated"]
    assert (row["task_id"], row["output"]["parsed"], row["usage"]) == (
        None,
        None,
        {"input_tokens": 3, "output_tokens": 1},
    )


def test_an_image_row_has_the_contracts_output() -> None:
    picture = Picture(path="images/a.png", sha256="ff", width=2, height=3, format="PNG", bytes=9)
    row = json.loads(encode_row(row_of(1, ImageOutput(images=(picture,)), usage=None, task_id="77")))
    assert row["output"] == {
        "images": [{"path": "images/a.png", "sha256": "ff", "width": 2, "height": 3, "format": "PNG", "bytes": 9}]
    }
    assert (row["usage"], row["task_id"]) == (None, "77")


def test_extras_stand_in_a_row_only_when_there_is_something_to_report() -> None:
    calls = (ToolCall(id=None, name="f", arguments="{"),)
    output = ChatOutput(
        text="",
        reasoning=None,
        tool_calls=calls,
        parsed=False,
        finish_reason=None,
        truncated=True,
        flags=("no_done",),
        path="answers/1.md",
    )
    full = row_of(
        1,
        output,
        messages=({"role": "user", "content": "hi"},),
        images=(ShownPicture(name="a.png", sha256="aa"),),
        replica=2,
        shared_with="q0",
    )
    row = json.loads(encode_row(full))
    assert list(row)[-4:] == ["messages", "images", "replica", "shared_with"]
    assert row["images"] == [{"name": "a.png", "sha256": "aa"}]
    assert row["output"]["tool_calls"] == [{"id": None, "name": "f", "arguments": "{"}]
    assert (row["output"]["flags"], row["output"]["path"], row["output"]["parsed"]) == (
        ["no_done"],
        "answers/1.md",
        False,
    )
    assert "shared_with" not in json.loads(encode_row(failure_of(1)))


def test_a_row_with_a_lone_surrogate_keeps_its_lists() -> None:
    """A server's half of a pair in one field is no reason to lose what another one holds."""
    calls = (ToolCall(id="c\ud800", name="f", arguments="{}"),)
    output = ChatOutput(
        text="\ud800",
        reasoning=None,
        tool_calls=calls,
        parsed=None,
        finish_reason=None,
        truncated=False,
        flags=("no_done",),
    )
    row = json.loads(encode_row(row_of(1, output, messages=({"role": "user", "content": "\ud800"},))))
    assert row["output"]["tool_calls"] == [{"id": "c\ufffd", "name": "f", "arguments": "{}"}]
    assert (row["output"]["flags"], row["output"]["text"]) == (["no_done"], "\ufffd")
    assert row["messages"] == [{"role": "user", "content": "\ufffd"}]


def test_rows_are_utf8_and_no_text_makes_them_crash() -> None:
    row = row_of(1, chat("中\u2028 \ud800 \ud83d\udc08"), vars={"a\udc00": [float("nan"), {"b": "\ud800"}], "n": 2**70})
    line = encode_row(row)
    assert "中".encode() in line
    assert b"\n" not in line
    read = json.loads(line)
    assert read["output"]["text"] == "中\u2028 \ufffd \U0001f408"
    assert read["vars"] == {"a\ufffd": [None, {"b": "\ufffd"}], "n": 2**70}


def test_an_answer_nested_too_deep_keeps_its_text() -> None:
    deep: Json = []
    for _ in range(100_000):
        deep = [deep]
    row = json.loads(encode_row(row_of(1, chat("[[[…", parsed=deep))))
    assert (row["output"]["parsed"], row["output"]["flags"]) == (None, ["parsed_too_deep"])
    assert row["output"]["text"] == "[[[…"


def test_add_reports_the_lines_checksum_and_the_files_length_after_it(tmp_path: Path) -> None:
    async def run() -> None:
        results = ResultsFile(tmp_path)
        for number in (1, 2):
            place = await results.add(row_of(number))
            text = (tmp_path / "results.jsonl").read_bytes()
            assert place.length == len(text)
            assert place.crc == f"{zlib.crc32(text.splitlines()[-1]):08x}"
        await results.close()

    asyncio.run(run())
    assert [row["id"] for row in iter_results(tmp_path)] == ["q1", "q2"]


def test_failures_have_their_own_file(tmp_path: Path) -> None:
    async def run() -> None:
        results = ResultsFile(tmp_path)
        await results.add_failure(failure_of(3))
        await results.close()

    asyncio.run(run())
    row = json.loads((tmp_path / "failures.jsonl").read_bytes())
    assert list(row) == [
        name
        for name in FailureRow.__struct_fields__
        if name not in {"messages", "schema_sha256", "shared_with", "origin", "fallback_of", "fallback_keys"}
    ]
    assert not (tmp_path / "results.jsonl").exists()


def test_a_clean_directory_has_nothing_to_recover(tmp_path: Path) -> None:
    assert recover(tmp_path, 0) == Recovered(torn_bytes=0, length=0, realigned=False)
    lengths = write_rows(tmp_path, 1, 2)
    assert recover(tmp_path, lengths[-1]) == Recovered(torn_bytes=0, length=lengths[-1], realigned=False)


def test_whole_rows_beyond_the_known_length_are_adopted_with_what_a_done_needs(tmp_path: Path) -> None:
    lengths = write_rows(tmp_path, 1, 2)
    digest = sha256(b"123456789").hexdigest()
    picture = Picture(path="images/a.png", sha256=digest, width=2, height=3, format="PNG", bytes=9)

    async def run() -> int:
        results = ResultsFile(tmp_path)
        place = await results.add(row_of(3, ImageOutput(images=(picture,)), usage=None, attempts=4, task_id="77"))
        await results.close()
        return place.length

    end = asyncio.run(run())
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"123456789")
    recovered = recover(tmp_path, lengths[0])
    two, three = adopted(tmp_path, lengths[0])
    assert (two.i, two.k, two.length, two.input_tokens, two.files) == ("q2", key_of(2), lengths[1], 3, ())
    assert (three.i, three.a, three.files, three.recovered) == ("q3", 4, (("images/a.png", 9, digest),), True)
    text = (tmp_path / "results.jsonl").read_bytes()
    assert three.crc == f"{zlib.crc32(text.splitlines()[2]):08x}"
    assert recovered.length == three.length == end


def test_a_row_whose_picture_is_gone_is_not_adopted(tmp_path: Path) -> None:
    picture = Picture(path="images/a.png", sha256="ff", width=2, height=3, format="PNG", bytes=9)
    row = encode_row(row_of(3, ImageOutput(images=(picture,)), usage=None))
    (tmp_path / "results.jsonl").write_bytes(row + b"\n")
    assert adopted(tmp_path) == []
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"1234567")
    assert adopted(tmp_path) == []


def test_adopted_rows_are_on_the_disk_before_anyone_relies_on_them(tmp_path: Path) -> None:
    class Watched(Disk):
        def __init__(self) -> None:
            self.synced: set[int] = set()

        def fsync(self, descriptor: int) -> None:
            super().fsync(descriptor)
            self.synced.add(self.length(descriptor))

    (tmp_path / "results.jsonl").write_bytes(encode_row(row_of(1)) + b"\n")
    files = Watched()
    recovered = ResultsFile(tmp_path, files=files).recover(0)
    assert [row.length for row in adopted(tmp_path)] == [recovered.length]
    assert recovered.length in files.synced


def test_a_results_file_cut_anywhere_recovers_its_whole_rows_and_keeps_the_torn_bytes(tmp_path: Path) -> None:
    lengths = write_rows(tmp_path, 1, 2, 3)
    text = (tmp_path / "results.jsonl").read_bytes()
    for cut in range(lengths[0], len(text)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "results.jsonl").write_bytes(text[:cut])
        recovered = recover(folder, lengths[0])
        whole = max(length for length in lengths if length <= cut)
        if cut + 1 in lengths:  # the row is whole and lacks its newline only
            assert (folder / "results.jsonl").read_bytes() == text[: cut + 1]
            assert recovered.torn_bytes == 0
            continue
        assert [row.length for row in adopted(folder, lengths[0])] == [
            length for length in lengths[1:] if length <= cut
        ]
        assert (folder / "results.jsonl").read_bytes() == text[:whole]
        assert recovered.torn_bytes == cut - whole
        torn = folder / "results.torn"
        assert (torn.read_bytes() if torn.exists() else b"") == (text[whole:cut] + b"\n" if cut > whole else b"")


def test_a_hole_before_whole_rows_is_taken_out_and_the_rows_are_adopted(tmp_path: Path) -> None:
    lengths = write_rows(tmp_path, 1, 2, 3)
    path = tmp_path / "results.jsonl"
    text = path.read_bytes()
    path.write_bytes(text[: lengths[0]] + bytes(lengths[1] - lengths[0] - 1) + b"\n" + text[lengths[1] :])
    recovered = recover(tmp_path, lengths[0])
    (row,) = adopted(tmp_path, lengths[0])
    assert row.i == "q3"
    assert recovered.torn_bytes == lengths[1] - lengths[0]
    assert path.read_bytes() == text[: lengths[0]] + text[lengths[1] :]
    assert recovered.length == row.length == len(path.read_bytes())
    assert (tmp_path / "results.torn").read_bytes().strip(b"\0") == b"\n"


def test_torn_ends_collect_and_failures_are_repaired_too(tmp_path: Path) -> None:
    lengths = write_rows(tmp_path, 1)
    for torn in (b'{"id":"a', b'{"id":"b'):
        with (tmp_path / "results.jsonl").open("ab") as file:
            file.write(torn)
        recover(tmp_path, lengths[0])
    assert (tmp_path / "results.torn").read_bytes() == b'{"id":"a\n{"id":"b\n'
    row = encode_row(failure_of(1)) + b"\n"
    for name in ("failures.jsonl", "superseded_failures.jsonl"):
        (tmp_path / name).write_bytes(bytes(9) + b"\n" + row + b'{"i')
        recover(tmp_path, lengths[0])
        assert (tmp_path / name).read_bytes() == row
    assert (tmp_path / "failures.torn").read_bytes() == 2 * (b'{"i\n' + bytes(9) + b"\n")


def test_rows_after_a_recovered_end_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    lengths = write_rows(tmp_path, 1)
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'{"id":"half')
    recover(tmp_path, lengths[0])
    write_rows(tmp_path, 2)
    assert [row["id"] for row in iter_results(tmp_path)] == ["q1", "q2"]


@pytest.mark.parametrize("known_length", [5, 10**6])
def test_a_known_length_where_no_line_ends_is_reported_and_nothing_is_torn(tmp_path: Path, known_length: int) -> None:
    lengths = write_rows(tmp_path, 1, 2)
    recovered = recover(tmp_path, known_length)
    assert recovered == Recovered(torn_bytes=0, length=lengths[-1], realigned=True)


def test_lost_results_are_not_taken_for_a_fresh_start(tmp_path: Path) -> None:
    assert recover(tmp_path, 100).realigned


def test_shared_copies_and_lines_of_others_are_never_adopted(tmp_path: Path) -> None:
    copy = encode_row(row_of(2, shared_with="q1"))
    (tmp_path / "results.jsonl").write_bytes(encode_row(row_of(1)) + b'\n{"a": 1}\nhello\n' + copy + b"\n")
    assert recover(tmp_path, 0).torn_bytes == len(b'{"a": 1}\nhello\n')
    assert [row.i for row in adopted(tmp_path)] == ["q1"]


def test_the_index_finds_every_row(tmp_path: Path) -> None:
    write_rows(tmp_path, *range(1, 50))
    index = ResultsFile(tmp_path).index()
    text = (tmp_path / "results.jsonl").read_bytes()
    assert len(index) == 49
    for number in range(1, 50):
        offset, length = index[bytes.fromhex(key_of(number))]
        assert msgspec.json.decode(text[offset : offset + length])["id"] == f"q{number}"
    assert bytes(16) not in index


def test_a_torn_end_is_passed_over_by_readers(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'broken\n{"id":"half"}')
    assert [row["id"] for row in iter_results(tmp_path)] == ["q1"]
    assert list(iter_results(tmp_path / "nowhere")) == []


def test_a_linked_results_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "results.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreBrokenError, match=r"results\.jsonl"):
        write_rows(tmp_path, 1)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
@pytest.mark.parametrize("around", ["a{}b", "{}", "é{}漢", "\\\\{}"])
def test_a_row_holds_nothing_that_some_reader_takes_for_a_line_end(end: str, around: str) -> None:
    text = around.format(end)
    line = encode_row(row_of(1, chat(text)))
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["output"]["text"] == text
    encoded = msgspec.json.encode({text: text})
    label = Label(key=bytes.fromhex(key_of(1)), id=text, prompt_id=text, index=1, vars=encoded)
    for changed in (relabelled(line, label), shared_copy(line, label, owner=text)):
        assert len(changed.decode().splitlines()) == 1
        assert json.loads(changed)["vars"] == {text: text}
