"""The reader of replies that are one JSON value: collects the body under a cap and hands it to one function."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from batchrunner.core.http import Completed, Ending, Interrupted, ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.sign import Family
from batchrunner.providers.error_bodies import (
    KEPT_OF_REFUSAL_BYTES,
    broken_problem,
    plain_problem,
    refusal,
    unreadable,
)
from batchrunner.providers.json_bodies import Body, NotJson, decode, is_success

T = TypeVar("T")

PICTURES_CAP_BYTES: Final = 128 * 1024 * 1024
"""Of a JSON body that may hold pictures in base64."""


class WholeReply(Generic[T]):
    """A `Decoder`. `read` makes the outcome of a 2xx's JSON; `reword` may see more in any other body than a problem.

    `parse` makes JSON of the body of a 2xx, where that may come in another form.
    """

    def __init__(
        self,
        family: Family,
        *,
        read: Callable[[ResponseHead, Json], T | Problem],
        reword: Callable[[Problem, bytes], T | Problem] = lambda problem, _: problem,
        parse: Callable[[bytes], Json | NotJson] = decode,
        cap_bytes: int = PICTURES_CAP_BYTES,
    ) -> None:
        self._family = family
        self._read = read
        self._reword = reword
        self._parse = parse
        self._cap_bytes = cap_bytes
        self._head: ResponseHead | None = None
        self._body = Body(cap_bytes=0)
        self._looked_bytes = 0

    def __repr__(self) -> str:
        """Where it stands."""
        status = self._head.status if self._head else None
        return f"<WholeReply status={status} {len(self._body.bytes())} B>"

    def begin(self, head: ResponseHead) -> None:
        """The head of the reply."""
        self._head = head
        self._body = Body(cap_bytes=self._cap_bytes if is_success(head) else KEPT_OF_REFUSAL_BYTES)

    def feed(self, data: bytes) -> bool:
        """A piece of the body; True once it is beyond its cap."""
        self._body.add(data)
        return self._body.over

    def settled(self, _silent_s: float) -> bool:
        """Whether what came is one whole JSON value: a server may never end a reply whose length it said wrongly."""
        body = self._body.bytes()
        if len(body) == self._looked_bytes or self._body.over:
            return False
        self._looked_bytes = len(body)
        return not isinstance(decode(body), NotJson)

    def end(self, ending: Ending) -> T | Problem:
        """What the reply came to. A body that is whole JSON counts, even if the connection broke after it."""
        head = self._head
        if head is None or (isinstance(ending, Interrupted) and not ending.sent):
            return no_reply(ending, head=head)
        if isinstance(ending, Interrupted) and ending.cause == "too_large" and is_success(head):
            return broken_problem(ending, head=head)
        body, over = self._body.bytes(), self._body.over
        self._body = Body(cap_bytes=0)  # a second copy of a big answer is too much
        if not is_success(head):
            return self._reword(refusal(self._family, head, body), body)
        if over:
            message = f"the answer is larger than {self._cap_bytes} bytes"
            return plain_problem(ProblemKind.TOO_LARGE, message, head=head)
        value = self._parse(body)
        if isinstance(value, NotJson) and (end := body.rfind(b"}") + 1) and end < len(body):
            value = self._parse(body[:end])  # extra bytes after the answer do not matter
        if not isinstance(value, NotJson):
            del body  # it may hold pictures, of which `value` and the outcome are copies already
            return self._read(head, value)
        match ending:
            case Interrupted():
                return self._reword(broken_problem(ending, head=head), body)
            case Completed():
                return self._reword(unreadable(self._family, head, body), body)


def no_reply(ending: Ending, *, head: ResponseHead | None) -> Problem:
    """The problem of an exchange that gave no reply."""
    match ending:
        case Interrupted():
            return broken_problem(ending, head=head)
        case Completed():
            return plain_problem(ProblemKind.RESET, "the server sent no reply", head=head)
