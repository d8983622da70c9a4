"""What became of an item so far: what `attempt` and `remote` tell each other."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from batchrunner.core.outcome import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Done and recorded."""


IN_LINE: Final = Finished()
"""The very object that says: answered, and its row is in line. The item stays live until it is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """To be tried again after a wait. `charged` is the attempts used up, this one included if it was charged."""

    problem: Problem
    charged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """Failed for good; not recorded yet."""

    problem: Problem
    charged: int
    ambiguous: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """Refused, with the lane parked: the item goes back to its queue. Recorded."""

    last: bool = False
    """It goes behind all others, so that another item is the next probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Held, or its task goes on without us: nothing more in this run. `message` is what the server said last."""

    why: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """An accepted task came to an end that gave nothing; not recorded and not judged yet."""

    problem: Problem


Verdict: TypeAlias = Finished | Again | GivenUp | Unchanged | Waiting
