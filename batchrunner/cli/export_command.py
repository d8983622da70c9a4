"""`batchrunner export DIR --to FORMAT`: the results as one file or folder to take along.

Never overwrites anything but an earlier export, and never prints binary formats.
"""

import os
import re
import sys
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.interruption import unwinding
from batchrunner.cli.options import AsJson, RunFolder, ids_of
from batchrunner.cli.output import emit, print_message, reader_is_gone
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.exports import Exported, ExportOptions, PicturesAs

_STDOUT = "-"

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        help="csv, xlsx, parquet, npy, jsonl; hf, messages, sharegpt, alpaca, preference; imagefolder, captions, "
        "webdataset, sheet; markdown or openai-batch.",
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
Failures = Annotated[bool, typer.Option("--failures", help="Include failed items, with their errors.")]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="EXPR", help="Only rows for which this is true: 'not truncated'."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="ID", help="Only this item or prompt; repeatable; @FILE has an id on each line."),
]
Marks = Annotated[
    str | None,
    typer.Option("--marks", metavar="FILE", help="Only items that are marked in this marks.jsonl."),
]
Mark = Annotated[
    str | None,
    typer.Option("--mark", metavar="4,5", help="With --marks: only these marks."),
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="Only the first N rows.")]
Splits = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME=SHARE,…", help="Splits: train=0.9,test=0.1."),
]
SplitBy = Annotated[
    str,
    typer.Option("--split-by", metavar="NAME", help="Rows with the same value are in one split."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Another seed gives other splits.")]
Reasoning = Annotated[
    bool,
    typer.Option("--reasoning", help="In training formats: include the models' reasoning."),
]
Images = Annotated[
    PicturesAs | None,
    typer.Option("--images", metavar="HOW", help="In parquet and hf: bytes, path or none.", show_default=False),
]
Excel = Annotated[
    bool, typer.Option("--excel", help="In csv: begin with a byte-order mark, so that Excel reads UTF-8.")
]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shard-size", metavar="SIZE", help="In hf and webdataset: approximate size of a file, for example 500MB."
    ),
]
Caption = Annotated[
    str | None,
    typer.Option("--caption", metavar="DIR", help="Captions from the answers of this run, instead of prompts."),
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
    images: Images = None,
    excel: Excel = False,
    shard_size: Shards = None,
    caption: Caption = None,
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
        raise _mistake("--mark needs a file of marks", "add --marks marks.jsonl, which the page of the run gives")
    options = ExportOptions(
        failures=failures,
        where=where,
        only=tuple(name for given in only or () for name in ids_of(given)),
        marks=marks,
        mark=tuple(one.strip() for one in mark.split(",")) if mark is not None else (),
        limit=limit,
        split=_splits(split),
        split_by=split_by,
        seed=seed,
        reasoning=reasoning,
        images=images,
        excel=excel,
        shard_bytes=None if shard_size is None else _size(shard_size),
        caption=caption,
    )
    # pyarrow, where it is needed, keeps 20 MB less with this allocator than with its own; whoever sets it, knows why.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if out == _STDOUT:
        return _to_stdout(folder, to, options, as_json=as_json)
    with unwinding():
        exported = batchrunner.export(folder, to=to, out=out, options=options)
    return _print_exported(exported, as_json=as_json)


def _size(text: str) -> int:
    """`500MB`, `2 GB`, `1000` as bytes; a thousand a step."""
    found = re.fullmatch(r"\s*([0-9]{1,15})\s*([kmg]?)b?\s*", text, re.IGNORECASE)
    size = int(found[1]) * 1000 ** " kmg".index(found[2].lower() or " ") if found is not None else 0
    if not size:
        raise _mistake(f"--shard-size: `{text}` is not a size", "write 500MB or 2GB")
    return size


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
            raise _mistake(f"--split: `{part}` is not a name with a share", "write train=0.9,test=0.1")
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
