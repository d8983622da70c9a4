"""The shapes that results leave in: rows in, pieces of files out. Pure, and streamed.

A format is a function from a `Shapable` to pieces of bytes, or from splits of one to parts of files, with a line in
`EXPORTERS`. Refuses to open anything: rows and pictures are passed in, and the caller writes the pieces.
"""

from batchrunner.core.exports import ExportFormat
from batchrunner.exporters.arrow_tables import parquet
from batchrunner.exporters.contact_sheet import contact_sheets
from batchrunner.exporters.conversations import alpaca, messages, preference, sharegpt
from batchrunner.exporters.hub_dataset import hub_dataset
from batchrunner.exporters.picture_folders import captions, imagefolder, webdataset, webdataset_shards
from batchrunner.exporters.record_formats import json_lines, markdown, openai_batch
from batchrunner.exporters.tables import comma_separated
from batchrunner.exporters.vector_files import npy
from batchrunner.exporters.workbook import workbook

EXPORTERS: dict[str, ExportFormat] = {
    "jsonl": ExportFormat(write=json_lines, ending=".jsonl", is_text=True),
    "csv": ExportFormat(write=comma_separated, ending=".csv", is_text=True),
    "parquet": ExportFormat(write=parquet, ending=".parquet", needs="pyarrow"),
    "npy": ExportFormat(write=npy, ending=".npy", counts_samples=True),
    "hf": ExportFormat(write_folder=hub_dataset, needs="pyarrow"),
    "imagefolder": ExportFormat(write_folder=imagefolder, counts_samples=True),
    "captions": ExportFormat(write_folder=captions, counts_samples=True),
    "messages": ExportFormat(write=messages, ending=".messages.jsonl", is_text=True, counts_samples=True),
    "sharegpt": ExportFormat(write=sharegpt, ending=".sharegpt.jsonl", is_text=True, counts_samples=True),
    "alpaca": ExportFormat(write=alpaca, ending=".alpaca.jsonl", is_text=True, counts_samples=True),
    "preference": ExportFormat(write=preference, ending=".preference.jsonl", is_text=True, counts_samples=True),
    "xlsx": ExportFormat(write=workbook, ending=".xlsx", needs="openpyxl", counts_samples=True),
    "sheet": ExportFormat(write_folder=contact_sheets, counts_samples=True),
    "markdown": ExportFormat(write=markdown, ending=".md", is_text=True),
    "openai-batch": ExportFormat(write=openai_batch, ending=".batch.jsonl", is_text=True),
    "webdataset": ExportFormat(write=webdataset, write_folder=webdataset_shards, ending=".tar"),
}
"""Every format by the name that `--to` takes."""
