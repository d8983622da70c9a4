"""The reader of a reply that may be a stream of events, one JSON value, or a refusal, whatever was asked for.

Knows the forms and how a reply can end; what events and answers mean is the dialect's, which fills in three methods.
Partial text is never an answer. See docs/providers/openai.md#when-an-answer-is-complete.
"""

from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import Final

from batchrunner.core.error_policy import POLICY
from batchrunner.core.http import SETTLED_STREAM_S, Completed, Ending, Interrupted, ResponseHead
from batchrunner.core.outcome import Answer, Correction, Problem, ProblemKind, Usage
from batchrunner.core.sign import Family
from batchrunner.core.values import replace
from batchrunner.providers.error_bodies import (
    KEPT_OF_REFUSAL_BYTES,
    broken_problem,
    plain_problem,
    problem_of,
    read_fault,
    refusal,
    unreadable,
)
from batchrunner.providers.json_bodies import (
    WIDEST_BYTES,
    Body,
    NotJson,
    Recoder,
    cut_value,
    decode,
    first_value,
    is_object,
    is_success,
    recoder,
    values_in,
)
from batchrunner.providers.json_decoder import no_reply
from batchrunner.providers.sse import SseEvent, SseParser, without_comments
from batchrunner.providers.structured import Fits, Misses, SchemaCheck, Unusable

K = ProblemKind

