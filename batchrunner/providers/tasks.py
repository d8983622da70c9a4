"""The dialect of task servers that a table describes: an order, free polls until the task ends, its pictures.

The table says where things stand; what is done with them is here, and no table can change it: the state in the reply to
an order is never believed, an address on a host that the table does not name is never asked, a poll that was refused or
is about another task says nothing about this one, an unknown word leaves the task open. See docs/providers/tasks.md.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from batchrunner.core.classify import family_of
from batchrunner.core.error_policy import POLICY
from batchrunner.core.http import Completed, Decoder, Ending, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import (
    NO_ADDRESSES,
    FollowUp,
    Pending,
    PictureBytes,
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
from batchrunner.core.sign import Family
from batchrunner.core.task_table import TaskWord, at_pointer, is_keyed
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import replace
from batchrunner.providers.error_bodies import ErrorBody, fault_in, plain_problem, problem_of, request_id_of
from batchrunner.providers.json_bodies import NotJson, cut_value, decode, encode, is_object, is_success
from batchrunner.providers.json_decoder import WholeReply
from batchrunner.providers.rate_headers import hints_of, wait_s
from batchrunner.providers.result_pictures import picture_from_base64, picture_from_url, recordable
from batchrunner.providers.task_bodies import Filling, filled_url, with_id
from batchrunner.providers.task_ends import (
    accepted_all_the_same,
    ended,
    kind_of,
    of_poll,
    refusal_within,
    refused_poll,
    without_pictures,
)
from batchrunner.providers.task_replies import (
    TaskName,
    id_text,
    is_pollable,
    is_refusal,
    means_gone,
    reason_in,
    repaired,
    shown,
    task_named_in,
)

K = ProblemKind

_ADDRESS: Final = re.compile(r"[!-~]{1,2048}")
_PIECES_BYTES: Final = 8192
_OF_THE_TASK: Final = frozenset({400, 422})
"""Statuses with which the request for a result says how the task ended."""
_MESSAGE_CHARS: Final = 1000


class _Wish:
    """A `Decoder` of what a server says to a wish: None where it took it, whatever its words are but a web page's."""

    def __init__(self, family: Family) -> None:
        self._head: ResponseHead | None = None
        self._begins = b""
        self._refusal = WholeReply[Problem | None](family, read=lambda _head, _value: None)

    def begin(self, head: ResponseHead) -> None:
        """See `Decoder`."""
        self._head = head
        self._refusal.begin(head)

    def feed(self, data: bytes) -> bool:
        """See `Decoder`."""
        self._begins = self._begins or data.lstrip()[:1]
        return self._refusal.feed(data)

    def end(self, ending: Ending) -> Problem | None:
        """See `Decoder`."""
        taken = self._head is not None and is_success(self._head) and isinstance(ending, Completed)
        return None if taken and self._begins != b"<" else self._refusal.end(ending)


