"""What a target of fuzzing is: a name, a function of bytes, and sound inputs to begin with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MEMORY_BYTES: Final = 256 * 1024 * 1024
"""More than this above what was there before, and a target is too greedy."""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` gives a typed outcome of any bytes at all; whatever it raises is a defect."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], tuple[bytes, ...]]
    share: float = 1.0
    """Of the usual number of examples: less than 1 where an example costs milliseconds."""

    def __str__(self) -> str:
        return self.name
