"""Prompt files, one module for each kind; this table lists what exists, by the file's ending in lower case."""

from batchrunner.prompts.sources.comma_separated import read_comma_separated
from batchrunner.prompts.sources.json_lines import read_json_lines
from batchrunner.prompts.sources.row import Format
from batchrunner.prompts.sources.tab_separated import read_tab_separated
from batchrunner.prompts.sources.text_lines import COLUMN, read_text

SOURCES: dict[str, Format] = {
    ".txt": Format(read=read_text, same_columns=True, prompt_column=COLUMN),
    ".csv": Format(read=read_comma_separated, same_columns=True),
    ".tsv": Format(read=read_tab_separated, same_columns=True),
    ".jsonl": Format(read=read_json_lines, same_columns=False),
}
