"""What follows from a problem: the table that the engine obeys. A dialect classifies, this decides, nothing here acts.

What the kinds mean: docs/providers/README.md#classes-of-problems. Waits: docs/limits.md#waits-of-an-item.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from batchrunner.core.job import Job, RetryPolicy
from batchrunner.core.outcome import Problem, ProblemKind

K = ProblemKind


class Then(Enum):
    """What the engine does next."""

    RETRY = "the item is retried after a wait; this uses up an attempt"
    WAIT = "the item is retried after a wait; no attempt is used up, because the item is not to blame"
    ADAPT = "the item is resent, changed as the server asked; no attempt is used up"
    PARK_LANE = "the lane stops until a probe time; the item is unchanged"
    PARK_ACCOUNT = "every lane of the account stops until a probe time; the item is unchanged"
    STOP_ACCOUNT = "every lane of the account stops until the user acts; the item is unchanged"
    HOLD = "the item is held for the user: it may have been billed, and its result is unknown"
    FAIL = "the item failed permanently"
    FAIL_MODEL = "the item failed; when a second one fails alike, so do all others of its model"
    STOP_RUN = "the lanes probe a few times, then the run ends with a configuration error; the item is unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the table. Waits are seconds; `tries` caps the charged tries of this kind below `retry.attempts`."""

    then: Then
    ambiguous: bool = False
    """True when the server may have done, and charged, the work."""
    first_wait_s: float = 2.0
    cap_s: float = 60.0
    tries: int | None = None
    once_answered: Then | None = None
    """What holds instead once a good answer came in this run: of the model for FAIL_MODEL, of the server otherwise."""


RULES: Final[dict[ProblemKind, Rule]] = {
    # never executed: no attempt is charged; the lane's breaker ends a long outage
    K.CONNECT: Rule(then=Then.WAIT, first_wait_s=1.0, cap_s=30.0),
    # something else than the API answered, or nothing can: a mistake of the job, or an outage if it has answered before
    K.NOT_REACHED: Rule(then=Then.STOP_RUN, once_answered=Then.WAIT, first_wait_s=2.0),
    K.NO_SUCH_PATH: Rule(then=Then.STOP_RUN, once_answered=Then.FAIL, first_wait_s=2.0),
    # perhaps executed
    K.TIMEOUT: Rule(then=Then.RETRY, ambiguous=True),
    K.RESET: Rule(then=Then.RETRY, ambiguous=True),
    K.SERVER_ERROR: Rule(then=Then.RETRY, ambiguous=True),
    K.STREAM_CUT: Rule(then=Then.RETRY, ambiguous=True),
    K.STREAM_CORRUPT: Rule(then=Then.RETRY, ambiguous=True),
    K.EMPTY_RESPONSE: Rule(then=Then.RETRY, ambiguous=True, first_wait_s=10.0, tries=3),
    # refusals that say nothing of the item
    K.OVERLOADED: Rule(then=Then.WAIT, first_wait_s=1.0, cap_s=120.0),
    K.THROTTLE: Rule(then=Then.WAIT, first_wait_s=1.0, cap_s=120.0),
    K.QUOTA_MODEL: Rule(then=Then.PARK_LANE),
    K.MODEL_SUSPENDED: Rule(then=Then.PARK_LANE, first_wait_s=300.0, tries=2),
    K.QUOTA_ACCOUNT: Rule(then=Then.PARK_ACCOUNT),
    K.AUTH: Rule(then=Then.STOP_ACCOUNT),
    K.BILLING: Rule(then=Then.STOP_ACCOUNT),
    # about the model
    K.FORBIDDEN_MODEL: Rule(then=Then.FAIL_MODEL, once_answered=Then.FAIL),
    K.MODEL_NOT_FOUND: Rule(then=Then.FAIL_MODEL, once_answered=Then.FAIL),
    # about the item
    K.BAD_REQUEST: Rule(then=Then.FAIL),
    K.CONFIGURATION: Rule(then=Then.FAIL),
    K.CONTENT_FILTER: Rule(then=Then.FAIL),
    K.TOO_LARGE: Rule(then=Then.FAIL, ambiguous=True),
    K.ADAPTABLE: Rule(then=Then.ADAPT, first_wait_s=0.0, cap_s=0.0),
    K.MEDIA_FETCH: Rule(then=Then.RETRY, first_wait_s=10.0, tries=3),
    K.SCHEMA_MISS: Rule(then=Then.RETRY, first_wait_s=0.0, cap_s=0.0),
    # about this program: the same step would fail again, and a second request would be paid for nothing
    K.INTERNAL: Rule(then=Then.FAIL, ambiguous=True),
    # about an accepted task, once it has come to its own end: a new submit is a new attempt
    K.TASK_FAILED: Rule(then=Then.RETRY, first_wait_s=5.0),
    K.TASK_EXPIRED: Rule(then=Then.RETRY, ambiguous=True, first_wait_s=5.0),
    # paid for, and waited for already: another order would be paid as well
    K.EMPTY_RESULT: Rule(then=Then.FAIL, ambiguous=True),
    K.NOT_UNDERSTOOD: Rule(then=Then.HOLD, ambiguous=True),
    K.TASK_CANCELLED: Rule(then=Then.FAIL),
    # about a task that goes on: the task scheduler asks again, an item never sees these as its end
    K.TASK_NOT_FOUND: Rule(then=Then.WAIT, first_wait_s=3.0),
    K.POLL_STUB: Rule(then=Then.WAIT, first_wait_s=3.0),
    K.WRONG_TASK: Rule(then=Then.WAIT, first_wait_s=3.0),
    K.UNKNOWN_STATUS: Rule(then=Then.WAIT, first_wait_s=3.0),
    K.DOWNLOAD_FAILED: Rule(then=Then.WAIT, first_wait_s=1.0, cap_s=30.0, tries=4),
    K.BAD_PICTURE: Rule(then=Then.WAIT, first_wait_s=1.0, cap_s=30.0, tries=4),
}

