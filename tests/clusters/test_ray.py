"""`run --ray` on a Ray of this machine: shards that are killed in every way or stopped, Ctrl-C, and what is refused.

Ray lives in an environment of its own, `.servers/ray`, which `make test-servers` makes.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from batchrunner.core.errors import BatchrunnerError
from batchrunner.ray import check_all_are_here
from batchrunner.stores.lock import holder_of
from tests.clusters.examples import (
    HOME,
    PATIENCE_S,
    assert_nothing_lost_or_paid_unseen,
    environment,
    holders,
    typed,
    wait_for,
    write_job,
)
from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines, json_lines_so_far
from tests.support.metered_server import metered_server

pytestmark = pytest.mark.servers
PROGRAM = HOME / ".servers" / "ray" / "bin" / "batchrunner"
needs_ray = pytest.mark.skipif(not PROGRAM.exists(), reason="Ray is not installed: run `make test-servers`")
ITEMS, PER_S, BURST = 5000, 300.0, 60.0
FEW, SLOWLY_PER_S = 250, 100.0
WORKERS = 2


def start(folder: Path, *options: str, ray: str = "local") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [PROGRAM, "run", "job.yaml", "--out", "out", f"--ray={ray}", "--workers", str(WORKERS), "--json", *options],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids_at(folder: Path) -> list[int]:
    """Who has the lock of this directory, or those of the shards below it."""
    if folder.name == "shards":
        holder = holder_of(folder)
        return [holder.pid] if holder is not None and holder.pid else []
    return sorted(holders(folder).values())


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_actor(pid: int) -> None:
    """The parent of the process is Ray's worker: the process dies with it."""
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)


@needs_ray
def test_shards_that_are_killed_with_their_workers_lose_nothing(tmp_path: Path) -> None:
    """A worker and the coordinator, each by its process and by its actor; the server refuses at most 2 %."""
    with metered_server(per_second=PER_S, burst=BURST) as (root, meter):
        write_job(tmp_path, root, items=ITEMS, per_minute=PER_S * 60)
        run = start(tmp_path)
        try:
            kills = [(kill_actor, False), (kill_process, False), (kill_process, True), (kill_actor, True)]
            for number, (kill, is_coordinator) in enumerate(kills):
                least = (number + 1) * ITEMS // 8
                wait_for(lambda least=least: meter.paid.total() >= least, "nothing is sent")  # type: ignore[misc]
                where = (tmp_path / "out" / "shards") if is_coordinator else (tmp_path / "out")
                wait_for(lambda where=where: pids_at(where), "nobody works on a shard")  # type: ignore[misc]
                kill(pids_at(where)[0])
            out, err = run.communicate(timeout=PATIENCE_S)
        finally:
            run.kill()
            run.wait()
        assert run.returncode == 0, err
        assert json.loads(out)["items"]["done"] == ITEMS, "standard output has the one object"
        assert_nothing_lost_or_paid_unseen(tmp_path / "out", meter, items=ITEMS)
        assert meter.refused <= 0.02 * ITEMS
        assert (tmp_path / "out" / "report.html").exists(), "the joined run is finished as any other"