TEXT_CAP_BYTES: Final = 16 * 1024 * 1024
"""Of an answer's text, thinking and arguments together."""
_BODY_CAP_BYTES: Final = 4 * TEXT_CAP_BYTES
"""Of a JSON answer: its text may be escaped."""
_EVENT_END: Final = b"\n\n"
_WHOLE: Final = Completed()
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first sign of either form, and means nothing there."""


class _Form(Enum):
    """What the body is."""

    UNKNOWN = auto()
    EVENTS = auto()
    JSON = auto()
    REFUSAL = auto()


class StreamedReply(ABC):
    """A `Decoder[SendOutcome]` for one reply; a dialect's reader is made from it.

    Where it stands at first is said once for all replies, by the class: most replies are read by `whole` and no step
    further.
    """

    _head: ResponseHead | None = None
    _form = _Form.UNKNOWN
    _body: Body
    """A refusal, a JSON answer, or the first bytes of a stream; there once the reply has begun."""
    _parser: SseParser | None = None
    _rests = False
    """The next byte begins an event."""
    _begun = False
    """True once anything of an answer came."""
    _done = False
    """True once the stream said that it is at its end."""
    _problem: Problem | None = None
    _usage: Usage | None = None
    _late_trouble = False
    """True once an error, or junk, came after the answer's own end."""
    _recoder: Recoder | None = None
    _looked_bytes = 0
    """Of the body, when it was last looked at for being whole."""

    def __init__(self, family: Family, *, check: SchemaCheck | None) -> None:
        self._family = family
        self._check = check

    def __repr__(self) -> str:
        """Where it stands."""
        return f"<{type(self).__name__} {self._form.name} begun={self._begun} done={self._done} {self._problem}>"

    def begin(self, head: ResponseHead) -> None:
        """The head of the reply."""
        self._head = head
        if is_success(head):
            self._body = Body(cap_bytes=_BODY_CAP_BYTES)
        else:
            self._form = _Form.REFUSAL
            self._body = Body(cap_bytes=KEPT_OF_REFUSAL_BYTES)

    def whole(self, head: ResponseHead, body: bytes) -> Answer | Problem:
        """What a reply comes to that is all there: `begin`, `feed` and `end`, in one step for an ordinary answer."""
        if is_success(head) and len(body) <= TEXT_CAP_BYTES and _is_plain_json(head, body):
            answer = self._read_ordinary(body, head)
            if answer is not None:
                return answer if self._check is None else self._held_to_schema(answer, head)
        self.begin(head)
        self.feed(body)
        return self.end(_WHOLE)

    def feed(self, data: bytes) -> bool:  # noqa: C901 - a call less for every piece of a stream
        """A piece of the body; True after the stream's own end, or once it is clear that no answer comes.

        What may follow the end is looked at for the tokens that it counts, and for nothing else.
        """
        if self._recoder is not None:
            data = self._recoder.feed(data)
        if self._problem is not None:
            return True
        if self._done:
            if self._form is _Form.EVENTS:
                self._take_events(self._fed(data))
            return True
        if self._form is _Form.EVENTS:
            if self._rests and (is_over := self._take_ordinary(data)) is not None:
                return is_over
            if not self._begun:
                self._body.add(data)
            if self._rests and self._begun and b"\r" not in data and data.endswith(_EVENT_END):
                return self._take_blocks(data)
            return self._take_events(self._fed(data))
        if self._form is _Form.UNKNOWN and self._body.is_empty:
            if (is_over := self._begin_ordinary(data)) is not None:
                return is_over
            if _is_plain_json(self._head, data):
                self._form = _Form.JSON
        self._body.add(data)
        if self._form is _Form.UNKNOWN:
            return self._recognise(at_end=False)
        return self._body.over

    def settled(self, silent_s: float) -> bool:
        """Whether what came is a whole answer, after so long without a byte: the server may never end its reply."""
        if self._form is _Form.EVENTS:
            return silent_s >= SETTLED_STREAM_S and self._problem is None and self._is_finished
        body = self._body.bytes()
        if len(body) == self._looked_bytes or self._body.over:
            return False
        self._looked_bytes = len(body)
        return not isinstance(decode(body), NotJson) and (self._form is _Form.REFUSAL or self._holds_an_end(body))

    def end(self, ending: Ending) -> Answer | Problem:
        """What it all came to."""
        head = self._head
        if head is None or (isinstance(ending, Interrupted) and not ending.sent):
            return no_reply(ending, head=head)
        if self._form is _Form.REFUSAL:
            return refusal(self._family, head, self._body.bytes())
        if self._form is _Form.UNKNOWN:
            self._recognise(at_end=True)
        if self._form is _Form.EVENTS and self._problem is None:
            if self._parser is None and (answer := self._read_grown(head)) is not None:
                return self._held_to_schema(answer, head)
            self._take_events(self._events.end())
            self._take_json_behind_comments(head, ending)
        elif self._form is _Form.JSON:
            if type(ending) is Completed and (answer := self._ordinary(head)) is not None:
                self._body.kept = bytearray()  # else a long answer is in memory twice while it is written down
                return self._held_to_schema(answer, head)
            self._take_body(head, ending)
        return self._problem or self._verdict(head, ending)

    # -- what a dialect fills in

    @abstractmethod
    def _take_event(self, event: SseEvent) -> None:
        """One event; sets `_begun`, `_done`, `_usage` and `_problem`."""

    @abstractmethod
    def _take_ordinary(self, data: bytes) -> bool | None:
        """Whole events of a growing answer, as nearly all are; whether the stream is over with them.

        It changes what `_take_event` would change. None, and nothing was changed: they are to be read with care.
        """

    @abstractmethod
    def _read_grown(self, head: ResponseHead) -> Answer | None:
        """The answer that ordinary events alone came to, once they are at their end; None: it is read with care."""

    @abstractmethod
    def _take_late(self, event: SseEvent) -> None:
        """An event after the stream's end; may set `_usage`, nothing else."""

    @property
    @abstractmethod
    def _is_finished(self) -> bool:
        """Whether the answer has come to its own end, whatever follows in the stream."""

    @abstractmethod
    def _read_ordinary(self, body: bytes | bytearray, head: ResponseHead) -> Answer | None:
        """A whole ordinary answer in JSON, as nearly all are; None: the full decoder reads it."""

    @abstractmethod
    def _take_json(self, body: bytes) -> None:
        """A whole answer in one piece of sound JSON."""

    @abstractmethod
    def _verdict(self, head: ResponseHead, ending: Ending) -> Answer | Problem:
        """What an answer without a problem comes to, once everything was taken."""

    def _has_content(self) -> bool:
        """Whether a part of the answer came: what a server begins it may charge for."""
        return self._begun

    @abstractmethod
    def _holds_an_end(self, body: bytes) -> bool:
        """Whether JSON whose last brackets were lost holds a whole answer: its end is named in it."""

    # -- what a dialect may use

    @property
    def _events(self) -> SseParser:
        """Made when the first event comes: replies in one piece have none."""
        if self._parser is None:
            self._parser = SseParser(opened=self._rests)
        return self._parser

    def _fed(self, data: bytes) -> list[SseEvent]:
        events = self._events
        found = events.feed(data)
        self._rests = events.is_between_events()
        return found

    @property
    def _is_json(self) -> bool:
        return self._form is _Form.JSON

    def _stop(self, kind: ProblemKind, message: str) -> None:
        self._problem = plain_problem(kind, message, head=self._head)

    def _refuse_event(self, data: bytes, *, is_error: bool) -> None:
        """An event that the dialect cannot read: an error's words, if it may be those, else a corrupt stream."""
        assert self._head is not None
        if not is_error and (pieces := values_in(data)):
            for piece in pieces:
                if self._problem is None and not self._done:
                    self._take_event(SseEvent("", piece))
            return
        if self._is_finished:
            self._late_trouble = True
            return
        if is_error or not self._begun:
            self._problem = problem_of(
                self._family, self._head, read_fault(data), status=None, under_way=self._has_content()
            )
        if not is_error and (self._problem is None or self._problem.kind is K.SERVER_ERROR):
            shown = data[:200].decode("utf-8", "replace")
            self._stop(K.STREAM_CORRUPT, f"the stream has an event that belongs to no answer: {shown}")

    def _too_long(self) -> None:
        self._stop(K.TOO_LARGE, f"the answer is longer than {TEXT_CAP_BYTES} bytes")

    def _failed(self, kind: ProblemKind, message: str, head: ResponseHead) -> Problem:
        return replace(plain_problem(kind, message, head=head), usage=self._usage)

    def _cut(self, head: ResponseHead, ending: Ending, *, size_bytes: int, finish_reason: str | None) -> Problem:
        """The problem of a stream that ended before its answer did."""
        if isinstance(ending, Interrupted):
            return broken_problem(ending, head=head)
        if self._begun:
            reason = f"finish reason {finish_reason!r}" if finish_reason else "no finish reason"
            return self._failed(
                K.STREAM_CUT, f"the stream ended after {size_bytes} bytes of answer with {reason}", head
            )
        lead = self._body.bytes()
        problem = unreadable(self._family, head, lead)
        if not POLICY[problem.kind].no_answer:
            return problem
        shown = lead[:200].decode("utf-8", "replace").strip()
        came = f"only this was received: {shown!r}" if shown else "nothing followed the headers of the reply"
        return self._failed(K.STREAM_CUT, f"the stream ended before any answer: {came}", head)

    def _held_to_schema(self, answer: Answer, head: ResponseHead) -> Answer | Problem:
        """The answer with its value, or the correction for the model. An answer that only calls tools has none."""
        if self._check is None or (answer.tool_calls and not answer.text):
            return answer
        match self._check.look(answer.text):
            case Fits(value=value):
                return replace(answer, parsed=value)
            case Misses(fault=fault):
                fault = f"{fault} (the answer was cut off by the token limit)" if answer.truncated else fault
                problem = self._failed(K.SCHEMA_MISS, f"the answer does not match the schema: {fault}", head)
                return replace(problem, usage=answer.usage, correction=Correction(said=answer.text, fault=fault))
            case Unusable(fault=fault):
                return self._failed(K.CONFIGURATION, fault, head)

    # -- the forms

    def _ordinary(self, head: ResponseHead) -> Answer | None:
        body = self._body
        return self._read_ordinary(body.kept, head) if not body.over and len(body.kept) <= TEXT_CAP_BYTES else None

    def _begin_ordinary(self, data: bytes) -> bool | None:
        """Take the first piece of a stream, if there are ordinary events in it and nothing else."""
        assert self._head is not None
        if data[:1] not in {b"d", b"e"} or not _is_in_utf8(self._head):
            return None
        self._form, self._rests = _Form.EVENTS, True
        is_over = self._take_ordinary(data)
        if is_over is None:
            self._form, self._rests = _Form.UNKNOWN, False
        return is_over

    def _take_blocks(self, data: bytes) -> bool:
        """Whole events of which some are not ordinary: one by one."""
        blocks = data.split(_EVENT_END)
        if len(blocks) == 2:  # noqa: PLR2004 - one event, which was looked at
            return self._take_events(self._fed(data))
        for place, block in enumerate(blocks[:-1], 1):
            is_over = self._take_ordinary(block + _EVENT_END)
            if is_over is None:
                is_over = self._take_events(self._fed(block + _EVENT_END))
            if is_over:
                rest = _EVENT_END.join(blocks[place:])
                return self._problem is not None or not rest or self._take_events(self._fed(rest))
        return False

    def _recognise(self, *, at_end: bool) -> bool:
        """Tell events from JSON by the first byte that says something, else by the content type."""
        assert self._head is not None
        start = self._body.bytes()
        if len(start) < WIDEST_BYTES and not at_end:
            return False
        kind = self._head.headers.get("content-type", "").lower()
        if self._recoder is None and (found := recoder(start, kind)) is not None:
            self._recoder = found
            self._body = Body(cap_bytes=_BODY_CAP_BYTES)
            self._body.add(start := found.feed(start))
        bare = start.lstrip(_BLANK)
        if not bare and not at_end:
            self._body = Body(cap_bytes=_BODY_CAP_BYTES)
            return False
        if bare[:1] in {b"{", b"["} or not (bare[:1] in {b"d", b"e", b"i", b"r", b":"} or "event-stream" in kind):
            self._form = _Form.JSON
            if not self._body.over:  # as if the blanks before it had come in a piece of their own
                self._body = Body(cap_bytes=_BODY_CAP_BYTES)
                self._body.add(bare)
            return self._body.over
        self._form = _Form.EVENTS
        self._body = Body(cap_bytes=_BODY_CAP_BYTES)  # until anything of an answer came
        self._body.add(bare)
        return self._take_events(self._fed(bare))

    def _take_events(self, events: list[SseEvent]) -> bool:
        for event in events:
            if self._done:
                self._take_late(event)
            else:
                self._take_event(event)
            if self._problem is not None:
                return True
        if self._done:
            return True
        if self._events.overflow is not None:
            if self._is_finished:
                self._done = self._late_trouble = True
                return True
            cap = self._events.overflow
            self._stop(K.TOO_LARGE, f"the stream has {cap.what} of more than {cap.cap_bytes} bytes")
            return True
        return False

    def _take_json_behind_comments(self, head: ResponseHead, ending: Ending) -> None:
        """Keep-alives of a stream, and then JSON in one piece: the answer was long in coming."""
        if not self._begun and self._problem is None and (bare := without_comments(self._body.bytes())):
            self._form = _Form.JSON
            self._body = Body(cap_bytes=_BODY_CAP_BYTES)
            self._body.add(bare)
            self._take_body(head, ending)

    def _take_body(self, head: ResponseHead, ending: Ending) -> None:
        body = self._body.bytes()
        if self._body.over:
            self._stop(K.TOO_LARGE, f"the answer is larger than {_BODY_CAP_BYTES} bytes")
        elif not isinstance(value := decode(body), NotJson):
            if isinstance(value, list) and len(value) > 1 and all(is_object(entry) for entry in value):
                self._form = _Form.EVENTS  # a stream written as one list
                self._take_events([SseEvent("", piece) for piece in values_in(body)])
            else:
                self._take_json(body)
        elif (first := first_value(body)) is not None and self._holds_an_end(first):
            self._take_json(first)
            self._late_trouble = True
        elif first is not None and all(line[:1] == b"{" for line in body.split(b"\n") if line.strip()):
            self._form = _Form.EVENTS  # one on each line, without a word around them
            self._take_events([SseEvent("", line.strip()) for line in body.split(b"\n") if line.strip()])
        elif (repaired := cut_value(body)) is not None and self._holds_an_end(repaired):
            self._take_json(repaired)
            self._late_trouble = True
        else:
            match ending:
                case Interrupted():
                    self._problem = broken_problem(ending, head=head)
                case Completed():
                    self._problem = unreadable(self._family, head, body)


def _is_plain_json(head: ResponseHead | None, start: bytes) -> bool:
    """Whether a reply that begins so is JSON in UTF-8: `_recognise` would find the same."""
    if head is None or start[:1] != b"{" or len(start) < WIDEST_BYTES or b"\0" in start[:WIDEST_BYTES]:
        return False
    return _is_in_utf8(head)


def _is_in_utf8(head: ResponseHead) -> bool:
    """As far as the head says."""
    kind = head.header("content-type")
    return kind == "application/json" or "charset" not in kind.lower() or "utf-8" in kind.lower()
