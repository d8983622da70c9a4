"""What an audit of a run's directory comes to, as values for callers."""

from dataclasses import dataclass
from typing import Literal

from batchrunner.core.errors import ExitStatus

Level = Literal["damage", "odd", "note"]
"""`damage`: something that was recorded is not there, or not as it was. `odd`: this program would not have done it.
`note`: what a crash, a job under way or a person left; nothing that was recorded is touched by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Everything of one kind that was found."""

    kind: str
    level: Level
    problem: str
    """What is wrong, in words."""
    advice: str | None
    count: int
    examples: tuple[str, ...]
    """The first few places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCounts:
    """What was looked at."""

    segments: int = 0
    records: int = 0
    done: int = 0
    """Items that the ledger knows as done."""
    failed: int = 0
    rows: int = 0
    """Lines of `results.jsonl`."""
    superseded: int = 0
    failures: int = 0
    pictures: int = 0
    picture_bytes: int = 0
    answer_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """What was copied into a new directory, and what could not be."""

    dir: str
    records: int
    """Ledger records carried over."""
    records_lost: int
    """Damaged stretches of the ledger that no record could be read from."""
    rows: int
    rows_lost: int
    """Items known as done whose answer is lost: they are sent again."""
    fetched_again: int
    """Items whose pictures are lost, but whose task and URLs are known: fetched again, not paid again."""
    pictures: int
    answer_files: int
    sound: bool
    """Whether an audit of the new directory found no damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The whole of it. Sound when there is no damage."""

    job: str
    dir: str
    sound: bool
    findings: tuple[Finding, ...]
    """Damage first, then what is odd, then notes."""
    checked: AuditCounts
    salvaged: Salvaged | None = None

    @property
    def exit_status(self) -> ExitStatus:
        """4 on damage."""
        return ExitStatus.DONE if self.sound else ExitStatus.STOPPED
