"""A job on Ray: Ray places a coordinator and workers, starts again what it loses, and the shards are joined at the end.

Ray knows nothing of items. What its actors run are processes of this program: `batchrunner coordinate JOB`, and
`batchrunner run JOB --coordinator ADDRESS` for each worker. So what holds is what holds for these commands: one limit
for all, a shard of a lost worker taken over as its next epoch, what was in flight flagged. All nodes need batchrunner,
the job's files and its output directory at the same paths, and the variables of the API keys in the environment in
which Ray was started: keys are not sent through Ray.

Needs the extra `ray`. Nothing is imported from Ray before `run` is called.
"""

import ctypes
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

from batchrunner import api
from batchrunner.coordinating import is_alone
from batchrunner.coordination.address import SECRET_VARIABLE, Address
from batchrunner.coordination.server import own_socket
from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.core.status import Report
from batchrunner.core.values import dataclass, field, replace
from batchrunner.stores.run_file import RUN_FILE, SHARDS
from batchrunner.stores.shards import all_shards, read_layout, shard_folder

if TYPE_CHECKING:
    from batchrunner.running import RunOptions

LOCAL: Final = "local"
"""The address of a Ray of this machine alone, started for the run and ended with it."""
_SHARDS_EACH: Final = 4
"""Shards for each worker, so that the last ones end at about the same time."""
_LOOK_S: Final = 0.2
_SAY_S: Final = 10.0
_STARTS_S: Final = 120.0
"""A coordinator that does not listen by then does not start."""
_ENDS_S: Final = 60.0
"""How long workers may take to end when the coordinator has, and the other way round."""
_DEATHS: Final = 20
"""Of one process in a row, each within `_SHORT_S`: then it is not started again."""
_SHORT_S: Final = 10.0
_AGAIN_S: Final = 0.25
_TAIL_BYTES: Final = 2000
_SET_PDEATHSIG: Final = 1  # from <linux/prctl.h>
_FINISHED: Final = frozenset({ExitStatus.DONE, ExitStatus.FAILED})
_STOPS: Final = frozenset({signal.SIGINT, signal.SIGTERM})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnded:
    """How an actor's process ended at last: its exit status, and the end of what it said."""

    status: int
    said: str


def run(
    job: str,
    *,
    workers: int,
    address: str | None = None,
    shards: int | None = None,
    overrides: Sequence[str] = (),
    simulate: bool = False,
    out: str | None = None,
    **options: "Unpack[RunOptions]",
) -> Report:
    """Run a job, or continue it, with so many workers on Ray; when all shards are finished, join them and end the run.

    Blocks until the end; what is printed to standard output meanwhile goes to standard error. Where something is left,
    nothing is joined: the same call goes on.

    Args:
        job: the job file, as seen from the working directory of every node.
        workers: processes that work at the same time.
        address: of a cluster, as `ray.init` takes it; None or `local`: a Ray of this machine, for this run only.
        shards: how many, where the job is not divided yet; four for each worker, if it is not given.
        overrides: as for `load_job`.
        simulate: as for `load_job`.
        out: as for `load_job`.
        options: `RunOptions` of the run that follows the merge; `say` is given lines about the workers, too.

    Raises:
        JobMistakesError: the extra is not installed, the job has mistakes, or this address cannot be used.
        LockHeldError, LedgerDamagedError, WrongDirectoryError, StoreBrokenError: as `batchrunner.run` and `merge`.
        BatchrunnerError: Ray did not start, or a shard is not where the job is.
    """
    say = options.get("say") or _quiet
    whole = api.load_job(job, overrides=overrides, simulate=simulate, out=out)
    base = Path(whole.output.dir)
    if is_alone(base):
        say(f"{base}: holds a run of the whole job, with which one process goes on")
        return api.run_sync(whole, **options)
    same = tuple(_options_of(overrides, simulate=simulate, out=out))
    with _ray(address, say) as ray, _listening_at(ray, address) as (where, environment):
        number = str(shards or workers * _SHARDS_EACH)
        placing = _Placing(ray, where, environment, is_local=_is_local(address), say=say)
        coordinator, ended = placing.run(
            ("coordinate", job, "--listen", str(where), "--shards", number, "--quiet", *same),
            ("run", job, "--coordinator", str(where), "--quiet", *same),
            workers=workers,
            stands=lambda: _stands(base),
        )
    if coordinator.status in _FINISHED:
        check_all_are_here(base)
        api.merge(str(base))
        return api.run_sync(whole, **options)
    return _unfinished(whole, coordinator, ended, command=options.get("command"))


def _quiet(_line: str) -> None:
    pass


def _options_of(overrides: Sequence[str], *, simulate: bool, out: str | None) -> Iterator[str]:
    for override in overrides:
        yield from ("--set", override)
    if simulate:
        yield "--simulate"
    if out is not None:
        yield from ("--out", out)


