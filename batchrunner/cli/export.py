"""`batchrunner export DIR --to FORMAT`: the results as one file to take along.

Refuses to overwrite anything but an earlier export, and to print binary formats.
"""

import sys
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.interruption import unwinding
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, reader_is_gone, say
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.status import Exported

_STDOUT = "-"

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        help="jsonl, csv, parquet, markdown, openai-batch or webdataset.",
        show_default=False,
    ),
]
Place = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="PATH",
        help="A new file, or - for stdout; without it DIR/export/NAME.ENDING, in place of an earlier export there.",
    ),
]
Failures = Annotated[bool, typer.Option("--failures", help="Put the failed items in, with their errors.")]


def export(
    *, folder: RunFolder, to: To, out: Place = None, failures: Failures = False, as_json: AsJson = False
) -> ExitStatus:
    r"""Take the results along as one file, in the job's order.

    \b
    What is not in the file (failed items, items without an answer yet) is counted
    on stderr. Works while another process runs the job. Nothing is overwritten
    but an earlier export in DIR/export:
      batchrunner export outputs/cats --to csv
      batchrunner export outputs/cats --to webdataset --out cats.tar
      batchrunner export outputs/cats --to jsonl --failures --out - | gzip > cats.jsonl.gz
    """
    if out == _STDOUT:
        return _to_stdout(folder, to, failures=failures, as_json=as_json)
    with unwinding():
        exported = batchrunner.export(folder, to=to, out=out, failures=failures)
    return _told(exported, as_json=as_json)


def _to_stdout(folder: str, to: str, *, failures: bool, as_json: bool) -> ExitStatus:
    from batchrunner.exporters import EXPORTERS  # noqa: PLC0415 - for exports only

    if as_json:
        raise _mistake("--json and the export cannot both have stdout", "name a file with --out")
    if sys.stdout.isatty():
        raise _mistake(
            "stdout is a terminal, which a model's text could steer", "pipe it on, or name a file with --out"
        )
    if to in EXPORTERS and not EXPORTERS[to].is_text:
        raise _mistake(f"{to} is no text and does not go to stdout", "name a file with --out")
    try:
        return _told(batchrunner.export(folder, to=to, out=sys.stdout.buffer, failures=failures), as_json=False)
    except BrokenPipeError:
        reader_is_gone()
        say("error: the reader of stdout went away before the export was through")
        return ExitStatus.STOPPED


def _told(exported: Exported, *, as_json: bool) -> ExitStatus:
    from batchrunner.report.wording import export_words  # noqa: PLC0415 - for exports only

    if as_json:
        emit(exported)
    else:
        say(export_words(exported))
    return exported.exit_status


def _mistake(problem: str, hint: str) -> JobMistakesError:
    return JobMistakesError((Mistake(problem=problem, hint=hint),))
