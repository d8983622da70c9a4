"""ModelScope's image dialect: a POST that is accepted as a task, free polls until it ends, URLs of the pictures.

Never takes "SUCCEED" in the reply to a submit for a finished picture, never takes a stub for a task, never lets a poll
that was refused speak of the task. Source: PROTOCOL 3.9, 3.10, 6.3.
"""

from dataclasses import replace
from typing import Final, Literal
from urllib.parse import quote

from batchrunner.core.classify import Family, family_of
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import (
    Accepted,
    Pending,
    Pictures,
    PollOutcome,
    Problem,
    ProblemKind,
    Revision,
    SendOutcome,
)
from batchrunner.core.wire import Decoder, Head, Request
from batchrunner.providers.endpoints import openai_url
from batchrunner.providers.hints import hints_of, wait_s
from batchrunner.providers.json_text import at, encode, is_object, sound
from batchrunner.providers.replies import fault_in, message_in, plain_problem, problem_of, request_id_of
from batchrunner.providers.result_pictures import pictures_in
from batchrunner.providers.whole_reply import WholeReply

K = ProblemKind

Standing = Literal["queued", "running", "succeeded", "failed", "cancelled"]

STANDINGS: Final[dict[str, Standing]] = {
    "PENDING": "queued",
    "QUEUED": "queued",
    "QUEUEING": "queued",
    "CREATED": "queued",
    "SUBMITTED": "queued",
    "RUNNING": "running",
    "PROCESSING": "running",
    "IN_PROGRESS": "running",
    "GENERATING": "running",
    "SUCCEED": "succeeded",
    "SUCCEEDED": "succeeded",
    "SUCCESS": "succeeded",
    "COMPLETED": "succeeded",
    "DONE": "succeeded",
    "READY": "succeeded",
    "FAILED": "failed",
    "FAIL": "failed",
    "FAILURE": "failed",
    "ERROR": "failed",
    "REVOKED": "failed",
    "TIMEOUT": "failed",
    "CANCELED": "cancelled",
    "CANCELLED": "cancelled",
    "ABORTED": "cancelled",
}
"""The servers' words, upper-cased. Any other word is unknown: the task is asked again."""

NO_REASON: Final = "0"
"""The code of a TASK_FAILED whose message was empty: the reason may come with the next poll (PROTOCOL 3.9)."""

_GONE: Final = frozenset({404, 410})
_NOT_FOUND: Final = "task not found"
_ID_CHARS: Final = 512
_IDS: Final = (("task_id",), ("output", "task_id"))
_WORDS: Final = (("task_status",), ("output", "task_status"), ("status",))


class ModelScopeImages:
    """A `TaskDialect`."""

    def __init__(self, provider: Provider) -> None:
        self._submit_url = openai_url(provider, "images/generations")
        self._tasks_url = openai_url(provider, "tasks")
        self._family = family_of(provider)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<ModelScopeImages {self._submit_url}>"

    def encode(self, item: Item, revision: Revision) -> Request:  # noqa: ARG002 - the port's; no revision fits an image
        """The POST that asks for a picture. Parameters are passed on as they are, unknown ones too."""
        body: dict[str, Json] = {"model": item.model, "prompt": item.prompt}
        if item.pictures:
            body["image_url"] = _given(item)
        body.update(item.params)
        return Request(
            method="POST",
            url=self._submit_url,
            headers={"content-type": "application/json", "x-modelscope-async-mode": "true"},
            body=encode(body),
        )

    def decoder(self, item: Item) -> Decoder[SendOutcome]:  # noqa: ARG002 - the port's; every item's reply reads alike
        """A fresh reader for the reply to a submit."""
        return WholeReply[SendOutcome](self._family, read=lambda head, value: _submitted(self._family, head, value))

    def poll(self, task_id: str) -> Request:
        """The free GET that asks how the task stands."""
        return Request(
            method="GET",
            url=f"{self._tasks_url}/{quote(sound(task_id), safe='')}",
            headers={"x-modelscope-task-type": "image_generation"},
        )

    def poll_decoder(self) -> Decoder[PollOutcome]:
        """A fresh reader for the reply to a poll."""
        return WholeReply[PollOutcome](
            self._family, read=lambda head, value: _polled(self._family, head, value), reword=_reworded
        )


