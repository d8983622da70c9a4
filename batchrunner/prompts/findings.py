"""What a pass over the prompts finds wrong: mistakes stop it, bad rows are skipped where the job says so."""

from dataclasses import replace

from batchrunner.core.errors import JobMistakesError, Mistake

SHOWN = 20


class Findings:
    """Collects mistakes up to a number and then raises; counts the bad rows of a job that skips them."""

    def __init__(self, *, at_most: int, skip_bad_rows: bool) -> None:
        self._at_most = at_most
        self._skip_bad_rows = skip_bad_rows
        self._mistakes: list[Mistake] = []
        self._skipped: list[Mistake] = []
        self.skipped_rows = 0

    def __repr__(self) -> str:
        return f"<Findings {len(self._mistakes)} of {self._at_most} mistakes, {self.skipped_rows} rows skipped>"

    @property
    def skipped(self) -> tuple[Mistake, ...]:
        """The first 20 bad rows that were left out."""
        return tuple(self._skipped)

    def mistake(self, mistake: Mistake) -> None:
        """Something that must be mended whatever `on_bad_row` says.

        Raises:
            JobMistakesError: there are enough of them now.
        """
        self._mistakes.append(mistake)
        if len(self._mistakes) >= self._at_most:
            self.settle()

    def bad_row(self, mistake: Mistake) -> None:
        """A row that cannot be used: skipped, or a mistake like any other."""
        if not self._skip_bad_rows:
            self.mistake(mistake)
            return
        self.skipped_rows += 1
        if len(self._skipped) < SHOWN:
            self._skipped.append(mistake)

    def nothing_left(self) -> None:
        """The pass made no item at all: a job that skips its every row is not done, it is wrong.

        Raises:
            JobMistakesError: always.
        """
        first = self._skipped[0] if self._skipped else Mistake(problem="there are no prompts")
        raise JobMistakesError((replace(first, problem=f"every row is bad, this is the first: {first.problem}"),))

    def settle(self) -> None:
        """Raise what was found, if anything.

        Raises:
            JobMistakesError: with every mistake so far.
        """
        if self._mistakes:
            raise JobMistakesError(tuple(self._mistakes))
