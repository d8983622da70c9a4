"""The rows of a run's files."""

import json
from pathlib import Path
from typing import Any


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file, every one whole; none where there is no such file."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    assert text == "" or text.endswith("\n"), f"{path.name} ends in the middle of a line"
    return [json.loads(line) for line in text.splitlines()]


def json_lines_so_far(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file that a living process writes to; the last one may still be on its way."""
    written = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in written.split(b"\n")[:-1]]