def _given(item: Item) -> Json:
    """One public URL as the documented string; data URLs and several pictures as the list that some models take."""
    urls: list[Json] = [picture.url for picture in item.pictures]
    only = item.pictures[0].url
    return urls if len(urls) > 1 or only.startswith("data:") else only


def _submitted(family: Family, head: Head, value: Json) -> SendOutcome:
    """A task id wins over everything: the picture it stands for is paid."""
    task_id = next((found for path in _IDS if (found := _id_text(at(value, *path)))), "")
    if task_id in {".", ".."} or len(task_id) > _ID_CHARS:
        message = f"the server gave a task id that cannot be asked for: {task_id[:80]!r}"
        return plain_problem(K.STREAM_CORRUPT, message, head=head)
    if task_id:
        return Accepted(task_id=task_id, hints=hints_of(head))
    refs = pictures_in(value)
    if refs:
        return Pictures(refs=refs, hints=hints_of(head))
    if is_object(value) and message_in(value):
        return problem_of(family, head, fault_in(value), status=None)
    message = "the server took the request and named neither a task nor a picture"
    return replace(plain_problem(K.EMPTY_RESPONSE, message, head=head), request_id=request_id_of(head, value))


def _id_text(value: Json) -> str:
    """A task id as text; servers send strings, numbers and UUIDs."""
    if isinstance(value, str):
        return sound(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else ""


def _polled(family: Family, head: Head, value: Json) -> PollOutcome:
    word = next((str(found) for path in _WORDS if isinstance(found := at(value, *path), str | int)), "").strip()
    standing = STANDINGS.get(word.upper())
    if standing is None and not word:
        return _wordless(family, head, value)
    match standing:
        case "queued" | "running":
            return _pending(head, value, standing, word)
        case None:
            return _pending(head, value, "unknown", word)
        case "succeeded":
            return _finished(head, value)
        case "failed":
            return _failed(head, value)
        case "cancelled":
            message = message_in(value) or f"the server says {sound(word)[:40]}"
            return _of_task(K.TASK_CANCELLED, message, head, value)


def _pending(head: Head, value: Json, state: Literal["queued", "running", "unknown"], word: str) -> Pending:
    return Pending(
        state=state,
        raw=sound(word)[:80],
        hint_s=wait_s(head, value),
        stub=_is_stub(value),
        hints=hints_of(head),
    )


def _is_stub(value: Json) -> bool:
    """True when the reply has a place for the task's id and leaves it empty, like everything else it could name."""
    if not is_object(value) or "task_id" not in value:
        return False
    return not (value["task_id"] or value.get("request_id") or value.get("outputs") or pictures_in(value))


def _wordless(family: Family, head: Head, value: Json) -> PollOutcome:
    """A 200 without a status: pictures speak for themselves, an error speaks of the poll, the rest is unknown."""
    if pictures_in(value):
        return _finished(head, value)
    message = message_in(value)
    if _NOT_FOUND in message.lower():
        return _of_task(K.TASK_NOT_FOUND, message, head, value)
    if message:
        return problem_of(family, head, fault_in(value), status=None)
    return _pending(head, value, "unknown", "")


def _finished(head: Head, value: Json) -> PollOutcome:
    refs = pictures_in(value)
    if refs:
        return Pictures(refs=refs, hints=hints_of(head))
    return _of_task(K.EMPTY_RESULT, "the task succeeded and has no picture", head, value)


def _failed(head: Head, value: Json) -> Problem:
    message = message_in(value) or message_in(at(value, "output"))
    if _NOT_FOUND in message.lower():
        return _of_task(K.TASK_NOT_FOUND, message, head, value)
    if not message:
        return replace(_of_task(K.TASK_FAILED, "the task failed; no reason was given", head, value), code=NO_REASON)
    code = fault_in(value).code
    return replace(_of_task(K.TASK_FAILED, message, head, value), code=None if code == NO_REASON else code)


def _of_task(kind: ProblemKind, message: str, head: Head, value: Json) -> Problem:
    return replace(plain_problem(kind, message, head=head), request_id=request_id_of(head, value))


def _reworded(problem: Problem) -> Problem:
    """A refused poll speaks of itself, unless it says that the task is not there."""
    if problem.status in _GONE or _NOT_FOUND in problem.message.lower():
        return replace(problem, kind=K.TASK_NOT_FOUND)
    return problem
