"""The commands that control a run from another terminal: `pause`, `resume`, `stop`, `set`, `skip` and `retry`."""

from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, print_message
from batchrunner.core.control import Action
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.job import Json

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def pause(*, folder: RunFolder, dry_run: DryRun = False, as_json: AsJson = False) -> ExitStatus:
    r"""Pause a run, until `resume`.

    \b
    Nothing more is sent. Requests in flight are awaited, remote tasks are polled, no
    attempt is charged. The process stays; a run that is started on a paused directory
    ends with exit status 3:
      batchrunner pause outputs/cats
    """
    return _send_command(folder, "pause", dry_run=dry_run, as_json=as_json)


def resume(*, folder: RunFolder, dry_run: DryRun = False, as_json: AsJson = False) -> ExitStatus:
    r"""Let a paused run go on.

    \b
    Where no process works on the run, the next one may send again:
      batchrunner resume outputs/cats
    """
    return _send_command(folder, "resume", dry_run=dry_run, as_json=as_json)


def stop(*, folder: RunFolder, dry_run: DryRun = False, as_json: AsJson = False) -> ExitStatus:
    r"""End the process that works on a run.

    \b
    As SIGTERM does: nothing more is sent, answers in flight are awaited for up to a
    minute, and the process ends with exit status 143. `run` continues it:
      batchrunner stop outputs/cats
    """
    return _send_command(folder, "stop", dry_run=dry_run, as_json=as_json)


def set_(
    *,
    folder: RunFolder,
    settings: Annotated[list[str], typer.Argument(metavar="KEY[=VALUE]", help="Keys of the job file.")],
    reset: Annotated[bool, typer.Option("--reset", help="Go back to what the job file says for KEY.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Change limits, budget or schedule of a run.

    \b
    Holds from the next request on, and for later runs, until --reset. The command line
    of `run` counts more, the job file less. Keys: limits.*, budget.calls, .tokens,
    .points and .money, window, deadline, retry.*:
      batchrunner set outputs/cats limits.concurrency=2
      batchrunner set outputs/cats limits.concurrency --reset
    """
    if reset:
        return _send_command(
            folder, "set", reset=[_key_to_reset(given) for given in settings], dry_run=dry_run, as_json=as_json
        )
    from batchrunner.spec.settings import setting_of  # noqa: PLC0415 - pydantic, for `set` only

    values: dict[str, Json] = {}
    for given in settings:
        key, equals, value = given.partition("=")
        if not equals:
            problem = f"{given!r} has no value"
            raise JobMistakesError((Mistake(problem=problem, hint="KEY=VALUE sets it, KEY --reset takes it back"),))
        values[key.strip()] = setting_of(value.strip())
    return _send_command(folder, "set", settings=values, dry_run=dry_run, as_json=as_json)


def _key_to_reset(given: str) -> str:
    key, equals, _ = given.partition("=")
    if equals:
        raise JobMistakesError((Mistake(problem=f"--reset takes the key alone: {key}", hint="leave out the value"),))
    return key.strip()


def skip(
    *,
    folder: RunFolder,
    lane: Annotated[list[str], typer.Option("--lane", metavar="MODEL", help="The model that gets no more requests.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Send no more to one model in this run.

    \b
    Its items stay pending: the run does the others and ends with exit status 3, and the
    next run sends to the model again:
      batchrunner skip outputs/cats --lane Qwen/Qwen3-8B
    """
    if len(lane) > 1:  # typer would take the last one alone
        problem = f"`skip` takes one --lane, and {len(lane)} were given: {', '.join(lane)}"
        raise JobMistakesError((Mistake(problem=problem, hint="give the command once for each model"),))
    return _send_command(folder, "skip", lane=lane[0], dry_run=dry_run, as_json=as_json)


def retry(
    *,
    folder: RunFolder,
    items: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of failed or held items.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Send failed or held items again.

    \b
    Each gets a new set of attempts. failures.jsonl has their ids. A run that works sends
    them at once, otherwise the next one does:
      batchrunner retry outputs/cats q17 q18
    """
    return _send_command(folder, "retry", items=items, dry_run=dry_run, as_json=as_json)


def _send_command(
    folder: str,
    action: Action,
    *,
    settings: dict[str, Json] | None = None,
    reset: list[str] | None = None,
    lane: str = "",
    items: list[str] | None = None,
    dry_run: bool,
    as_json: bool,
) -> ExitStatus:
    controlled = batchrunner.control(
        folder, action, settings=settings or {}, reset=reset or (), lane=lane, items=items or (), dry_run=dry_run
    )
    if as_json:
        emit(controlled)
    else:
        print_message(f"{'' if controlled.ok else 'error: '}{controlled.message}")
    return controlled.exit_status
