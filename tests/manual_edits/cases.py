"""A small finished or half-finished run in a folder of its own, and what hands may do to it."""

import codecs
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.job import Job
from batchrunner.core.status import Audit, Report, Status
from batchrunner.engine.work_queue import LoopClock
from tests.support.virtual_time import run_virtual

Hand = Callable[[Path], None]

CHAT = "provider: simulator\nmodel: sim/chat\nprompts: [one, two, three, four, five]\n"
TWINS = "provider: simulator\nmodel: sim/chat\nprompts: [one, two, three, four, two]\n"
EACH = CHAT + 'output: {each: "answers/{{ id }}.md"}\n'
IMAGE = (
    "provider: simulator\nkind: image\nmodel: Qwen/Qwen-Image\nparams: {size: 64x64}\n"
    "limits: {poll_per_second: 100}\nprompts: [one, two, three, four, five]\n"
)


@dataclass
class Field:
    """A job and its directory; `run` is one life of a process."""

    job: Job
    said: list[str] = field(default_factory=list)
    began: float = field(default_factory=lambda: time.time() - 3600.0)
    """An hour ago, so that what hands do, by the system's clock, comes after the virtual end of a life."""

    @property
    def folder(self) -> Path:
        return Path(self.job.output.dir)

    def run(self, **options: bool | int) -> Report:
        """In virtual time: pictures take the provider a while."""
        self.said.clear()

        async def life() -> Report:
            clock = LoopClock(wall_at_zero=self.began)
            try:
                return await api.run(self.job, clock=clock, say=self.said.append, command="RUN", **options)  # type: ignore[arg-type]
            finally:
                self.began = clock.wall() + 1.0

        return run_virtual(life)

    def status(self) -> Status:
        return api.status(str(self.folder))

    def verify(self) -> Audit:
        return api.verify(str(self.folder))

    def found(self) -> dict[str, int]:
        """What `verify` finds, by kind."""
        return {finding.kind: finding.count for finding in self.verify().findings}

    @property
    def sends(self) -> int:
        return self.status().sends.total


Fields = Callable[..., Field]


@pytest.fixture
def fields(tmp_path: Path) -> Fields:
    """Makes a run of a job: all of it, or only so many items."""

    def make(text: str, *, limit: int | None = None, name: str = "job") -> Field:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        made = Field(api.load_job(str(path), out=str(tmp_path / "out")))
        made.run(limit=2)
        if limit != 2:
            made.run(**({} if limit is None else {"limit": limit}))
        return made

    return make


# -- hands


def lines(folder: Path) -> list[bytes]:
    return (folder / "results.jsonl").read_bytes().splitlines(keepends=True)


def _put(folder: Path, rows: list[bytes]) -> None:
    (folder / "results.jsonl").write_bytes(b"".join(rows))


def _change(change: Callable[[bytes], bytes]) -> Hand:
    def hand(folder: Path) -> None:
        path = folder / "results.jsonl"
        path.write_bytes(change(path.read_bytes()))

    return hand


def _saved_by_another_program(text: bytes) -> bytes:
    return b"".join(json.dumps(json.loads(row), sort_keys=True).encode() + b"\r\n" for row in text.splitlines())


def _utf16_be(text: bytes) -> bytes:
    return codecs.BOM_UTF16_BE + text.replace(b"\n", b"\r\n").decode().encode("utf-16-be")


def _copied(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    shutil.move(folder.with_name("copy"), folder)


ANOTHER_FORM: dict[str, Hand] = {
    "sorted": lambda folder: _put(folder, sorted(lines(folder), reverse=True)),
    "with a byte order mark": _change(lambda text: b"\xef\xbb\xbf" + text),
    "with carriage returns": _change(lambda text: text.replace(b"\n", b"\r\n")),
    "without the last newline": _change(lambda text: text[:-1]),
    "with all of that": _change(lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n").rstrip()),
    "with blank lines": _change(lambda text: text.replace(b"\n", b"\n\n")),
    "each row twice": lambda folder: _put(folder, lines(folder) * 2),
    "saved by another program": _change(_saved_by_another_program),
    "copied as a folder": _copied,
    "as UTF-16": _change(lambda text: text.decode().encode("utf-16")),
    "as UTF-16 of the other order, with carriage returns": _change(_utf16_be),
    "as UTF-16 without a mark, and without the last newline": _change(
        lambda text: text[:-1].decode().encode("utf-16-le")
    ),
    "as UTF-32": _change(lambda text: text.decode().encode("utf-32")),
    "with lone carriage returns": _change(lambda text: text.replace(b"\n", b"\r")),
    "with lone carriage returns, and none at the end": _change(lambda text: text[:-1].replace(b"\n", b"\r")),
    "with lone carriage returns and a byte order mark": _change(
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r")
    ),
}
"""Nothing is lost by them."""

ROWS_LOST: dict[str, tuple[Hand, int]] = {
    "deleted": (lambda folder: (folder / "results.jsonl").unlink(), 5),
    "emptied": (_change(lambda _: b""), 5),
    "first removed": (lambda folder: _put(folder, lines(folder)[1:]), 1),
    "middle removed": (lambda folder: _put(folder, lines(folder)[:2] + lines(folder)[3:]), 1),
    "last removed": (lambda folder: _put(folder, lines(folder)[:-1]), 1),
    "cut in the last row": (_change(lambda text: text[:-30]), 1),
    "a row broken": (_change(lambda text: text.replace(b'"key"', b'key"', 1)), 1),
    "an older one, sorted": (lambda folder: _put(folder, sorted(lines(folder)[:3])), 2),
}
"""With how many of five rows are gone."""
