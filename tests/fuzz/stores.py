"""What lies on the disk and may have been spoilt: ledgers, rows, `run.json`, whole directories; and pictures.

Readers give what they can read and refuse the rest with an error of the program; nothing is written outside.
"""

import io
import json
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from batchrunner import api
from batchrunner.core.errors import BatchrunnerError, LedgerDamagedError, LedgerMissingError, WrongDirectoryError
from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import Problem
from batchrunner.core.row import PictureOrigin
from batchrunner.core.state import LedgerState
from batchrunner.report.summary import summary
from batchrunner.report.wording import audit_words, jsonable
from batchrunner.stores.images import picture_fault, prepare
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.picture_formats import whole_fault, with_metadata
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.row_codec import Label, facts_of, iter_results, name_and_id_of, relabelled, shared_copy
from batchrunner.stores.run_file import read_run_file
from tests.fuzz.target import Target
from tests.support.engine import RunHarness, World, chat, image

SHARE = 0.3
MOST_PIXELS = 1_000_000
ORIGIN = PictureOrigin(prompt="x\0\ud800", model="é" * 99, id="x", key="y", params={"a\nb": "\n", "ok": ["x"]})
INTO: tuple[PictureFormat | None, ...] = ("png", "jpeg", "webp", "gif", None)


def ledger(text: bytes) -> object:
    """One segment: replayed, a told tail, or refused with file and offset."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "ledger"
        place.mkdir()
        (place / "000001.jsonl").write_bytes(text)
        said: list[str] = []
        try:
            state = replay(Path(folder), day_offset_s=0.0, say=said.append)
        except LedgerDamagedError as error:
            return (error.offset, str(error))
        assert isinstance(state, LedgerState)
        return (state.sends, said)


def signed(text: bytes) -> bytes:
    """Sound checksums on whatever the lines say: what a mistaken writer would leave, or a malicious one."""
    lines = [line[: line.rfind(b',"c":"')] if b',"c":"' in line else line.rstrip(b"}") for line in text.split(b"\n")]
    return b"".join(b'%b,"c":"%08x"}\n' % (line, zlib.crc32(line)) for line in lines if line)


def signed_ledger(text: bytes) -> object:
    """The same where only the content tells that something is wrong."""
    return ledger(signed(text))


def rows(text: bytes) -> object:
    """Lines of results.jsonl: read, relabelled, recovered after a crash."""
    label = Label(key=bytes(16), id="new", prompt_id="p", index=3, vars=b"{}")
    for line in text.split(b"\n"):
        facts_of(line)
        if name_and_id_of(line) is not None:
            json.loads(relabelled(line, label).decode("utf-8", "replace"))
            json.loads(shared_copy(line, label, owner="o").decode("utf-8", "replace"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        path.write_bytes(text)
        seen = sum(1 for _ in iter_results(Path(folder)))
        for known in (0, text.find(b"\n") + 1, len(text)):
            path.write_bytes(text)
            try:
                ResultsFile(Path(folder)).recover(known)
            except BatchrunnerError as error:
                str(error).encode()
        return seen


def run_json(text: bytes) -> object:
    """`run.json` alone, read by itself and by `status`."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "run.json").write_bytes(text)
        try:
            read_run_file(Path(folder))
            return json.dumps(jsonable(api.status(folder)), allow_nan=False)
        except (WrongDirectoryError, LedgerMissingError) as error:
            return str(error)


def directory(text: bytes) -> object:
    """A run's directory with one file replaced: the first line says which. Status, results, verify and salvage cope."""
    head, _, content = text.partition(b"\n")
    files = intact_run(image_run=head[:1] == b"i")
    name = sorted(files)[int.from_bytes(head[1:3], "big") % len(files)]
    return _with_file(files, name, content)


def directory_signed(text: bytes) -> object:
    """The same with a ledger whose checksums are right, whatever it says."""
    image_run = b"task" in text
    return _with_file(intact_run(image_run=image_run), "ledger/000001.jsonl", signed(text))


def _with_file(files: dict[str, bytes], name: str, content: bytes) -> object:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for path, sound in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content if path == name else sound)
        before = {path: path.stat().st_size for path in out.rglob("*") if path.is_file()}
        _everything_that_reads(str(out), salvage=str(Path(folder) / "new"))
        after = {path: path.stat().st_size for path in out.rglob("*") if path.is_file()}
        assert before.items() <= after.items() | {(path, size) for path, size in before.items() if path.name == "lock"}
        assert {path.name for path in Path(folder).iterdir()} <= {"out", "new"}
    return name


