"""What the dialects of batches have in common: a result file on its way, and a line that the chat dialect reads."""

from collections.abc import Callable
from typing import TypeAlias

from batchrunner.core.classify import family_of
from batchrunner.core.http import Completed, Decoder, Ending, Interrupted, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import Problem, ProblemKind, SendOutcome, TaskAccepted
from batchrunner.core.ports import Dialect
from batchrunner.core.remote_batch import BatchLine
from batchrunner.providers.error_bodies import message_in, plain_problem
from batchrunner.providers.json_bodies import is_success
from batchrunner.providers.json_decoder import WholeReply

Hide: TypeAlias = Callable[[SendOutcome], SendOutcome]
"""Takes keys out of what a line came to: it did not come through the transport, which does that for replies."""


def as_it_is(outcome: SendOutcome) -> SendOutcome:
    """A `Hide` where there are no keys."""
    return outcome


class ChatReplies:
    """Of a provider's batches, whose results are replies of its chat dialect."""

    def __init__(self, provider: Provider, chat: Dialect, hide: Hide = as_it_is) -> None:
        self._chat = chat
        self._hide = hide
        self._family = family_of(provider)

    def downloaded(self, write: Callable[[bytes], None]) -> Decoder[Problem | None]:
        """Reads the reply to `content`: each piece of the file is given to `write`; None when it is whole."""
        return FileReply(WholeReply(self._family, read=lambda _head, _value: None), write)

    def answer(self, item: Item, line: BatchLine, *, received_at: float) -> SendOutcome:
        """What the reply in a line comes to, as the chat dialect reads it, without keys that a server repeats."""
        return self._hide(self._answer(item, line, received_at=received_at))

    def _answer(self, item: Item, line: BatchLine, *, received_at: float) -> SendOutcome:
        if line.problem is not None:
            return line.problem
        headers = {"content-type": "application/json"}
        if line.request_id:
            headers["x-request-id"] = line.request_id
        decoder = self._chat.decoder(item)
        decoder.begin(ResponseHead(status=line.status, headers=headers, received_at=received_at))
        decoder.feed(line.body)
        outcome = decoder.end(Completed())
        if isinstance(outcome, TaskAccepted):
            return Problem(kind=ProblemKind.NOT_UNDERSTOOD, message="the batch's reply names a task and has no answer")
        return outcome


class FileReply:
    """A `Decoder` of a file; a refusal is read as one."""

    def __init__(self, refused: WholeReply[None], write: Callable[[bytes], None]) -> None:
        self._refused = refused
        self._write = write
        self._head: ResponseHead | None = None

    def begin(self, head: ResponseHead) -> None:
        """See the port."""
        self._head = head
        self._refused.begin(head)

    def feed(self, data: bytes) -> bool:
        """See the port."""
        if self._head is not None and is_success(self._head):
            self._write(data)
            return False
        return self._refused.feed(data)

    def end(self, ending: Ending) -> Problem | None:
        """See the port."""
        if self._head is None or not is_success(self._head):
            return self._refused.end(ending)
        if isinstance(ending, Interrupted):
            return plain_problem(ProblemKind.DOWNLOAD_FAILED, ending.message, head=self._head)
        return None


def get(url: str) -> Request:
    """A question that costs nothing."""
    return Request(method="GET", url=url, headers={"accept": "application/json"})


def text_of(value: Json) -> str:
    """A field that should be a text; empty where it is none."""
    return value if isinstance(value, str) else ""


def not_understood(head: ResponseHead, what: str, value: Json) -> Problem:
    """A reply that does not say what was asked for."""
    said = message_in(value)
    message = f"the reply names no {what}{f': {said}' if said else ''}"
    return plain_problem(ProblemKind.NOT_UNDERSTOOD, message, head=head)