class TableTasks:
    """A `TaskDialect`."""

    def __init__(self, provider: Provider) -> None:
        assert provider.task is not None, "a job with this dialect has a table"
        self._table = provider.task
        self._base = provider.base_url
        self._family = family_of(provider)
        self.names_tasks = self._table.submit.client_id is not None
        self._states: dict[str, TaskWord] = {
            word.lower(): state for state, words in self._table.states.items() for word in words
        }

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<TableTasks {self._base}{self._table.submit.path}>"

    # -- requests

    def encode(self, item: Item, revision: Revision) -> Request:
        """The POST that orders a task. Of the revision it takes the id."""
        submit = self._table.submit
        path = submit.path.replace("{model}", quote(without_lone_surrogates(item.model), safe="/:@"))
        body, _ = Filling(item, self._table).filled(submit.body)
        if submit.client_id is not None and revision.task_id and is_object(body):
            body[submit.client_id] = revision.task_id
        return Request(
            method="POST",
            url=self._base + path,
            headers={"content-type": "application/json", **submit.headers},
            body=encode(body),
        )

    def poll(self, task_id: str, addresses: TaskAddresses = NO_ADDRESSES) -> Request:
        """The free GET that asks how the task stands."""
        return self._get(addresses.poll or self._url(self._table.poll.path or "", task_id))

    def cancel(self, task_id: str, addresses: TaskAddresses = NO_ADDRESSES) -> Request | None:
        """What asks the server to end a task; None where the table has nothing for that, or the task no address."""
        cancel = self._table.cancel
        if cancel is None:
            return None
        url = self._url(cancel.path, task_id)
        if cancel.after is not None:
            above = addresses.poll if cancel.after == "poll_url" else addresses.result
            if not above:
                return None
            url = above.partition("?")[0].rstrip("/") + url.removeprefix(self._base)
        body = b"" if cancel.body is None else encode(with_id(cancel.body, without_lone_surrogates(task_id)))
        headers = dict(self._table.poll.headers)
        if cancel.body is not None:
            headers["content-type"] = "application/json"
        return Request(method=cancel.method, url=url, headers=headers, body=body)

    @property
    def cancelled_while(self) -> tuple[str, ...]:
        """The states in which a task may be cancelled; empty: in every one."""
        return self._table.cancel.only if self._table.cancel is not None else ()

    def cancelled(self) -> Decoder[Problem | None]:
        """Reads the reply to that: any success will do, with a body or without."""
        return _Wish(self._family)

    def _get(self, url: str) -> Request:
        return Request(method="GET", url=url, headers=dict(self._table.poll.headers))

    def _url(self, path: str, task_id: str) -> str:
        return self._base + path.replace("{id}", quote(without_lone_surrogates(task_id), safe=""))

    def _result_url(self, task_id: str, addresses: TaskAddresses) -> str:
        """Where the result is one more request away; empty where the poll has it."""
        path = self._table.result.path
        return addresses.result or (self._url(path, task_id) if path else "")

    # -- the reply to an order

    def decoder(self, item: Item) -> Decoder[SendOutcome]:  # noqa: ARG002 - the port's; every reply reads alike
        """A fresh reader for the reply to an order."""
        return WholeReply[SendOutcome](self._family, read=self._submitted, reword=self._refused_order)

    def _submitted(self, head: ResponseHead, value: Json) -> SendOutcome:
        """An id is a task, whatever its state is said to be; pictures without one finish the item."""
        if (task := self._named(value)) is not None:
            return self._accepted(head, value, task)
        if refs := self._pictures(value):
            return Pictures(refs=refs, hints=hints_of(head))
        if is_refusal(value):
            return self._reclassified(refusal_within(self._family, head, value))
        if (task := task_named_in(value)) is not None:
            return self._accepted(head, value, replace(task, guess=True))
        message = f"the server accepted the request, but its reply has neither a task id nor a picture: {shown(value)}"
        return replace(plain_problem(K.NOT_UNDERSTOOD, message, head=head), request_id=request_id_of(head, value))

    def _accepted(self, head: ResponseHead, value: Json, task: TaskName) -> SendOutcome:
        if not is_pollable(task.id):
            message = f"the server returned a task id that cannot be polled: {task.id[:80]!r}"
            return plain_problem(K.NOT_UNDERSTOOD, message, head=head)
        poll, refused = self._address(value, self._table.submit.poll_url)
        result, _ = self._address(value, self._table.submit.result_url)
        if not poll and self._table.poll.path is None:
            why = refused or "its reply has no address for that"
            message = f"the server accepted task {task.id[:80]}, which cannot be asked for: {why}"
            return plain_problem(K.NOT_UNDERSTOOD, message, head=head)
        addresses = TaskAddresses(poll, result)
        return TaskAccepted(task_id=task.id, guess=task.guess, addresses=addresses, hints=hints_of(head))

    def _named(self, value: Json) -> TaskName | None:
        """The task's id, at the first of the table's places that has one."""
        ids = (id_text(found) for pointer in self._table.submit.id for found in at_pointer(value, pointer))
        return next((TaskName(id=found, guess=False) for found in ids if found), None)

    def _named_in_pieces(self, body: bytes) -> TaskName | None:
        """The same in a body that broke off: only an id that is there in full."""
        for whole in (cut_value(body), repaired(body[:_PIECES_BYTES])):
            value = decode(whole) if whole else None
            if is_object(value) and (task := self._named(value)) is not None:
                return task
        return None

    def _refused_order(self, problem: Problem, body: bytes) -> SendOutcome:
        outcome = accepted_all_the_same(problem, body, named=self._named, in_pieces=self._named_in_pieces)
        if isinstance(outcome, Problem):
            return self._reclassified(outcome)
        if not isinstance(outcome, TaskAccepted):
            return outcome
        value = decode(body)
        poll, result = (
            self._address(None if isinstance(value, NotJson) else value, pointer)[0]
            for pointer in (self._table.submit.poll_url, self._table.submit.result_url)
        )
        if poll or self._table.poll.path is not None:
            # an id in an error, or in half a reply, may be another thing's
            return replace(outcome, guess=True, addresses=TaskAddresses(poll, result))
        message = f"the server accepted task {outcome.task_id[:80]}, but its reply was cut off before its address"
        return replace(problem, kind=K.NOT_UNDERSTOOD, message=message)

    def _address(self, value: Json, pointer: str | None) -> tuple[str, str]:
        """(the address at this place, why there is none that may be asked)."""
        given = next((found for found in at_pointer(value, pointer) if found), None) if pointer else None
        if not isinstance(given, str):
            return "", ""
        url = self._completed(given)
        if not _ADDRESS.fullmatch(url) or "#" in url:
            return "", "its address is not a URL"
        if is_keyed(url, self._base, self._table):
            return url, ""
        return "", f"its address is on another host, {_host(url)[:80]}, which the table does not name in `poll_hosts`"

    def _completed(self, url: str) -> str:
        """An address without scheme or host, completed by the server's own."""
        try:
            return (
                url if url[:8].lower().startswith(("http://", "https://", "data:")) else urljoin(f"{self._base}/", url)
            )
        except ValueError:
            return ""

    # -- the reply to a poll

    def poll_decoder(self, task_id: str = "", addresses: TaskAddresses = NO_ADDRESSES) -> Decoder[PollOutcome]:
        """A fresh reader for the reply to a poll of this task."""
        return WholeReply[PollOutcome](
            self._family,
            read=lambda head, value: self._polled(head, value, task_id, addresses),
            reword=lambda problem, body: self._reclassified(refused_poll(problem, body, task_id=task_id)),
        )

    def _polled(self, head: ResponseHead, value: Json, task_id: str, addresses: TaskAddresses) -> PollOutcome:
        if task_id and (other := self._other_task(value, task_id)):
            message = f"the reply is about task {other[:80]}; asked for {task_id[:80]}"
            return of_poll(K.WRONG_TASK, message, head, value)
        return self._polled_itself(head, value, task_id, addresses)

    def _polled_itself(self, head: ResponseHead, value: Json, task_id: str, addresses: TaskAddresses) -> PollOutcome:
        if self._table.poll.root is not None and is_object(value) and not is_refusal(value):
            root = self._table.poll.root.replace("{id}", task_id)
            if root not in value:
                return self._waiting(task_id)
            value = value[root]
        word, state = self._state(value)
        match state:
            case "done":
                return self._done(head, value, task_id, addresses)
            case "failed" | "cancelled" | "filtered":
                reason = self._reason(value)
                problem = ended(self._family, head, value, state=state, word=word, reason=reason)
                return self._reclassified(problem) if state == "failed" else problem
            case "gone":
                return of_poll(K.TASK_NOT_FOUND, self._reason(value).message or f"the server says {word}", head, value)
            case "queued" | "running":
                return Pending(state=state, raw=word, hint_s=self._wait_s(head, value), hints=hints_of(head))
            case None if not word and means_gone(value, task_id, status=None):
                return of_poll(K.TASK_NOT_FOUND, reason_in(value).message, head, value)
            case None if not word and is_refusal(value):
                fault = fault_in(value)
                message = self._reason(value).message or fault.message
                problem = problem_of(self._family, head, replace(fault, message=message), status=None)
                return self._reclassified(problem)
            case None:
                shows = tuple(ref for ref in self._pictures(value) if isinstance(ref, PictureUrl))
                wait_s = self._wait_s(head, value)
                return Pending(state="unknown", raw=word, hint_s=wait_s, hints=hints_of(head), shows=shows)

    def _waiting(self, task_id: str) -> PollOutcome:
        """The question whether a task waits that is not known where finished ones are."""
        queue = self._table.poll.queue
        assert queue is not None, "a table with a root has a queue"

        def read(head: ResponseHead, value: Json) -> PollOutcome:
            if not is_object(value):
                return Pending(state="unknown", hints=hints_of(head))
            ids = {id_text(found) for pointer in queue.ids for found in at_pointer(value, pointer)}
            if task_id in ids:
                return Pending(state="queued", raw="queued", hints=hints_of(head))
            return of_poll(K.TASK_NOT_FOUND, "the server has no such task, neither waiting nor ended", head, value)

        decoder = WholeReply[PollOutcome](self._family, read=read, reword=self._refused_result(task_id))
        return FollowUp(request=self._get(self._base + queue.path), decoder=decoder)

    def _other_task(self, value: Json, task_id: str) -> str:
        pointers = self._table.submit.id if self._table.poll.id is None else self._table.poll.id
        named = [text for pointer in pointers for found in at_pointer(value, pointer) if (text := id_text(found))]
        same = any(text.lower() == task_id.lower() for text in named)
        return named[0] if named and not same else ""

    def _state(self, value: Json) -> tuple[str, TaskWord | None]:
        """(the server's word, what it means); an empty word where there is none."""
        poll = self._table.poll
        for pointer in poll.state:
            for found in at_pointer(value, pointer):
                if isinstance(found, str | int) and not isinstance(found, bool) and str(found).strip():
                    word = without_lone_surrogates(str(found).strip())[:80]
                    return word, self._states.get(word.lower())
        seen = False
        for flag in poll.flags:
            for found in at_pointer(value, flag.at):
                seen = True
                if type(found) is type(flag.value) and found == flag.value:
                    return f"{flag.at} {str(found).lower()}"[:80], flag.state
        return (poll.otherwise, poll.otherwise) if seen and poll.otherwise is not None else ("", None)

    def _wait_s(self, head: ResponseHead, value: Json) -> float | None:
        pointer = self._table.poll.wait
        for found in at_pointer(value, pointer) if pointer else ():
            if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < 1e6:  # noqa: PLR2004 - days
                return float(found)
        return wait_s(head, value)

    def _done(self, head: ResponseHead, value: Json, task_id: str, addresses: TaskAddresses) -> PollOutcome:
        if refs := self._pictures(value):
            return Pictures(refs=refs, hints=hints_of(head))
        if url := self._result_url(task_id, addresses):
            decoder = WholeReply[PollOutcome](self._family, read=self._resulted, reword=self._refused_result(task_id))
            return FollowUp(request=self._get(url), decoder=decoder)
        if (content := self._table.result.content) is not None:
            return Pictures(refs=(PictureUrl(url=self._url(content, task_id)),), hints=hints_of(head))
        return self._nothing(head, value)

    def _nothing(self, head: ResponseHead, value: Json) -> Problem:
        return self._reclassified(without_pictures(self._family, head, value, self._reason(value)))

    # -- the result

    def _resulted(self, head: ResponseHead, value: Json) -> PollOutcome:
        refs = self._pictures(value)
        return Pictures(refs=refs, hints=hints_of(head)) if refs else self._nothing(head, value)

    def _refused_result(self, task_id: str) -> Callable[[Problem, bytes], PollOutcome]:
        def read(problem: Problem, body: bytes) -> PollOutcome:
            value = decode(body) if body else NotJson(problem="empty")
            if problem.status not in _OF_THE_TASK or not is_object(value):
                return self._reclassified(refused_poll(problem, body, task_id=task_id))
            head = ResponseHead(status=problem.status or 0, headers={}, received_at=0.0)
            kind = kind_of(self._family, head, replace(self._reason(value), status=problem.status))
            kind = problem.kind if kind is K.TASK_FAILED and not POLICY[problem.kind].vague else kind
            message = self._reason(value).message or problem.message
            return self._reclassified(replace(problem, kind=kind, message=message, of_task=True))

        return read

    def _pictures(self, value: Json) -> tuple[PictureUrl | PictureBytes, ...]:
        """Those of the first of the table's places that has any."""
        result = self._table.result
        for pointer in result.urls:
            if refs := self._refs(at_pointer(value, pointer), lambda text: picture_from_url(self._completed(text))):
                return refs
        for pointer in result.b64:
            if refs := self._refs(at_pointer(value, pointer), picture_from_base64):
                return refs
        if result.files is not None and result.url is not None:
            urls: list[Json] = [
                filled
                for found in at_pointer(value, result.files)
                if is_object(found) and (filled := filled_url(result.url, found))
            ]
            return self._refs(iter(urls), lambda path: picture_from_url(self._base + path))
        return ()

    @staticmethod
    def _refs(
        found: Iterator[Json], read: Callable[[str], PictureUrl | PictureBytes | None]
    ) -> tuple[PictureUrl | PictureBytes, ...]:
        texts = (text.strip() for text in found if isinstance(text, str) and text.strip())
        return tuple(recordable(ref for text in texts if (ref := read(text)) is not None))

    # -- reasons

    def _reason(self, value: Json) -> ErrorBody:
        """Why a task failed: at the table's places, else wherever a reason is usually given."""
        usual = reason_in(value)
        message = "; ".join(dict.fromkeys(_texts_at(value, self._table.result.message)))[:_MESSAGE_CHARS]
        code = next(iter(_texts_at(value, self._table.result.code)), None)
        return replace(usual, message=message or usual.message or code or "", code=code or usual.code)

    def _reclassified(self, problem: Problem) -> Problem:
        """With the kind that the table gives to such words."""
        said = problem.message.lower()
        for row in self._table.errors:
            if (
                row.status in {None, problem.status}
                and (row.code is None or row.code.lower() == (problem.code or "").lower())
                and (row.text is None or row.text.lower() in said)
            ):
                return replace(problem, kind=ProblemKind(row.kind), unexplained=False)
        return problem


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "none"
    except ValueError:
        return "none"


def _texts_at(value: Json, pointers: Iterable[str]) -> Iterator[str]:
    for pointer in pointers:
        for found in at_pointer(value, pointer):
            if isinstance(found, str | int) and not isinstance(found, bool) and (text := str(found).strip()):
                yield without_lone_surrogates(text)
