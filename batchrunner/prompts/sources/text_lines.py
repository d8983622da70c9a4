"""`.txt`: one prompt per line, in the column `line`; blank lines are nothing."""

from collections.abc import Sequence

from batchrunner.core.job import Json
from batchrunner.prompts.sources.lines import rows_by_line, text_of, texts_of
from batchrunner.prompts.sources.row import PLAIN, Form, Rows

COLUMN = "line"


def read_text(path: str, form: Form = PLAIN) -> Rows:
    """A row for every line that is not blank."""
    return rows_by_line(path, _Texts(form), form)


class _Texts:
    def __init__(self, form: Form) -> None:
        self._form = form

    def one(self, raw: bytes | None) -> dict[str, Json] | None:
        return {COLUMN: text_of(raw, self._form)}

    def many(self, lines: Sequence[bytes]) -> list[dict[str, Json]] | None:
        texts = texts_of(lines)
        return None if texts is None else [{COLUMN: text} for text in texts]
