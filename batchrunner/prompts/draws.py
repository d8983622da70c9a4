"""Values that are drawn at random for a row, the same ones in every pass: by seed, name and the row's content.

Where more rows are added, those before them keep their values. Where a pool changes, every row may get others.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

from batchrunner.core.job import Draw, Json
from batchrunner.prompts.sources import SOURCES, kind_of
from batchrunner.prompts.sources.base import (
    BATCH_ROWS,
    PLAIN,
    BadRow,
    BadSourceError,
    Batch,
    SourceFormat,
    SourceRow,
    TextForm,
)

_MOST_VALUES: Final = 1_000_000
"""Of a pool, which is kept in memory."""


def drawn_format(count: int) -> SourceFormat:
    """Rows without columns of their own, to be filled by drawing."""

    def read(_path: str, _form: TextForm = PLAIN, /) -> Iterator[Batch]:
        for begin in range(0, count, BATCH_ROWS):
            numbers = range(begin + 1, min(begin + BATCH_ROWS, count) + 1)
            yield [SourceRow(number, None, {}, f", row {number}") for number in numbers]

    return SourceFormat(blocking_read=read, same_columns=True)


class Pools:
    """The values that each name is drawn from."""

    def __init__(self, draws: Sequence[Draw], seed: int) -> None:
        """Read the files among them. Blocks.

        Raises:
            BadSourceError: a file cannot be read, has no rows, or fewer than are drawn at a time.
        """
        self._seed = seed
        self._pools = [(draw, list(draw.values) if draw.path is None else _read(draw)) for draw in draws]
        for draw, values in self._pools:
            if draw.size is not None and len(values) < draw.size:
                raise BadSourceError(f"`draw.{draw.name}` draws {draw.size} of {len(values)} values")

    def __repr__(self) -> str:
        return f"<Pools {', '.join(f'{draw.name}: {len(values)}' for draw, values in self._pools)}>"

    def drawn(self, of_whom: Json) -> dict[str, Json]:
        """A value for each name; for those with a size, a list of so many different ones."""
        found: dict[str, Json] = {}
        for draw, values in self._pools:
            if draw.size is None:
                found[draw.name] = values[self._number(draw.name, of_whom, 0) % len(values)]
                continue
            # Floyd's way to choose k of n different places without a list of all of them.
            chosen: list[int] = []
            for step, last in enumerate(range(len(values) - draw.size, len(values))):
                place = self._number(draw.name, of_whom, step) % (last + 1)
                chosen.append(last if place in chosen else place)
            found[draw.name] = [values[place] for place in chosen]
        return found

    def _number(self, name: str, of_whom: Json, step: int) -> int:
        text = f"{self._seed}\x1f{name}\x1f{step}\x1f{of_whom!r}"
        return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _read(draw: Draw) -> list[Json]:
    """The rows of a file: of one column, or of all of them where a row has more than one."""
    path, key = draw.path or "", f"`draw.{draw.name}`"
    kind = SOURCES.get(kind_of(path, is_templated=True))
    if kind is None:
        raise BadSourceError(f"{key} cannot draw from {draw.shown}", hint="a .txt, .csv, .tsv, .jsonl or .parquet file")
    values: list[Json] = []
    try:
        for batch in kind.blocking_read(path):
            values += [_value(row, draw, key) for row in batch]
            if len(values) > _MOST_VALUES:
                break
    except OSError as error:
        raise BadSourceError(f"{key}: {draw.shown} cannot be read: {error.strerror or error}") from error
    except BadSourceError as error:
        raise BadSourceError(f"{key}: {draw.shown}: {error.problem}", hint=error.hint) from error
    if len(values) > _MOST_VALUES:
        raise BadSourceError(f"{key}: {draw.shown} has more than {_MOST_VALUES:,} rows")
    if not values:
        raise BadSourceError(f"{key}: {draw.shown} has no rows")
    return values


def _value(row: SourceRow | BadRow, draw: Draw, key: str) -> Json:
    if isinstance(row, BadRow):
        raise BadSourceError(f"{key}: row {row.number} of {draw.shown}: {row.problem}", hint=row.hint)
    if draw.column is None:
        return next(iter(row.values.values())) if len(row.values) == 1 else row.values
    if draw.column not in row.values:
        columns = ", ".join(f"`{name}`" for name in row.values)
        raise BadSourceError(f"{key}: row {row.number} of {draw.shown} has no column `{draw.column}`, only {columns}")
    return row.values[draw.column]
