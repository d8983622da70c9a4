"""`batchrunner export DIR --to FORMAT`: the results as one file or folder to take along.

Never overwrites anything but an earlier export, and never prints binary formats.
"""

import sys
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.interruption import unwinding
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, print_message, reader_is_gone
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.exports import Exported, ExportOptions

_STDOUT = "-"
_ROWS = "Which rows"
_SHAPE = "What they look like"

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        help="jsonl, csv, parquet, messages, sharegpt, alpaca, markdown, openai-batch or webdataset.",
        show_default=False,
    ),
]
Place = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="PATH",
        help="New file or folder, or - for stdout; default: a name in DIR/export, replacing an earlier export.",
    ),
]
Failures = Annotated[
    bool, typer.Option("--failures", help="Include failed items, with their errors.", rich_help_panel=_ROWS)
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where", metavar="EXPR", help="Only rows for which this is true: 'not truncated'.", rich_help_panel=_ROWS
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="ID", help="Only the item of this id; repeatable.", rich_help_panel=_ROWS),
]
Marks = Annotated[
    str | None,
    typer.Option(
        "--marks", metavar="FILE", help="Only items that are marked in this marks.jsonl.", rich_help_panel=_ROWS
    ),
]
Mark = Annotated[
    str | None,
    typer.Option("--mark", metavar="4,5", help="With --marks: only these marks.", rich_help_panel=_ROWS),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=0, help="Only the first N rows.", rich_help_panel=_ROWS)
]
Splits = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME=SHARE,…", help="Splits: train=0.9,test=0.1.", rich_help_panel=_ROWS),
]
SplitBy = Annotated[
    str,
    typer.Option(
        "--split-by", metavar="NAME", help="Rows with the same value are in one split.", rich_help_panel=_ROWS
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Another seed gives other splits.", rich_help_panel=_ROWS)
]
Reasoning = Annotated[
    bool,
    typer.Option("--reasoning", help="In formats for training: what models thought, too.", rich_help_panel=_SHAPE),
]


def export(
    *,
    folder: RunFolder,
    to: To,
    out: Place = None,
    failures: Failures = False,
    where: Where = None,
    only: Only = None,
    marks: Marks = None,
    mark: Mark = None,
    limit: Limit = None,
    split: Splits = None,
    split_by: SplitBy = "prompt_id",
    seed: Seed = 0,
    reasoning: Reasoning = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Export results to one file or folder.

    \b
    Rows are in the order of the job. Failed and unfinished items are not exported, but
    counted on stderr. Works while another process runs the job. Nothing is overwritten
    except an earlier export in DIR/export:
      batchrunner export outputs/cats --to csv
      batchrunner export outputs/cats --to webdataset --out cats.tar
      batchrunner export outputs/cats --to messages --split train=0.9,test=0.1
      batchrunner export outputs/cats --to jsonl --failures --out - | gzip > cats.jsonl.gz
    """
    if mark is not None and marks is None:
        raise _mistake("--mark needs the file of marks", "add --marks marks.jsonl, which the page of the run gives")
    options = ExportOptions(
        failures=failures,
        where=where,
        only=tuple(only or ()),
        marks=marks,
        mark=tuple(one.strip() for one in mark.split(",")) if mark is not None else (),
        limit=limit,
        split=_splits(split),
        split_by=split_by,
        seed=seed,
        reasoning=reasoning,
    )
    if out == _STDOUT:
        return _to_stdout(folder, to, options, as_json=as_json)
    with unwinding():
        exported = batchrunner.export(folder, to=to, out=out, options=options)
    return _print_exported(exported, as_json=as_json)


def _splits(text: str | None) -> tuple[tuple[str, float], ...]:
    """`train=0.9,test=10%` as names and shares."""
    made: list[tuple[str, float]] = []
    for part in text.split(",") if text is not None else ():
        name, equals, share = part.partition("=")
        try:
            made.append(
                (name.strip(), float(share.strip().removesuffix("%")) / (100 if share.strip().endswith("%") else 1))
            )
        except ValueError:
            equals = ""
        if not equals:
            raise _mistake(f"--split: `{part}` is no name with a share", "write train=0.9,test=0.1")
    return tuple(made)


def _to_stdout(folder: str, to: str, options: ExportOptions, *, as_json: bool) -> ExitStatus:
    from batchrunner.exporters import EXPORTERS  # noqa: PLC0415 - for exports only

    if as_json:
        raise _mistake("--json and the export cannot both use stdout", "choose a file with --out")
    if sys.stdout.isatty():
        raise _mistake(
            "stdout is a terminal, and exported text may contain control sequences",
            "pipe it, or choose a file with --out",
        )
    if to in EXPORTERS and not EXPORTERS[to].is_text:
        raise _mistake(f"{to} is a binary format and cannot be written to stdout", "choose a file with --out")
    try:
        return _print_exported(batchrunner.export(folder, to=to, out=sys.stdout.buffer, options=options), as_json=False)
    except BrokenPipeError:
        reader_is_gone()
        print_message("error: stdout was closed before the export was finished")
        return ExitStatus.STOPPED


def _print_exported(exported: Exported, *, as_json: bool) -> ExitStatus:
    from batchrunner.report.wording import export_words  # noqa: PLC0415 - for exports only

    if as_json:
        emit(exported)
    else:
        print_message(export_words(exported))
    return exported.exit_status


def _mistake(problem: str, hint: str) -> JobMistakesError:
    return JobMistakesError((Mistake(problem=problem, hint=hint),))
