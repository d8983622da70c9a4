"""What replies about tasks come to, in whatever words: shared by the dialects whose orders become tasks.

Where the words stand is the dialect's to know. See docs/providers/tasks.md.
"""

from collections.abc import Callable
from typing import Final, Literal

from batchrunner.core.classify import failed_task_kind
from batchrunner.core.error_policy import POLICY
from batchrunner.core.http import ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Problem, ProblemKind, SendOutcome, TaskAccepted
from batchrunner.core.sign import Family
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import replace
from batchrunner.providers.error_bodies import ErrorBody, fault_in, plain_problem, problem_of, request_id_of
from batchrunner.providers.json_bodies import NotJson, decode
from batchrunner.providers.rate_headers import hints_of, wait_s
from batchrunner.providers.result_pictures import mentions_results
from batchrunner.providers.task_replies import TaskName, is_pollable, means_gone, reason_in, shown

K = ProblemKind

_LOST_ON_THE_WAY: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may hide a task that was accepted; every 5xx may."""
_PLAIN_FAILURES: Final = frozenset({"FAILED", "FAIL", "FAILURE"})
_SHOWN_BYTES: Final = 300


def accepted_all_the_same(
    problem: Problem,
    body: bytes,
    *,
    named: Callable[[Json], TaskName | None],
    in_pieces: Callable[[bytes], TaskName | None],
) -> SendOutcome:
    """A reply that broke off, or a gateway's error, that names a task: it is accepted, and paid for.

    A whole reply with a 2xx that is not JSON says that something was accepted: it is held where it names no task.
    `named` finds the task in a reply, `in_pieces` in one that broke off.
    """
    status = problem.status
    if status is None or (300 <= status < 500 and status not in _LOST_ON_THE_WAY):  # noqa: PLR2004 - HTTP's classes
        return problem
    value = decode(body)
    task = in_pieces(body) if isinstance(value, NotJson) else named(value)
    if task is None and POLICY[problem.kind].no_answer:
        message = (
            f"the server accepted the request with HTTP {status}, but its reply has no task id: {_beginning(body)}"
        )
        return replace(problem, kind=K.NOT_UNDERSTOOD, message=message)
    if task is None or (task.guess and not 200 <= status < 300):  # noqa: PLR2004 - as above
        return problem
    return TaskAccepted(task_id=task.id, guess=task.guess, others=task.others) if is_pollable(task.id) else problem


def _beginning(body: bytes) -> str:
    """What a person is shown of a reply that is not JSON."""
    return without_lone_surrogates(body[:_SHOWN_BYTES].decode("utf-8", "replace").strip()) or "(empty)"


def refusal_within(family: Family, head: ResponseHead, value: Json) -> Problem:
    """A refusal inside a 2xx is judged as if it had its own status. An unknown one is a server error."""
    reason = reason_in(value)
    fault = fault_in(value)
    problem = problem_of(family, head, replace(fault, message=reason.message or fault.message), status=None)
    kind = problem.kind
    if kind is K.SERVER_ERROR:
        read = kind_of(family, head, reason)
        kind = K.SERVER_ERROR if read is K.TASK_FAILED else read
    return replace(problem, kind=kind, under_way=kind is K.SERVER_ERROR)


def ended(
    family: Family,
    head: ResponseHead,
    value: Json,
    *,
    state: Literal["failed", "refused", "filtered", "cancelled"],
    word: str,
    reason: ErrorBody,
) -> Problem:
    """The end of a task that gives nothing. `word` is the server's own for it, `reason` is empty if it gave none."""
    kind = kind_of(family, head, reason) if reason.message else K.TASK_FAILED
    said = f"the server says {word[:40]}"
    match state:
        case "filtered":
            kind = K.CONTENT_FILTER
        case "refused" if kind is K.TASK_FAILED:
            kind = K.BAD_REQUEST
        case "cancelled" if kind is K.TASK_FAILED:
            kind = K.TASK_CANCELLED
        case _:
            pass
    silent = not reason.message and kind is K.TASK_FAILED
    plain = word.upper() in _PLAIN_FAILURES
    unexplained = "the task failed; no reason was given" + ("" if plain else f"; {said}")
    message = reason.message or (unexplained if silent else said)
    return replace(
        of_poll(kind, message, head, value),
        code=reason.code,
        wait_s=wait_s(head, value),
        of_task=True,
        unexplained=silent,
    )


def without_pictures(family: Family, head: ResponseHead, value: Json, reason: ErrorBody) -> Problem:
    """A task that succeeded and gives no picture that could be found."""
    kind = kind_of(family, head, reason) if reason.message else K.TASK_FAILED
    if kind is not K.TASK_FAILED:
        return replace(of_poll(kind, reason.message, head, value), code=reason.code, of_task=True)
    words = f": {reason.message}" if reason.message else ""
    if mentions_results(value):
        message = f"the task succeeded, but no picture was found in its result{words}: {shown(value)}"
        return of_poll(K.NOT_UNDERSTOOD, message, head, value)
    return of_poll(K.EMPTY_RESULT, f"the task succeeded, but has no picture{words}", head, value)


def kind_of(family: Family, head: ResponseHead, reason: ErrorBody) -> ProblemKind:
    """What kind of problem the reason of a failed task is."""
    return failed_task_kind(
        family,
        message=reason.message,
        code=reason.code,
        error_type=reason.error_type,
        status=reason.status,
        hints=hints_of(head),
    )


def of_poll(kind: ProblemKind, message: str, head: ResponseHead, value: Json) -> Problem:
    """A problem that a reply to a poll states."""
    return replace(plain_problem(kind, message, head=head), request_id=request_id_of(head, value))


def refused_poll(problem: Problem, body: bytes, *, task_id: str) -> Problem:
    """A refused poll is about the poll itself, unless the API's own JSON says that the task does not exist."""
    value = decode(body) if body else NotJson(problem="empty")
    if isinstance(value, NotJson) or problem.status is None:
        return problem
    if not means_gone(value, task_id, status=problem.status):
        return problem
    return replace(problem, kind=K.TASK_NOT_FOUND, message=reason_in(value).message or problem.message)
