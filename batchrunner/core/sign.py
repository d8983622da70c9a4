"""One row of the tables by which refusals are known, and how its conditions are written."""

from dataclasses import dataclass
from typing import Final, Literal

from batchrunner.core.outcome import ProblemKind

Family = Literal["modelscope", "openai", "anthropic", "simulator"]
Form = Literal["json", "text", "page", "nothing"]
"""What the body of a refusal is: the API's JSON, plain text, a web page, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A row. Empty conditions hold for everything; words are lower case and looked for anywhere in the message."""

    kind: ProblemKind
    statuses: frozenset[int | None] = frozenset()
    """HTTP statuses; None stands for an error that came without one, inside a stream or a 200."""
    words: tuple[str, ...] = ()
    """One of these is in the message."""
    exact: frozenset[str] = frozenset()
    """The whole message is one of these."""
    also: tuple[str, ...] = ()
    """And one of these."""
    names: frozenset[str] = frozenset()
    """The error's code or type is one of these."""
    spent: Literal["model", "account"] | None = None
    """The headers say that nothing is left today."""
    forms: frozenset[Form] = frozenset()
    """The body is one of these."""
    waits: bool = False
    """The reply says when to come back."""


def on(*statuses: int | None) -> frozenset[int | None]:
    """These statuses."""
    return frozenset(statuses)


def named(*names: str) -> frozenset[str]:
    """These codes or types, in lower case."""
    return frozenset(names)


ANY_4XX: Final = frozenset[int | None]({*range(400, 500), None})
ANY_5XX: Final = frozenset[int | None]({*range(500, 600), None})
ANY: Final = ANY_4XX | ANY_5XX
