"""Rows for exporters without a run behind them, and ways to read what they made."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from batchrunner.core.exports import ExportOptions, ExportRow, FilePieces, Outcome, Split
from batchrunner.core.job import Json
from batchrunner.exporters import EXPORTERS
from batchrunner.report.wording import printable

KEY = "c6214d424be62253175f25b0dad2c233"
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
"""Anything that a row on disk can hold."""


@dataclass
class Rows:
    """A `Shapable` in memory."""

    given: list[ExportRow]
    name: str = "job"
    pictures: dict[str, bytes] = field(default_factory=dict)
    options: ExportOptions = field(default_factory=ExportOptions)
    job: dict[str, Json] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    simulated: bool = True

    @property
    def count(self) -> int:
        return len(self.given)

    def rows(self) -> Iterator[ExportRow]:
        return iter(self.given)

    def all_rows(self) -> Iterator[ExportRow]:
        return iter(self.given)

    def row(self, number: int) -> ExportRow:
        return self.given[number]

    def caption(self, row: ExportRow, sha256: str) -> str | None:
        return str(row.fields.get("prompt"))

    def wrote(self) -> None:
        self.samples += 1

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] += 1

    def picture(self, path: str, sha256: str) -> bytes | None:
        del sha256
        return self.pictures.get(path)

    def file(self, path: str, sha256: str) -> FilePieces | None:
        content = self.picture(path, sha256)
        return None if content is None else FilePieces(len(content), (content[:1], content[1:]))

    def printable(self, line: str) -> str:
        return printable(line)

    def link(self, path: str) -> str:
        return f"../{path}"


def made(shape: str, *rows: ExportRow, name: str = "job", pictures: dict[str, bytes] | None = None) -> bytes:
    """The whole file."""
    return written(shape, Rows(list(rows), name=name, pictures=pictures or {}))


def written(shape: str, run: Rows) -> bytes:
    """As `made`, of a run that the caller keeps; of a folder all files together."""
    shown = EXPORTERS[shape]
    if shown.write is not None:
        return b"".join(shown.write(run))
    assert shown.write_folder is not None
    return b"".join(part.content for part in shown.write_folder([Split(name=None, run=run)]))


def row(fields: dict[str, Any], *, outcome: Outcome = "done") -> ExportRow:
    return ExportRow(line=json.dumps(fields, ensure_ascii=False).encode(), fields=fields, outcome=outcome)


def chat_row(text: str = "an answer", **fields: Any) -> ExportRow:
    """As a chat run writes it; `output` replaces parts of the output."""
    output = {"text": text, "reasoning": None, "tool_calls": None, "parsed": None, "finish_reason": "stop"}
    output |= {"truncated": False, "flags": []} | fields.pop("output", {})
    head = {"id": "a", "prompt_id": "a", "index": 1, "model": "m", "prompt": "a question", "vars": {}, "params": {}}
    tail = {"task_id": None, "usage": {"input_tokens": 3, "output_tokens": 2}, "attempts": 1, "ambiguous": 0}
    end = {"recovered": False, "started_at": "2026-11-22T21:14:03.120Z", "seconds": 1.5, "key": KEY}
    return row(head | {"output": output} | tail | end | fields)


def picture_row(*pictures: tuple[str, bytes], **fields: Any) -> ExportRow:
    """As an image run writes it."""
    shown = [
        {
            "path": path,
            "sha256": hashlib.sha256(content).hexdigest(),
            "width": 8,
            "height": 8,
            "format": "JPEG" if path.endswith("jpg") else "PNG",
            "bytes": len(content),
        }
        for path, content in pictures
    ]
    return row({**chat_row().fields, "output": {"images": shown}, "usage": None, **fields})


def failed_row(message: str = "no such thing", *, status: int | None = 400, **fields: Any) -> ExportRow:
    """As it stands in `failures.jsonl`."""
    error = {"class": "bad_request", "message": message, "status": status, "code": "c1", "request_id": "r-1"}
    left = {name: value for name, value in chat_row().fields.items() if name not in {"output", "usage", "seconds"}}
    return row({**left, "error": error, **fields}, outcome="failed")
