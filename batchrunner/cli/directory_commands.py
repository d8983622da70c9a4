"""The commands that take a run directory: `status`, `adopt`, `cancel`, `verify`, `report` and `watch`."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, fitted, print_message, utc_now
from batchrunner.cli.simulate import until_asked
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import PageWritten, Status
from batchrunner.report.summary import summary
from batchrunner.report.wording import audit_words, merge_lines

Short = Annotated[bool, typer.Option("--short", help="At most 6 lines of 40 columns.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show progress until the run ends or Ctrl-C; the run goes on.")]
_WATCH_EVERY_S = 2.0


def status(*, folder: RunFolder, short: Short = False, watch: Watch = False, as_json: AsJson = False) -> ExitStatus:
    r"""Show a run's status.

    \b
    Items done, failed and left, and what the run waits for. Works while another process
    runs the job:
      batchrunner status outputs/cats
      batchrunner status outputs/cats --short
      batchrunner status outputs/cats --watch
      batchrunner status outputs/cats --json
    """
    run_status = _watched(folder) if watch and not as_json else batchrunner.status(folder)
    if as_json:
        emit(run_status)
    elif short:
        from batchrunner.cli import block  # noqa: PLC0415 - Rich, loaded when it is needed

        print_message("\n".join(block.short(run_status, now=utc_now(), glyphs=block.glyphs_of(sys.stderr))))
    else:
        print_message(fitted(summary(run_status)))
    return ExitStatus.DONE


class _RunOverError(Exception):
    """Nobody works on the run any more."""


def _watched(folder: str) -> Status:
    """Show progress of another process's run until that ends, or Ctrl-C; how it stands then."""
    import asyncio  # noqa: PLC0415 - loaded when it is needed: `status` is called often

    from batchrunner.cli.progress import display  # noqa: PLC0415 - as above

    def snapshot() -> Status:
        if (found := batchrunner.status(folder)).state != "running":
            raise _RunOverError
        return found

    shown = display(own=False, every_s=_WATCH_EVERY_S)
    with suppress(_RunOverError, KeyboardInterrupt):
        if shown is not None:
            asyncio.run(shown.follow(snapshot))
    return batchrunner.status(folder)


# `batchrunner merge DIR`: the shards of a job as one run.

Partial = Annotated[
    bool, typer.Option("--partial", help="Merge what there is so far; the shards may be running, and go on.")
]


def merge(*, folder: RunFolder, partial: Partial = False, as_json: AsJson = False) -> ExitStatus:
    r"""Join the shards of a job into one run.

    \b
    Sends nothing. Rows come in the order of the job; pictures get a second name. Afterwards
    `run JOB`, without --shard, goes on with what is left:
      batchrunner merge outputs/night
      batchrunner merge outputs/night --partial
    """
    merged = batchrunner.merge(folder, partial=partial)
    if as_json:
        emit(merged)
    else:
        print_message("\n".join(merge_lines(merged)))
    return ExitStatus.DONE


# `batchrunner adopt DIR BATCH_ID`: what became of an order whose reply was lost.

BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="The server's id of the batch.", show_default=False)]
BatchNumber = Annotated[
    int | None, typer.Option("--batch", min=1, metavar="N", help="Which batch of the directory, where several wait.")
]


def adopt(*, folder: RunFolder, batch_id: BatchId, number: BatchNumber = None, as_json: AsJson = False) -> ExitStatus:
    r"""Say which batch at the server an order became.

    \b
    For a batch that `status` shows as awaiting your decision, and that you found in the
    provider's own list. Sends nothing; the next run reads its results:
      batchrunner adopt outputs/night batch_68f1
      batchrunner adopt outputs/night batch_68f1 --batch 3
    """
    from batchrunner.report.batch_adoption import adopt_batch  # noqa: PLC0415 - the ledger's writer, for this only

    adopted = adopt_batch(Path(folder), batch_id, number=number)
    if as_json:
        emit(adopted)
    else:
        print_message(f"batch {adopted.batch} is {adopted.id}: {adopted.items:,} items wait for its results")
        if adopted.next_command is not None:
            print_message(f"next: {adopted.next_command}")
    return ExitStatus.DONE


# `batchrunner cancel DIR [ID…]`: an end to open batches and tasks.

Batches = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID]...", help="Numbers or ids of batches, ids of items or tasks; default: all.", show_default=False
    ),
]