def _everything_that_reads(out: str, *, salvage: str) -> None:
    readers: tuple[Callable[[], str], ...] = (
        lambda: summary(api.status(out)),
        lambda: json.dumps(jsonable(api.status(out)), allow_nan=False),
        lambda: str(sum(1 for _ in api.results(out))),
        lambda: audit_words(api.verify(out)),
        lambda: audit_words(api.verify(out, salvage=salvage)),
    )
    for reader in readers:
        try:
            reader().encode()
        except BatchrunnerError as error:
            str(error).encode()


@cache
def intact_run(*, image_run: bool) -> dict[str, bytes]:
    """All files of a small run in virtual time."""
    with TemporaryDirectory() as folder:
        harness = RunHarness(Path(folder), World())
        if image_run:
            harness.run(image("a boat", "a barn"))
        else:
            harness.run(chat("one", "two", "three#", more='output: {each: "answers/{{ id }}.md"}\n'))
            harness.run(chat("one", "two", "five", more='output: {each: "answers/{{ id }}.md"}\n'))
        found = sorted(path for path in harness.out.rglob("*") if path.is_file())
        return {str(path.relative_to(harness.out)): path.read_bytes() for path in found}


def picture(data: bytes) -> object:
    """Any bytes are a whole picture of bounded size or a BAD_PICTURE with words."""
    told: list[object] = []
    for into in INTO:
        ready = prepare(data, into=into, origin=ORIGIN, max_pixels=MOST_PIXELS)
        if isinstance(ready, Problem):
            ready.message.encode("utf-8", "surrogatepass")
        elif ready.width is None or ready.height is None:
            assert ready.data == data, "what cannot be looked into is kept as it came"
        else:
            assert ready.width * ready.height <= MOST_PIXELS
            assert picture_fault(ready.data, max_pixels=MOST_PIXELS) is None, "what was kept is no whole picture"
        told.append(type(ready).__name__)
    for shape in ("PNG", "JPEG", "WEBP", "GIF"):
        whole_fault(data, shape)
    return told


# -- seeds


def ledger_seeds() -> tuple[bytes, ...]:
    return tuple(
        text
        for image_run in (True, False)
        for name, text in intact_run(image_run=image_run).items()
        if name.startswith("ledger/")
    )


def named_seeds(name: str) -> tuple[bytes, ...]:
    return tuple(intact_run(image_run=image_run)[name] for image_run in (True, False))


def directory_seeds() -> tuple[bytes, ...]:
    return tuple(
        kind + number.to_bytes(2, "big") + b"\n" + files[name]
        for kind, files in ((b"i", intact_run(image_run=True)), (b"c", intact_run(image_run=False)))
        for number, name in enumerate(sorted(files))
    )


@cache
def picture_seeds() -> tuple[bytes, ...]:
    """Every format and mode that a server may send, small; animated, transparent, with profiles and EXIF."""
    made: list[bytes] = []
    shapes = (
        ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")), ("JPEG", ("L", "RGB", "CMYK")),
        ("WEBP", ("RGB", "RGBA")),
        ("GIF", ("L", "P", "RGB")),
    )  # fmt: skip
    for shape, modes in shapes:
        for mode in modes:
            out = io.BytesIO()
            Image.new(mode, (24, 16)).save(out, shape)
            made.append(out.getvalue())
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for shape in ("PNG", "GIF", "WEBP"):
        out = io.BytesIO()
        frames[0].save(out, shape, save_all=True, append_images=frames[1:])
        made.append(out.getvalue())
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(
        out, "JPEG", progressive=True, icc_profile=b"x" * 200, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    )
    made += [
        out.getvalue(),
        with_metadata(made[0], "PNG", ORIGIN, size=(7, 5)),
        b"BM" + bytes(60),
        b"<svg onload=x>",
        b"\x89PNG\r\n\x1a\n",
    ]
    return tuple(made)


TARGETS: tuple[Target, ...] = (
    Target("ledger", ledger, ledger_seeds),
    Target("ledger, signed", signed_ledger, ledger_seeds),
    Target(
        "rows", rows, lambda: (*named_seeds("results.jsonl"), intact_run(image_run=False)["superseded.jsonl"]), SHARE
    ),
    Target("run.json", run_json, lambda: named_seeds("run.json")),
    Target("directory", directory, directory_seeds, 0.2),
    Target("directory, signed", directory_signed, ledger_seeds, 0.1),
    Target("picture", picture, picture_seeds, SHARE),
)
