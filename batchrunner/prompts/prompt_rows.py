"""The job's prompts before they are filled: rows of a source or entries of a list, brought to one shape.

Refuses a source that is missing, empty or of an unknown kind, and names that no row has.
"""

import os.path
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import PurePath

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job, Json, Source
from batchrunner.core.picture_rules import params_mistakes
from batchrunner.core.upstream import RunRows
from batchrunner.core.values import dataclass, field, replace
from batchrunner.prompts.draws import drawn_format
from batchrunner.prompts.row_stages import ITEM, LEFT_OUT_WORDS, ROWS, RowStages
from batchrunner.prompts.sources import FOLDER, SOURCES, format_of
from batchrunner.prompts.sources.base import (
    BATCH_ROWS,
    BadRow,
    BadSourceError,
    Batch,
    BatchRequest,
    SourceFormat,
    SourceRow,
    Stretch,
    TextForm,
)
from batchrunner.prompts.sources.run_rows import run_format
from batchrunner.prompts.templates import Entry, JobTemplates, NamedTemplate, named, unknown_name

# What a pass over the prompts finds wrong: mistakes stop it, bad rows are skipped where the job says so.

EMPTY_JOB = "an empty job is probably a mistake"
"""Hint of the mistake that a source has no rows."""
SHOWN = 20
KEPT = 100_000
"""Mistakes that a check keeps: a source of millions of bad rows must not fill the memory with them."""


class Findings:
    """Collects mistakes; counts the bad rows of a job that skips them. `first_only` raises at the first."""

    def __init__(self, *, first_only: bool, skip_bad_rows: bool) -> None:
        self._first_only = first_only
        self._left_out = 0
        self._skip_bad_rows = skip_bad_rows
        self._mistakes: list[Mistake] = []
        self._skipped: list[Mistake] = []
        self.skipped_rows = 0
        self.left_out: Counter[str] = Counter()
        """Rows that the job does not want, by the key that says so."""

    def __repr__(self) -> str:
        return f"<Findings {len(self._mistakes)} mistakes, {self.skipped_rows} rows skipped>"

    @property
    def skipped(self) -> tuple[Mistake, ...]:
        """The first 20 bad rows that were left out."""
        return tuple(self._skipped)

    def mistake(self, mistake: Mistake) -> None:
        """Something that must be corrected whatever `on_bad_row` says.

        Raises:
            JobMistakesError: one is enough.
        """
        if len(self._mistakes) < KEPT:
            self._mistakes.append(mistake)
        else:
            self._left_out += 1
        if self._first_only:
            self.settle()

    def bad_row(self, *mistakes: Mistake) -> None:
        """A row that cannot be used, with all that is wrong with it: skipped, or mistakes like any other."""
        if not self._skip_bad_rows:
            for mistake in mistakes:
                self.mistake(mistake)
            return
        self.skipped_rows += 1
        if len(self._skipped) < SHOWN:
            self._skipped.append(mistakes[0])

    def nothing_left(self) -> None:
        """The pass made no item at all: a job that skips its every row is not done, it is wrong.

        Raises:
            JobMistakesError: always.
        """
        self.settle()
        first = self._skipped[0] if self._skipped else Mistake(problem="there are no prompts")
        raise JobMistakesError((replace(first, problem=f"every row is bad, this is the first: {first.problem}"),))

    def settle(self) -> None:
        """Raise what was found, if anything.

        Raises:
            JobMistakesError: with every mistake so far.
        """
        if self._mistakes:
            raise JobMistakesError(self.mistakes)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """All that were found, in the order of the pass; the last one says how many were not kept, if any."""
        more = f"{self._left_out:,} more errors are not shown, {self._left_out + KEPT:,} in all"
        return (*self._mistakes, *((Mistake(problem=more),) if self._left_out else ()))