def cancel(*, folder: RunFolder, batches: Batches = None, as_json: AsJson = False) -> ExitStatus:
    r"""Cancel open batches and tasks at the provider.

    \b
    What was finished by then is paid for, and the next run reads it. It sends the rest of a
    batch again; the item of a cancelled task has failed. Refused while a run works on DIR:
      batchrunner cancel outputs/night
      batchrunner cancel outputs/night batch_68f1
      batchrunner cancel outputs/videos a-red-kite
    """
    from batchrunner.cancelling import NOTHING_OPEN  # noqa: PLC0415 - aiohttp, for this command only
    from batchrunner.cancelling import cancel as cancel_open  # noqa: PLC0415 - as above

    ended = asyncio.run(cancel_open(Path(folder), batches or (), say=print_message))
    if as_json:
        emit(ended)
    if not ended.batches and not ended.tasks:
        print_message(f"{NOTHING_OPEN}; nothing to cancel")
    for each in ended.batches:
        said = f"not cancelled: {each.problem}" if each.problem else f"cancelled ({each.state or 'accepted'})"
        said = f"cancelled before, at {each.before}; not asked again" if each.before else said
        print_message(f"batch {each.batch} ({each.id}), {each.items:,} items of {each.model}: {said}")
    for task in ended.tasks:
        said = f"not cancelled: {task.problem}" if task.problem else "cancelled"
        said = f"cancelled before, at {task.before}; not asked again" if task.before else said
        print_message(f"{task.item} (task {task.id}) of {task.model}: {said}")
    if ended.next_command is not None:
        then = "sends the rest again" if ended.batches else "`--retry-failed` sends what was cancelled again"
        print_message(f"next: {ended.next_command}   reads what they finished; {then}")
    return ended.exit_status


# `batchrunner verify DIR`: is everything that was recorded there, and as it was? Changes nothing in DIR.

Salvage = Annotated[
    str | None, typer.Option("--salvage", metavar="NEW", help="Copy everything undamaged into this new directory.")
]


def verify(*, folder: RunFolder, salvage: Salvage = None, as_json: AsJson = False) -> ExitStatus:
    r"""Check a run directory for damage.

    \b
    Reads and checks the ledger, rows and pictures; changes nothing. Exit status 4 if
    anything recorded is missing or changed. --salvage copies what is undamaged:
      batchrunner verify outputs/cats
      batchrunner verify outputs/cats --salvage outputs/cats-saved
    """
    audit = batchrunner.verify(folder, salvage=salvage)
    if as_json:
        emit(audit)
    else:
        print_message(audit_words(audit))
    return audit.exit_status


# `batchrunner report DIR`: the page that people look at.

Inline = Annotated[bool, typer.Option("--inline", help="Put the thumbnails into the page: one file, for e-mail.")]
PageFolder = Annotated[
    str | None, typer.Option("--out", metavar="FOLDER", help="Write index.html to this folder instead.")
]
WithPictures = Annotated[
    bool, typer.Option("--copy", help="With --out: copy pictures and thumbnails there, too, for a static host.")
]


def report(
    *,
    folder: RunFolder,
    inline: Inline = False,
    out: PageFolder = None,
    copy: WithPictures = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Write report.html, the page of a run.

    \b
    Answers and pictures by prompt, comparisons, how the run went, what failed; it opens
    from disk in any browser and asks no server. A run writes it at its end; this writes
    it again, also while another process runs the job:
      batchrunner report outputs/cats
      batchrunner report outputs/cats --inline
      batchrunner report outputs/cats --out site/ --copy
    """
    written = batchrunner.write_page(folder, out=out, copy=copy, inline=inline)
    if as_json:
        emit(written)
    else:
        print_message(_page_words(written))
    return ExitStatus.DONE


def _page_words(written: PageWritten) -> str:
    beside = f", and {written.chunk_files:,} files beside it" if written.chunk_files else ""
    simulated = " (simulated)" if written.simulated else ""
    return (
        f"{written.job}{simulated}: {written.rows:,} rows, {written.bytes:,} bytes{beside}\n  written:  {written.path}"
    )


# `batchrunner watch DIR`: the same page, live.

WatchHost = Annotated[
    str, typer.Option("--host", help="Address to listen on; on any but a loopback address the URL holds a secret.")
]
WatchPort = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one.")]
Opens = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def watch(
    *,
    folder: RunFolder,
    host: WatchHost = "127.0.0.1",
    port: WatchPort = 0,
    opens: Opens = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Serve a run's page and keep it up to date.

    \b
    The page of `report`, with answers and pictures as they come, in any browser on this
    machine. It only reads, and stays when the run ends or is killed; Ctrl-C stops it:
      batchrunner watch outputs/cats
      batchrunner watch outputs/cats --open
      batchrunner watch outputs/cats --host 0.0.0.0
    """
    from batchrunner.page.watch import watch as serve  # noqa: PLC0415 - aiohttp, for this command only

    def listening(url: str) -> None:
        if as_json:
            emit({"url": url})
        print_message(f"watching {folder}; Ctrl-C stops it\n  {url}")

    asyncio.run(until_asked(serve(folder, host=host, port=port, say=listening, opens=opens)))
    return ExitStatus.DONE
