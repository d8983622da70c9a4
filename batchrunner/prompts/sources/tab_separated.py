"""`.tsv`: a header, then a row per line, cut at tabs. There is no quoting: a quote is a quote.

A row may leave out trailing columns, which are then empty; one with more columns than the header is bad.
"""

from collections.abc import Sequence

from batchrunner.core.job import Json
from batchrunner.prompts.sources.header import column_names, wrong_width
from batchrunner.prompts.sources.lines import rows_by_line, text_of, texts_of
from batchrunner.prompts.sources.row import PLAIN, BadRowError, BadSourceError, Form, Rows


def read_tab_separated(path: str, form: Form = PLAIN) -> Rows:
    """A row for every line after the header that is not blank."""
    return rows_by_line(path, _Table(form), form)


class _Table:
    """Remembers the header. The first line that is not blank is it."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._names: tuple[str, ...] = ()

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        if not self._names:
            self._names = _header(raw, self._form)
            return None
        cells = text_of(raw, self._form).split("\t")
        missing = len(self._names) - len(cells)
        if missing < 0:
            raise BadRowError(wrong_width(len(cells), self._names))
        return dict(zip(self._names, cells + [""] * missing, strict=True))

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        texts = texts_of(lines) if self._names else None
        if texts is None:
            return None
        try:
            return [dict(zip(self._names, text.split("\t"), strict=True)) for text in texts]
        except ValueError:  # a row with more or fewer columns
            return None


def _header(raw: bytes | None, form: Form) -> tuple[str, ...]:
    try:
        return column_names(text_of(raw, form).split("\t"))
    except BadRowError as error:
        raise BadSourceError(f"the header: {error}", hint=error.hint) from error