@dataclass(slots=True)
class PromptRow:
    """A prompt to fill, and where it stands. Nobody changes one; a frozen one costs two and a half times as much."""

    number: int
    file: str
    line: int | None
    values: dict[str, Json]
    """Columns of the row, or `vars` of the entry."""
    prompt: NamedTemplate | None
    """None: the text is the row's own, or the job has `messages`."""
    images: tuple[NamedTemplate, ...]
    params: dict[str, Json] = field(default_factory=dict)
    entry: Entry | None = None
    """The listed prompt that it is; None for a row of a source."""
    prompt_column: str | None = None
    """The column that is the prompt when there is no template, whatever its name."""
    unshown: frozenset[str] = frozenset()
    """Columns that templates have and `vars` has not."""
    asked: BatchRequest | None = None
    """The request that the row is; then there are no templates of a prompt."""
    origin: dict[str, Json] | None = None
    """The item of another run that the row is."""


_NONE: dict[str, Json] = {}
"""Parameters of rows that have none of their own; never changed."""


class Prompts:
    """A batch of prompts, to be iterated once: each row is looked at when it is taken."""

    __slots__ = ("_rows", "plain", "prompt_column")

    def __init__(
        self, rows: Callable[[], Iterator[PromptRow]], plain: Stretch | None = None, prompt_column: str | None = None
    ) -> None:
        self._rows = rows
        self.plain = plain
        """The same rows where none of them has to be looked at: their values are all that there is."""
        self.prompt_column = prompt_column
        """See `SourceFormat`."""

    def __repr__(self) -> str:
        return f"<Prompts {self.plain}>"

    def __iter__(self) -> Iterator[PromptRow]:
        return self._rows()


def prompt_rows(
    job: Job, templates: JobTemplates, findings: Findings, upstream: RunRows | None = None
) -> AsyncGenerator[Prompts]:
    """The prompts in order, in batches that are read to their ends.

    What is wrong with them goes to `findings`, which may raise. `upstream` is the run that the job reads, if it is one.
    """
    if isinstance(job.prompts, Source):
        return _SourceRows(job.prompts, job, templates, findings, upstream).rows()
    return _listed_rows(job, templates, findings)


async def _listed_rows(job: Job, templates: JobTemplates, findings: Findings) -> AsyncGenerator[Prompts]:
    if not templates.entries:
        findings.mistake(Mistake(problem="there are no prompts", file=job.file, key="prompts"))
    missing = dict.fromkeys(templates.needs())
    names: dict[str, None] = {}

    def some(begin: int) -> Iterator[PromptRow]:
        for number, entry in enumerate(templates.entries[begin : begin + BATCH_ROWS], begin + 1):
            if entry.listed.vars or number == 1:
                for name in named(entry.listed.vars):
                    missing.pop(name, None)
                    names[name] = None
            if _own_names_known(job, templates, entry, findings):
                yield _listed_row(job, templates, entry, number)

    for begin in range(0, len(templates.entries), BATCH_ROWS):
        yield Prompts(partial(some, begin))
    if templates.entries:
        _report_missing(list(missing), [*names, *sorted(templates.variables)], job, templates, findings)


def _listed_row(job: Job, templates: JobTemplates, entry: Entry, number: int) -> PromptRow:
    listed = entry.listed
    return PromptRow(
        number=number,
        file=job.file,
        line=listed.line,
        values=listed.vars,
        prompt=entry.prompt,
        images=templates.images if listed.images is None else entry.images,
        params=listed.params,
        entry=entry,
    )


def _own_names_known(job: Job, templates: JobTemplates, entry: Entry, findings: Findings) -> bool:
    if not entry.images and (entry.prompt is None or not entry.prompt.template.names):
        return True
    known = [*named(entry.listed.vars), *sorted(templates.variables)]
    all_known = True
    for keyed in (entry.prompt, *entry.images):
        for name in sorted(keyed.template.names.difference(known)) if keyed else ():
            key = keyed.key if keyed else entry.key
            findings.mistake(unknown_name(name, file=job.file, line=entry.listed.line, key=key, names=known))
            all_known = False
    return all_known


