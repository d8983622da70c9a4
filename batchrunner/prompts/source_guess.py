"""What a file of prompts seems to hold, for `init --from`: which column is the prompt, which one the id."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass
from batchrunner.prompts.sources import format_of
from batchrunner.prompts.sources.base import BadSourceError, SourceRow, TextForm
from batchrunner.prompts.sources.opening import opened
from batchrunner.prompts.templates import variable_of

_ROWS: Final = 200
_PROMPTS: Final = (
    *("prompt", "question", "instruction", "query", "input", "text", "caption", "problem", "message", "content"),
    *("description", "title", "goal", "sentence", "line"),
)
_IDS: Final = (
    "id",
    "uid",
    "key",
    "item_id",
    "prompt_id",
    "question_id",
    "custom_id",
    "idx",
    "index",
    "nr",
    "no",
    "name",
)
_DELIMITERS: Final = ",;\t|"
_ID_CHARS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGuess:
    """Keys of `prompts:` for a file."""

    columns: tuple[str, ...]
    template: str | None
    """None where the file says by itself what to send."""
    id: str | None
    delimiter: str | None = None
    """Of a .csv that does not use commas."""


async def guess_source(path: str) -> SourceGuess:
    """Look at the first rows of a file or folder.

    Raises:
        JobMistakesError: it is none that can be read, or has no row.
    """
    delimiter = _delimiter_of(path)
    form = TextForm(delimiter=delimiter) if delimiter is not None else TextForm()
    try:
        found = await format_of(path, is_templated=False, form=form)
    except OSError as error:
        raise _mistake(path, f"cannot be read: {error.strerror or error}") from None
    if found is None:
        raise _mistake(path, "is not a file or folder of prompts")
    rows: list[SourceRow] = []
    try:
        async with aclosing(found.read(path, form)) as batches:
            async for batch in batches:
                rows += [row for row in batch if isinstance(row, SourceRow)][: _ROWS - len(rows)]
                if len(rows) >= _ROWS:
                    break
    except BadSourceError as error:
        raise _mistake(path, str(error)) from None
    if not rows:
        raise _mistake(path, "has no row")
    if rows[0].asked is not None or found.prompt_column is not None:  # ready requests, or a folder
        return SourceGuess(columns=tuple(rows[0].values), template=None, id=None)
    columns = tuple(dict.fromkeys(name for row in rows for name in row.values))
    prompt = _prompt_of(columns, rows)
    identity = _id_of(columns, rows, but=prompt)
    return SourceGuess(
        columns=columns,
        template=f"{{{{ {variable_of(prompt)} }}}}",
        id=f"{{{{ {variable_of(identity)} }}}}" if identity is not None else None,
        delimiter=delimiter,
    )


def _prompt_of(columns: tuple[str, ...], rows: list[SourceRow]) -> str:
    """The column with the likeliest name, else the one with the longest texts."""
    low = {name.strip().lower(): name for name in reversed(columns)}
    for likely in _PROMPTS:
        if likely in low:
            return low[likely]
    return max(columns, key=lambda name: sum(len(str(row.values.get(name) or "")) for row in rows))


def _id_of(columns: tuple[str, ...], rows: list[SourceRow], *, but: str) -> str | None:
    """The first column with the name of an id whose values are all there, short, and different."""
    low = {name.strip().lower(): name for name in reversed(columns)}
    for likely in _IDS:
        name = low.get(likely)
        if name is not None and name != but and _are_ids([row.values for row in rows], name):
            return name
    return None


def _are_ids(rows: list[Mapping[str, Json]] | list[dict[str, Json]], name: str) -> bool:
    values = [str(value) for row in rows if (value := row.get(name)) not in (None, "")]
    return len(values) == len(rows) == len(set(values)) and all(len(value) <= _ID_CHARS for value in values)


def _delimiter_of(path: str) -> str | None:
    """Of a .csv: what its first line has most of, where that is no comma."""
    if not path.lower().endswith(".csv"):
        return None
    try:
        with opened(path) as file:
            first = file.readline(1 << 16).decode("utf-8", "replace")
    except (OSError, BadSourceError):
        return None
    most = max(_DELIMITERS, key=first.count)
    return most if most != "," and first.count(most) else None


def _mistake(path: str, problem: str) -> JobMistakesError:
    expected = "a .txt, .csv, .tsv, .jsonl or .parquet file, or a folder of texts or pictures"
    return JobMistakesError((Mistake(file=path, problem=problem, expected=expected),))
