"""Give a command to the process that works on a run, or leave it there for the next one, and say what came of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Unpack

from batchrunner.core.control import (
    Action,
    Command,
    CommandOptions,
    ControlError,
    ControlResult,
    Reply,
    refuse_incomplete,
)
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.report.summary import control_lines
from batchrunner.stores.control_folder import give, reply_to, state_in, take_back
from batchrunner.stores.lock import holder_of
from batchrunner.stores.run_file import run_file_or_refuse

WAIT_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.05


def control_run(folder: Path, action: Action, **options: Unpack[CommandOptions]) -> ControlResult:
    """Give the command, and wait for the answer where a process works on the run.

    Raises:
        WrongDirectoryError: there is no run in this directory.
        JobMistakesError: the command is incomplete, or a value is wrong.
        StoreBrokenError: the directory cannot be read or written.
    """
    there = run_file_or_refuse(folder)
    dry_run, wait_s = options.get("dry_run", False), options.get("wait_s", WAIT_S)
    command = Command(
        id="",
        action=action,
        settings=dict(options.get("settings", {})),
        reset=tuple(options.get("reset", ())),
        lane=options.get("lane", ""),
        items=tuple(options.get("items", ())),
    )
    with _control_errors_as_mistakes():
        refuse_incomplete(command)
    if command.settings:
        from batchrunner.spec.settings import refuse_settings  # noqa: PLC0415 - pydantic, for `set` only

        refuse_settings(there.job, command.settings)
    running = holder_of(folder) is not None
    reply: Reply | None = None
    identity: str | None = None
    if dry_run:
        words = f"would be told to the process that works on {folder}" if running else _noted_words(action, would=True)
    elif action == "stop" and not running:
        words = "no process works on this run; nothing to stop"
    else:
        with _control_errors_as_mistakes():
            given = give(folder, command)
        identity = given.id
        reply = _answer(folder, given, wait_s=wait_s)
        running = holder_of(folder) is not None
        if reply is None and action == "stop" and not running and take_back(folder, given):
            words, identity = "the run had ended already; nothing to stop", None
        else:
            words = f"not answered within {wait_s:g} s; noted" if running else _noted_words(action)
    return ControlResult(
        dir=str(folder),
        action=action,
        id=identity,
        ok=reply is None or reply.ok,
        message=words if reply is None else reply.message,
        running=running or reply is not None,
        acknowledged=reply is not None,
        dry_run=dry_run,
        changed=reply.changed if reply is not None else {},
        control=state_in(folder),
    )


@contextmanager
def _control_errors_as_mistakes() -> Iterator[None]:
    try:
        yield
    except ControlError as error:
        raise JobMistakesError((Mistake(problem=str(error)),)) from None


def _answer(folder: Path, given: Command, *, wait_s: float) -> Reply | None:
    """What the process that works on the run says; None where none does, or none says anything."""
    until = time.monotonic() + wait_s
    while (reply := reply_to(folder, given)) is None:
        if time.monotonic() >= until or holder_of(folder) is None:
            return reply_to(folder, given)
        time.sleep(_LOOK_EVERY_S)
    return reply


def _noted_words(action: Action, *, would: bool = False) -> str:
    noted = "no process works on this run; noted for the next"
    if action == "stop":
        return "no process works on this run; nothing to stop"
    return noted.replace("noted", "would be noted") if would else noted


def job_in_force(job: Job, folder: Path) -> tuple[Job, tuple[str, ...]]:
    """The job as a run would have it, with what `batchrunner set` left in force; and a note of what is."""
    from batchrunner.spec.settings import with_settings  # noqa: PLC0415 - pydantic, for plans and runs only

    control = state_in(folder)
    return with_settings(job, control.settings), tuple(control_lines(control))
