"""`run --log-json`: everything that a run says, as one JSON object a line on stderr, for collectors of logs.

A run's steps are its ledger's records, read back from the file, in the ledger's words; what a person would be told is
`message`, and a job's end is `ended`. No prompt, answer or key is in a line, nor what may quote one: an item is known
by its key, not by its id, and a problem by its kind, not by the server's words.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from batchrunner.cli.output import messages_as_json, print_json_line
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import Status
from batchrunner.report.wording import jsonable
from batchrunner.stores.ledger_line import LEDGER, segment_numbers, segment_path

_LOOK_EVERY_S: Final = 1.0
_MOST_AT_ONCE: Final = 1 << 20
"""Bytes of the ledger that are read at a time: the loop has other things to do."""
_NAMES: Final[Mapping[str, str]] = {"k": "key", "n": "send", "a": "attempt", "b": "batch"} | {
    name: name
    for name in (
        *("model", "account", "kind", "task", "wait", "until", "expires", "by", "images", "items", "word", "action"),
        *("input_tokens", "output_tokens", "cache_read", "cache_write", "request_id", "run", "segment", "program"),
        *("simulated", "records", "sha256", "bytes", "file"),
    )
}
"""Fields of the ledger that are written, and what they are called; others may hold words of a prompt or a server."""
_LEVELS: Final = {"failed": "error", "lost": "error", "batch_held": "error"} | dict.fromkeys(
    ("refused", "retry", "parked", "replaced", "requeued"), "warning"
)


class JsonLog:
    """Of all jobs of the command; from when it is made, everything on stderr is such a line."""

    def __init__(self, *, every_s: float = _LOOK_EVERY_S) -> None:
        self._every_s = every_s
        self._ledgers: dict[str, _Tail] = {}
        messages_as_json(_message)

    def __repr__(self) -> str:
        return f"<JsonLog of {len(self._ledgers)} jobs>"

    async def follow(self, snapshot: Callable[[], Status]) -> None:
        """Write what is new in the ledger until cancelled."""
        status = snapshot()
        if status.shards:
            told = f"the records of {len(status.shards)} shards are in their own ledgers below {status.dir}"
            _write("message", "info", {"job": status.job, "text": told})
            return
        for record in self._rest(status.job):
            _write_record(record, status.job)
        tail = self._ledgers[status.job] = _Tail(Path(status.dir or "") / LEDGER)
        while True:
            records = await asyncio.to_thread(tail.read)
            for record in records:
                _write_record(record, status.job)
            if not records:
                await asyncio.sleep(self._every_s)

    def ended(
        self, job: str, exit_status: ExitStatus, *, status: Status | None = None, error: str | None = None
    ) -> None:
        """Write the rest of the ledger, and the job's end. Blocks: by now nothing else is to be done."""
        for record in self._rest(job):
            _write_record(record, job)
        fields: dict[str, object] = {"job": job, "exit_status": int(exit_status)}
        if status is not None:
            fields |= {"state": status.state, "items": status.items, "sends": status.sends, "usage": status.usage}
        if error is not None:
            fields["error"] = error
        good = exit_status in {ExitStatus.DONE, ExitStatus.PAUSED}
        _write("ended", "info" if good else "error", fields)

    def _rest(self, job: str) -> Iterator[dict[str, object]]:
        """What nobody has written yet of the ledger that was followed; a worker follows one after the other. Blocks."""
        tail = self._ledgers.pop(job, None)
        while tail is not None and (records := tail.read()):
            yield from records


class _Tail:
    """The records of the segment that a run writes, as they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segment: Path | None = None
        self._read = 0

    def read(self) -> list[dict[str, object]]:
        """The next whole lines, a bounded number; none where nothing is new, or the ledger cannot be read. Blocks."""
        try:
            if self._segment is None:
                numbers = segment_numbers([path.name for path in self._folder.iterdir()])
                if not numbers:
                    return []
                self._segment = segment_path(self._folder, numbers[-1])
            with self._segment.open("rb") as file:
                file.seek(self._read)
                data = file.read(_MOST_AT_ONCE)
        except OSError:  # the run itself tells what is wrong with its ledger
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return list(_parsed(whole))


def _parsed(lines: bytes) -> Iterator[dict[str, object]]:
    for line in lines.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _write_record(record: Mapping[str, object], job: str) -> None:
    event, at = str(record.get("e", "")), record.get("t")
    fields = {_NAMES[name]: value for name, value in record.items() if name in _NAMES}
    for name in ("until", "expires"):
        if isinstance(fields.get(name), int | float):
            fields[name] = _stamp(float(str(fields[name])))
    _write(event, _LEVELS.get(event, "info"), {"job": job, **fields}, at=at if isinstance(at, int | float) else None)


def _message(text: str) -> None:
    _write("message", "error" if text.startswith("error: ") else "info", {"text": text.removeprefix("error: ")})


def _write(event: str, level: str, fields: dict[str, object], *, at: float | None = None) -> None:
    when = _stamp(datetime.now(UTC).timestamp() if at is None else at)
    print_json_line(json.dumps(jsonable({"time": when, "level": level, "event": event, **fields}), allow_nan=False))


def _stamp(at: float) -> str:
    """`2026-11-26T22:50:12.345Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