REFUSALS: Final = frozenset(
    kind
    for kind, rule in RULES.items()
    if rule.then in {Then.WAIT, Then.PARK_LANE, Then.PARK_ACCOUNT, Then.STOP_ACCOUNT, Then.STOP_RUN, Then.ADAPT}
    and rule.once_answered is not Then.FAIL
)
"""Kinds that the ledger records as `refused`: no attempt is charged."""


def may_try_again(problem: Problem, *, charged: int, same_kind: int, retry: RetryPolicy) -> bool:
    """Whether an item that had `charged` attempts so far, this one included, `same_kind` of them of this kind, goes on.

    `x-should-retry: false` is obeyed for whatever would be charged; a refusal is never the end of an item.
    """
    rule = RULES[problem.kind]
    if problem.under_way:
        return charged < retry.attempts
    match rule.then:
        case Then.WAIT | Then.ADAPT | Then.PARK_LANE | Then.PARK_ACCOUNT | Then.STOP_ACCOUNT:
            return True
        case Then.STOP_RUN:
            return rule.once_answered is not Then.FAIL
        case Then.HOLD:
            return False
        case Then.FAIL | Then.FAIL_MODEL:
            return problem.should_retry is True and charged < retry.attempts
        case Then.RETRY:
            if problem.should_retry is False:
                return False
            return charged < retry.attempts and (rule.tries is None or same_kind < rule.tries)


def is_ambiguous(problem: Problem) -> bool:
    """Whether the server may have done, and charged, the work."""
    return problem.under_way or RULES[problem.kind].ambiguous


def is_held(problem: Problem, job: Job) -> bool:
    """Whether a person wants to decide before this is sent again, because it may have been paid."""
    return job.on_ambiguous == "hold" and is_ambiguous(problem)