def check_all_are_here(base: Path) -> None:
    """Refuse to join what ran into another folder: the rest of the job would be paid for again, here.

    Raises:
        BatchrunnerError: a shard of a job that is finished left nothing below `base`.
    """
    layout = read_layout(base)
    every = all_shards(layout) if layout is not None else ()
    absent = [str(shard) for shard in every if not (shard_folder(base, shard) / RUN_FILE).exists()]
    if absent:
        raise BatchrunnerError(
            f"{base}: shard {', '.join(absent)} ended and left nothing here; every node has to see this folder at "
            f"the same path: copy {SHARDS}/ from the node that has it, then run "
            f"`batchrunner merge {shlex.quote(str(base))}`"
        )


def _unfinished(job: Job, coordinator: ProcessEnded, workers: Sequence[ProcessEnded], *, command: str | None) -> Report:
    """Raises BatchrunnerError where no shard has begun."""
    told = coordinator
    if coordinator.status not in set(ExitStatus) or coordinator.status in {ExitStatus.STOPPED, ExitStatus.TERMINATED}:
        told = next((one for one in workers if one.status in {2, 4, 5}), coordinator)
    known = ExitStatus(told.status) if told.status in set(ExitStatus) else ExitStatus.STOPPED
    if read_layout(Path(job.output.dir)) is None:
        raise BatchrunnerError(told.said or f"the coordinator ended with status {told.status}")
    status = api.status(job.output.dir)
    message = status.message or _line(told.said) or None
    return Report(status=replace(status, message=message, next_command=command), exit_status=known)


def _stands(base: Path) -> str:
    try:
        items = api.status(str(base)).items
    except BatchrunnerError as error:  # no shard has begun
        return str(error)
    return f"{items.done:,} of {items.total:,} done, {items.failed:,} failed, in the shards that have begun"


def _is_local(address: str | None) -> bool:
    return address in {None, LOCAL}


