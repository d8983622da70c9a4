"""A SLURM of one node on 127.0.0.1: munged, slurmctld and slurmd as processes of the test, with files of their own.

It is Debian's (`slurmctld slurmd slurm-client munge`, installed by `make test-servers`); no daemon of the system is
used or touched.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.clusters.examples import environment, wait_for
from tests.servers.llama import free_port

_PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue")
_PLACES: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_MISSING: Final = [name for name in _PROGRAMS if shutil.which(name, path=_PLACES) is None]
needs_slurm = pytest.mark.skipif(
    bool(_MISSING), reason=f"SLURM is not installed ({', '.join(_MISSING)} missing): run `make test-servers`"
)
_CONFIGURATION: Final = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0
MpiDefault=none
ReturnToService=2
KillWait=2
JobRequeue=1
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A running one. `environment` makes its commands speak to it."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str | Path, folder: Path | None = None) -> str:
        """What a command prints; it must end well."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment,
            cwd=folder or self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr, self.logs())
        return done.stdout.strip()

    def states(self, job: str) -> list[str]:
        """The state of each task of a job, such as RUNNING; nothing once SLURM has forgotten it."""
        return self("squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={job}").split()

    def logs(self) -> str:
        """The ends of what the daemons have said."""
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Start it, wait until its node is idle, and end it afterwards."""
    with ExitStack() as stack:
        # below the system's own folder for temporary files, because the path of a socket has at most 107 bytes
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        text = _CONFIGURATION.format(
            folder=folder, controller=free_port(), node=free_port(), user=pwd.getpwuid(os.getuid()).pw_name
        )
        (folder / "slurm.conf").write_text(text)
        own = {**environment(), "SLURM_CONF": str(folder / "slurm.conf")}
        own["PATH"] += ":/usr/sbin:/sbin"
        running = Slurm(folder=folder, environment=own)
        places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder}/munge/{name}" for option, name in places.items()]
        stack.enter_context(_daemon(running, "munged", "--foreground", "--force", *options))
        wait_for((folder / "munge" / "socket").exists, "munged does not start")
        stack.enter_context(_daemon(running, "slurmctld", "-D", "-c"))
        stack.enter_context(_daemon(running, "slurmd", "-D", "-N", "localhost"))
        wait_for(lambda: _state(running) == "idle", f"the node of SLURM did not come up: {running.logs()}")
        yield running


def _state(running: Slurm) -> str:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        env=running.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip()


@contextmanager
def _daemon(running: Slurm, *command: str) -> Iterator[None]:
    with (running.folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, env=running.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
