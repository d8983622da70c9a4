"""`control/cancelled.jsonl`: which batches and tasks a server agreed to end, a line each: `{"id": …, "at": …}`.

Only `cancel` reads it, so as not to ask twice, and no run; hence not with the commands to runs, in the same folder.
What became of them the next run learns from the server.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from batchrunner.stores.control_folder import CONTROL
from batchrunner.stores.files import DISK, PRIVATE_FILE, PRIVATE_FOLDER, Files, write_all

NAME = "cancelled.jsonl"
_MOST_BYTES = 64 << 20


def read_cancelled(folder: Path, *, files: Files = DISK) -> dict[str, str]:
    """The server's id -> when it agreed, such as `2026-11-28T12:00:00Z`. What cannot be read says nothing. Blocks."""
    try:
        descriptor = files.open_read(folder / CONTROL / NAME)
        try:
            text = files.read_at(descriptor, _MOST_BYTES, 0)
        finally:
            files.close(descriptor)
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and isinstance(said.get("id"), str) and isinstance(said.get("at"), str):
            found[said["id"]] = said["at"]
    return found


def note_cancelled(folder: Path, name: str, *, at: float, files: Files = DISK) -> None:
    """Add a line, durable when this returns. Blocks. Raises OSError."""
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files.make_folder(folder / CONTROL, PRIVATE_FOLDER)
    descriptor = files.open_append(folder / CONTROL / NAME, PRIVATE_FILE)
    try:
        write_all(files, descriptor, b"\n" + json.dumps({"id": name, "at": when}).encode() + b"\n")
        files.fsync(descriptor)
    finally:
        files.close(descriptor)
    files.fsync_folder(folder / CONTROL)
