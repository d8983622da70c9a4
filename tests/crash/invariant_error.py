"""What is raised when an invariant (tests/README.md) does not hold, with its number."""


class Violation(AssertionError):  # noqa: N818 - a word of the tests, not an error of the program
    """An invariant does not hold."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(f"invariant {number}: {words}")
        self.number = number


def need(number: int, words: str, *, holds: bool) -> None:
    if not holds:
        raise Violation(number, words)
