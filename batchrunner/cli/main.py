"""The command line: which commands there are, and how their errors are shown.

Anything that a user can fix (errors in a job, a broken disk, a rejected key) is printed as a message without a
traceback, and the exit status says which kind it was.
"""

import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from batchrunner import __version__
from batchrunner.cli.completion import completion
from batchrunner.cli.control_commands import pause, resume, retry, set_, skip, stop
from batchrunner.cli.directory_commands import adopt, cancel, merge, report, status, verify, watch
from batchrunner.cli.editor_commands import explain, ls, schema
from batchrunner.cli.export_command import export
from batchrunner.cli.init import init
from batchrunner.cli.job_commands import check, plan
from batchrunner.cli.options import COMMANDS as COMMANDS_NOT_THERE
from batchrunner.cli.options import meant
from batchrunner.cli.output import (
    emit,
    emit_text,
    error_object,
    print_error,
    print_message,
    print_mistakes,
    status_with_output,
)
from batchrunner.cli.rehearse import rehearse
from batchrunner.cli.run import run
from batchrunner.cli.score_commands import compare, score
from batchrunner.cli.simulate import simulate
from batchrunner.core.errors import BatchrunnerError, ExitStatus, Mistake

COMMANDS: tuple[Callable[..., ExitStatus], ...] = (
    init,
    check,
    plan,
    rehearse,
    run,
    ls,
    status,
    pause,
    resume,
    stop,
    set_,
    skip,
    retry,
    merge,
    adopt,
    cancel,
    verify,
    export,
    score,
    compare,
    report,
    watch,
    simulate,
    schema,
    explain,
    completion,
)
"""In the order of `--help`: the order in which a newcomer meets them."""

_ABOUT = """Send the prompts of a YAML job file to a chat or image model; save every answer
and picture, and pay for each only once.

\b
A first job on the simulator (no key needed, nothing is billed):
  batchrunner init
  batchrunner run job.yaml --simulate

\b
A long run; after an interruption, `run` continues it:
  batchrunner plan jobs/cats.yaml
  batchrunner rehearse jobs/cats.yaml
  batchrunner run jobs/cats.yaml
  batchrunner status outputs/cats
  batchrunner export outputs/cats --to csv

\b
Exit status: 0 every item done, 1 some items failed, 2 error in the job file
or command line, 3 paused (run again later), 4 stopped by this machine (disk
full, already running), 5 the provider rejected the API key or account, 130 or
143 interrupted. Run the same command again to continue where it stopped.
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the value is the process's exit status."""
    as_json = "--json" in arguments
    try:
        ended = build()(args=list(arguments), prog_name="batchrunner", standalone_mode=False)
    except typer.TyperException as error:
        return _print_usage_error(error.format_message(), arguments, as_json=as_json)
    except BatchrunnerError as error:
        return print_error(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _print_interrupted(as_json=as_json)
    except OSError as error:
        return print_error(BatchrunnerError(_os_words(error)), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last resort: exit status 1 would mean that items failed
        return _print_internal_error(error, as_json=as_json)
    if ended == ExitStatus.INTERRUPTED and not isinstance(ended, ExitStatus):
        return _print_interrupted(as_json=as_json)  # typer's word for a KeyboardInterrupt, not a command's own
    return status_with_output(ended if isinstance(ended, int) else ExitStatus.DONE)


def build() -> typer.Typer:
    """The command line as typer knows it."""
    command_line = typer.Typer(
        name="batchrunner",
        help=_ABOUT,
        callback=_front,
        invoke_without_command=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for command in COMMANDS:
        command_line.command(name=command.__name__.rstrip("_"), help=_help(command))(command)
    return command_line


def _help(command: Callable[..., ExitStatus]) -> str:
    r"""The command's docstring; `\b` in it becomes typer's mark for lines that stay as they are."""
    return (inspect.getdoc(command) or "").replace(r"\b", "\b")


def _front(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    if version:
        emit_text(f"batchrunner {__version__}")
        raise typer.Exit(ExitStatus.DONE)
    if context.invoked_subcommand is None:
        print_message(context.get_help())
        raise typer.Exit(ExitStatus.MISTAKE)


def _print_usage_error(message: str, arguments: Sequence[str], *, as_json: bool) -> int:
    following = next(iter(arguments[1:2]), None)
    hint = meant(message, following) or (None if "Did you mean" in message else COMMANDS_NOT_THERE["help"])
    return print_mistakes((Mistake(problem=message.rstrip("."), hint=hint),), as_json=as_json)


def _print_interrupted(*, as_json: bool) -> int:
    words = "interrupted; finished results are saved"
    if as_json:
        emit({"error": {"message": words, "exit_status": ExitStatus.INTERRUPTED}})
    print_message(words)
    return ExitStatus.INTERRUPTED


def _os_words(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _print_internal_error(error: Exception, *, as_json: bool) -> int:
    print_message("".join(traceback.format_exception(error)))
    print_message(
        "error: internal error in batchrunner: please report the lines above. Recorded results are safe on disk."
    )
    if as_json:
        emit(error_object(BatchrunnerError(f"internal error in batchrunner: {type(error).__name__}")))
    return ExitStatus.STOPPED
