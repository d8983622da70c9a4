"""The shapes that results leave in: rows in, pieces of a file out. Pure, and streamed.

A format is a function from a `Shapable` to pieces of bytes, in a file of its own with a line in `EXPORTERS`. Refuses to
open anything: rows and pictures are passed in, and the caller writes the pieces.
"""

from batchrunner.core.exports import ExportFormat
from batchrunner.exporters.record_formats import json_lines, markdown, openai_batch, webdataset
from batchrunner.exporters.tables import comma_separated, parquet

EXPORTERS: dict[str, ExportFormat] = {
    "jsonl": ExportFormat(write=json_lines, ending=".jsonl", is_text=True),
    "csv": ExportFormat(write=comma_separated, ending=".csv", is_text=True),
    "parquet": ExportFormat(write=parquet, ending=".parquet", is_text=False, needs="pyarrow"),
    "markdown": ExportFormat(write=markdown, ending=".md", is_text=True),
    "openai-batch": ExportFormat(write=openai_batch, ending=".batch.jsonl", is_text=True),
    "webdataset": ExportFormat(write=webdataset, ending=".tar", is_text=False),
}
"""Every format by the name that `--to` takes."""
