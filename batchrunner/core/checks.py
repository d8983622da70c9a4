"""What the checks of a job say of answers, as values, and the rule by which they decide on an item."""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, TypeAlias

from batchrunner.core.job import Check, Json
from batchrunner.core.values import asdict, dataclass, field

Verdict: TypeAlias = Literal["pass", "fail", "error", "none"]
"""`error`: the check itself broke, which says nothing about the answer. `none`: the check does not apply to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one check says of one answer."""

    verdict: Verdict
    value: float | None = None
    """The number found, or the share of 1; None where the check has none."""
    expected: Json = None
    reason: str | None = None
    """Why it is no pass, for a person."""


def checks_digest(checks: Sequence[Check]) -> str:
    """12 hex digits that change whenever a check does."""
    text = json.dumps([asdict(check) for check in checks], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def passes(checks: Sequence[Check], scores: Sequence[Score], *, truncated: bool) -> bool | None:
    """The item's verdict over the checks that count; None where it has none.

    An answer that was cut off says nothing about the model, and neither does one of which a check broke, unless
    another check fails it anyway.
    """
    verdicts = [score.verdict for check, score in zip(checks, scores, strict=True) if check.counts]
    if truncated:
        return None
    if "fail" in verdicts:
        return False
    return True if "pass" in verdicts and "error" not in verdicts else None


@dataclass(slots=True, kw_only=True)
class CheckCounts:
    """How often a check came to each verdict."""

    name: str
    counts: bool
    passed: int = 0
    failed: int = 0
    errors: int = 0
    none: int = 0
    first_error: str | None = None
    """Of the first answer for which the check broke."""


@dataclass(slots=True, kw_only=True)
class Scored:
    """What `score` found in a run's directory."""

    dir: str
    path: str
    """Of `scores.jsonl`."""
    rows: int = 0
    passed: int = 0
    failed: int = 0
    undecided: int = 0
    """Answers without a verdict: a check broke, none applies, or they were cut off."""
    truncated: int = 0
    not_answered: int = 0
    """Items that failed or are not done yet."""
    checks: list[CheckCounts] = field(default_factory=list)
    digest: str = ""
    """12 hex digits of the checks."""
    notes: list[str] = field(default_factory=list)
    """Of judges that compare pairs: how often the order decided."""
