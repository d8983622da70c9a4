"""`batchrunner run JOB…`: runs jobs, or continues them where they stopped.

An error in any job stops all of them before anything is sent. Several jobs run one after the other unless
`--parallel`; one that ends badly does not keep the others from running, an interruption does.
"""

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

import batchrunner
from batchrunner.cli.coordinate import HowShown, Processes, Quiet, run_in_processes
from batchrunner.cli.followers import Events, LogJson, MetricsAt, MetricsFile, followers_of
from batchrunner.cli.options import (
    AsJson,
    JobFiles,
    Limit,
    Mark,
    Marks,
    Only,
    Out,
    Overrides,
    RowsFrom,
    ShardOf,
    Simulate,
    States,
    TypedPart,
    Where,
    part_options,
    part_words,
    run_command,
    worker_words,
)
from batchrunner.cli.output import emit, error_object, print_stamped
from batchrunner.cli.progress import Mode
from batchrunner.cli.run_jobs import (
    CrashedRun,
    Ended,
    FinishedRun,
    JobRun,
    RunFlags,
    Shaped,
    exit_status,
    run_all,
    run_on_ray,
    run_one,
    worst,
)
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.report.summary import summary

if TYPE_CHECKING:
    from batchrunner.transport.telemetry import Telemetry

RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Retry items that failed permanently.")]
ResendHeld = Annotated[
    bool,
    typer.Option("--resend-held", help="Resend held items, which may have been billed already (on_ambiguous: hold)."),
]
ResendLost = Annotated[
    bool,
    typer.Option("--resend-lost", help="Resend, and pay again for, finished items whose row or picture was deleted."),
]
AdoptRows = Annotated[
    bool,
    typer.Option(
        "--adopt-rows", help="Continue without the lost ledger: items with a row count as done, the rest are sent."
    ),
]
Reformat = Annotated[
    bool, typer.Option("--reformat", help="Convert existing pictures to output.format; sends nothing.")
]
CoordinatorAt = Annotated[
    str | None,
    typer.Option(
        "--coordinator",
        metavar="ADDRESS",
        help="Work on shards from the coordinator at unix:PATH or HOST:PORT, which has the limits of all.",
    ),
]
NoJudge = Annotated[bool, typer.Option("--no-judge", help="Leave out the judges of the job's checks.")]
Parallel = Annotated[
    bool, typer.Option("--parallel", help="Run several jobs at the same time instead of one after the other.")
]
Otel = Annotated[
    bool, typer.Option("--otel", help="Export a span for each request and metrics by OpenTelemetry's OTEL_… variables.")
]
_WORKERS = 2
OnRay = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Run the job as shards on Ray: of this machine, or of the cluster at ADDRESS. Needs batchrunner[ray].",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="With --ray: processes at the same time; 2 by default."),
]


