"""`examples/shell/` and `examples/laptops/` as people start them: xargs, GNU parallel, and shards of two machines."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.clusters.examples import (
    EXAMPLES,
    PATIENCE_S,
    assert_nothing_lost_or_paid_unseen,
    environment,
    kill_a_shard,
    typed,
    wait_for,
    whole,
    write_job,
)
from tests.e2e.runs import program
from tests.support.json_lines import json_lines
from tests.support.metered_server import metered_server

pytestmark = pytest.mark.real
ITEMS = 120
PER_S = 40.0
SHARDS = 4
COMPARED = ("index", "id", "prompt", "params", "key")
needs_parallel = pytest.mark.skipif(
    shutil.which("parallel") is None, reason="GNU parallel is not installed: run `make test-servers`"
)
needs_rsync = pytest.mark.skipif(
    shutil.which("rsync") is None, reason="rsync is not installed: run `make test-servers`"
)


def compared(path: Path) -> list[list[object]]:
    return sorted(([row[name] for name in COMPARED] for row in json_lines(path)), key=str)


@pytest.mark.parametrize("script", ["xargs.sh", pytest.param("parallel.sh", marks=needs_parallel)])
def test_shards_that_a_shell_starts_have_the_sums_of_one_run_and_stay_below_the_limit(
    tmp_path: Path, script: str
) -> None:
    """At most 2 % are refused by a server whose bucket is as large as the job says."""
    with metered_server(per_second=PER_S, burst=10) as (root, meter):
        job = write_job(tmp_path, root, items=ITEMS, per_minute=PER_S * 60)
        ran = typed(EXAMPLES / "shell" / script, job.name, "out", str(SHARDS), folder=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert_nothing_lost_or_paid_unseen(tmp_path / "out", meter, items=ITEMS)
        assert meter.paid.total() == ITEMS
        assert meter.refused <= 0.02 * ITEMS
        rerun = typed(EXAMPLES / "shell" / script, job.name, "out", str(SHARDS), folder=tmp_path)
        assert (rerun.returncode, meter.paid.total()) == (0, ITEMS), rerun.stderr
    with metered_server(per_second=1e6, burst=1e6) as (root, _meter):
        again = write_job(tmp_path, root, items=ITEMS, per_minute=1e6)
        assert typed(*program("run", again.name, "--out", "one", "--quiet"), folder=tmp_path).returncode == 0
    shards, one = whole(tmp_path / "out"), whole(tmp_path / "one")
    assert shards.findings == one.findings == []
    for part in ("items", "usage"):
        assert shards.status[part] == one.status[part]
    assert shards.status["sends"]["total"] - shards.status["sends"]["refused"] == one.status["sends"]["total"]


def test_a_killed_shard_is_started_again_and_sends_only_what_is_left(tmp_path: Path) -> None:
    with metered_server(per_second=PER_S, burst=10) as (root, meter):
        job = write_job(tmp_path, root, items=ITEMS, per_minute=PER_S * 60)
        script = subprocess.Popen(
            [EXAMPLES / "shell" / "xargs.sh", job.name, "out", str(SHARDS)],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            for number, paid in enumerate((20, 40, 60)):
                wait_for(lambda least=paid: meter.paid.total() >= least, "nothing is sent")  # type: ignore[misc]
                kill_a_shard(tmp_path / "out", number)
            assert script.wait(timeout=PATIENCE_S) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.wait()
        assert_nothing_lost_or_paid_unseen(tmp_path / "out", meter, items=ITEMS)


def test_the_job_of_the_examples_can_be_divided() -> None:
    assert typed(*program("check", "night.yaml"), folder=EXAMPLES).returncode == 0
    assert typed(*program("plan", "night.yaml", "--shard", "3/4"), folder=EXAMPLES).returncode == 0


@needs_rsync
def test_two_laptops_shards_become_one_run(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with metered_server(per_second=1e6, burst=1e6) as (root, meter):
        for number, laptop in enumerate((here, there)):
            laptop.mkdir()
            job = write_job(laptop, root, items=ITEMS, per_minute=60_000)
            ran = typed(*program("run", job.name, "--out", "out", "--shard", f"{number}/2", "--quiet"), folder=laptop)
            assert ran.returncode == 0, ran.stderr
        gathered = typed(EXAMPLES / "laptops" / "gather.sh", there / "out", "out", folder=here)
        assert gathered.returncode == 0, gathered.stderr
        assert_nothing_lost_or_paid_unseen(here / "out", meter, items=ITEMS)
        paid = meter.paid.total()
        assert typed(*program("run", "job.yaml", "--out", "out", "--quiet"), folder=here).returncode == 0
        assert meter.paid.total() == paid == ITEMS
