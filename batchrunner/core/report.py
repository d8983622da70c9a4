"""What a run comes to, as a value for callers."""

from dataclasses import dataclass

from batchrunner.core.errors import ExitStatus, Mistake
from batchrunner.core.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of a run."""

    status: Status
    exit_status: ExitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What `check` found in a job and its sources."""

    mistakes: tuple[Mistake, ...]
    items: int
    """Items the job makes; 0 when there are mistakes."""
    notes: tuple[str, ...] = ()
    skipped_rows: int = 0
    """Bad rows that `on_bad_row: skip` leaves out."""
    skipped: tuple[Mistake, ...] = ()
    """What is wrong with the first 20 of them."""
