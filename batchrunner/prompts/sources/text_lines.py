"""`.txt`: one prompt per line, in the column `line`; blank lines are nothing."""

from batchrunner.core.job import Json
from batchrunner.prompts.sources.lines import rows_by_line, text_of
from batchrunner.prompts.sources.row import PLAIN, Form, Rows

COLUMN = "line"


def read_text(path: str, form: Form = PLAIN) -> Rows:
    """A row for every line that is not blank."""

    def values(raw: bytes | None) -> dict[str, Json]:
        return {COLUMN: text_of(raw, form)}

    return rows_by_line(path, values, form)
