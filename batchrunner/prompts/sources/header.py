"""The first line of a table: the names of its columns."""

from collections import Counter

from batchrunner.prompts.sources.row import BadSourceError


def column_names(cells: list[str]) -> tuple[str, ...]:
    """The names, stripped; one that is empty (as of an unnamed index) becomes `column_N`.

    Raises:
        BadSourceError: a name stands twice.
    """
    names = tuple(cell.strip() or f"column_{place}" for place, cell in enumerate(cells, 1))
    twice = [f"`{name}`" for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BadSourceError(f"the header names {', '.join(twice)} more than once", hint="rename one of the columns")
    return names


def wrong_width(found: int, names: tuple[str, ...]) -> str:
    """What to say of a row that does not fit its header."""
    return f"the row has {found} columns, the header has {len(names)} ({', '.join(names)})"
