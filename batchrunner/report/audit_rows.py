"""The audit's passes over files of rows: results.jsonl, superseded.jsonl and failures.jsonl against what was recorded.

Of a row, eight bytes of its id are kept. Refuses to compare a checksum that a rewriting has made void.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batchrunner.core.events import recorded_files
from batchrunner.core.lifecycle import ItemState
from batchrunner.report.audit_files import read_plain
from batchrunner.report.audit_findings import Sheet
from batchrunner.report.audit_ledger import LedgerAudit, files_crc, path_mark
from batchrunner.stores.files import InspectedFiles
from batchrunner.stores.lines import Line, read_lines
from batchrunner.stores.marks import FAILURES, RESULTS, SUPERSEDED, SUPERSEDED_FAILURES
from batchrunner.stores.row_forms import form_at
from batchrunner.stores.rows import RowFacts, crc_of, facts_of, name_and_id_of, row_lines, trimmed

_SHOWN: Final = 3


@dataclass(slots=True, kw_only=True)
class RowAudit:
    """Judges rows by what a finished `LedgerAudit` knows."""

    folder: Path
    files: InspectedFiles
    sheet: Sheet
    ledger: LedgerAudit
    rows: int = 0
    superseded: int = 0
    failures: int = 0
    answer_files: int = 0
    set_aside: set[bytes] = field(default_factory=set)
    """Done items that the job has no more: their rows are not in results.jsonl, and nothing of the job misses them."""
    _ids: set[int] = field(default_factory=set)
    _changed: list[str] = field(default_factory=list)
    _changed_count: int = 0
    _moved: int = 0
    _reshaped: int = 0

    def results(self) -> None:
        """Every line of results.jsonl. Raises OSError."""
        known = self.ledger.state.results_length
        self._reshaped += form_at(self.files, self.folder / RESULTS) is not None
        for raw in read_lines(self.files, self.folder / RESULTS):
            line = trimmed(raw)
            if line is not raw or not line.text.strip():
                self._reshaped += 1
            if not line.text.strip():
                continue
            self.rows += 1
            facts = facts_of(line.text)
            if facts is None:
                recorded = line.offset < known and self.ledger.whole
                self.sheet.add("row_unreadable" if recorded else "torn_rows", _place(RESULTS, line))
                continue
            self._reshaped += not line.whole
            self._take(line, facts)
        if self._reshaped:
            self.sheet.add("rows_reshaped", f"{RESULTS}: {self._reshaped} lines")
        self._tell_changed()

    def superseded_rows(self) -> None:
        """Every line of superseded.jsonl: it may be where a `done` has its row. Raises OSError."""
        for line in row_lines(self.files, self.folder / SUPERSEDED):
            self.superseded += 1
            facts = facts_of(line.text) if line.whole else None
            if facts is None:
                self.sheet.add("torn_rows", _place(SUPERSEDED, line))
                continue
            key = bytes.fromhex(facts.key)
            if facts.output.path is not None:
                self.ledger.paths.add(path_mark(facts.output.path))
            if key in self.ledger.promises:
                promise = self.ledger.promises[key]
                if promise.epoch != self.ledger.promises.epoch or promise.crc == int(crc_of(line.text), 16):
                    if not promise.found:
                        self.set_aside.add(key)
                    self.ledger.promises.mark_found(key)

    def missing(self, *, vanished: int) -> None:
        """Items that are done and have no row: after both passes above.

        `vanished` is how many done items the last run knew that the job had no more; where so many have no row in
        results.jsonl at most, the missing rows are theirs.
        """
        missing = set(self.ledger.promises.missing())
        if len(missing) + len(self.set_aside) <= vanished:
            self.set_aside |= missing
        for key in missing:
            kind = "superseded_missing" if key in self.set_aside else "row_missing"
            self.sheet.add(kind, f"key {key.hex()}")

    def failure_rows(self) -> None:
        """Every line of failures.jsonl and superseded_failures.jsonl. Raises OSError."""
        rowless = {key for key, item_state in self.ledger.state.item_states() if item_state is ItemState.FAILED}
        for name in (FAILURES, SUPERSEDED_FAILURES):
            for line in row_lines(self.files, self.folder / name):
                self.failures += name == FAILURES
                found = name_and_id_of(line.text) if line.whole else None
                if found is None:
                    self.sheet.add("torn_rows", _place(name, line))
                    continue
                key, item_id = found
                rowless.discard(key)
                if self.ledger.whole and name == FAILURES and self.ledger.state.item_state(key) is not ItemState.FAILED:
                    self.sheet.add("failure_stale", item_id)
        for key in rowless:
            self.sheet.add("failure_missing", f"key {key.hex()}")

    # -- one row

    def _take(self, line: Line, facts: RowFacts) -> None:
        key = bytes.fromhex(facts.key)
        mark = path_mark(facts.id)
        if mark in self._ids:
            self.sheet.add("id_repeated", f"`{facts.id}`: {_place(RESULTS, line)}")
        self._ids.add(mark)
        if key not in self.ledger.promises:
            self._unknown(line, facts)
            return
        if facts.shared_with is None:
            if self.ledger.promises.mark_found(key):
                self.sheet.add("row_repeated", f"`{facts.id}`: {_place(RESULTS, line)}")
                return
            self._compare(line, facts, key)
        self._look_at_answer(facts)

    def _unknown(self, line: Line, facts: RowFacts) -> None:
        state = self.ledger.state
        if facts.output.path is not None:
            self.ledger.paths.add(path_mark(facts.output.path))
        self.ledger.paths.update(path_mark(path) for path, _, _ in facts.files)
        if not self.ledger.whole:
            return
        heard_of = state.record(bytes.fromhex(facts.key)).sends > 0 or not state.closed
        beyond = line.offset >= state.results_length and heard_of
        self.sheet.add("row_unadopted" if beyond else "row_unknown", f"`{facts.id}`: {_place(RESULTS, line)}")

    def _compare(self, line: Line, facts: RowFacts, key: bytes) -> None:
        promise = self.ledger.promises[key]
        named = facts.files
        if rest := named[len(recorded_files(named)) :]:
            self.ledger.paths.update(path_mark(path) for path, _, _ in rest)
            self.ledger.look_at(facts.id, key, rest)
        if files_crc(named) not in self.ledger.promises.also.get(key, {promise.files_crc}):
            self.sheet.add("row_files", f"`{facts.id}`: {_place(RESULTS, line)}")
        if promise.epoch != self.ledger.promises.epoch:
            return
        self._moved += line.offset + len(line.text) + 1 != promise.length
        if int(crc_of(line.text), 16) != promise.crc:
            self._changed_count += 1
            if len(self._changed) < _SHOWN:
                self._changed.append(f"`{facts.id}`: {_place(RESULTS, line)}")

    def _tell_changed(self) -> None:
        """A crash between the replacement of results.jsonl and its record leaves new rows under old checksums."""
        if self._moved and not self.ledger.state.closed and self.ledger.whole:
            self.sheet.add("results_moved", f"{self._moved} rows stand elsewhere than where they were recorded")
            return
        for number in range(self._changed_count):
            self.sheet.add("row_changed", self._changed[number] if number < len(self._changed) else "…")

    def _look_at_answer(self, facts: RowFacts) -> None:
        path = facts.output.path
        if path is None:
            return
        self.answer_files += 1
        self.ledger.paths.add(path_mark(path))
        text = facts.output.text.encode()
        data = read_plain(self.files, self.folder, path, most_bytes=len(text) + 1)
        if data is None:
            self.sheet.add("answer_missing", f"{path} (item `{facts.id}`)")
        elif data != text:
            self.sheet.add("answer_changed", f"{path} (item `{facts.id}`)")


def _place(name: str, line: Line) -> str:
    return f"{name}: byte {line.offset}"
