"""Writes `report.html`: one file that opens from disk; beyond 15 MB of rows, they go into scripts beside it.

Takes no lock and changes no file of the run: another process may be at work. The page replaces an earlier one when it
is complete. Rows are streamed; kept in memory are the index (about 60 bytes a row) and at most 15 MB of compressed
chunks.
"""

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment, StrictUndefined

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Json
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.status import PageWritten, Status
from batchrunner.core.values import dataclass, field, replace
from batchrunner.page.ledger_timeline import LedgerTimeline
from batchrunner.page.row_chunks import RowChunks, as_text, axes_of
from batchrunner.page.run_facts import folders_of, hide_paths, page_meta, price_function, taken_by
from batchrunner.report.audit_files import read_plain
from batchrunner.report.dataset_card import write_card
from batchrunner.report.directory_status import day_offset_of, status_of_directory
from batchrunner.report.summary import items_line, usage_line
from batchrunner.stores.export_files import RowOrder
from batchrunner.stores.files import DISK, FAILURES, RESULTS, SHARED_FILE, SHARED_FOLDER, broken, write_pieces
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.run_file import RunFile, run_file_or_refuse
from batchrunner.stores.score_file import SCORES, ScoreFile
from batchrunner.stores.threads import Threads

REPORT: Final = "report.html"
CHUNKS_FOLDER: Final = "report"
CHUNKS_IN_PAGE_BYTES: Final = 15_000_000
"""Of their text in the page; more of it goes into scripts beside the page."""
ROWS_UNASKED: Final = 200_000
"""A run with more items writes its page only when it is asked to."""
_MEAN_ROW_BYTES: Final = 1 << 20
"""Of rows that are larger on average, each takes more memory than a run may need: they are read when asked to."""
INLINE_PICTURES: Final = 300
INLINE_BYTES: Final = 25_000_000
SELF: Final = "'self'"
NOWHERE: Final = "'none'"
_EMPTY_SEGMENT_BYTES: Final = 1024
"""A segment of the ledger in which a process began and ended, and nothing else, is shorter."""
_THUMB_THREADS: Final = 2
SCRIPTS: Final = (
    "dom",
    "data",
    "diff",
    "query",
    "address",
    "marks",
    "window",
    "cells",
    "results",
    "item",
    "compare",
    "charts",
    "run",
    "failures",
    "main",
)
"""The modules of the page's script, each before those that import it."""
_IMPORT: Final = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=const |let |function |async |class )", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*(?:/\*.*?\*/|//[^\n]*)\n", re.MULTILINE | re.DOTALL)
_INDENT: Final = re.compile(r"^[ \t]+|\n(?=\n)|(?<=[;,{}()\]]) // [^\n]*$|(?<=[{,])\n", re.MULTILINE)
"""None of it is wanted in a page: no text of the scripts goes over several lines, or has ` // ` behind a sign."""
_STYLE_SPACE: Final = re.compile(r"\s*([{};,])\s*|(?<=[\w-]):\s+")
"""Where a style needs no space; `a :hover` does."""
_CHUNK_FILE: Final = re.compile(r"c([0-9]{4,})\.js")


@dataclass(slots=True, kw_only=True)
class _Chunks:
    """Finished chunks: in memory, and from 15 MB on in files beside the page."""

    folder: Path
    stamp: str
    texts: list[str] = field(default_factory=list)
    size: int = 0
    beside: bool = False

    def add(self, number: int, data: bytes) -> None:
        """The next one."""
        text = as_text(data)
        self.size += len(text)
        if not self.beside:
            self.texts.append(text)
            if self.size > CHUNKS_IN_PAGE_BYTES:
                self._move_out()
        else:
            self._write(number, text)

    def _move_out(self) -> None:
        self.beside = True
        DISK.make_folder(self.folder / CHUNKS_FOLDER, SHARED_FOLDER)
        for number, text in enumerate(self.texts):
            self._write(number, text)
        self.texts.clear()

    def _write(self, number: int, text: str) -> None:
        script = f'__c("{self.stamp}",{number},"{text}");\n'
        (self.folder / CHUNKS_FOLDER / f"c{number:04d}.js").write_text(script, "ascii")

    def remove_others(self, count: int) -> None:
        """Files of an earlier page with more chunks."""
        place = self.folder / CHUNKS_FOLDER
        kept = count if self.beside else 0
        for name in DISK.names(place) if DISK.exists(place) else []:
            found = _CHUNK_FILE.fullmatch(name)
            if found and int(found[1]) >= kept:
                DISK.unlink(place / name)