def run(
    *,
    jobs: JobFiles,
    limit: Limit = None,
    only: Only = None,
    states: States = None,
    where: Where = None,
    rows_from: RowsFrom = None,
    marks: Marks = None,
    mark: Mark = None,
    retry_failed: RetryFailed = False,
    resend_held: ResendHeld = False,
    resend_lost: ResendLost = False,
    adopt_rows: AdoptRows = False,
    reformat: Reformat = False,
    no_judge: NoJudge = False,
    shard: ShardOf = None,
    coordinator: CoordinatorAt = None,
    processes: Processes = None,
    ray: OnRay = None,
    workers: Workers = None,
    out: Out = None,
    overrides: Overrides = None,
    simulate: Simulate = False,
    parallel: Parallel = False,
    quiet: Quiet = False,
    progress: HowShown = "auto",
    events: Events = None,
    log_json: LogJson = False,
    metrics: MetricsAt = None,
    metrics_file: MetricsFile = None,
    otel: Otel = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Run jobs, or continue them where they stopped.

    Finished items are never sent again.

    \b
    Ctrl-C once: send nothing more and wait for answers in flight. Twice: stop at once.
    Closing the terminal does the same as one Ctrl-C; under nohup the run continues.
    SIGUSR1 (Ctrl-T on macOS) prints how it stands. Run the same command again to continue:
      batchrunner run jobs/cats.yaml
      batchrunner run jobs/cats.yaml --limit 3
      batchrunner run jobs/cats.yaml --simulate
      batchrunner run jobs/cats.yaml --set limits.concurrency=4 --out outputs/slow
      batchrunner run jobs/*.yaml --parallel
      batchrunner run jobs/cats.yaml --shard 0/4
      batchrunner run jobs/cats.yaml --coordinator unix:/tmp/cats.socket
      batchrunner run jobs/cats.yaml --processes 2
      batchrunner run jobs/cats.yaml --ray --workers 8
      batchrunner run again.yaml --where "{{ not pass }}" --from outputs/first
    """
    typed = TypedPart(only=only, states=states, where=where, rows_from=rows_from, marks=marks, mark=mark)
    part = part_options(typed)
    with ExitStack() as stack:
        followers = tuple(
            followers_of(stack, events, as_json=as_json, log_json=log_json, metrics=metrics, metrics_file=metrics_file)
        )
        asked = RunFlags(
            limit=limit,
            part=part,
            retry_failed=retry_failed,
            resend_held=resend_held,
            resend_lost=resend_lost,
            adopt_rows=adopt_rows,
            reformat=reformat,
            judges=not no_judge,
            progress="none" if quiet or log_json or _has_terminal(events, progress) else progress,
            followers=followers,
            coordinator=coordinator,
            telemetry=stack.enter_context(_telemetry()) if otel else None,
        )
        beside = {
            "several jobs": len(jobs) > 1,
            "--shard": shard is not None,
            "--coordinator": coordinator is not None,
            "--limit": limit is not None,
            "the options that choose a part of a job": part.chooses,
            "--retry-failed, --resend-held, --resend-lost, --adopt-rows and --reformat": (
                retry_failed or resend_held or resend_lost or adopt_rows or reformat
            ),
        }
        if coordinator is not None:
            _refuse_metrics_of_a_worker(metrics, metrics_file)
            hint = "the coordinator says which shards this process works on; use them after `merge`, in the whole run"
            _refuse_beside("--coordinator", beside, hint=hint)
        if part.chooses and len(jobs) > 1:
            problem = "the options that choose a part of a job are for one job"
            raise JobMistakesError((Mistake(problem=problem, hint="run them one at a time"),))
        if spread := _spread_by(ray, workers, processes):
            hint = f"leave it out, or run the job to its end with {spread} first, then without"
            _refuse_beside(spread, beside, hint=hint)
        job_runs = load(
            jobs,
            overrides=tuple(overrides or ()),
            simulate=simulate,
            out=out,
            shard=shard,
            typed=typed,
            coordinator=coordinator,
            on_ray=(f"--ray={ray}", "--workers", str(workers or _WORKERS)) if ray is not None else (),
        )
        if len(job_runs) > 1:
            return _close(run_all(job_runs, asked, at_once=parallel), as_json=as_json, log_json=log_json)
        if ray is not None:
            shaped: Shaped = {"overrides": tuple(overrides or ()), "simulate": simulate, "out": out}
            report = run_on_ray(job_runs[0], asked, address=ray, workers=workers or _WORKERS, shaped=shaped)
        elif processes is None:
            report = run_one(job_runs[0], asked)
        else:
            worker = worker_words(jobs[0], overrides=tuple(overrides or ()), simulate=simulate, out=out)
            worker += ["--otel"] if otel else []
            report = run_in_processes(job_runs[0], asked, worker, processes=processes)
        if not log_json:
            print_stamped(summary(report.status))
    if as_json:
        emit(report.status)
    return report.exit_status


def _telemetry() -> "Telemetry":
    from batchrunner.transport.telemetry import Telemetry  # noqa: PLC0415 - loaded when it is asked for

    return Telemetry.of_environment(print_stamped)


def _has_terminal(events: str | None, progress: Mode) -> bool:
    """Whether events on stdout have the terminal that a display would draw on."""
    return events == "-" and progress == "auto" and sys.stdout.isatty()


def _spread_by(ray: str | None, workers: int | None, processes: int | None) -> str | None:
    """The option that spreads the job over processes, if there is one. Raises JobMistakesError."""
    if ray is None and workers is not None:
        raise JobMistakesError((Mistake(key="--workers", problem="needs --ray", hint="add --ray"),))
    if ray is not None and processes is not None:
        hint = "leave out one of them; with --ray, --workers says how many"
        raise JobMistakesError((Mistake(key="--ray", problem="cannot be combined with --processes", hint=hint),))
    if ray is not None:
        return "--ray"
    return "--processes" if processes is not None else None


def _refuse_metrics_of_a_worker(metrics: str | None, metrics_file: str | None) -> None:
    """Raises JobMistakesError."""
    if metrics is not None or metrics_file is not None:
        problem = "figures are of the whole job, which a worker does not know"
        hint = "give --metrics or --metrics-file to `batchrunner coordinate`, which has them of all workers"
        raise JobMistakesError((Mistake(key="--coordinator", problem=problem, hint=hint),))


def _refuse_beside(option: str, given: dict[str, bool], *, hint: str) -> None:
    """Whoever works on shards takes whole ones of one job. Raises JobMistakesError."""
    if refused := [words for words, is_given in given.items() if is_given and words != option]:
        problem = f"cannot be combined with {', '.join(refused)}"
        raise JobMistakesError((Mistake(key=option, problem=problem, hint=hint),))


def load(
    files: list[str],
    *,
    overrides: tuple[str, ...],
    simulate: bool,
    out: str | None,
    shard: str | None = None,
    typed: TypedPart | None = None,
    coordinator: str | None = None,
    on_ray: tuple[str, ...] = (),
) -> tuple[JobRun, ...]:
    """All jobs, read and resolved; `typed` is for the commands that continue them.

    Raises:
        JobMistakesError: with the mistakes of all of them, and of their combination.
    """
    job_runs: list[JobRun] = []
    mistakes: list[Mistake] = []
    if out is not None and len(files) > 1:
        mistakes.append(
            Mistake(key="--out", problem="several jobs cannot share a directory", hint="run them one at a time")
        )
    from batchrunner.coordination.address import PROCESSES_VARIABLE  # noqa: PLC0415 - only `run` needs it

    goes_on = ("--coordinator", coordinator) if coordinator is not None else ()
    if coordinator is not None and (processes := os.environ.get(PROCESSES_VARIABLE)) is not None:
        goes_on = ("--processes", processes)  # its coordinator's address is gone when that is
    for file in files:
        command, elsewhere = (
            run_command(
                file,
                overrides=overrides,
                simulate=simulate,
                out=out,
                shard=shard,
                part=(
                    *(part_words(typed, anywhere=anywhere) if typed is not None else ()),
                    *goes_on,
                    *on_ray,
                ),
                anywhere=anywhere,
            )
            for anywhere in (False, True)
        )
        try:
            job = batchrunner.load_job(file, overrides=overrides, simulate=simulate, out=out, shard=shard)
        except JobMistakesError as error:
            mistakes.extend(error.mistakes)
        else:
            job_runs.append(JobRun(job=job, command=command, elsewhere=elsewhere))
    if mistakes:
        raise JobMistakesError(tuple(mistakes))
    return tuple(job_runs)


def _close(all_ended: tuple[Ended, ...], *, as_json: bool, log_json: bool) -> ExitStatus:
    for ended in all_ended:
        match ended:
            case FinishedRun() if not log_json:
                print_stamped(summary(ended.report.status))
            case FinishedRun():
                pass  # said as an event
            case CrashedRun():
                print_stamped(f"{ended.job_run.job.name}: error: {ended.error}\nnext: {ended.job_run.command}")
    if as_json:
        emit({"jobs": [_shown(ended) for ended in all_ended]})
    return worst(exit_status(ended) for ended in all_ended)


def _shown(ended: Ended) -> object:
    match ended:
        case FinishedRun():
            return ended.report.status
        case CrashedRun():
            return {"job": ended.job_run.job.name, **error_object(ended.error)}
