"""The port `Items` for a job, and the check that finds every mistake of its prompts at once."""

import asyncio
import os
import stat
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Final

from batchrunner.core import VERSION
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import Job, Json, Listing, Source, seen_from_its_folder
from batchrunner.core.places import is_remote
from batchrunner.core.upstream import RunRows
from batchrunner.prompts.expand import Expansion, artifact_name
from batchrunner.prompts.ids import KEY_VERSION
from batchrunner.prompts.input_pictures import BadPictureError, PictureCache
from batchrunner.prompts.prompt_rows import Findings
from batchrunner.prompts.row_stages import LEFT_OUT_WORDS
from batchrunner.prompts.sources import FOLDER, kind_of
from batchrunner.prompts.sources.base import BadSourceError
from batchrunner.prompts.sources.folder import FILE, names_of
from batchrunner.prompts.sources.opening import Found, found, listed
from batchrunner.prompts.templates import JobTemplates, templates_of

# One digest of everything that a job's items are made of, so that a run notices that nothing has changed.
#
# Bytes are hashed as they lie on the disk, about a gigabyte a second; nothing is parsed. What cannot be hashed without
# reading the rows, like pictures that a row names, has no digest: then the items are looked at one by one, as ever.

_STEP_BYTES = 1 << 20
_MARK = "{"
"""What every template has."""
_OF_THE_FOLDER = (f"{{{{ {FILE} }}}}", f"{{{{{FILE}}}}}")
"""Templates of a picture that lies in the source itself."""
_FIELDS = (
    "kind",
    "models",
    "prompts",
    "matrix",
    "params",
    "body",
    "system",
    "messages",
    "images",
    "files",
    "images_from",
    "picture_folders",
    "schema",
    "stream",
    "replicas",
)
"""Of a job: what its items are made of, besides the dialect and the names of files."""


class _UnknownError(Exception):
    """What the items depend on is not known without a whole pass."""


def digest_of_items(job: Job) -> str | None:
    """blake2b-128 of all that decides the job's items, 32 hex digits. Blocks; for a thread.

    That is: the job's own words, the bytes of its source and of its local pictures, and the version of this program.
    The same digest twice means the same items, with the same ids, keys and order, whatever the working directory. A
    pass between two calls that give the same digest has read what the digest stands for.

    Returns:
        None where it cannot be known without a whole pass: a source or picture that cannot be read, no regular file,
        changed while it was hashed, or pictures whose paths stand in the rows.
    """
    hashed = blake2b(digest_size=16)
    here = seen_from_its_folder(job, os.path.realpath)
    own = [getattr(here, name) for name in _FIELDS]
    fixed = (VERSION, KEY_VERSION, job.provider.dialect, job.output.name, job.output.each, *own)
    try:
        _add(hashed, repr(fixed).encode("utf-8", "surrogatepass"))
        for path in _files(job):
            if is_remote(path):
                _add_state(hashed, path, found(path))
            else:
                _add(hashed, os.fsencode(PurePath(path).name))
                _add_file(hashed, Path(path))
        for name, state in _remote_folder(job).items():
            _add_state(hashed, name, state)
    except (_UnknownError, BadPictureError, BadSourceError, OSError, ValueError, RecursionError):
        return None
    return hashed.hexdigest()


def _files(job: Job) -> Iterator[str]:
    """Every file that the items are made of, in an order of its own; those of a remote folder are `_remote_folder`."""
    source = job.prompts if isinstance(job.prompts, Source) else None
    is_folder = source is not None and not source.run and source.count is None and _is_folder(source.path)
    if source is not None:
        yield from _files_of(source, is_folder=is_folder)
        yield from (draw.path for draw in source.draw if draw.path is not None)
    picture_cache = PictureCache(job)
    for text in map(str.strip, _pictures(job)):
        if is_folder and text in _OF_THE_FOLDER:
            continue
        if _MARK in text:
            raise _UnknownError
        if picture_cache.is_beside_source(text):
            yield text
        elif text and not picture_cache.is_passed_on(text):
            yield picture_cache.located(text)


def _files_of(source: Source, *, is_folder: bool) -> Iterator[str]:
    if source.run:
        results, scores = (Path(source.path) / name for name in ("results.jsonl", "scores.jsonl"))
        yield from map(str, (results, scores) if scores.exists() else (results,))
    elif is_folder and not is_remote(source.path):
        yield from (str(Path(source.path) / name) for name in names_of(source.path))
    elif source.count is None and not is_folder:
        yield source.path


