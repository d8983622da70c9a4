"""A folder that cannot keep the answers, and too few open files, are told before the first request."""

import resource
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine


def prepared(batchrunner: CommandLine, more: str = "") -> tuple[str, Path]:
    """A job of twenty items and its empty results folder, beside a folder `other-disk`."""
    job = batchrunner.job("job", f"prompts: [a, b]\nreplicas: 10\n{more}")
    (batchrunner.folder / "other-disk").mkdir()
    return job, batchrunner.folder / "outputs" / "job.simulated"


@pytest.mark.parametrize("name", ["images", "answers"])
def test_a_folder_moved_to_another_disk_by_a_link_stops_before_the_first_request(
    batchrunner: CommandLine, name: str
) -> None:
    job, out = prepared(batchrunner, "output: {each: 'answers/{{ id }}.md'}\n")
    assert batchrunner("run", job, "--limit", "1").status == 0
    (out / "images").mkdir(exist_ok=True)
    (out / name).rename(batchrunner.folder / "other-disk" / name)
    (out / name).symlink_to(batchrunner.folder / "other-disk" / name)
    before = {path: path.read_bytes() for path in out.glob("ledger/*")}
    ran = batchrunner("run", job)
    assert ran.status == 4
    assert f"{out.name}/{name}" in ran.err
    assert "nothing was sent" in ran.err
    assert {path: path.read_bytes() for path in out.glob("ledger/*")} == before


def test_a_results_folder_that_is_a_link_to_another_disk_works(batchrunner: CommandLine) -> None:
    job, out = prepared(batchrunner)
    out.parent.mkdir()
    out.symlink_to(batchrunner.folder / "other-disk")
    assert batchrunner("run", job).status == 0
    assert len((batchrunner.folder / "other-disk" / "results.jsonl").read_text().splitlines()) == 20


def test_few_open_files_bound_the_requests_in_flight_and_are_reported(batchrunner: CommandLine) -> None:
    job, _ = prepared(batchrunner, "limits: {concurrency: 300}\n")
    ran = subprocess.run(
        batchrunner.argv("run", job, "--quiet"),
        cwd=batchrunner.folder,
        env=batchrunner.environment,
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256)),
    )
    assert ran.returncode == 0, ran.stderr
    assert "requests in flight on each lane" in ran.stderr
    assert "limits.concurrency is 300" in ran.stderr
