"""The command line: which commands there are, and how their errors are shown.

Anything that a user can fix (errors in a job, a broken disk, a rejected key) is printed as a message without a
traceback, and the exit status says which kind it was.
"""

import importlib
import inspect
import os.path
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Final

import typer

from batchrunner import __version__
from batchrunner.cli.options import COMMANDS as COMMANDS_NOT_THERE
from batchrunner.cli.options import meant
from batchrunner.cli.output import (
    emit,
    emit_text,
    error_object,
    messages_as_text,
    print_error,
    print_message,
    print_mistakes,
    status_with_output,
)
from batchrunner.core.errors import BatchrunnerError, ExitStatus, Mistake

COMMANDS: Final = {
    "init": "init",
    "check": "job_commands",
    "plan": "job_commands",
    "rehearse": "rehearse",
    "run": "run",
    "ls": "editor_commands",
    "status": "directory_commands",
    "pause": "control_commands",
    "resume": "control_commands",
    "stop": "control_commands",
    "set": "control_commands",
    "skip": "control_commands",
    "retry": "control_commands",
    "coordinate": "coordinate",
    "merge": "directory_commands",
    "adopt": "directory_commands",
    "cancel": "directory_commands",
    "verify": "directory_commands",
    "export": "export_command",
    "score": "score_commands",
    "compare": "score_commands",
    "report": "directory_commands",
    "watch": "directory_commands",
    "simulate": "simulate",
    "schema": "editor_commands",
    "explain": "editor_commands",
    "completion": "completion",
}
"""The module of each command, loaded when it is called. In the order of `--help`, in which a newcomer meets them."""

_JOB_SUFFIXES: Final = (".yaml", ".yml", ".json")
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
    messages_as_text()  # a command before this one in the same process may have spoken JSON
    try:
        called = arguments[0] if arguments and arguments[0] in COMMANDS else None
        ended = build(called)(args=list(_with_values(arguments)), prog_name="batchrunner", standalone_mode=False)
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


def _with_values(arguments: Sequence[str]) -> Iterator[str]:
    """`--ray` takes a value or none, which typer does not know: none means this machine. A job file is no value."""
    for place, argument in enumerate(arguments):
        if argument != "--ray":
            yield argument
            continue
        follows = arguments[place + 1] if place + 1 < len(arguments) else "-"
        is_job = follows.endswith(_JOB_SUFFIXES) or os.path.isfile(follows)  # noqa: PTH113 - Path's raises at long names
        yield "--ray=local" if follows.startswith("-") or is_job else argument


def build(only: str | None = None) -> typer.Typer:
    """The command line as typer knows it; `only`: with this command alone, so that no other's module is loaded."""
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
    for name in COMMANDS if only is None else (only,):
        command = command_of(name)
        command_line.command(name=name, help=_help(command))(command)
    return command_line


def command_of(name: str) -> Callable[..., ExitStatus]:
    """The function of a command; `set_` for `set`, which is a name of Python's own."""
    module = importlib.import_module(f"batchrunner.cli.{COMMANDS[name]}")
    found: Callable[..., ExitStatus] = getattr(module, f"{name}_" if name == "set" else name)
    return found


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
