"""Every kind of thing that an audit can find, as a table, and the sheet on which it is counted.

Memory does not grow with what is found: each kind keeps its count and its first few places.
"""

import shlex
from dataclasses import dataclass, field
from typing import Final

from batchrunner.core.status import Finding, Level
from batchrunner.stores.run_file import ANY_RUN

_EXAMPLES: Final = 5
_ORDER: Final[tuple[Level, ...]] = ("damage", "odd", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One line of the table."""

    level: Level
    problem: str
    advice: str | None = None


_SALVAGE: Final = (
    "`batchrunner verify DIR --salvage NEW` copies what is sound to a new directory and changes nothing here"
)
_PAY_AGAIN: Final = "put back what was removed, or pay again with `batchrunner run JOB --resend-lost`"
_RUN_AGAIN: Final = "the next run mends it"

KINDS: Final[dict[str, Kind]] = {
    "ledger_damaged": Kind(
        level="damage",
        problem="the ledger is damaged below what was known to be durable; what follows there was not judged",
        advice=_SALVAGE,
    ),
    "ledger_missing": Kind(
        level="damage",
        problem="the ledger, or its newest segment, is gone: what is done can be told from the rows only",
        advice="put it back, or `batchrunner run JOB --adopt-rows` counts as done what has a row",
    ),
    "row_missing": Kind(
        level="damage", problem="items that the ledger knows as done, whose row stands in no file", advice=_PAY_AGAIN
    ),
    "row_changed": Kind(
        level="damage",
        problem="rows that are not the ones that were recorded (their checksum differs)",
        advice=_SALVAGE,
    ),
    "row_unreadable": Kind(level="damage", problem="lines of results.jsonl that are no rows", advice=_SALVAGE),
    "row_unknown": Kind(level="damage", problem="rows of items that the ledger does not know as done", advice=_SALVAGE),
    "row_repeated": Kind(level="damage", problem="further rows of an item that has one", advice=_SALVAGE),
    "id_repeated": Kind(level="damage", problem="rows whose id an earlier row has", advice=_SALVAGE),
    "row_files": Kind(level="damage", problem="rows that name other pictures than the ledger", advice=_SALVAGE),
    "file_missing": Kind(level="damage", problem="pictures that were recorded and are not there", advice=_PAY_AGAIN),
    "file_changed": Kind(
        level="damage", problem="pictures whose bytes are not those that were recorded", advice=_SALVAGE
    ),
    "picture_broken": Kind(level="damage", problem="pictures that cannot be decoded", advice=_SALVAGE),
    "answer_missing": Kind(
        level="damage", problem="answers' own files (output.each) that are not there", advice="their rows have the text"
    ),
    "answer_changed": Kind(
        level="damage",
        problem="answers' own files (output.each) that say something else than their rows",
        advice="their rows have the text",
    ),
    "failure_missing": Kind(
        level="damage",
        problem="items that the ledger knows as failed, without a row in failures.jsonl",
        advice="the next run makes them again from the ledger, without sending anything",
    ),
    "odd_record": Kind(
        level="odd", problem="ledger records that do not follow from what stood before; replay passes over them"
    ),
    "mode_open": Kind(
        level="odd", problem="files with URLs of results or the job that others can read", advice="chmod go-rwx"
    ),
    "run_file_lost": Kind(
        level="odd", problem="run.json is gone or damaged", advice="`batchrunner run JOB` makes it anew"
    ),
    "not_plain": Kind(level="odd", problem="links or special files where this program makes none"),
    "checkpoint_wrong": Kind(
        level="damage",
        problem="a checkpoint in ledger/ says something else than the ledger, and may be believed",
        advice="remove the .checkpoint file: the ledger is read in its place; and please report this",
    ),
    "checkpoint_unusable": Kind(
        level="note",
        problem="a checkpoint in ledger/ that is not what it was, or of another format; it is not used",
        advice="it may be removed; the ledger is read in its place",
    ),
    "torn_tail": Kind(level="note", problem="ends of ledger segments that a crash cut off; nothing relied on them"),
    "torn_rows": Kind(level="note", problem="torn rows that nothing relied on, as a crash leaves them"),
    "row_unadopted": Kind(
        level="note", problem="whole rows that the ledger has not heard of before a crash", advice=_RUN_AGAIN
    ),
    "results_moved": Kind(
        level="note",
        problem="results.jsonl was rewritten as its process ended, and its checksums with it",
        advice=_RUN_AGAIN,
    ),
    "rows_reshaped": Kind(
        level="note",
        problem="results.jsonl was saved in another form: a byte order mark, other line ends, blank lines",
        advice=_RUN_AGAIN,
    ),
    "failure_stale": Kind(
        level="note", problem="rows of failures.jsonl whose items are not failed any more", advice=_RUN_AGAIN
    ),
    "superseded_missing": Kind(
        level="note",
        problem="rows or pictures of items that the job has no more are gone; nothing of the job is missing",
    ),
    "leftover": Kind(level="note", problem="half-written files of a process that was killed", advice="may be removed"),
    "stray": Kind(level="note", problem="unexpected files: no finished item of this run names them"),
}
"""To find one more thing: a line here, and `add` where it is seen."""


@dataclass(slots=True, kw_only=True)
class Sheet:
    """What was found so far."""

    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Sheet {self._counts}>"

    def add(self, kind: str, example: str) -> None:
        """One more of this kind, which `KINDS` has, with its place in words."""
        assert kind in KINDS, kind
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    @property
    def damaged(self) -> bool:
        """Whether any of it is damage."""
        return any(KINDS[kind].level == "damage" for kind in self._counts)

    def findings(self, *, folder: str = "DIR", command: str | None = None) -> tuple[Finding, ...]:
        """All of it, in the table's order within each level; the advice names this folder and the run's `command`."""
        found = [
            kind for level in _ORDER for kind, line in KINDS.items() if line.level == level and kind in self._counts
        ]
        return tuple(
            Finding(
                kind=kind,
                level=KINDS[kind].level,
                problem=KINDS[kind].problem,
                advice=_pasteable(KINDS[kind].advice, folder=folder, command=command),
                count=self._counts[kind],
                examples=tuple(self._examples[kind]),
            )
            for kind in found
        )


def _pasteable(advice: str | None, *, folder: str, command: str | None) -> str | None:
    if advice is None:
        return None
    there = advice.replace(" verify DIR ", f" verify {shlex.quote(folder)} ")
    return there if command is None else there.replace(ANY_RUN, command)
