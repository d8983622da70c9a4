"""Other runs that a job reads: the one that its prompts are from, and those that it takes answers from."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass

DoneRow: TypeAlias = tuple[Mapping[str, Json], Mapping[str, Json] | None]
"""A row's fields, and those of its line in scores.jsonl where it has one."""


class RunRows(Protocol):
    """The rows of a run as they stood at one moment."""

    def rows(self, *, with_scores: bool) -> Iterator[DoneRow]:
        """Rows that are done, in the job's order; the same at every call. Blocks. Raises StoreBrokenError."""

    def has_scores(self) -> bool:
        """Whether there is a scores.jsonl. Blocks. Raises StoreBrokenError."""

    def unreadable(self) -> list[int]:
        """Where in the file lines stand that are no rows. Blocks. Raises StoreBrokenError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatus:
    """Where a run stands that a job, or another run, reads its prompts from."""

    dir: str
    """As the job file has it."""
    job: str | None
    """None, like the figures 0, where the run is gone."""
    state: str
    """Of `status`; `gone` where there is no run any more."""
    done: int
    left: int
    """Items that are neither done nor failed."""
    failed: int
    lost: int = 0
    """Of `left`, items that were done and whose row or picture is gone: finishing the run would pay for them again."""
    next_command: str | None = None
    """What continues it, where items are left."""


class ReusedRun(NamedTuple):
    """A run whose answers another job may take."""

    path: str
    shown: str
    """As the job file has it; of a simulated job, the simulated twin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What a job's commands know of the runs that it reads; nothing where it reads none."""

    rows: RunRows | None = None
    chain: tuple[UpstreamStatus, ...] = ()
    """That run, the one that it was made of, and so on."""
    reused: tuple[ReusedRun, ...] = ()
    """The runs whose answers it takes."""
    missing: tuple[Mistake, ...] = ()
    """Of runs whose answers it takes and that are not there: mistakes as long as something is left to be sent."""
    notes: tuple[str, ...] = ()
    """What a person should know of all these."""
    waits_for: str | None = None
    """The run, as the job file has it, where another job is about to make it."""

    def require_reused(self, *, sends: bool) -> tuple[str, ...]:
        """Notes on runs that are not there; a mistyped path must not cost a second time.

        Raises:
            JobMistakesError: one is not there, and `sends`: something is left to be sent.
        """
        if sends and self.missing:
            raise JobMistakesError(self.missing)
        return tuple(f"reuse: {mistake.problem}; nothing is left to be sent" for mistake in self.missing)


NO_UPSTREAM = Upstream()
