"""The browser, and runs on the simulator whose pages are looked at."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import batchrunner
from tools.browser import started, why_not

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHAT = """
name: talk
provider: simulator
models: [sim/one, sim/two, "sim/strict#moderated-403:3"]
system: Answer shortly.
prompts: {file: prompts.txt}
matrix: {temperature: [0.2, 1.0]}
"""
PICTURES = """
name: pictures
provider: simulator
kind: image
model: sim/painter
prompts: [an owl in a teacup, a red barn, a bridge at night]
matrix: {seed: [1, 2, 3, 4]}
params: {size: 256x256}
"""
PROMPTS = 100


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One for a module's tests; they are skipped where there is none.

    No longer: while it lives its event loop runs in this thread, where no other test could start one.
    """
    if reason := why_not():
        pytest.skip(reason)
    with started() as found:
        yield found


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run with 600 items, three of which failed."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "prompts.txt").write_text("".join(f"Question {n} about tides.\n" for n in range(PROMPTS)), "utf-8")
    return ran(folder, CHAT)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run with 12 pictures."""
    return ran(tmp_path_factory.mktemp("pictures"), PICTURES)


def ran(folder: Path, job: str, *, limit: int | None = None) -> Path:
    """Run a job in a folder; the run's directory. In a thread: the browser's loop occupies this one."""
    (folder / "job.yaml").write_text(job, "utf-8")
    with ThreadPoolExecutor(max_workers=1) as pool:
        job_of_it = batchrunner.load_job(str(folder / "job.yaml"))
        report = pool.submit(batchrunner.run_sync, job_of_it, limit=limit).result()
    return Path(report.status.dir or "")
