"""`batchrunner init [DIR]`: a commented job file to start from, and the schema for editors beside it.

Refuses to overwrite anything but a schema that it wrote.
"""

import asyncio
import json
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

import batchrunner
from batchrunner.cli.options import AsJson, program
from batchrunner.cli.output import emit, emit_text, print_message
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.report.wording import printable

_PROMPTS: Final = re.compile(r"^prompts:\n(?:[ #].*\n|(?=\n))+?(?=\n)", re.MULTILINE)
_UNUSED: Final = re.compile(r"^# Or a source instead of the list.*?\n\n", re.MULTILINE | re.DOTALL)
_LISTED: Final = re.compile(r"^# A list: .*\n", re.MULTILINE)
_MATRIX: Final = re.compile(r"(?:^#.*\n)*^matrix:\n(?:  .*\n)+\n", re.MULTILINE)


def init(
    *,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Directory for the new job.yaml.")] = ".",
    template: Annotated[
        str,
        typer.Option(
            "--template", metavar="NAME", help="chat, images, embeddings, evaluate, dataset, judge, pipeline."
        ),
    ] = "chat",
    source: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="A file of prompts; its columns are guessed.")
    ] = None,
    lists: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
    no_schema: Annotated[bool, typer.Option("--no-schema", help="Write no schema for editors.")] = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Write a commented job file to start from.

    \b
    Beside it goes batchrunner.schema.json, by which editors complete and explain keys.
    An existing job file is never overwritten:
      batchrunner init
      batchrunner init jobs/first
      batchrunner init --template images jobs/pictures
      batchrunner init --from prompts.csv
    """
    from batchrunner.spec.schema import FURTHER_JOBS, MODELINE, SCHEMA_FILE, TEMPLATES  # noqa: PLC0415 - pydantic, for this only

    if lists:
        if as_json:
            emit({"templates": TEMPLATES})
        else:
            emit_text("\n".join(f"{name:<10} {about}" for name, about in TEMPLATES.items()))
        return ExitStatus.DONE
    if template not in TEMPLATES:
        hint = f"one of {', '.join(TEMPLATES)}"
        raise JobMistakesError((Mistake(problem=f"there is no template {template!r}", hint=hint),))
    path = Path(folder) / "job.yaml"
    text = batchrunner.starter_job(template)
    if source is not None:
        text = _with_source(text, source, Path(folder))
    modeline = "" if no_schema else MODELINE
    further = {path.with_name(f"{name}.yaml"): f"{template}-{name}" for name in FURTHER_JOBS.get(template, ())}
    for taken in filter(Path.exists, further):
        raise JobMistakesError((_taken(taken),))
    _write_new(path, modeline + text)
    for beside, name in further.items():
        _write_new(beside, modeline + batchrunner.starter_job(name))
    schema = None if no_schema else _schema_beside(path.with_name(SCHEMA_FILE))
    # the job runs its judge itself
    files = " ".join(shlex.quote(str(each)) for each in (path, *(further if template != "judge" else ())))
    following = f"{program()} run {files} --simulate"
    if as_json:
        emit({"written": path, "schema": schema, "next_command": following})
    written = " and ".join(map(str, (path, *further)))
    it = "them" if further else "it"
    print_message(
        f"wrote {written}: edit {it}, then try {it} on the simulator (no key needed, nothing billed)\nnext: {following}"
    )
    return ExitStatus.DONE


def _with_source(text: str, source: str, folder: Path) -> str:
    """The template with this source in place of its list, and without the matrix that its list uses."""
    from batchrunner.prompts.source_guess import guess_source  # noqa: PLC0415 - Jinja2, for `--from` only

    guess = asyncio.run(guess_source(source))
    keys = [("file", _quoted(os.path.relpath(source, folder)))]
    keys += [("template", _quoted(guess.template))] if guess.template is not None else []
    keys += [("id", _quoted(guess.id))] if guess.id is not None else []
    keys += [("delimiter", _quoted(guess.delimiter))] if guess.delimiter is not None else []
    columns = printable(", ".join(guess.columns[:20]))
    block = f"# Columns: {columns}\n" if columns else ""
    block += "prompts:\n" + "".join(f"  {key}: {value}\n" for key, value in keys)
    text = _MATRIX.sub("", _UNUSED.sub("", _LISTED.sub("# Rows of a file, streamed.\n", text, count=1)))
    return _PROMPTS.sub(lambda _: block, text, count=1)


def _quoted(text: str) -> str:
    """As a YAML text in double quotes."""
    return json.dumps(text, ensure_ascii=not text.isprintable())  # line breaks of Unicode, too, are escaped


def _schema_beside(path: Path) -> Path | None:
    """Write the schema, or renew one of this program; a file of somebody else stays."""
    from batchrunner.spec.schema import TITLE, schema_text  # noqa: PLC0415 - pydantic, for this only

    try:
        if path.exists() and f'"title": "{TITLE}"' not in path.read_text(encoding="utf-8", errors="replace"):
            print_message(f"{path} was not written by batchrunner; it is left unchanged")
            return None
        path.write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        print_message(f"{path}: could not be written: {error.strerror or error}")
        return None
    return path


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobMistakesError((_taken(path),)) from None


def _taken(path: Path) -> Mistake:
    if path.exists():
        return Mistake(
            file=str(path), problem="already exists", hint="choose another directory; nothing is overwritten"
        )
    return Mistake(file=str(path.parent), problem="is not a directory", hint="choose another one")