@needs_ray
def test_ctrl_c_ends_every_shard_in_order_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with metered_server(per_second=SLOWLY_PER_S, burst=20) as (root, meter):
        write_job(tmp_path, root, items=FEW, per_minute=SLOWLY_PER_S * 60)
        run = start(tmp_path)
        wait_for(lambda: meter.paid.total() >= FEW // 4, "nothing is sent")
        run.send_signal(signal.SIGINT)
        _out, err = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 130, err
        assert "run job.yaml --out out --ray=local --workers 2" in err, "the command that goes on"
        assert not (tmp_path / "out" / "results.jsonl").exists(), "what is unfinished is not joined"
        again = start(tmp_path)
        _out, err = again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, err
        assert_nothing_lost_or_paid_unseen(tmp_path / "out", meter, items=FEW)
        assert meter.paid.total() == FEW, "answers in flight were waited for"
        done = typed(PROGRAM, "run", "job.yaml", "--out", "out", "--ray", folder=tmp_path)
        assert (done.returncode, meter.paid.total()) == (0, FEW), "nothing is left, and Ray is not needed"


def stopped_in_a_shard(out: Path) -> tuple[int, Path]:
    """A worker that was stopped (SIGSTOP) with requests in flight, and the directory of the shard that it has."""
    while True:
        wait_for(lambda: any(json_lines_so_far(each / "results.jsonl") for each in holders(out)), "no worker has a row")
        for pid in holders(out).values():
            os.kill(pid, signal.SIGSTOP)
            mine = [folder for folder, holder in holders(out).items() if holder == pid]
            if mine and 0 < len(json_lines_so_far(mine[0] / "results.jsonl")) < FEW // 16:
                return pid, mine[0]
            os.kill(pid, signal.SIGCONT)


@needs_ray
def test_the_shard_of_a_stopped_worker_is_finished_by_another_and_it_sends_nothing_more(tmp_path: Path) -> None:
    with metered_server(per_second=SLOWLY_PER_S, burst=20, latency_s=0.5) as (root, meter):
        write_job(tmp_path, root, items=FEW, per_minute=SLOWLY_PER_S * 60)
        run, out = start(tmp_path), tmp_path / "out"
        try:
            pid, folder = stopped_in_a_shard(out)
            try:
                claim = folder.parent / f"claim-{int(folder.name.removeprefix('epoch-')) + 1}.json"
                wait_for(lambda: b'"finished"' in (claim.read_bytes() if claim.exists() else b""), "nobody finishes it")
                wait_for(lambda: list(holders(out).values()) == [pid], "a shard is left")
                sent = meter.paid.total()
            finally:
                os.kill(pid, signal.SIGCONT)
            _out, err = run.communicate(timeout=PATIENCE_S)
        finally:
            run.kill()
            run.wait()
        assert run.returncode == 0, err
        assert meter.paid.total() == sent, "once it was woken it sent nothing more"
        assert_nothing_lost_or_paid_unseen(out, meter, items=FEW)
        assert len(json_lines(folder / "results.jsonl")) > 0
        assert len(json_lines(out / "superseded.jsonl")) == sent - FEW > 0, "its late answers are kept"


@needs_ray
def test_a_cluster_that_is_running_is_joined_by_its_address_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as tried:
        tried.bind(("127.0.0.2", 0))
        host, port = tried.getsockname()
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets are short
    with (tmp_path / "head.txt").open("wb") as said:
        head = subprocess.Popen(
            [
                *(PROGRAM.parent / "ray", "start", "--head", "--block", "--disable-usage-stats"),
                *(f"--node-ip-address={host}", f"--port={port}"),
                *("--num-cpus=2", "--include-dashboard=false", f"--temp-dir={temporary}"),
            ],
            env=environment(),
            stdout=said,
            stderr=said,
        )
    try:
        wait_for(lambda: b"Ray runtime started" in (tmp_path / "head.txt").read_bytes(), "Ray does not start")
        with metered_server(per_second=SLOWLY_PER_S, burst=20) as (root, meter):
            write_job(tmp_path, root, items=FEW, per_minute=SLOWLY_PER_S * 60)
            run = start(tmp_path, ray=f"{host}:{port}")
            _out, err = run.communicate(timeout=PATIENCE_S)
            assert run.returncode == 0, err
            assert_nothing_lost_or_paid_unseen(tmp_path / "out", meter, items=FEW)
            assert meter.paid.total() == FEW
        assert head.poll() is None, "it is not this command's to end"
    finally:
        head.terminate()
        head.wait(timeout=PATIENCE_S)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--ray", "--shard", "0/2"), "--shard"),
        (("--ray", "--limit", "1"), "--limit"),
        (("--ray", "--only", "x"), "part of a job"),
        (("--ray", "--reformat"), "--reformat"),
        (("--ray", "--processes", "2"), "--processes"),
        (("--workers", "2"), "needs --ray"),
        (("--ray", "ray://10.0.0.1:10001"), "Ray Client"),
    ],
)
def test_what_a_divided_job_cannot_have_is_refused(
    batchrunner: CommandLine, arguments: tuple[str, ...], what: str
) -> None:
    job = batchrunner.job("job", "prompts: [a]\n")
    refused = batchrunner("run", job, *arguments)
    assert (refused.status, what in refused.err) == (2, True)


def test_without_the_extra_it_states_how_to_install_it(batchrunner: CommandLine) -> None:
    job = batchrunner.job("job", "prompts: [a]\n")
    for ray in (("--ray",), ("--ray", "10.0.0.1:6379"), ("--ray=auto",)):
        refused = batchrunner("run", job, *ray)
        assert (refused.status, "batchrunner[ray]" in refused.err) == (2, True)
    assert not list((batchrunner.folder / "outputs").glob("*/ledger"))


def test_a_shard_that_ran_into_another_folder_is_not_taken_for_done(tmp_path: Path) -> None:
    """Nodes that see different disks: the rest of the job would be sent, and paid, again."""
    shards = tmp_path / "shards"
    for folder in (shards / "0-of-2" / "epoch-1", shards / "1-of-2" / "epoch-1"):
        assert not folder.exists()
        shards.mkdir(exist_ok=True)
        (shards / "layout.json").write_text('{"version": 1, "job": "words", "simulated": false, "shards": 2}')
        with pytest.raises(BatchrunnerError, match="1/2 ended and left nothing here"):
            check_all_are_here(tmp_path)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    check_all_are_here(tmp_path)
