"""What follows from a problem: one table with a row for each kind and a column for each question.

A dialect classifies, this decides, nothing here acts. No other module has a set of kinds of its own.

What the kinds mean: docs/providers/README.md#classes-of-problems. Waits: docs/limits.md#waits-of-an-item.
"""

from enum import Enum
from typing import Final

from batchrunner.core.fallback import FallbackReason
from batchrunner.core.job import Job, RetryPolicy
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.values import dataclass

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


class Lesson(Enum):
    """What a problem teaches the limiter of its lane, see `core/rate_limiter.py`."""

    ACCEPTED = "the server took the request: as many, as fast, are allowed"
    REFUSED = "not so many, or not so fast"
    FAILED = "the server is in trouble; most requests failing halves the limit"
    NONE = "it stops lanes by itself and says nothing about how many or how fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A row of the table. Waits are seconds."""

    then: Then
    once_answered: Then | None = None
    """What holds instead once a good answer came in this run: of the model for FAIL_MODEL, of the server otherwise."""
    ambiguous: bool = False
    """The server may have done, and charged, the work."""
    no_work: bool = False
    """The server did no work: the request counts as a request, and uses no tokens and no picture of the budget."""
    first_wait_s: float = 2.0
    cap_s: float = 60.0
    tries: int | None = None
    """Caps the charged attempts that end in this kind, below `retry.attempts`."""
    reason: str = ""
    """Why a lane waits or stops, for people; "" is the kind's own name in words."""
    lesson: Lesson = Lesson.ACCEPTED
    outage: bool = False
    """On many items in a row it is the server's trouble, not the items': the lane waits and probes."""
    says_wait: bool = False
    """Its cause is shown at once, whatever is done with the item: nothing gets through, and a person may know why."""
    quota: bool = False
    """What `on_quota` is about."""
    restored: bool = False
    """A later process keeps to a park for it; others are forgotten with the process that met them."""
    limit_resets: bool = False
    """A time in its words, or a reset in its headers, says when to come back."""
    wrong_address: bool = False
    """Something else than the API answered: `provider.base_url` is to be looked at."""
    rejects_key: bool = False
    """The key is rejected, or its account is unpaid."""
    about_task: bool = False
    """As the reply to a poll it is about the task: the poll was answered, and the account may go on polling."""
    result_may_follow: bool = False
    """As the reply to a poll: the task has ended, and what it gave may be readable some seconds later."""
    no_answer: bool = False
    """A whole reply that holds nothing to use: from a 2xx, an order may have been taken all the same."""
    fallback: FallbackReason | None = None
    """By which word of `models.on` another model is asked when an item of the first one ends like this."""
    vague: bool = False
    """As a task's reason to have failed it says little: more of its words are looked at."""

    @property
    def refusal(self) -> bool:
        """The ledger records it as `refused`: no attempt is charged."""
        return self.then in _REFUSING and self.once_answered is not Then.FAIL


_REFUSING: Final = frozenset(
    {Then.WAIT, Then.PARK_LANE, Then.PARK_ACCOUNT, Then.STOP_ACCOUNT, Then.STOP_RUN, Then.ADAPT}
)

