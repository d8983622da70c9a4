"""ModelScope's image dialect: a POST that is accepted as a task, free polls until it ends, URLs of the pictures.

Never takes "SUCCEED" in the reply to a submit for a finished picture, never takes a stub for a task, never lets a poll
that was refused, or that is about another task, are about the task. See docs/providers/modelscope.md#images.
"""

from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Ending, Interrupted, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import (
    NO_ADDRESSES,
    Pending,
    Pictures,
    PictureUrl,
    PollOutcome,
    Problem,
    ProblemKind,
    Revision,
    SendOutcome,
    TaskAccepted,
    TaskAddresses,
)
from batchrunner.core.plan import PointBalance
from batchrunner.core.sign import Family
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import replace
from batchrunner.providers.error_bodies import fault_in, plain_problem, problem_of, request_id_of
from batchrunner.providers.json_bodies import encode, is_object, openai_url
from batchrunner.providers.json_decoder import WholeReply
from batchrunner.providers.rate_headers import hints_of, wait_s
from batchrunner.providers.result_pictures import pictures_in
from batchrunner.providers.task_ends import (
    accepted_all_the_same,
    ended,
    of_poll,
    refusal_within,
    refused_poll,
    without_pictures,
)
from batchrunner.providers.task_replies import (
    is_pollable,
    is_refusal,
    likely_end,
    means_gone,
    mentions_another_task,
    named_in_pieces,
    own_part,
    reason_in,
    shown,
    task_named_in,
    task_state_of,
    word_in,
)

K = ProblemKind

_IDLE_WORDS: Final = frozenset({"ok", "true", "none", "null"})


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

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for the reply to a submit. Pictures that the item holds are none of its results."""
        given = tuple(_addresses_of(item))
        return WholeReply[SendOutcome](
            self._family,
            read=lambda head, value: _submitted(self._family, head, value, base_url=self._tasks_url, given=given),
            reword=_accepted_all_the_same,
        )

    def poll(self, task_id: str, addresses: TaskAddresses = NO_ADDRESSES) -> Request:  # noqa: ARG002 - its id is enough
        """The free GET that asks how the task stands."""
        return Request(
            method="GET",
            url=f"{self._tasks_url}/{quote(without_lone_surrogates(task_id), safe='')}",
            headers={"x-modelscope-task-type": "image_generation"},
        )

    def poll_decoder(
        self,
        task_id: str = "",
        addresses: TaskAddresses = NO_ADDRESSES,  # noqa: ARG002 - as above
    ) -> Decoder[PollOutcome]:
        """A fresh reader for the reply to a poll of this task."""
        return WholeReply[PollOutcome](
            self._family,
            read=lambda head, value: _polled(self._family, head, value, task_id=task_id, base_url=self._tasks_url),
            reword=lambda problem, body: refused_poll(problem, body, task_id=task_id),
        )


def _given(item: Item) -> Json:
    """One public URL as the documented string; data URLs and several pictures as the list that some models take."""
    urls: list[Json] = [picture.url for picture in item.pictures]
    only = item.pictures[0].url
    return urls if len(urls) > 1 or only.startswith("data:") else only


def _addresses_of(item: Item) -> Iterator[str]:
    """Where the pictures lie that the request holds, as a server may repeat them."""
    yield from (picture.url for picture in item.pictures if not picture.url.startswith("data:"))
    given = item.params.get("image_url")
    yield from (url for url in (given if isinstance(given, list) else [given]) if isinstance(url, str))


def _submitted(
    family: Family, head: ResponseHead, value: Json, *, base_url: str, given: tuple[str, ...]
) -> SendOutcome:
    """Pictures finish the item, an id is a task; a reply with neither is a refusal if it says so, else is held."""
    task = task_named_in(value)
    task_state = task_state_of(word_in(value))
    if task is not None and not is_pollable(task.id):
        message = f"the server returned a task id that cannot be polled: {task.id[:80]!r}"
        return plain_problem(K.NOT_UNDERSTOOD, message, head=head)
    if task_state in {"failed", "refused", "filtered", "cancelled"} and (task is not None or task_state != "failed"):
        problem = _ended(family, head, value, task_state)
        if not problem.unexplained:
            return replace(problem, of_task=False)
    refs = pictures_in(value, base_url=base_url, given=given) if task_state in {"succeeded", None} else ()
    if refs:
        return Pictures(refs=refs, task_id=task.id if task is not None else "", hints=hints_of(head))
    if task is not None:
        return TaskAccepted(task_id=task.id, guess=task.guess, others=task.others, hints=hints_of(head))
    if is_refusal(value):
        return refusal_within(family, head, value)
    message = f"the server accepted the request, but its reply has neither a task id nor a picture: {shown(value)}"
    return replace(plain_problem(K.NOT_UNDERSTOOD, message, head=head), request_id=request_id_of(head, value))


def _accepted_all_the_same(problem: Problem, body: bytes) -> SendOutcome:
    return accepted_all_the_same(problem, body, named=task_named_in, in_pieces=named_in_pieces)


def _polled(family: Family, head: ResponseHead, value: Json, *, task_id: str, base_url: str) -> PollOutcome:
    if task_id:
        value = own_part(value, task_id)
    if task_id and (other := mentions_another_task(value, task_id)):
        message = f"the reply is about task {other[:80]}; asked for {task_id[:80]}"
        return of_poll(K.WRONG_TASK, message, head, value)
    word = word_in(value)
    task_state = task_state_of(word) or _likely_end(value, word, base_url)
    match task_state:
        case "queued" | "running":
            return _pending(head, value, task_state, word, base_url)
        case "succeeded":
            return _finished(family, head, value, base_url)
        case "failed" | "refused" | "filtered" | "cancelled":
            problem = _ended(family, head, value, task_state)
            gone = means_gone(value, task_id, status=None)
            return replace(problem, kind=K.TASK_NOT_FOUND, of_task=False) if gone else problem
        case "gone":
            return of_poll(K.TASK_NOT_FOUND, reason_in(value).message or f"the server says {word}", head, value)
        case None if word and not word.isdigit() and word.lower() not in _IDLE_WORDS:
            return _pending(head, value, "unknown", word, base_url)
        case None:
            return _wordless(family, head, value, word, task_id=task_id, base_url=base_url)


def _likely_end(value: Json, word: str, base_url: str) -> Literal["succeeded", "failed", "filtered"] | None:
    end = likely_end(word)
    return end if end != "succeeded" or pictures_in(value, base_url=base_url) else None


def _pending(
    head: ResponseHead, value: Json, state: Literal["queued", "running", "unknown"], word: str, base_url: str
) -> Pending:
    refs = pictures_in(value, base_url=base_url) if state == "unknown" else ()
    return Pending(
        state=state,
        raw=without_lone_surrogates(word)[:80],
        hint_s=wait_s(head, value),
        stub=_is_stub(value, base_url),
        shows=tuple(ref for ref in refs if isinstance(ref, PictureUrl)),
        hints=hints_of(head),
    )


def _is_stub(value: Json, base_url: str) -> bool:
    """True when the reply has a place for the task's id and leaves it empty, like everything else it could name."""
    if not is_object(value) or "task_id" not in value:
        return False
    named = value["task_id"] or value.get("request_id") or value.get("outputs")
    return not (named or pictures_in(value, base_url=base_url))