def write_page(
    dir: str | Path,  # noqa: A002 - the word of the command
    *,
    out: str | Path | None = None,
    copy: bool = False,
    inline: bool = False,
    status: Status | None = None,
) -> PageWritten:
    """Write the report page of a run, `report.html`, which opens in any browser; also during a run.

    Args:
        dir: the run's directory.
        out: a folder for the page instead; it is called `index.html` there.
        copy: with `out`: pictures and thumbnails go there, too, so that the folder can be served or moved.
        inline: thumbnails stand in the page itself, which is then one file.
        status: as of now; asked of the directory if it is not given.

    Raises:
        JobMistakesError: options that do not go together, or too many pictures for `inline`.
        WrongDirectoryError, LedgerDamagedError, StoreBrokenError: the run cannot be read, or the page not written.
    """
    folder, out = Path(dir), None if out is None else Path(out)
    _check_place(folder, out, copy=copy)
    place = out or folder
    stamp = f"{time.time_ns() // 1_000_000:x}"
    chunks = _Chunks(folder=place, stamp=stamp)
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        read = read_run(folder, chunks.add, status=status)
        rows, status = read.rows, read.status
        made = _make_thumbnails(folder, rows.pictures)
        meta: dict[str, Json] = {
            **read.meta(),
            "beside": chunks.beside,
            "stamp": stamp,
            "base": "" if out is None or copy else f"{Path(os.path.relpath(folder, out)).as_posix()}/",
            "thumbs": _inlined(folder, rows.pictures) if inline else None,
        }
        path = place / (REPORT if out is None else "index.html")
        pieces = page_pieces(
            meta,
            title=read.title,
            totals=tuple(run_totals(status, rows.rows)),
            first=b"\n".join(rows.first),
            index=as_text(rows.index()),
            chunks=chunks.texts,
        )
        size = write_pieces(DISK, path, pieces, SHARED_FILE)
        chunks.remove_others(rows.chunks)
        copied = _copy_pictures(folder, place, rows.pictures) if copy else 0
    except OSError as error:
        raise broken(place, error, sending=False) from error
    return PageWritten(
        path=str(path),
        rows=rows.rows,
        bytes=size,
        chunk_files=rows.chunks if chunks.beside else 0,
        pictures=len(rows.pictures),
        thumbnails_made=made,
        pictures_copied=copied,
        job=read.run.job_name,
        state=status.state,
        simulated=read.run.simulated,
    )


async def with_page(folder: Path, status: Status, speak: Callable[[str], None] | None) -> Status:
    """Write the page at the end of a run that changed something; the status with what there is to say about it.

    Raises nothing: the run has ended, and its answers are safe.
    """
    if (trouble := await _page_at_end(folder, status)) is None:
        return status
    if speak is not None:
        speak(trouble)
    return replace(status, notes=(*status.notes, trouble))


async def _page_at_end(folder: Path, status: Status) -> str | None:
    thread = Threads("report-page", count=1)
    try:
        return await thread.run(_page_if_due, folder, status)
    except Exception as error:  # noqa: BLE001 - as above
        return f"{REPORT} could not be written: {error}; `batchrunner report` writes it again"
    finally:
        thread.close()


def _page_if_due(folder: Path, status: Status) -> str | None:
    if not _is_due(folder):
        return None
    if status.items.total <= ROWS_UNASKED:
        write_card(folder)
    if status.items.total > ROWS_UNASKED:
        return f"{REPORT} was not written for {status.items.total:,} items; `batchrunner report {folder}` writes it"
    rows = DISK.look(folder / RESULTS)
    if rows is not None and rows.size_bytes > _MEAN_ROW_BYTES * max(1, status.items.done):
        return f"{REPORT} was not written, as the answers are very long; `batchrunner report {folder}` writes it"
    write_page(folder, status=status)
    return None


def _is_due(folder: Path) -> bool:
    """Whether anything happened since the page was written: rows, scores, records beyond a process's first and last."""
    page = DISK.look(folder / REPORT)
    if page is None:
        return True
    ledger = folder / LEDGER
    segments = [ledger / name for name in DISK.names(ledger)] if DISK.exists(ledger) else []
    for path in (folder / RESULTS, folder / FAILURES, folder / SCORES, *segments):
        found = DISK.look(path)
        if (
            found
            and found.mtime_ns > page.mtime_ns
            and (path.parent == folder or found.size_bytes > _EMPTY_SEGMENT_BYTES)
        ):
            return True
    return False


