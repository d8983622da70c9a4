"""The dialect of OpenAI's transcriptions: a file of sound goes in as a form, its words come out.

What the words look like is the request's choice: JSON with or without segments, or plain text, SRT and VTT, which have
no end of their own: there only a reply that HTTP says is whole counts. A transcript is the text of an answer; what else
came (`language`, `duration`, `segments`, `words` …) stands beside it under the server's own names. Silence is an
answer, too: it was heard, and may be billed. Translations into English are the same at another address. See
docs/transcription.md.
"""

import re
from base64 import b64decode
from collections.abc import Callable
from math import isfinite
from typing import Final

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Ending, Interrupted, Request, ResponseHead
from batchrunner.core.input_files import FORMS
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision, SendOutcome, Usage
from batchrunner.core.text import without_lone_surrogates
from batchrunner.providers.error_bodies import broken_problem, fault_in, message_in, plain_problem, problem_of
from batchrunner.providers.json_bodies import NotJson, at, decode, is_object, is_success, openai_url, whole_number
from batchrunner.providers.json_decoder import WholeReply
from batchrunner.providers.multipart import field_part, field_parts, file_part, form_request
from batchrunner.providers.rate_headers import hints_of
from batchrunner.providers.sse import DONE, SseParser

PLAIN_FORMATS: Final = frozenset({"text", "srt", "vtt"})
"""What a reply may be that is no JSON."""
SILENT: Final = "empty_transcript"
"""The flag of a transcript without a word."""
_CAP_BYTES: Final = 48 * 1024 * 1024
_DECIMAL: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")
_MARKUP: Final = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)
_STREAM_STARTS: Final = (b"data:", b"event:")
_DONE_EVENT: Final = "transcript.text.done"
ENDPOINT: Final = "endpoint"
"""The parameter that says which of the addresses is meant; it is not sent."""
ENDPOINTS: Final = ("transcriptions", "translations")
_NOT_BESIDE: Final = frozenset({"text", "usage", "task", "type"})
"""Of a reply: what a row has in another place, or what says nothing."""


class OpenAiTranscriptions:
    """A `Dialect`."""

    def __init__(self, provider: Provider) -> None:
        self._urls = {name: openai_url(provider, f"audio/{name}") for name in ENDPOINTS}
        self._family = family_of(provider)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<OpenAiTranscriptions {self._urls[ENDPOINTS[0]]}>"

    def encode(self, item: Item, revision: Revision) -> Request:  # noqa: ARG002 - the port's; nothing to revise
        """The POST of one file with its parameters; the prompt says how names are written, and may be empty."""
        parts = [field_part("model", item.model)]
        if item.prompt.strip():
            parts.append(field_part("prompt", item.prompt))
        for name, value in item.params.items():
            if name != ENDPOINT:
                parts += field_parts(name, value)
        for file in item.files:
            form = FORMS[file.kind]
            data = b64decode(file.url.partition(",")[2])
            parts.append(file_part("file", data, file_name=f"sound.{form.ending}", media_type=form.media_type))
        return form_request(self._urls[str(item.params.get(ENDPOINT, ENDPOINTS[0]))], parts)

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""
        if item.params.get("response_format") in PLAIN_FORMATS:
            return _PlainReply(self._family, read=self._read, parse=_plain, cap_bytes=_CAP_BYTES)
        return WholeReply[SendOutcome](self._family, read=self._read, parse=_whole_or_streamed, cap_bytes=_CAP_BYTES)

    def _read(self, head: ResponseHead, value: Json) -> Answer | Problem:
        text = at(value, "text")
        if not isinstance(text, str) or not is_object(value):
            if is_object(value) and message_in(value):
                return problem_of(self._family, head, fault_in(value), status=None)
            return plain_problem(ProblemKind.EMPTY_RESPONSE, "the server's reply holds no transcript", head=head)
        extras = _beside(value)
        if (seconds := _seconds(at(value, "usage", "seconds"))) is not None:
            extras["audio_seconds"] = seconds
        flags = () if text.strip() else (SILENT,)
        return Answer(text=text, usage=_usage(value), flags=flags, hints=hints_of(head), extras=extras)


def _seconds(said: Json) -> float | None:
    """A length of time, which some servers write as text; None for anything else."""
    if isinstance(said, str) and _DECIMAL.fullmatch(said):
        return float(said)
    fits = isinstance(said, int | float) and not isinstance(said, bool) and isfinite(said) and said >= 0
    return said if fits and isinstance(said, int | float) else None


def _objects(said: Json) -> Json | None:
    """A list of objects; None for anything else."""
    return said if isinstance(said, list) and all(is_object(entry) for entry in said) else None


_FITTING: Final[dict[str, Callable[[Json], Json | None]]] = {
    "language": lambda said: said if isinstance(said, str) else None,
    "duration": _seconds,
    "segments": _objects,
    "words": _objects,
    "audio_seconds": lambda _said: None,  # what the usage counts, and no field of a reply
}
"""Fields that mean something here: their value as rows have it, None where it is of another type."""


def _beside(value: dict[str, Json]) -> dict[str, Json]:
    """What came beside the words. A field that means something and is of another type is `NAME_as_sent`."""
    extras: dict[str, Json] = {}
    for name, said in value.items():
        if name in _NOT_BESIDE or said is None:
            continue
        fitting = _FITTING[name](said) if name in _FITTING else said
        extras[name if fitting is not None else f"{name}_as_sent"] = said if fitting is None else fitting
    return extras


class _PlainReply(WholeReply[SendOutcome]):
    """Of words alone nobody can see whether they are all there: nothing but an orderly end says so."""

    def settled(self, _silent_s: float) -> bool:
        """Never: more words may come."""
        return False

    def end(self, ending: Ending) -> SendOutcome:
        """What the reply came to."""
        head = self._head
        if head is not None and is_success(head) and isinstance(ending, Interrupted):
            return broken_problem(ending, head=head)
        return super().end(ending)


def _plain(body: bytes) -> Json | NotJson:
    """Words as the value of JSON that they would be; a server that answers in JSON all the same is believed."""
    value = decode(body) if body.lstrip().startswith(b"{") else None
    if is_object(value):
        return value
    if not body or _MARKUP.match(body):
        return decode(b"")  # read as an empty reply, or as a page
    return {"text": without_lone_surrogates(body.decode("utf-8", "replace")).removeprefix("\ufeff").rstrip()}


def _whole_or_streamed(body: bytes) -> Json | NotJson:
    """The reply's JSON; of a stream, which a server may send unasked, the event that ends it."""
    value = decode(body)
    if not isinstance(value, NotJson) or not body.lstrip()[:6].startswith(_STREAM_STARTS):
        return value
    parser = SseParser(cap_bytes=_CAP_BYTES)
    said = [decode(event.data) for event in [*parser.feed(body), *parser.end()] if not event.data.startswith(DONE)]
    events = [event for event in said if is_object(event)]
    ends = (event for event in events if event.get("type") in {_DONE_EVENT, "error"} or event.get("error"))
    return next(ends, value)


def _usage(value: Json) -> Usage | None:
    usage = Usage(
        input_tokens=whole_number(at(value, "usage", "input_tokens")),
        output_tokens=whole_number(at(value, "usage", "output_tokens")),
    )
    return None if usage == Usage() else usage
