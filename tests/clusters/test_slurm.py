"""`examples/slurm/` on a real SLURM: a killed task, one that is put back into the queue, and the merge behind them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.examples import EXAMPLES, assert_nothing_lost_or_paid_unseen, holders, wait_for, write_job
from tests.clusters.slurm import Slurm, needs_slurm, slurm
from tests.support.metered_server import metered_server

pytestmark = [pytest.mark.servers, needs_slurm]
ITEMS = 240
SHARDS = 4
PER_S = 40.0
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


def submit(cluster: Slurm, folder: Path, *options: str) -> tuple[str, str]:
    array, merge = cluster(
        EXAMPLES / "slurm" / "submit.sh", "job.yaml", "out", str(SHARDS), *options, folder=folder
    ).split()
    return array, merge


def wait_until_over(cluster: Slurm, job: str) -> None:
    wait_for(lambda: set(cluster.states(job)) <= ENDED, f"job {job} does not end: {cluster.logs()}")


def test_an_array_with_a_killed_and_a_requeued_task_loses_nothing(cluster: Slurm, tmp_path: Path) -> None:
    """At most 2 % of the requests are refused by a bucket as large as the job says."""
    with metered_server(per_second=PER_S, burst=10) as (root, meter):
        write_job(tmp_path, root, items=ITEMS, per_minute=PER_S * 60)
        array, merge = submit(cluster, tmp_path)
        wait_for(
            lambda: len(holders(tmp_path / "out")) == SHARDS and meter.paid.total() >= SHARDS, "shards do not begin"
        )
        cluster("scancel", "--signal=KILL", "--full", f"{array}_1")
        cluster("scontrol", "requeue", f"{array}_2")
        wait_until_over(cluster, f"{array}_1")
        cluster("scontrol", "requeue", f"{array}_1")
        wait_until_over(cluster, array)
        wait_until_over(cluster, merge)
        assert set(cluster.states(array)) == {"COMPLETED"}, "a task that is started again goes on"
        assert_nothing_lost_or_paid_unseen(tmp_path / "out", meter, items=ITEMS)
        assert meter.refused <= 0.02 * ITEMS
