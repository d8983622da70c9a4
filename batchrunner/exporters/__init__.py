"""The shapes that results leave in: rows in, pieces of a file out. Pure, and streamed.

A format is a function from a `Shapable` to pieces of bytes, in a file of its own with a line in `EXPORTERS`. Refuses to
open anything: rows and pictures are handed in, and whoever asked for the pieces writes them.
"""

from batchrunner.core.status import ExportFormat
from batchrunner.exporters.comma_separated import comma_separated
from batchrunner.exporters.json_lines import json_lines
from batchrunner.exporters.markdown import markdown
from batchrunner.exporters.openai_batch import openai_batch
from batchrunner.exporters.parquet import parquet
from batchrunner.exporters.webdataset import webdataset

EXPORTERS: dict[str, ExportFormat] = {
    "jsonl": ExportFormat(write=json_lines, ending=".jsonl", is_text=True),
    "csv": ExportFormat(write=comma_separated, ending=".csv", is_text=True),
    "parquet": ExportFormat(write=parquet, ending=".parquet", is_text=False, needs="pyarrow"),
    "markdown": ExportFormat(write=markdown, ending=".md", is_text=True),
    "openai-batch": ExportFormat(write=openai_batch, ending=".batch.jsonl", is_text=True),
    "webdataset": ExportFormat(write=webdataset, ending=".tar", is_text=False),
}
"""Every format by the name that `--to` takes."""