def _check_place(folder: Path, out: Path | None, *, copy: bool) -> None:
    if copy and out is None:
        raise JobMistakesError((Mistake(problem="--copy needs --out", hint="name the folder with --out"),))
    if out is not None and out.resolve().is_relative_to(folder.resolve()):
        problem, hint = "is inside the run directory", "choose a folder outside of it, or omit --out"
        raise JobMistakesError((Mistake(problem=problem, file=str(out), hint=hint),))
    if out is not None and (taken := taken_by(out, copy=copy)):
        raise JobMistakesError((Mistake(problem=taken, file=str(out), hint="choose another folder with --out"),))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOnPage:
    """A run as it was read for the page."""

    folder: Path
    run: RunFile
    status: Status
    rows: RowChunks
    timeline: LedgerTimeline
    currency: str
    hide: Callable[[str], str]

    @property
    def title(self) -> str:
        """Of the window."""
        return f"{self.run.job_name}{' (simulated)' if self.run.simulated else ''} · batchrunner"

    def meta(self) -> dict[str, Json]:
        """What the page's script calls `source.meta`, for rows and status as they are now."""
        return {
            **page_meta(self.folder, self.run, self.status, written=_instant(time.time()), hide=self.hide),
            **self.rows.facts(),
            "open": self.timeline.open_items(),
            "timeline": self.timeline.plain(),
            "currency": self.currency,
            "beside": False,
            "base": "",
            "thumbs": None,
        }


def read_run(folder: Path, on_chunk: Callable[[int, bytes], None], *, status: Status | None = None) -> RunOnPage:
    """Read ledger and rows of a run once; each finished chunk goes to `on_chunk` with its number.

    Raises:
        WrongDirectoryError, LedgerDamagedError, StoreBrokenError: the run cannot be read.
    """
    run = run_file_or_refuse(folder)
    status = status or status_of_directory(folder)
    hide = hide_paths(*folders_of(folder, run))
    price_of, currency = price_function(run.job)
    timeline = LedgerTimeline(price_of=price_of)
    timeline.read(read_ledger(folder / LEDGER))
    timeline.close(running=status.state == "running")
    timeline.problem = hide(timeline.problem)
    since = seconds_of(run.created, timeline.started)
    rows = RowChunks(axes=axes_of(run.job), since=since, log_of=timeline.log_of, hide=hide, on_chunk=on_chunk)
    with RowOrder(folder) as order, ScoreFile(folder) as scores:
        state = replay(folder, day_offset_s=day_offset_of(run), running=True)
        order.index(is_failed=lambda key: state.item_state(key) is ItemState.FAILED)
        for row in order.rows():
            rows.add(scores.shown(row))
    rows.finish()
    return RunOnPage(folder=folder, run=run, status=status, rows=rows, timeline=timeline, currency=currency, hide=hide)


def page_pieces(
    meta: dict[str, Json],
    *,
    title: str,
    totals: Sequence[tuple[str, str]],
    first: bytes = b"",
    index: str = "",
    chunks: Sequence[str] = (),
    source: str = "",
    live: bool = False,
) -> Iterator[bytes]:
    """The page, piece by piece.

    Args:
        meta: what the package's description calls `source.meta`.
        title: of the window.
        totals: names and values for those without JavaScript.
        first: lines of the first rows.
        index: the columns, as `as_text` makes them; empty where `source` brings them.
        chunks: the same of all chunks that stand in the page.
        source: a script that defines `window.batchrunnerSource`, for pages that are fed over HTTP.
        live: whether the page may ask its own server for more.
    """
    style, script = page_style(), joined_script()
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_resource("page.html"))
    stream = template.generate(
        policy=policy(source, beside=bool(meta.get("beside")), live=live),
        title=title,
        style=style,
        source=source,
        script=script,
        state=str(meta["stateWords"]).capitalize(),
        totals=totals,
        meta=data_block(msgspec.json.encode(meta)),
        first=data_block(first),
        index=index,
        chunks=enumerate(chunks),
    )
    for piece in stream:
        yield piece.encode()


_MEDIA: Final = "media-src 'self'; "


def policy(source: str = "", *, beside: bool = False, live: bool = False) -> str:
    """The page's Content-Security-Policy: its own script and style by their hashes, pictures beside it, no more."""
    scripts = " ".join(f"'{_hash(text)}'" for text in (source, joined_script()) if text)
    return (
        f"default-src 'none'; script-src {scripts}{f' {SELF}' if beside else ''}; style-src '{_hash(page_style())}'; "
        f"img-src 'self' data: blob:; {'' if live else _MEDIA}connect-src {SELF if live else NOWHERE}; "
        "base-uri 'none'; form-action 'none'"
    )