def _report_missing(names: list[str], known: list[str], job: Job, templates: JobTemplates, findings: Findings) -> None:
    needs = templates.needs()
    for name in names:
        findings.mistake(unknown_name(name, file=job.file, line=None, key=needs[name], names=known))


class _SourceRows:
    """One pass over a source."""

    def __init__(
        self, source: Source, job: Job, templates: JobTemplates, findings: Findings, upstream: RunRows | None
    ) -> None:
        self._source = source
        self._upstream = upstream
        self._job = job
        self._templates = templates
        self._findings = findings
        self._missing = set(templates.needs())
        self._first: SourceRow | None = None
        self._read = 0
        self._shown = source.shown.rstrip("/") or "/"
        self._unshown = frozenset({ITEM, ROWS} if source.explode or source.group else ())

    async def rows(self) -> AsyncGenerator[Prompts]:
        """The good rows; bad ones and everything that is wrong with the file are reported."""
        form = TextForm(encoding=self._source.encoding, delimiter=self._source.delimiter)
        kind = await self._kind(form)
        if kind is None:
            self._findings.mistake(self._unknown_kind())
            return
        left = self._source.limit
        try:
            async with aclosing(self._batches(kind, form)) as batches:
                async for batch in batches:
                    if left is None or len(batch) < left:
                        left = None if left is None else left - len(batch)
                        yield self._prompts(batch, kind)
                        continue
                    yield self._prompts(list(batch)[:left], kind)
                    break
        except BadSourceError as error:
            where = None if error.line or self._source.run else f"expected at {self._source.path}"
            self._report(error.problem, line=error.line, hint=error.hint or where)
            return
        self._finish(kind)

    async def _kind(self, form: TextForm) -> SourceFormat | None:
        if self._source.count is not None:
            return drawn_format(self._source.count)
        if self._source.run:
            assert self._upstream is not None, "whoever reads the rows of a run brings the run"
            from_job = _from_folder(self._source.path, str(self._job.folder))
            return run_format(
                self._upstream,
                shown=from_job if PurePath(self._shown).is_absolute() else self._shown,
                pictures_in=f"{from_job}/",
                with_scores=self._templates.uses_scores,
            )
        is_templated = self._templates.prompt is not None or bool(self._templates.messages)
        return await format_of(self._source.path, is_templated=is_templated, form=form)

    def _batches(self, kind: SourceFormat, form: TextForm) -> AsyncGenerator[Batch]:
        read = partial(kind.read, self._source.path, form)
        if not RowStages.has_any(self._source):
            return read()
        return RowStages(self._source, self._templates, self._findings.left_out).rows(read)

    def _prompts(self, rows: Sequence[SourceRow | BadRow], kind: SourceFormat) -> Prompts:
        is_plain = self._first is not None and not (
            self._missing or kind.unshown or kind.path_column or self._templates.images or self._templates.files
        )
        plain = rows if is_plain and isinstance(rows, Stretch) else None
        return Prompts(partial(self._good, rows, kind), plain, kind.prompt_column)

    def _good(self, rows: Sequence[SourceRow | BadRow], kind: SourceFormat) -> Iterator[PromptRow]:
        for row in rows:
            self._read += 1
            is_plain = not isinstance(row, BadRow) and row.asked is None and not self._missing
            if not (is_plain and self._first is not None) and not self._is_good(row, kind):
                continue
            assert isinstance(row, SourceRow), "a bad one is not good"
            yield self._prompt_row(row, kind)

    def _is_good(self, row: SourceRow | BadRow, kind: SourceFormat) -> bool:
        """What is wrong with the row, or with the names that rows were to bring, goes to `findings`."""
        if isinstance(row, BadRow):
            self._bad(row, row.problem, key=row.key, expected=row.expected, hint=row.hint)
            return False
        if self._missing:
            self._missing.difference_update(named(row.values))
        if self._first is None:
            self._first = row
            if self._missing and kind.same_columns:
                self._report_missing()
        if self._missing and kind.same_columns:
            return False
        if row.asked is not None and (misfit := _misfit(row.asked, self._job)) is not None:
            self._bad(row, misfit.problem, key=misfit.key, expected=misfit.expected, hint=misfit.hint)
            return False
        return True

    def _prompt_row(self, row: SourceRow, kind: SourceFormat) -> PromptRow:
        values = row.values
        if kind.path_column is not None and kind.path_column in values:
            values = {**values, kind.path_column: f"{self._shown}/{values[kind.path_column]}"}
        return PromptRow(
            row.number,
            self._shown + row.where if row.where else self._shown,
            row.line,
            values,
            self._templates.prompt,
            self._templates.images,
            _NONE if row.asked is None else row.asked.params,
            None,
            kind.prompt_column if kind.prompt_column in values else None,
            kind.unshown | self._unshown if self._unshown and _is_large(values) else kind.unshown,
            row.asked,
            row.origin,
        )

    def _bad(self, row: SourceRow | BadRow, problem: str, **more: str | None) -> None:
        self._findings.bad_row(Mistake(problem=problem, file=self._shown + row.where, line=row.line, **more))

    def _finish(self, kind: SourceFormat) -> None:
        if not self._read:
            left_out = [
                f"{number:,} {LEFT_OUT_WORDS[key]}" for key, number in self._findings.left_out.items() if number
            ]
            problem = f"has no rows but {', '.join(left_out)}" if left_out else "has no rows"
            self._report(problem, hint=EMPTY_JOB)
        elif self._missing and self._first is not None and not kind.same_columns:
            self._report_missing()

    def _report_missing(self) -> None:
        columns = named(self._first.values if self._first else {})
        known = [*columns, *sorted(self._templates.variables - columns.keys())]
        _report_missing(sorted(self._missing), known, self._job, self._templates, self._findings)

    def _report(self, problem: str, *, line: int | None = None, hint: str | None = None) -> None:
        self._findings.mistake(Mistake(problem=problem, file=self._source.shown, line=line, hint=hint))

    def _unknown_kind(self) -> Mistake:
        ending = PurePath(self._source.path).suffix
        return Mistake(
            problem=f"cannot read prompts from `{ending}` files"
            if ending
            else "cannot read prompts from it: no ending",
            file=self._source.shown,
            key="prompts.file",
            expected=f"a file that ends in {', '.join(kind for kind in SOURCES if kind.startswith('.'))}, or {FOLDER}",
        )


