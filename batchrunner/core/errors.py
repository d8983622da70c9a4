"""What can go wrong on this side, as exceptions with an exit status. Faults of servers are values: see `outcome`."""

from enum import IntEnum
from typing import TYPE_CHECKING

from batchrunner.core.values import dataclass

if TYPE_CHECKING:
    from batchrunner.core.job import Job


class ExitStatus(IntEnum):
    """The exit statuses of commands; a contract."""

    DONE = 0
    FAILED = 1
    MISTAKE = 2
    PAUSED = 3
    STOPPED = 4
    REFUSED = 5
    INTERRUPTED = 130
    TERMINATED = 143


class BatchrunnerError(Exception):
    """The root of every error of this program; `exit_status` is what a command ends with."""

    exit_status = ExitStatus.STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that a person has to correct in a job file, a source or a command line."""

    problem: str
    file: str | None = None
    line: int | None = None
    """1-based line in `file`."""
    key: str | None = None
    """Path of the key, like `limits.concurrency` or `prompts[2].id`."""
    expected: str | None = None
    hint: str | None = None
    """What was probably meant, or what to do."""

    def __str__(self) -> str:
        """`file:line: key: problem; expected …; hint`, without the parts that are not known."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        head = ": ".join(part for part in (place, self.key, self.problem) if part)
        tail = [f"expected {self.expected}"] if self.expected else []
        return "; ".join([head, *tail, *([self.hint] if self.hint else [])])


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
    waits_for: str | None = None
    """The run that the job reads and that another job is about to make: rows, columns and items were not checked."""


class JobMistakesError(BatchrunnerError):
    """A job file, one of its sources or a command line has mistakes; carries all of them."""

    exit_status = ExitStatus.MISTAKE

    def __init__(self, mistakes: tuple[Mistake, ...], *, partial: "Job | None" = None) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes
        self.partial = partial
        """The job without what is wrong with it, to look for more mistakes; None where too little is left of it."""

    def __str__(self) -> str:
        """A line each, made when somebody asks: there may be 100,000."""
        return "\n".join(str(mistake) for mistake in self.mistakes)


class StoreBrokenError(BatchrunnerError):
    """The disk refused a write or a sync (full, read-only, broken): nothing may be sent after it."""


class ClaimLostError(StoreBrokenError):
    """The shard that this process works on is another's: nothing may be sent after it, what is in flight is kept."""


class RowSetAsideError(StoreBrokenError):
    """As its base class says, but the row that could not be written in its place is safe in another file."""


class LedgerDamagedError(BatchrunnerError):
    """A ledger segment is damaged below what was durable: continuing could pay twice."""

    def __init__(self, *, file: str, offset: int, problem: str) -> None:
        super().__init__(f"{file}: byte {offset}: {problem}")
        self.file = file
        self.offset = offset
        self.problem = problem


class LedgerMissingError(BatchrunnerError):
    """What the ledger knew is gone, in whole or in part, while its rows are there: continuing would pay twice."""


class LockHeldError(BatchrunnerError):
    """Another run is writing in this directory."""


class PartMistakesError(JobMistakesError):
    """Options choose no part of the job; that says nothing about the run."""


class WrongDirectoryError(BatchrunnerError):
    """The output directory belongs to another job, or a simulated run is mixed with a real one."""


class UpstreamUnfinishedError(BatchrunnerError):
    """The run that a job reads its prompts from has items left: what was sent now would be sent for a part of them."""

    exit_status = ExitStatus.PAUSED


class LifecycleError(BatchrunnerError):
    """A step that an item's lifecycle does not know: a fault of this program, raised before it sends or writes."""


class UnreadableRunFileError(WrongDirectoryError):
    """run.json is damaged; with the ledger and the job it can be made anew."""


class NoRunError(WrongDirectoryError, JobMistakesError):
    """No run has been in the directory that a command was given: nothing is broken, the name is wrong."""

    exit_status = ExitStatus.MISTAKE

    def __init__(self, folder: str) -> None:
        mistake = Mistake(
            file=folder,
            problem="not a run directory: run.json is missing",
            hint="give a run directory, for example outputs/cats",
        )
        super().__init__((mistake,))