def data_block(json_text: bytes) -> str:
    r"""JSON for a data block: `<` only occurs in its strings, where `\u003c` says the same and ends no element."""
    safe = json_text.replace(b"<", b"\\u003c").replace(b"\x00", b"")
    return safe.decode()


@cache
def joined_script() -> str:
    """The modules as one script: in one scope, without their imports and exports."""
    texts = (_EXPORT.sub("", _IMPORT.sub("", _resource(f"js/{name}.js"))) for name in SCRIPTS)
    return '(() => {\n"use strict";\n' + _INDENT.sub("", _COMMENT.sub("", "".join(texts))) + "})();\n"


@cache
def page_style() -> str:
    """The page's style, without what only people need to read it."""
    return _STYLE_SPACE.sub(lambda found: found[1] or ":", _COMMENT.sub("", _resource("page.css"))).strip()


def _resource(name: str) -> str:
    return resources("batchrunner.page").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def seconds_of(created: str, started: float | None) -> float:
    """When a run was created, in seconds since 1970; else when its first process began."""
    with suppress(ValueError):
        return datetime.fromisoformat(created).timestamp()
    return started or 0.0


def _instant(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def run_totals(status: Status, rows: int) -> Iterator[tuple[str, str]]:
    """Names and values for those without JavaScript."""
    yield "items", items_line(status.items)
    yield "requests sent", f"{status.sends.total:,}"
    if status.sends.possible_duplicates:
        yield "may have been billed without a usable answer", f"{status.sends.possible_duplicates:,}"
    if used := usage_line(status.usage):
        yield "usage", used
    yield "rows in this page", f"{rows:,}"


def _make_thumbnails(folder: Path, pictures: dict[str, str]) -> int:
    """Thumbnails that are missing, made in a few threads; how many. What cannot be decoded has none."""
    there = set(_thumbnails(folder)) if pictures else set()
    missing = [sha256 for sha256 in pictures if sha256[:16] not in there]
    if not missing:
        return 0
    with ThreadPoolExecutor(max_workers=_THUMB_THREADS, thread_name_prefix="thumbnails") as pool:
        return sum(pool.map(lambda sha256: _make_thumbnail(folder, sha256, pictures[sha256]), missing))


def _thumbnails(folder: Path) -> Iterator[str]:
    """The first 16 digits of the sha256 of pictures that have one: listing is quicker than looking for each."""
    place = folder / "thumbs"
    for name in DISK.folders(place) if DISK.exists(place) else []:
        yield from (thumbnail.partition(".")[0] for thumbnail in DISK.names(place / name))


def _make_thumbnail(folder: Path, sha256: str, path: str) -> bool:
    from batchrunner.stores.images import make_thumbnail, write_thumbnail  # noqa: PLC0415 - as above

    found = DISK.look(folder / path)
    data = found and read_plain(DISK, folder, path, most_bytes=found.size_bytes + 1)
    small = make_thumbnail(data) if data and hashlib.sha256(data).hexdigest() == sha256 else None
    if small is not None:
        write_thumbnail(folder, sha256, small)
    return small is not None


def _inlined(folder: Path, pictures: dict[str, str]) -> dict[str, Json]:
    """Thumbnails as text, by the first 16 digits of the picture's sha256."""
    from batchrunner.stores.images import thumbnail_path  # noqa: PLC0415 - as above

    found: dict[str, Json] = {}
    size = 0
    for sha256 in pictures:
        data = read_plain(DISK, folder, thumbnail_path(sha256), most_bytes=1 << 20)
        if data:
            size += len(data)
            found[sha256[:16]] = as_text(data)
    if len(pictures) > INLINE_PICTURES and size > INLINE_BYTES:
        problem = f"{len(pictures):,} pictures are too many for one file"
        most = f"{INLINE_PICTURES} pictures, or {INLINE_BYTES // 1_000_000} MB of thumbnails"
        hint = f"--inline takes {most}; use --out FOLDER --copy"
        raise JobMistakesError((Mistake(problem=problem, hint=hint),))
    return found


def _copy_pictures(folder: Path, place: Path, pictures: dict[str, str]) -> int:
    """Pictures and thumbnails to where the page lies; how many pictures. Those that are there already stay."""
    from batchrunner.stores.images import thumbnail_path  # noqa: PLC0415 - as above

    copied = 0
    for sha256, path in pictures.items():
        for name in (path, thumbnail_path(sha256)):
            found = DISK.look(folder / name)
            if found is None or ((there := DISK.look(place / name)) and there.size_bytes == found.size_bytes):
                continue
            data = read_plain(DISK, folder, name, most_bytes=found.size_bytes + 1)
            if data is not None:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data)
                copied += name == path
    return copied
