"""The commands around a job file and a folder of runs: `schema`, `explain` and `ls`."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import batchrunner
from batchrunner.cli.options import AsJson
from batchrunner.cli.output import emit, emit_text, print_message
from batchrunner.core.errors import BatchrunnerError, ExitStatus, JobMistakesError, Mistake
from batchrunner.report.summary import items_line
from batchrunner.report.wording import count, jsonable, printable

_LABEL: Final = 10


def schema(*, as_json: AsJson = False) -> ExitStatus:
    r"""Print the JSON Schema of job files.

    \b
    For completion in an editor. With the YAML extension of VS Code, for example:
      batchrunner schema > batchrunner.schema.json
    and as the first line of a job file:
      # yaml-language-server: $schema=batchrunner.schema.json
    """
    found = batchrunner.job_schema()
    if as_json:
        emit(found)
    else:
        emit_text(json.dumps(jsonable(found), indent=2))
    return ExitStatus.DONE


def explain(
    *,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="A key, like limits.concurrency.")] = None,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Explain a key of the job file.

    \b
    What it does, its type, default and an example. Without a key: all at the top level:
      batchrunner explain
      batchrunner explain limits.concurrency
      batchrunner explain prompts[].id
    """
    from batchrunner.spec.key_help import key_help, top_keys  # noqa: PLC0415 - pydantic, for this command only

    if key is None:
        known = top_keys()
        if as_json:
            emit({"keys": [name for name, _ in known]})
        else:
            emit_text("\n".join(f"{name:<14} {_plain(about)}" for name, about in known))
        return ExitStatus.DONE
    found = key_help(key)
    if as_json:
        emit(found)
        return ExitStatus.DONE
    lines = [found.key, f"  {_plain(found.description)}"]
    lines += [f"  {label:<{_LABEL}}{text}" for label, text in (("type", found.type), ("default", found.default))]
    lines.append(f"  {'example':<{_LABEL}}{found.example}")
    if found.settable:
        lines.append(f"  {'set':<{_LABEL}}batchrunner set DIR {found.key}=VALUE, while it runs")
    if found.keys:
        lines.append(f"  {'keys':<{_LABEL}}{', '.join(found.keys)}")
    emit_text("\n".join(lines))
    return ExitStatus.DONE


def _plain(text: str) -> str:
    """Without the links of the documents."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


# `batchrunner ls [FOLDER]`: the runs below a folder, and how they stand.

_NOT_LOOKED_INTO: Final = frozenset({"node_modules", "site-packages", "__pycache__"})
_MOST_CLOSED: Final = 5


def ls(
    *,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to look for run directories.")] = ".",
    as_json: AsJson = False,
) -> ExitStatus:
    r"""List the runs below a folder.

    \b
    Each with its state and what is done:
      batchrunner ls
      batchrunner ls outputs --json
    """
    if not Path(folder).is_dir():
        raise JobMistakesError((Mistake(file=folder, problem="is not a directory", hint="choose another one"),))
    closed: list[OSError] = []
    found = [_run_in(place) for place in sorted(run_folders(Path(folder), closed.append))]
    for error in closed[:_MOST_CLOSED]:
        print_message(f"{printable(os.path.normpath(error.filename))}: cannot be read: {error.strerror}")
    if len(closed) > _MOST_CLOSED:
        print_message(f"and {len(closed) - _MOST_CLOSED:,} more folders")
    if as_json:
        emit({"runs": found, "unreadable": [os.path.normpath(error.filename) for error in closed]})
    elif found:
        from rich.cells import cell_len  # noqa: PLC0415 - for this list only

        width = max(cell_len(printable(run["dir"])) for run in found)
        emit_text("\n".join(_run_line(run, width) for run in found))
    else:
        print_message(f"no runs below {folder}")
    return ExitStatus.DONE


def run_folders(folder: Path, closed: Callable[[OSError], None]) -> Iterator[str]:
    """Run directories at or below a folder, without what is hidden; no run lies within another, and shards are one.

    `closed` is told of folders that cannot be read.
    """
    from batchrunner.stores.shards import has_open_shards  # noqa: PLC0415 - loaded when it is needed

    for place, names, files in os.walk(folder, onerror=closed):
        if "run.json" in files or ("shards" in names and has_open_shards(Path(place))):
            yield os.path.normpath(place)
            names.clear()
        names[:] = [name for name in names if not name.startswith(".") and name not in _NOT_LOOKED_INTO]


def _run_in(place: str) -> dict[str, Any]:
    try:
        status = batchrunner.status(place)
    except (BatchrunnerError, OSError) as error:
        return {
            "dir": place,
            "job": None,
            "state": None,
            "simulated": None,
            "items": None,
            "shards": None,
            "message": str(error),
        }
    return {
        "dir": place,
        "job": status.job,
        "state": "paused" if status.control.paused else status.state,
        "simulated": status.simulated,
        "items": status.items,
        "shards": {"begun": sum(one.items is not None for one in status.shards), "of": len(status.shards)}
        if status.shards
        else None,
        "message": status.message,
    }


def _run_line(run: dict[str, Any], width: int) -> str:
    from rich.cells import set_cell_size  # noqa: PLC0415 - as above

    name = set_cell_size(printable(run["dir"]), width)
    if run["state"] is None:
        return f"{name}  unreadable   {printable(run['message'])}"
    shards = run["shards"]
    begun = f"; {shards['begun']:,} of {count(shards['of'], 'shard')} begun" if shards is not None else ""
    return f"{name}  {run['state']:<11}  {items_line(run['items'])}{begun}"
