"""Rows of failed items whose own row was removed by hand: made again of what the ledger says of the failure.

Class, message, request id, attempts and time stand there; status, code and task id do not, and are null in such a row.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from batchrunner.core.errors import LedgerDamagedError
from batchrunner.core.events import Failed
from batchrunner.core.item import Item
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.row import failure_row
from batchrunner.stores.files import Files
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import read_ledger
from batchrunner.stores.rows import encode_row


class FailuresOfLedger:
    """Reads the ledger once, when the first row is asked for; of each item that lacks its row the event is kept."""

    def __init__(self, files: Files, folder: Path, *, lacks: Callable[[bytes], bool]) -> None:
        """For a run's directory; `lacks` tells of a key whether its item failed and has no row."""
        self._files = files
        self._folder = folder
        self._lacks = lacks
        self._events: dict[bytes, tuple[Failed, float]] | None = None
        self.made = 0

    def __repr__(self) -> str:
        return f"<FailuresOfLedger {self._folder} made={self.made}>"

    def row_of(self, item: Item) -> bytes | None:
        """The line, without its newline; None where the ledger does not say why it failed. Blocks. Raises OSError."""
        if self._events is None:
            self._events = self._read()
        known = self._events.get(bytes.fromhex(item.key))
        if known is None:
            return None
        failed, at = known
        kind = next((kind for kind in ProblemKind if kind.value == failed.kind), ProblemKind.INTERNAL)
        row = failure_row(
            item,
            Problem(kind=kind, message=failed.message, request_id=failed.request_id),
            task_id=None,
            attempts=failed.a,
            ambiguous=int(failed.ambiguous),
            at=datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        self.made += 1
        return encode_row(row)

    def _read(self) -> dict[bytes, tuple[Failed, float]]:
        events: dict[bytes, tuple[Failed, float]] = {}
        try:
            for record in read_ledger(self._folder / LEDGER, files=self._files):
                if isinstance(record.event, Failed) and self._lacks(key := bytes.fromhex(record.event.k)):
                    events[key] = record.event, record.at
        except LedgerDamagedError:  # whoever replays it says where
            return events
        return events
