"""`README.md` of a run's directory: a dataset card, so that `datasets.load_dataset(DIR)` finds rows or pictures.

Without one, `datasets` guesses: it takes answers in files of their own for something else, and pictures without their
prompts. A run of pictures also gets `metadata.jsonl`, which says which prompt belongs to which picture. Neither has a
path of this machine. A README.md that somebody else wrote is left alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchrunner.core.job import Json
from batchrunner.stores.files import DISK, RESULTS, SHARED_FILE, broken, write_pieces, write_whole
from batchrunner.stores.images import FOLDER
from batchrunner.stores.row_codec import iter_results
from batchrunner.stores.run_file import RunFile, run_file_or_refuse

CARD: Final = "README.md"
PICTURE_LIST: Final = "metadata.jsonl"
MARKER: Final = "# Written by batchrunner at the end of each run. Remove this line to keep your own version."
"""The first line inside of the front matter, which has to begin with the file itself."""
_BEGINNING: Final = f"---\n{MARKER}\n".encode()
_FORMATS: Final = frozenset({"PNG", "JPEG", "WEBP", "GIF"})
_PATHS: Final = {"chat": (RESULTS,), "image": (PICTURE_LIST, f"{FOLDER}/*")}


def write_card(folder: Path) -> None:
    """Write the card of a run that has rows. Raises WrongDirectoryError, StoreBrokenError."""
    run = run_file_or_refuse(folder)
    kind = "image" if run.job.get("kind") == "image" else "chat"
    try:
        if not _is_ours(folder / CARD) or not DISK.exists(folder / RESULTS):
            return
        if kind == "image" and not write_pieces(DISK, folder / PICTURE_LIST, _picture_list(folder), SHARED_FILE):
            DISK.unlink(folder / PICTURE_LIST)
            return
        write_whole(DISK, folder / CARD, _card(run, kind).encode("utf-8", "replace"), SHARED_FILE)
    except OSError as error:
        raise broken(folder / CARD, error, sending=False) from error


def _is_ours(path: Path) -> bool:
    if not DISK.exists(path):
        return True
    try:
        descriptor = DISK.open_read(path)
    except OSError:  # a link, a folder
        return False
    try:
        return DISK.read_at(descriptor, len(_BEGINNING), 0) == _BEGINNING
    finally:
        DISK.close(descriptor)


def _card(run: RunFile, kind: str) -> str:
    name = " ".join(run.job_name.split())
    models = run.job.get("models")
    listed = [" ".join(str(model).split()) for model in models] if isinstance(models, list) else []
    paths = "".join(f"    - {json.dumps(path)}\n" for path in _PATHS[kind])
    what = (
        "Each row of `metadata.jsonl` is a picture in `images/` with its prompt."
        if kind == "image"
        else "Each row of `results.jsonl` is an answer with its prompt."
    )
    shown = f"{_plain(name)} (simulated)" if run.simulated else _plain(name)
    return (
        f"{_BEGINNING.decode()}pretty_name: {json.dumps(name)}\n"
        f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path:\n{paths}---\n\n"
        f"# {shown}\n\n{what} Models: {', '.join(map(_plain, listed)) or 'none'}.\n\n"
        "```python\nimport datasets\n\n"
        'rows = datasets.load_dataset("PATH OF THIS FOLDER", split="train")\n```\n\n'
        "`report.html` shows the answers, and `run.json` has the job. Made with batchrunner.\n"
    )


def _plain(text: str) -> str:
    """Text that is no Markdown."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>#|&" else char for char in text)


def _picture_list(folder: Path) -> Iterator[bytes]:
    for row in iter_results(folder):
        output = row.get("output")
        pictures = output.get("images") if isinstance(output, dict) else None
        for picture in pictures if isinstance(pictures, list) else []:
            if isinstance(picture, dict) and picture.get("format") in _FORMATS:
                yield _picture_line(row, picture)


def _picture_line(row: dict[str, Json], picture: dict[str, Json]) -> bytes:
    """`params` as text: its values may have other types in other rows, which a dataset's columns may not."""
    params = row.get("params")
    told = {
        "file_name": str(picture.get("path")),
        "prompt": str(row.get("prompt")),
        "id": str(row.get("id")),
        "model": str(row.get("model")),
        "params": json.dumps(params if isinstance(params, dict) else {}, ensure_ascii=False, sort_keys=True),
    }
    return json.dumps(told).encode() + b"\n"
