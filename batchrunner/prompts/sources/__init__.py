"""Prompt files, one module for each kind; the table lists what exists, by its ending in lower case or by what it is."""

import asyncio
from pathlib import Path, PurePath

from batchrunner.core.places import address_without_query, is_remote
from batchrunner.prompts.sources.base import PLAIN, SourceFormat, TextForm
from batchrunner.prompts.sources.comma_separated import read_comma_separated
from batchrunner.prompts.sources.folder import FILE, TEXT, read_folder
from batchrunner.prompts.sources.openai_batch import CUSTOM_ID, is_openai_batch, read_openai_batch
from batchrunner.prompts.sources.opening import is_folder
from batchrunner.prompts.sources.parquet import read_parquet
from batchrunner.prompts.sources.text_files import COLUMN, read_json_lines, read_tab_separated, read_text

FOLDER = "a folder"
OPENAI_BATCH = "an OpenAI batch file"

SOURCES: dict[str, SourceFormat] = {
    ".txt": SourceFormat(blocking_read=read_text, same_columns=True, prompt_column=COLUMN),
    ".csv": SourceFormat(blocking_read=read_comma_separated, same_columns=True),
    ".tsv": SourceFormat(blocking_read=read_tab_separated, same_columns=True),
    ".jsonl": SourceFormat(blocking_read=read_json_lines, same_columns=False),
    ".parquet": SourceFormat(blocking_read=read_parquet, same_columns=True),
    FOLDER: SourceFormat(
        blocking_read=read_folder,
        same_columns=False,
        prompt_column=TEXT,
        path_column=FILE,
        unshown=frozenset({FILE, TEXT}),
    ),
    OPENAI_BATCH: SourceFormat(blocking_read=read_openai_batch, same_columns=False, unshown=frozenset({CUSTOM_ID})),
}


async def format_of(path: str, *, is_templated: bool, form: TextForm = PLAIN) -> SourceFormat | None:
    """The kind of source that stands at the path, None if it is none that can be read.

    A `.jsonl` of ready requests is a batch file only where no template says what to make of its rows.
    """
    return SOURCES.get(await asyncio.to_thread(kind_of, path, is_templated, form))


def kind_of(path: str, is_templated: bool, form: TextForm = PLAIN) -> str:  # noqa: FBT001 - `to_thread` passes it on
    """The name in `SOURCES` of what stands at the path. Blocks."""
    ending = PurePath(address_without_query(path)).suffix.lower()
    if is_remote(path):
        is_one = path.endswith("/") or (ending not in SOURCES and is_folder(path))
    else:
        try:
            is_one = Path(path).is_dir()
        except (OSError, ValueError):
            is_one = False
    if is_one:
        return FOLDER
    return OPENAI_BATCH if ending == ".jsonl" and not is_templated and is_openai_batch(path, form) else ending
