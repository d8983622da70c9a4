"""`.tsv`: a header, then a row per line, cut at tabs. There is no quoting: a quote is a quote.

A row may leave out trailing columns, which are then empty; one with more columns than the header is bad.
"""

from batchrunner.core.job import Json
from batchrunner.prompts.sources.header import column_names, wrong_width
from batchrunner.prompts.sources.lines import rows_by_line, text_of
from batchrunner.prompts.sources.row import BadRowError, BadSourceError, Rows


def read_tab_separated(path: str) -> Rows:
    """A row for every line after the header that is not blank."""
    return rows_by_line(path, _Table().values)


class _Table:
    """Remembers the header. The first line that is not blank is it."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()

    def values(self, raw: bytes | None) -> dict[str, Json] | None:
        if not self._names:
            self._names = _header(raw)
            return None
        cells = text_of(raw).split("\t")
        missing = len(self._names) - len(cells)
        if missing < 0:
            raise BadRowError(wrong_width(len(cells), self._names))
        return dict(zip(self._names, cells + [""] * missing, strict=True))


def _header(raw: bytes | None) -> tuple[str, ...]:
    try:
        return column_names(text_of(raw).split("\t"))
    except BadRowError as error:
        raise BadSourceError(f"the header: {error}") from error
