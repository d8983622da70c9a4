"""Runs that an older version left behind, killed halfway, go on with this one: see kept_runs/README.md."""

import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.status import Report
from batchrunner.engine.work_queue import LoopClock
from tests.field.runs import KEY, KEY_ENV
from tests.field.server import HELLO, Asked, Script, always, serving
from tests.field.tasks import Tasks
from tests.support.virtual_time import run_virtual

HOME = Path(__file__).parent / "kept_runs"
BASE = "http://127.0.0.1:8123"
"""The server of the kept runs."""
LATER = 1_795_900_000.0
"""Wall clock of the resumption: a day after the runs were killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    report: Report
    asked: list[Asked]
    rows: set[bytes]
    out: Path

    @property
    def sent(self) -> int:
        return sum(asked.method == "POST" for asked in self.asked)


def resume(folder: Path, name: str, script: Script) -> Resumed:
    """Run the job to its end in a copy of the kept directory, which is sound then; a second run does nothing."""
    out = folder / "out"
    shutil.copytree(HOME / name, out)

    async def main() -> tuple[Report, list[Asked]]:
        async with serving(script) as server:
            text = (HOME / f"{name}.yaml").read_text("utf-8").replace("{base}", server.base)
            (folder / "job.yaml").write_text(text, "utf-8")
            move(out, server.base)
            job = api.load_job(str(folder / "job.yaml"), out=str(out))
            report = await api.run(job, clock=LoopClock(wall_at_zero=LATER))
            asked = list(server.asked)
            again = await api.run(job, clock=LoopClock(wall_at_zero=LATER + 1000.0))
            assert (int(again.exit_status), server.asked) == (0, asked), again.status.message
        return report, asked

    report, asked = run_virtual(main)
    assert int(report.exit_status) == 0, report.status.message
    assert api.verify(str(out)).sound
    return Resumed(report=report, asked=asked, rows=rows_of(out), out=out)


def move(out: Path, base: str) -> None:
    """Write another server's address, and new checksums, into the ledger: tasks are asked for where they began."""
    for segment in (out / "ledger").iterdir():
        lines = [
            line[: line.rindex(b',"c":"')].replace(BASE.encode(), base.encode())
            for line in segment.read_bytes().splitlines()
        ]
        segment.write_bytes(b"".join(line + b',"c":"%08x"}\n' % zlib.crc32(line) for line in lines))


def rows_of(folder: Path) -> set[bytes]:
    return set((folder / "results.jsonl").read_bytes().splitlines(keepends=True))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)


def test_a_chat_run_of_an_older_version_sends_what_is_missing_and_keeps_its_rows(tmp_path: Path) -> None:
    resumed = resume(tmp_path, "chat", always(HELLO))
    kept = rows_of(HOME / "chat")
    assert (len(kept), len(resumed.rows), resumed.sent) == (6, 10, 4)
    assert kept < resumed.rows
    sends = resumed.report.status.sends
    assert (sends.ambiguous, sends.unknown) == (1, 3)  # a 5xx, and what was under way when it was killed


def test_an_image_run_of_an_older_version_polls_its_accepted_task_and_orders_the_rest(tmp_path: Path) -> None:
    tasks = Tasks()
    resumed = resume(tmp_path, "images", tasks)
    kept = rows_of(HOME / "images")
    assert (len(kept), len(resumed.rows)) == (2, 6)
    assert resumed.sent == tasks.orders == 3  # two that were under way when it was killed, and one that never was
    assert any("e1a9c839-996b-0990-9600-40004001916f" in asked.path for asked in resumed.asked)
    assert kept < resumed.rows
    for picture in (HOME / "images" / "images").iterdir():
        assert (resumed.out / "images" / picture.name).read_bytes() == picture.read_bytes()
