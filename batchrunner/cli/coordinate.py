"""`batchrunner coordinate JOB --listen ADDRESS`, and `run JOB --processes N`, which has a coordinator of its own."""

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

import batchrunner
from batchrunner.cli.followers import Events, MetricsAt, MetricsFile, followers_of
from batchrunner.cli.options import AsJson, JobFile, Out, Overrides, Simulate, run_command
from batchrunner.cli.output import emit, print_stamped
from batchrunner.cli.progress import MODES, Mode, Progress, display
from batchrunner.cli.run_jobs import JobRun, RunFlags, run_one, with_end_event
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import Report
from batchrunner.core.values import replace
from batchrunner.report.summary import summary

Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        show_default=False,
        help="unix:PATH for workers of this machine, or HOST:PORT, which needs BATCHRUNNER_COORDINATOR_SECRET.",
    ),
]
Shards = Annotated[
    int,
    typer.Option(
        "--shards", min=1, max=100_000, metavar="N", help="How many shards; at least one for each worker, better four."
    ),
]
_OVER: Final = frozenset({ExitStatus.DONE, ExitStatus.FAILED})
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the final summary; as --progress none.")]
HowShown = Annotated[
    Mode,
    typer.Option(
        "--progress", help="How to show progress; auto: live in a terminal, else plain lines.", metavar="|".join(MODES)
    ),
]


def coordinate(
    *,
    job: JobFile,
    listen: Listen,
    shards: Shards = 16,
    out: Out = None,
    overrides: Overrides = None,
    simulate: Simulate = False,
    quiet: Quiet = False,
    progress: HowShown = "auto",
    events: Events = None,
    metrics: MetricsAt = None,
    metrics_file: MetricsFile = None,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Share a job among workers: who works on what, and one limit for all.

    \b
    Sends nothing itself. Workers are `run JOB --coordinator ADDRESS`, as many as you like, here
    or on other machines with the same directory; it gives each a shard, and that of a worker
    that died to another. Ends when all shards are finished; `merge` then joins them:
      batchrunner coordinate night.yaml --listen unix:/tmp/night.socket
      batchrunner coordinate night.yaml --listen 10.0.0.5:7070 --shards 64
    """
    from batchrunner.api import on_a_fast_loop  # noqa: PLC0415 - it loads most of the program: only when it is called
    from batchrunner.coordinating import coordinate as serve  # noqa: PLC0415 - as above
    from batchrunner.coordination.address import address_of, secret_for  # noqa: PLC0415 - as above

    address = address_of(listen, option="--listen")
    secret = secret_for(address, option="--listen")
    loaded = batchrunner.load_job(job, overrides=tuple(overrides or ()), simulate=simulate, out=out)
    named = run_command(job, overrides=tuple(overrides or ()), simulate=simulate, out=out, word="coordinate")
    command = f"{named} {shlex.join(['--listen', listen, '--shards', str(shards)])}"
    with ExitStack() as stack:
        opened = followers_of(
            stack, events, as_json=as_json, log_json=False, metrics=metrics, metrics_file=metrics_file
        )
        followers = tuple(opened)
        shown = Progress(display("none" if quiet else progress), followers)
        serving = serve(loaded, address, secret=secret, shards=shards, say=print_stamped, progress=shown.follow)
        with with_end_event(loaded.name, followers) as ending:
            report: Report = on_a_fast_loop(serving)
            if report.exit_status not in _OVER:
                report = _with_command(report, command)
            ending.report = report
    print_stamped(summary(report.status))
    if as_json:
        emit(report.status)
    return report.exit_status


# `run JOB --processes N`

Processes = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, max=1024, metavar="N", help="Work with N processes that share the limits, and merge them."
    ),
]


def run_in_processes(job_run: JobRun, asked: RunFlags, worker: list[str], *, processes: int) -> Report:
    """Run a job with so many processes of this machine; then merge, and let one process write what is about the whole.

    The whole job's run goes on without --processes, which options such as --retry-failed are not for.

    `worker`: the arguments of `run` for a worker, without the coordinator's address. Raises as `run_one`.
    """
    from batchrunner.api import on_a_fast_loop  # noqa: PLC0415 - it loads most of the program: only when it is called
    from batchrunner.cli.forked import copies_of_this_process  # noqa: PLC0415 - as above
    from batchrunner.cli.main import main as run_words  # noqa: PLC0415 - it knows this module
    from batchrunner.coordinating import is_alone, merge_all, run_processes  # noqa: PLC0415 - as above
    from batchrunner.coordination.server import own_socket  # noqa: PLC0415 - as above

    job = job_run.job
    if is_alone(Path(job.output.dir)):
        print_stamped(f"{job.output.dir}: holds a run of the whole job, with which one process goes on")
        return run_one(job_run, asked)
    shown = Progress(display(asked.progress), asked.followers)
    with own_socket() as address, with_end_event(job.name, asked.followers) as ending:
        words = [*worker, "--coordinator", str(address)]
        running = run_processes(
            job,
            (sys.executable, *_flags(), "-m", "batchrunner", *words),
            address=address,
            processes=processes,
            copies=copies_of_this_process(run_words, words, processes=processes),
            say=print_stamped,
            progress=shown.follow,
        )
        report, is_finished = on_a_fast_loop(running)
        if not is_finished:
            ending.report = _with_command(report, f"{job_run.command} --processes {processes}")
            return ending.report
        merge_all(job)
        ending.is_told_later = True
    return run_one(job_run, asked)


def _with_command(report: Report, command: str) -> Report:
    return replace(report, status=replace(report.status, next_command=command))


def _flags() -> list[str]:
    """The interpreter's own options, as far as they change what a program does."""
    return [f"-W{option}" for option in sys.warnoptions]