@contextmanager
def _ray(address: str | None, say: Callable[[str], None]) -> Iterator[Any]:
    """Ray, started or joined. Raises JobMistakesError, BatchrunnerError."""
    if address is not None and "://" in address:
        problem = f"`{address}`: the address of a Ray Client, which is not a part of the cluster"
        hint = "run the command on a node of the cluster, with the address of its head (HOST:PORT), or `auto`"
        raise JobMistakesError((Mistake(key="--ray", problem=problem, hint=hint),))
    try:
        import ray  # noqa: PLC0415 - the extra; it takes a second
    except ImportError as error:
        hint = "install the extra: `pip install 'batchrunner[ray]'`, here and on every node"
        raise JobMistakesError((Mistake(key="--ray", problem="Ray is not installed", hint=hint),)) from error
    # Without an address of its own, `init` would join whatever cluster an earlier start has left behind.
    where: dict[str, Any] = {"address": address}
    if _is_local(address):
        # One processor: Ray starts an idle process for each at once; actors here ask for none. Ray would make its
        # workers nicer by 15: what else the machine does would come before the run, and the limit not be reached.
        where = {"address": LOCAL, "num_cpus": 1, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        where["_system_config"] = {"worker_niceness": 0}
    say("starting Ray" if _is_local(address) else f"joining Ray at {address}")
    with _stdout_elsewhere():
        try:
            ray.init(**where, log_to_driver=False, logging_level="error")
        except Exception as error:
            raise BatchrunnerError(f"Ray did not start, nothing was sent: {_line(str(error))}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _stdout_elsewhere() -> Iterator[None]:
    """Ray prints banners and deaths of its workers to standard output, which is for what the command says."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _listening_at(ray: Any, address: str | None) -> Iterator[tuple[Address, dict[str, str]]]:
    """Where the coordinator listens, and what processes need in their environment to reach it: a secret on a network.

    The coordinator's actor is placed on this node, so that it has the same address after each start.
    """
    if not _is_local(address):
        host = str(ray.util.get_node_ip_address())
        with socket.socket() as tried:
            tried.bind((host, 0))
            port = int(tried.getsockname()[1])
        yield Address(host=host, port=port), {SECRET_VARIABLE: secrets.token_hex(32)}
        return
    with own_socket() as here:
        yield here, {}


@dataclass(kw_only=True)
class _Asked:
    """Signals that this process was sent."""

    numbers: list[int] = field(default_factory=list)
    told: int = 0


class _Placing:
    """Has Ray run a coordinator and workers until the coordinator has ended. Signals are passed on."""

    def __init__(
        self, ray: Any, address: Address, environment: dict[str, str], *, is_local: bool, say: Callable[[str], None]
    ) -> None:
        self._ray, self._address, self._environment, self._say = ray, address, environment, say
        # An actor that is lost is started again, on another node if need be, and its call with it.
        again = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 2}
        self._spread = ray.remote(num_cpus=0 if is_local else 1, scheduling_strategy="SPREAD", **again)(PlacedProcess)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._here = ray.remote(num_cpus=0, scheduling_strategy=here, **again)(PlacedProcess)
        self._asked = _Asked()

    def run(
        self, coordinate: Sequence[str], work: Sequence[str], *, workers: int, stands: Callable[[], str]
    ) -> tuple[ProcessEnded, list[ProcessEnded]]:
        """How the coordinator ended at last, and the workers. `stands`: a line on the job, said now and then."""
        folder = str(Path.cwd())
        coordinator = self._here.remote(folder, self._environment)
        with self._signals():
            coordinating = coordinator.work.remote(list(coordinate))
            self._await_address(coordinating)
            places = [self._spread.remote(folder, self._environment) for _ in range(workers)]
            working = [place.work.remote(list(work)) for place in places]
            looked, idle_since = time.monotonic(), None
            while not self._is_over([coordinating]):
                self._pass_on([coordinator, *places])
                if self._is_over(working):  # without workers a coordinator waits for others
                    idle_since = idle_since or time.monotonic()
                    if time.monotonic() - idle_since > _ENDS_S / 10.0:
                        coordinator.stop.remote()
                        self._ray.wait([coordinating], timeout=_ENDS_S)
                        break
                if time.monotonic() - looked >= _SAY_S:
                    looked = time.monotonic()
                    self._say(stands())
            for place in places:
                place.may_end.remote()
            self._ray.wait(working, num_returns=len(working), timeout=_ENDS_S)
        ended = self._result(coordinating)
        if ended.status == ExitStatus.TERMINATED and signal.SIGINT in self._asked.numbers:
            ended = replace(ended, status=ExitStatus.INTERRUPTED)
        return ended, [self._result(one) for one in working]

    def _is_over(self, references: list[Any]) -> bool:
        return not self._ray.wait(references, num_returns=len(references), timeout=_LOOK_S)[1]

    def _await_address(self, coordinating: Any) -> None:
        until = time.monotonic() + _STARTS_S
        while time.monotonic() < until and not self._asked.numbers and not self._is_over([coordinating]):
            with suppress(OSError), _connected(self._address):
                return

    def _result(self, reference: Any) -> ProcessEnded:
        try:
            status, said = self._ray.get(reference, timeout=0)
        except self._ray.exceptions.RayError as error:
            return ProcessEnded(status=ExitStatus.STOPPED, said=_line(str(error)))
        return ProcessEnded(status=status, said=said)

    def _pass_on(self, actors: Sequence[Any]) -> None:
        """Ctrl-C and SIGTERM, to every process, as SIGTERM: Ray's processes are started with SIGINT blocked."""
        while self._asked.told < len(self._asked.numbers):
            self._asked.told += 1
            self._say("stopping: nothing more is sent, and what is in flight is waited for; again to stop at once")
            for actor in actors:
                actor.stop.remote()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first of Ctrl-C and SIGTERM ends all in order, a second one at once. Only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        noted = self._asked.numbers
        before = {number: signal.signal(number, lambda got, _frame: noted.append(got)) for number in _STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _connected(address: Address) -> socket.socket:
    """Raises OSError where nobody listens."""
    if address.path is None:
        return socket.create_connection((address.host, address.port), timeout=1.0)
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.connect(address.path)
    except OSError:
        connected.close()
        raise
    return connected


class PlacedProcess:
    """An actor: runs one process of this program, which ends when the actor does, and starts it again when it dies."""

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = self._is_last = False

    def work(self, command: list[str]) -> tuple[int, str]:
        """Run it until it ends by itself: its exit status, and the end of what it said.

        It is started again when a signal has ended it, and when it was stopped by its machine: a worker that has lost
        its shard takes another one, a coordinator finds its files free.
        """
        deaths = 0
        while True:
            began = time.monotonic()
            status, said = self._once(command)
            deaths = deaths + 1 if time.monotonic() - began < _SHORT_S else 1
            if self._is_stopped or self._is_last:
                return status, said
            if status not in {ExitStatus.STOPPED, *(128 + number for number in range(1, 65))} or deaths >= _DEATHS:
                return status, said
            time.sleep(min(_AGAIN_S * deaths, 2.0))

    def _once(self, command: list[str]) -> tuple[int, str]:
        with tempfile.TemporaryFile() as output:
            self._process = process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", "batchrunner", *command],
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call of the system
            )
            status = process.wait()
            output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return (status if status >= 0 else 128 - status), output.read().decode(errors="replace").strip()

    def may_end(self) -> None:
        """The coordinator has ended: whatever ends the process now, it is not started again."""
        self._is_last = True

    def stop(self) -> None:
        """End in order, asked for once; at once, asked for again."""
        self._is_stopped = True
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()


def _end_with_parent() -> None:
    """In the new process: Linux kills it when the actor dies. Elsewhere it goes on, and its lock keeps others away."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