def _wordless(
    family: Family, head: ResponseHead, value: Json, word: str, *, task_id: str, base_url: str
) -> PollOutcome:
    """A 200 without a status: pictures end the task, an error is about the poll, anything else is unknown."""
    if pictures_in(value, base_url=base_url):
        return _finished(family, head, value, base_url)
    message = reason_in(value).message
    if means_gone(value, task_id, status=None):
        return of_poll(K.TASK_NOT_FOUND, message, head, value)
    if message and is_refusal(value):
        return replace(problem_of(family, head, fault_in(value), status=None), message=message)
    return _pending(head, value, "unknown", word, base_url)


def _finished(family: Family, head: ResponseHead, value: Json, base_url: str) -> PollOutcome:
    refs = pictures_in(value, base_url=base_url)
    return (
        Pictures(refs=refs, hints=hints_of(head)) if refs else without_pictures(family, head, value, reason_in(value))
    )


def _ended(
    family: Family, head: ResponseHead, value: Json, task_state: Literal["failed", "refused", "filtered", "cancelled"]
) -> Problem:
    """The end of a task that gives no picture, by the reason that it gives, wherever that stands."""
    return ended(family, head, value, state=task_state, word=word_in(value), reason=reason_in(value))


# ModelScope's balance of points: a free question, asked beside the API proper.
#
# What cannot be read is unknown, never zero. There is no list of what a call of a model costs. See
# docs/providers/modelscope.md#points.

_API_HOST: Final = "api-inference.modelscope.cn"
_BALANCE_ORIGIN: Final = "https://modelscope.cn"
_PATH: Final = "/openapi/v1/magicubes/balance"
_OK: Final = 200
_MOST_BYTES: Final = 65_536


class _Balances(msgspec.Struct):
    total_balance: float | None = None
    available_balance: float | None = None
    frozen_amount: float | None = None


class _BalanceReply(msgspec.Struct):
    success: bool | None = None
    data: _Balances | None = None


def balance_origin(base_url: str) -> str:
    """Where the balance is asked: beside ModelScope's API on a host of its own, elsewhere at the API's own origin."""
    parts = urlsplit(base_url)
    if parts.hostname == _API_HOST:
        return _BALANCE_ORIGIN
    return urlunsplit((parts.scheme, parts.netloc, "", "", ""))


def balance_request(base_url: str) -> Request:
    """The free GET."""
    return Request(method="GET", url=balance_origin(base_url) + _PATH, headers={"Accept": "application/json"})


class BalanceReader:
    """Reads its reply."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._status: int | None = None
        self._body = bytearray()

    def __repr__(self) -> str:
        return f"<BalanceReader {self._account}: {len(self._body)} bytes>"

    def begin(self, head: ResponseHead) -> None:
        """The head of the reply."""
        self._status = head.status

    def feed(self, data: bytes) -> bool:
        """A piece of its body; more than any balance needs is not read."""
        self._body += data
        return len(self._body) > _MOST_BYTES

    def end(self, ending: Ending) -> PointBalance:
        """The balance, or why it is not known."""
        if isinstance(ending, Interrupted):
            return self._unknown(ending.message)
        if self._status != _OK:
            return self._unknown(f"the server answered with HTTP {self._status}")
        try:
            reply = msgspec.json.decode(self._body, type=_BalanceReply)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._unknown("the reply does not have the expected form")
        if reply.success is False or reply.data is None or reply.data.available_balance is None:
            return self._unknown("the reply has no balance")
        return PointBalance(
            account=self._account,
            available=reply.data.available_balance,
            total=reply.data.total_balance,
            frozen=reply.data.frozen_amount,
        )

    def _unknown(self, why: str) -> PointBalance:
        return PointBalance(account=self._account, why=why)