def _is_large(values: dict[str, Json]) -> bool:
    """Whether a row has what `vars` has in other names already, or what is too much for it."""
    return isinstance(values.get(ITEM), dict) or ROWS in values


def _from_folder(path: str, folder: str) -> str:
    """The path as it is named from that folder: no path of this machine belongs into rows."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))


def _misfit(asked: BatchRequest, job: Job) -> Mistake | None:
    """What keeps a ready request from being sent by this job."""
    dialect = job.provider.dialect
    if dialect not in asked.dialects:
        return Mistake(
            problem=f"the request is for {asked.url}, which this job's dialect {dialect} does not have",
            key="url",
            hint=f"send it with the dialect {' or '.join(asked.dialects)}",
        )
    if asked.model is not None and asked.model not in job.first_models:
        return Mistake(
            problem=f"the request is for the model `{asked.model[:100]}`, which the job does not name",
            key="body.model",
            expected=", ".join(f"`{model}`" for model in job.first_models),
            hint="name it in `models`, or take `model` out of the file's bodies to let the job choose",
        )
    models = job.models if asked.model is None else (asked.model,)
    if dialect == "modelscope-images":
        for model in models:
            for key, problem, expected in params_mistakes(model, asked.params):
                return Mistake(problem=problem, key=f"body.{key}", expected=expected)
    return None
