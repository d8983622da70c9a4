"""`.txt`: one prompt per line, in the column `line`; blank lines are nothing."""

from batchrunner.core.job import Json
from batchrunner.prompts.sources.lines import rows_by_line, text_of
from batchrunner.prompts.sources.row import Rows

COLUMN = "line"


def read_text(path: str) -> Rows:
    """A row for every line that is not blank."""
    return rows_by_line(path, _values)


def _values(raw: bytes | None) -> dict[str, Json]:
    return {COLUMN: text_of(raw)}
