"""What a pass over the prompts finds wrong: mistakes stop it, bad rows are skipped where the job says so."""

from dataclasses import replace

from batchrunner.core.errors import JobMistakesError, Mistake

SHOWN = 20
KEPT = 100_000
"""Mistakes that a check keeps: a source of millions of bad rows must not fill the memory with them."""


class Findings:
    """Collects mistakes; counts the bad rows of a job that skips them. `first_only` raises at the first."""

    def __init__(self, *, first_only: bool, skip_bad_rows: bool) -> None:
        self._first_only = first_only
        self._left_out = 0
        self._skip_bad_rows = skip_bad_rows
        self._mistakes: list[Mistake] = []
        self._skipped: list[Mistake] = []
        self.skipped_rows = 0

    def __repr__(self) -> str:
        return f"<Findings {len(self._mistakes)} mistakes, {self.skipped_rows} rows skipped>"

    @property
    def skipped(self) -> tuple[Mistake, ...]:
        """The first 20 bad rows that were left out."""
        return tuple(self._skipped)

    def mistake(self, mistake: Mistake) -> None:
        """Something that must be mended whatever `on_bad_row` says.

        Raises:
            JobMistakesError: one is enough.
        """
        if len(self._mistakes) < KEPT:
            self._mistakes.append(mistake)
        else:
            self._left_out += 1
        if self._first_only:
            self.settle()

    def bad_row(self, *mistakes: Mistake) -> None:
        """A row that cannot be used, with all that is wrong with it: skipped, or mistakes like any other."""
        if not self._skip_bad_rows:
            for mistake in mistakes:
                self.mistake(mistake)
            return
        self.skipped_rows += 1
        if len(self._skipped) < SHOWN:
            self._skipped.append(mistakes[0])

    def nothing_left(self) -> None:
        """The pass made no item at all: a job that skips its every row is not done, it is wrong.

        Raises:
            JobMistakesError: always.
        """
        self.settle()
        first = self._skipped[0] if self._skipped else Mistake(problem="there are no prompts")
        raise JobMistakesError((replace(first, problem=f"every row is bad, this is the first: {first.problem}"),))

    def settle(self) -> None:
        """Raise what was found, if anything.

        Raises:
            JobMistakesError: with every mistake so far.
        """
        if self._mistakes:
            raise JobMistakesError(self.mistakes)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """All that were found, in the order of the pass; the last one says how many were not kept, if any."""
        more = f"{self._left_out:,} more mistakes are left out, of {self._left_out + KEPT:,}"
        return (*self._mistakes, *((Mistake(problem=more),) if self._left_out else ()))
