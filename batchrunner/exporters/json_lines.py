"""`jsonl`: the rows as they stand on disk, byte for byte, in the job's order."""

from collections.abc import Iterator

from batchrunner.core.status import Shapable


def json_lines(run: Shapable) -> Iterator[bytes]:
    """A line for each row."""
    for row in run.rows():
        yield row.line + b"\n"
