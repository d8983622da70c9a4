"""`batchrunner init [DIR]`: a commented job file to start from. Refuses to overwrite anything."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.invocation import program
from batchrunner.cli.options import AsJson
from batchrunner.cli.output import emit, say
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake


def init(
    *,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write job.yaml.")] = ".",
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Write a commented job file to start from.

    \b
    An existing file is never overwritten:
      batchrunner init
      batchrunner init jobs/first
    """
    path = Path(folder) / "job.yaml"
    _write_new(path, batchrunner.starter_job())
    following = f"{program()} run {shlex.quote(str(path))} --simulate"
    if as_json:
        emit({"written": path, "next_command": following})
    say(f"wrote {path}: edit it, then try it without a key and without paying\nnext: {following}")
    return ExitStatus.DONE


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobMistakesError((_taken(path),)) from None


def _taken(path: Path) -> Mistake:
    if path.exists():
        return Mistake(file=str(path), problem="exists already", hint="name another directory: nothing is overwritten")
    return Mistake(file=str(path.parent), problem="is not a directory", hint="name another one")