def _is_folder(path: str) -> bool:
    return kind_of(path, is_templated=True) == FOLDER


def _remote_folder(job: Job) -> dict[str, Found]:
    """The files of the source, with their states, where it is a folder of a store."""
    source = job.prompts
    if not isinstance(source, Source) or not is_remote(source.path) or not _is_folder(source.path):
        return {}
    return dict(sorted(listed(source.path).items()))


def _add_state(hashed: "blake2b", name: str, state: Found) -> None:
    """A remote file is known by what its store says of it: nothing is read to learn that nothing has changed."""
    if not state.state:
        raise _UnknownError
    _add(hashed, name.encode("utf-8", "surrogatepass"))
    _add(hashed, repr((state.size, state.state)).encode())


def _pictures(job: Job) -> Iterator[str]:
    yield from (*job.images, *job.files)
    if isinstance(job.prompts, Source):
        yield from job.prompts.images or ()
    if isinstance(job.prompts, Listing):
        for entry in job.prompts.entries:
            yield from entry.images or ()


def _add(hashed: "blake2b", part: bytes) -> None:
    """A part with its length before it, so that no two lists of parts look the same."""
    hashed.update(b"%d:" % len(part))
    hashed.update(part)


def _add_file(hashed: "blake2b", path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would be waited for
        raise _UnknownError
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        hashed.update(b"%d:" % before.st_size)
        while step := file.read(_STEP_BYTES):
            hashed.update(step)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _UnknownError


# The items of a whole pass kept in memory while they are few, so that the lanes' pass needs not make them again.
#
# Each is let go when it is given: what is kept is what is still to be given, and nothing of it stays until the end.
#
# The source may change between two passes. What stood in it is remembered by its size and times, and whoever is given
# kept items is informed at the end whether that still holds.

KEPT_BYTES: Final = 24 * 1024 * 1024
"""Of all kept items of a job, about: some ten thousands of short prompts. Where there are more, none is kept."""
_ITEM_BYTES: Final = 420
"""Of an item without its texts and values."""

Stamp = tuple[object, ...]
"""The state of a source: equal stamps mean that it was not written to."""


class KeptItems:
    """The items of one pass, by model. `add` every batch; once it `is_whole`, each model's can be taken, once."""

    def __init__(self, stamp: Stamp) -> None:
        self.stamp = stamp
        """Of the source, before the pass."""
        self.is_whole = False
        """The pass has come to its end, and all of its items were here."""
        self._of_models: dict[str, deque[Sequence[Item]]] = {}
        self._left_bytes = KEPT_BYTES

    def __repr__(self) -> str:
        return f"<KeptItems of {len(self._of_models)} models, room for {self._left_bytes} bytes>"

    def add(self, batch: Sequence[Item]) -> None:
        """The pass's next items; all are let go once they are too large."""
        if self._left_bytes <= 0:
            return
        self._left_bytes -= _size_of(batch)
        if self._left_bytes <= 0:
            self._of_models.clear()
            return
        first = batch.like.model if isinstance(batch, AlikeItems) else batch[0].model
        if isinstance(batch, AlikeItems) or all([item.model == first for item in batch]):  # noqa: C419 - a generator takes longer
            self._of_models.setdefault(first, deque()).append(batch)
            return
        for model in dict.fromkeys([item.model for item in batch]):
            own = [item for item in batch if item.model == model]
            self._of_models.setdefault(model, deque()).append(own)

    def end(self, stamp: Stamp) -> None:
        """The pass has come to its end, and this is how the source stands now."""
        self.is_whole = self._left_bytes > 0 and stamp == self.stamp
        if not self.is_whole:
            self._of_models.clear()

    def take(self, models: frozenset[str] | None) -> deque[Sequence[Item]] | None:
        """The items of this one model, to be emptied by the caller; None when they are not here any more."""
        if not self.is_whole or models is None or len(models) != 1:
            return None
        return self._of_models.pop(next(iter(models)), None)


def stamp_of(job: Job) -> Stamp:
    """The state of the job's source now; constant if there is none. Blocks, and never raises."""
    if not isinstance(job.prompts, Source):
        return ()
    path = Path(job.prompts.path)
    try:
        drawn = tuple(_stamp(draw.path) for draw in job.prompts.draw if draw.path is not None)
        if job.prompts.run or job.prompts.count is not None:  # of a run, every pass has the same rows
            return drawn
        if is_remote(job.prompts.path):
            folder = _remote_folder(job)
            return (*drawn, *(folder.items() if folder else _stamp(job.prompts.path)))
        if path.is_dir():
            return (*drawn, *((name, *_stamp(str(path / name))) for name in names_of(str(path))))
        return (*drawn, *_stamp(str(path)))
    except (OSError, ValueError, BadSourceError) as error:
        return ("unreadable", str(error))


def _stamp(path: str) -> Stamp:
    if is_remote(path):
        remote = found(path)
        return remote.size, *(remote.state or (object(),))  # without a state no two stamps are equal
    here = os.stat(path)  # noqa: PTH116 - a file of its own for each of thousands of texts
    return here.st_dev, here.st_ino, here.st_size, here.st_mtime_ns, here.st_ctime_ns


def _size_of(items: Sequence[Item]) -> int:
    """About how many bytes they hold that no other item shares."""
    size = _ITEM_BYTES * len(items)
    parts: list[object] = []
    if isinstance(items, AlikeItems):
        values = items.values
        parts += items.texts
        for turn in items.like.turns:
            size += len(items) * sys.getsizeof(turn.content)
    else:
        values = [item.vars for item in items]
        parts += [turn.content for item in items for turn in item.turns]
        size += sum(item.media_chars for item in items if item.pictures or item.files)
    for own in values:
        parts.append(own)
        parts += own.values()
    size += sum(map(sys.getsizeof, parts))
    # Every item's `vars` is a mapping itself; where there are more, or lists, they are looked into.
    kinds = list(map(type, parts))
    if list not in kinds and kinds.count(dict) == len(items):
        return size
    inner: list[object] = [part for own in values for part in own.values()]
    while inner:
        value = inner.pop()
        if isinstance(value, dict | list):
            within = list(value.values() if isinstance(value, dict) else value)
            size += sum(map(sys.getsizeof, within))
            inner += within
    return size


class JobItems:
    """The items of a job; implements `core.ports.Items`. Templates are compiled at the first pass and then kept.

    So are the items themselves, where they are few: the first pass for each model after a whole one gives them, and
    reads the source only if it has changed since.
    """

    def __init__(self, job: Job, upstream: RunRows | None = None) -> None:
        """The items of this job, made of the rows of `upstream` where its source is a run."""
        self._job = job
        self._upstream = upstream
        self.keeps = False
        """Set by whoever will make more passes than one, before the first."""
        self._kept: KeptItems | None = None
        self._compiled: tuple[JobTemplates, tuple[Mistake, ...]] | None = None
        self._last: Findings | None = None
        self._of_job = 0
        self.counted = 0
        """Items that the last search for mistakes has seen."""
        self.progress: Callable[[int], None] | None = None
        """Told how many items a pass has seen: every 20,000."""

    def __repr__(self) -> str:
        return f"<JobItems of {self._job.name}, {self.skipped_rows} rows skipped in the last whole pass>"

    @property
    def skipped_rows(self) -> int:
        """Bad rows that the last whole pass left out; 0 before the first."""
        return self._last.skipped_rows if self._last else 0

    @property
    def of_job(self) -> int:
        """Items of the whole job, before a shard's were chosen, in the last whole pass; 0 before the first."""
        return self._of_job

    @property
    def skipped(self) -> tuple[Mistake, ...]:
        """What was wrong with the first 20 of them."""
        return self._last.skipped if self._last else ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """How many rows the job does not want, one line for each key that says so; of the last whole pass."""
        counts = self._last.left_out if self._last else {}
        keys = {"unscored": "where"}
        return tuple(
            f"prompts.{keys.get(key, key)}: {n:,} rows {LEFT_OUT_WORDS[key]}" for key, n in counts.items() if n
        )

    async def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
        """The items of these models (None: all), in the job's order, some at a time.

        Raises:
            JobMistakesError: templates that are none (all of them), or the first thing that is wrong with the rows.
        """
        given = left_out = 0
        if self._kept is not None and (waiting := self._kept.take(models)) is not None:
            while waiting:
                batch = waiting.popleft()
                given += len(batch)
                yield batch
                del batch
                await asyncio.sleep(0)
            if await asyncio.to_thread(stamp_of, self._job) == self._kept.stamp:
                return
            left_out = given
        # Where the source has changed since, it is read to its end after all, so that whoever counts notices.
        async with aclosing(self._read(models)) as batches:
            async for batch in batches:
                if not left_out:
                    yield batch
                elif more := batch[left_out:]:
                    yield more
                left_out = max(0, left_out - len(batch))
        if left_out:
            of_whom = "" if models is None else f" for {', '.join(sorted(models))}"
            problem = f"the source now has {given - left_out:,} prompts{of_whom}; it had {given:,} when the run began"
            raise JobMistakesError((Mistake(problem=problem, key="prompts"),))

    async def _read(self, models: frozenset[str] | None) -> AsyncGenerator[Sequence[Item]]:
        findings = self._findings(first_only=True)
        kept = None
        if models is None and self.keeps and self._kept is None:
            kept = self._kept = KeptItems(await asyncio.to_thread(stamp_of, self._job))
        shard, of_job = self._job.shard, 0
        async with aclosing(self._pass(findings).batches(models)) as batches:
            async for whole in batches:
                of_job += len(whole)
                batch = whole if shard is None else shard.own(whole)
                if not batch:
                    continue
                if kept is not None:
                    kept.add(batch)
                yield batch
        self._last = findings
        self._of_job = of_job if models is None else self._of_job
        if kept is not None:
            kept.end(await asyncio.to_thread(stamp_of, self._job))

    async def stream(self, models: frozenset[str] | None = None) -> AsyncGenerator[Item]:
        """The same items one by one."""
        async with aclosing(self.batches(models)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    def path_of(self, item: Item) -> str:
        """`output.each` filled for an item; empty when the job has none. Any text: whoever writes there makes it safe.

        Raises:
            JobMistakesError: the template is none, or uses a name that the item does not have.
        """
        each = self._templates().each
        own: dict[str, Json] = {"id": item.id, "prompt_id": item.prompt_id, "index": item.index, "model": item.model}
        return artifact_name(self._job, each, {**item.params, **item.vars, **own}) if each else ""

    async def mistakes(self) -> tuple[Mistake, ...]:
        """Every mistake of the templates and all rows; bad rows are none where the job skips them.

        A template that is none hides nothing else: something harmless stands in for it. Of millions, the first
        100,000 are kept and the others counted. Over a run that is not here yet, the templates alone.
        """
        templates, broken = templates_of(self._job)
        if isinstance(self._job.prompts, Source) and self._job.prompts.run and self._upstream is None:
            return broken
        findings = self._findings(first_only=False)
        expansion = self._pass(findings, templates)
        found: tuple[Mistake, ...] = ()
        try:
            async for _ in expansion.batches(frozenset()):
                pass
        except JobMistakesError as error:
            found = error.mistakes
        self._last, self.counted = findings, expansion.counted
        return tuple(dict.fromkeys((*broken, *findings.mistakes, *found)))

    def _pass(self, findings: Findings, templates: JobTemplates | None = None) -> Expansion:
        return Expansion(
            self._job, templates or self._templates(), findings, upstream=self._upstream, progress=self.progress
        )

    def _templates(self) -> JobTemplates:
        if self._compiled is None:
            self._compiled = templates_of(self._job)
        templates, mistakes = self._compiled
        if mistakes:
            raise JobMistakesError(mistakes)
        return templates

    def _findings(self, *, first_only: bool) -> Findings:
        prompts = self._job.prompts
        return Findings(
            first_only=first_only, skip_bad_rows=isinstance(prompts, Source) and prompts.on_bad_row == "skip"
        )


def items_of(job: Job, upstream: RunRows | None = None) -> JobItems:
    """The items of a job, and of the run that it reads, if any. Nothing is read before they are streamed."""
    return JobItems(job, upstream)


async def check_items(job: Job) -> tuple[Mistake, ...]:
    """Stream everything once: every mistake of the job's prompts, templates, pictures and rows, empty if none."""
    return await JobItems(job).mistakes()


async def every_mistake(error: JobMistakesError) -> tuple[Mistake, ...]:
    """The errors of a job file that was rejected, and those of its prompts as far as they can be checked."""
    if error.partial is None:
        return error.mistakes
    known = {mistake.key for mistake in error.mistakes}
    found = await items_of(error.partial).mistakes()
    return (*error.mistakes, *(mistake for mistake in found if mistake.key is None or mistake.key not in known))