POLICY: Final[dict[ProblemKind, Policy]] = {
    # never executed: no attempt is charged; the lane's breaker ends a long outage
    K.CONNECT: Policy(
        then=Then.WAIT,
        first_wait_s=1.0,
        cap_s=30.0,
        no_work=True,
        reason="server unreachable",
        lesson=Lesson.FAILED,
        outage=True,
        says_wait=True,
    ),
    # something else than the API answered, or nothing can: a mistake of the job, or an outage if it has answered before
    K.NOT_REACHED: Policy(
        then=Then.STOP_RUN,
        once_answered=Then.WAIT,
        reason="API not reached",
        lesson=Lesson.NONE,
        outage=True,
        says_wait=True,
        wrong_address=True,
    ),
    K.NO_SUCH_PATH: Policy(
        then=Then.STOP_RUN,
        once_answered=Then.FAIL,
        reason="API not reached",
        lesson=Lesson.NONE,
        says_wait=True,
        wrong_address=True,
    ),
    # perhaps executed
    K.TIMEOUT: Policy(then=Then.RETRY, ambiguous=True, lesson=Lesson.FAILED, outage=True),
    K.RESET: Policy(then=Then.RETRY, ambiguous=True, lesson=Lesson.FAILED, outage=True),
    K.SERVER_ERROR: Policy(
        then=Then.RETRY, ambiguous=True, lesson=Lesson.FAILED, outage=True, limit_resets=True, vague=True
    ),
    K.STREAM_CUT: Policy(then=Then.RETRY, ambiguous=True),
    K.STREAM_CORRUPT: Policy(then=Then.RETRY, ambiguous=True, no_answer=True),
    K.EMPTY_RESPONSE: Policy(then=Then.RETRY, ambiguous=True, first_wait_s=10.0, tries=3, outage=True, no_answer=True),
    # refusals that are not about the item
    K.OVERLOADED: Policy(
        then=Then.WAIT,
        first_wait_s=1.0,
        cap_s=120.0,
        reason="server overloaded",
        fallback="overloaded",
        lesson=Lesson.REFUSED,
        restored=True,
        limit_resets=True,
    ),
    K.THROTTLE: Policy(
        then=Then.WAIT,
        first_wait_s=1.0,
        cap_s=120.0,
        reason="rate limited",
        lesson=Lesson.REFUSED,
        restored=True,
        limit_resets=True,
    ),
    K.QUOTA_MODEL: Policy(
        then=Then.PARK_LANE,
        reason="daily model quota used up",
        fallback="quota",
        lesson=Lesson.NONE,
        quota=True,
        restored=True,
        limit_resets=True,
    ),
    K.QUOTA_ACCOUNT: Policy(
        then=Then.PARK_ACCOUNT,
        reason="account quota used up",
        fallback="quota",
        lesson=Lesson.NONE,
        quota=True,
        restored=True,
        limit_resets=True,
    ),
    K.MODEL_SUSPENDED: Policy(
        then=Then.PARK_LANE, first_wait_s=300.0, tries=2, reason="model suspended by the provider", restored=True
    ),
    K.AUTH: Policy(then=Then.STOP_ACCOUNT, reason="API key rejected", lesson=Lesson.NONE, rejects_key=True),
    K.BILLING: Policy(
        then=Then.STOP_ACCOUNT, reason="account unpaid or out of credit", lesson=Lesson.NONE, rejects_key=True
    ),
    # about the model
    K.FORBIDDEN_MODEL: Policy(then=Then.FAIL_MODEL, once_answered=Then.FAIL, no_work=True),
    K.MODEL_NOT_FOUND: Policy(then=Then.FAIL_MODEL, once_answered=Then.FAIL, no_work=True),
    # about the item
    K.BAD_REQUEST: Policy(then=Then.FAIL, no_work=True),
    K.CONFIGURATION: Policy(then=Then.FAIL, no_work=True, vague=True),
    K.CONTENT_FILTER: Policy(then=Then.FAIL, fallback="content_filter"),
    K.TOO_LARGE: Policy(then=Then.FAIL, ambiguous=True),
    K.ADAPTABLE: Policy(then=Then.ADAPT, first_wait_s=0.0, cap_s=0.0, no_work=True, vague=True),
    K.MEDIA_FETCH: Policy(then=Then.RETRY, first_wait_s=10.0, tries=3, no_work=True, vague=True),
    K.SCHEMA_MISS: Policy(then=Then.RETRY, first_wait_s=0.0, cap_s=0.0, fallback="schema_miss"),
    # about this program: the same step would fail again, and a second request would be paid for nothing
    K.INTERNAL: Policy(then=Then.FAIL, ambiguous=True),
    # about an accepted task, once it has come to its own end: a new submit is a new attempt
    K.TASK_FAILED: Policy(then=Then.RETRY, first_wait_s=5.0, reason="remote tasks are failing", outage=True),
    K.TASK_EXPIRED: Policy(then=Then.RETRY, ambiguous=True, first_wait_s=5.0, outage=True),
    # asked for by the id that the request gave it: the server never had it
    K.TASK_NOT_TAKEN: Policy(then=Then.WAIT, first_wait_s=1.0, cap_s=30.0, no_work=True, lesson=Lesson.NONE),
    # paid for, and waited for already: another order would be paid as well
    K.EMPTY_RESULT: Policy(then=Then.FAIL, ambiguous=True, outage=True, about_task=True, result_may_follow=True),
    K.NOT_UNDERSTOOD: Policy(
        then=Then.HOLD,
        ambiguous=True,
        reason="unrecognized replies from the server",
        about_task=True,
        result_may_follow=True,
    ),
    K.TASK_CANCELLED: Policy(then=Then.FAIL),
    # about a task that continues: the task scheduler polls again, an item never sees these as its end
    K.TASK_NOT_FOUND: Policy(then=Then.WAIT, first_wait_s=3.0, about_task=True),
    K.POLL_STUB: Policy(then=Then.WAIT, first_wait_s=3.0),
    K.WRONG_TASK: Policy(then=Then.WAIT, first_wait_s=3.0, about_task=True),
    K.UNKNOWN_STATUS: Policy(then=Then.WAIT, first_wait_s=3.0),
    K.DOWNLOAD_FAILED: Policy(then=Then.WAIT, first_wait_s=1.0, cap_s=30.0, tries=4),
    K.BAD_PICTURE: Policy(then=Then.WAIT, first_wait_s=1.0, cap_s=30.0, tries=4),
}


def policy_named(kind: str) -> Policy | None:
    """The row of a kind as the ledger and parks write it; None for what is no kind of problem (`budget`)."""
    return _BY_NAME.get(kind)


_BY_NAME: Final = {kind.value: policy for kind, policy in POLICY.items()}


def may_try_again(problem: Problem, *, charged: int, same_kind: int, retry: RetryPolicy) -> bool:
    """Whether an item that had `charged` attempts so far, this one included, `same_kind` of them of this kind, goes on.

    `x-should-retry: false` is obeyed for whatever would be charged; a refusal is never the end of an item.
    """
    policy = POLICY[problem.kind]
    if problem.under_way:
        return charged < retry.attempts
    match policy.then:
        case Then.WAIT | Then.ADAPT | Then.PARK_LANE | Then.PARK_ACCOUNT | Then.STOP_ACCOUNT:
            return True
        case Then.STOP_RUN:
            return policy.once_answered is not Then.FAIL
        case Then.HOLD:
            return False
        case Then.FAIL | Then.FAIL_MODEL:
            return problem.should_retry is True and charged < retry.attempts
        case Then.RETRY:
            if problem.should_retry is False:
                return False
            return charged < retry.attempts and (policy.tries is None or same_kind < policy.tries)


def is_ambiguous(problem: Problem) -> bool:
    """Whether the server may have done, and charged, the work."""
    return problem.under_way or POLICY[problem.kind].ambiguous


def is_held(problem: Problem, job: Job) -> bool:
    """Whether a person wants to decide before this is sent again, because it may have been paid."""
    return job.on_ambiguous == "hold" and is_ambiguous(problem)
