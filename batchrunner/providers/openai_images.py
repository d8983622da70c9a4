"""The dialect of OpenAI's image generations, which Ark and others copy: a POST whose reply holds the pictures.

Parameters are passed on as they are; `response_format` above all is sent only if the person gave it, for some models
refuse it. A stream of partial pictures, if the person asked for one, is read for its last pictures.
See docs/providers/openai.md#images.
"""

from typing import Final

from batchrunner.core.classify import family_of
from batchrunner.core.error_policy import POLICY
from batchrunner.core.http import Decoder, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import (
    PictureBytes,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    Revision,
    SendOutcome,
    Usage,
)
from batchrunner.core.sign import Family
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import replace
from batchrunner.providers.chat_media import is_picture, media_in, pictures_in_text
from batchrunner.providers.error_bodies import fault_in, message_in, plain_problem, problem_of
from batchrunner.providers.json_bodies import (
    NotJson,
    at,
    cut_value,
    decode,
    encode,
    is_object,
    openai_url,
    whole_number,
)
from batchrunner.providers.json_decoder import PICTURES_CAP_BYTES, WholeReply
from batchrunner.providers.multipart import field_part, file_part, form_request
from batchrunner.providers.native_shapes import as_chat
from batchrunner.providers.rate_headers import hints_of
from batchrunner.providers.result_pictures import picture_from_base64, picture_from_url, pictures_in
from batchrunner.providers.sse import DONE, SseParser
from batchrunner.providers.task_replies import (
    TaskName,
    is_refusal,
    named_in_pieces,
    shown,
    task_named_in,
    task_state_of,
    word_in,
)

_PACKED: Final = ("b64_json", "url")
_PICTURE_KEYS: Final = frozenset({"b64_json", "url", "error", "code", "message"})
_STREAM_STARTS: Final = (b"data:", b"event:", b":")
_SHOWN_BYTES: Final = 300
_END_BYTES: Final = 100
_PERHAPS_TAKEN: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may hide an order that was taken; every 5xx may."""
_COMPLETED: Final = ".completed"
"""How the type of an event ends that holds a finished picture."""


class OpenAiImages:
    """A `Dialect`."""

    def __init__(self, provider: Provider) -> None:
        self._url = openai_url(provider, "images/generations")
        self._edits_url = openai_url(provider, "images/edits")
        self._edits = provider.edits_as_form
        self._family = family_of(provider)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<OpenAiImages {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:  # noqa: ARG002 - the port's; no revision fits an image
        """The POST that asks for pictures.

        Pictures to start from go as files to OpenAI's own endpoint for edits; other servers, like Ark, take them as
        `image` of the usual one.
        """
        if item.pictures and self._edits:
            return _edit(self._edits_url, item)
        body: dict[str, Json] = {"model": item.model, "prompt": item.prompt}
        if item.pictures:
            urls: list[Json] = [picture.url for picture in item.pictures]
            body["image"] = urls if len(urls) > 1 else urls[0]
        body.update(item.params)
        return Request(
            method="POST",
            url=self._url,
            headers={"content-type": "application/json"},
            body=encode(body),
        )

    def decoder(self, item: Item) -> Decoder[SendOutcome]:  # noqa: ARG002 - the port's; every item's reply reads alike
        """A fresh reader for the reply."""
        return WholeReply[SendOutcome](
            self._family,
            read=lambda head, value: _made(self._family, head, value),
            reword=_ordered_all_the_same,
            parse=_whole_or_streamed,
        )


def _edit(url: str, item: Item) -> Request:
    """The pictures' bytes and the parameters as a form; one picture that is only an address goes as its address."""
    fields: list[tuple[str, Json]] = [("model", item.model), ("prompt", item.prompt), *item.params.items()]
    parts = [field_part(name, value) for name, value in fields if name != "mask"]
    name = "image[]" if len(item.pictures) > 1 else "image"
    parts += [_file(name, picture.url, number) for number, picture in enumerate(item.pictures, start=1)]
    mask = item.params.get("mask")
    if isinstance(mask, str):
        parts.append(_file("mask", mask, 0))
    return form_request(url, parts)


def _file(name: str, url: str, number: int) -> bytes:
    found = picture_from_url(url) or picture_from_base64(url)
    if not isinstance(found, PictureBytes):
        return field_part(name, url)
    media = url[len("data:") :].partition(";")[0].partition(",")[0] if url.startswith("data:") else "image/png"
    ending = media.rpartition("/")[2].replace("jpeg", "jpg").partition("+")[0] or "png"
    return file_part(name, found.data, file_name=f"image-{number}.{ending}", media_type=media)


def _made(family: Family, head: ResponseHead, value: Json) -> Pictures | Problem:
    """Pictures, however few of those asked for; without any, the reason that is given."""
    refs = pictures_in(value) or _pictures_of_others(value)
    entries = at(value, "data")
    listed = entries if isinstance(entries, list) else []
    if refs:
        flags = ("pictures_missing",) if len(refs) < len(listed) else ()
        return Pictures(refs=refs, usage=_usage(value), flags=flags, hints=hints_of(head))
    if (task := _task_in(value)) is not None:
        message = (
            f"the server accepted the request as task {task.id[:80]}, which this dialect cannot poll"
            f" (if the server has /tasks, use `provider.dialect: modelscope-images`):  {shown(value)}"
        )
        return plain_problem(ProblemKind.NOT_UNDERSTOOD, message, head=head)
    for said in (value, *listed):
        if is_object(said) and message_in(said):
            return problem_of(family, head, fault_in(said), status=None)
    if is_refusal(value):
        return problem_of(family, head, fault_in(value), status=None)
    if any(is_object(entry) and entry and not _PICTURE_KEYS & entry.keys() for entry in listed):
        message = f"the server's reply contains something that could not be read as a picture: {shown(value)}"
        return plain_problem(ProblemKind.NOT_UNDERSTOOD, message, head=head)
    message = f"the server accepted the request with HTTP {head.status}, but its reply has no picture: {shown(value)}"
    return plain_problem(ProblemKind.NOT_UNDERSTOOD, message, head=head)


def _task_in(value: Json) -> TaskName | None:
    """The task that a reply without pictures names; an `id` alone counts only next to a status that means waiting."""
    task = None if is_refusal(value) else task_named_in(value)
    waits = task_state_of(word_in(value)) in {"queued", "running"}
    return task if task is not None and (waits or not task.guess) else None


def _pictures_of_others(value: Json) -> tuple[PictureUrl | PictureBytes, ...]:
    """Of an answer in the shape of another API: a chat's, Gemini's, Vertex's."""
    chat = value if is_object(value) and "choices" in value else as_chat(value)
    if chat is not None:
        found = [ref for choice in _listed(chat.get("choices")) for ref in media_in(at(choice, "message"))]
        texts = (at(choice, "message", "content") for choice in _listed(chat.get("choices")))
        found += [ref for text in texts if isinstance(text, str) for ref in pictures_in_text(text)]
        return tuple(dict.fromkeys(found))
    packed = (at(entry, "bytesBase64Encoded") for entry in _listed(at(value, "predictions")))
    return tuple(ref for text in packed if isinstance(text, str) and (ref := picture_from_base64(text)) is not None)


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _ordered_all_the_same(problem: Problem, body: bytes) -> Pictures | Problem:
    """What may have been billed with a reply that is no sound 2xx: its pictures are kept, a doubtful request is held.

    A picture may be in a reply that broke off after it, in a gateway's error, or be the reply itself. A whole 2xx
    in other words, and a refusal that names a task, mean a request that was accepted: it is not repeated.
    """
    status = problem.status or 0
    success = 200 <= status < 300  # noqa: PLR2004 - the class of successes, as HTTP numbers it
    if success and is_picture(body) and problem.kind is ProblemKind.STREAM_CORRUPT:
        return Pictures(refs=(PictureBytes(data=body),))
    value = decode(body) if body else None
    if isinstance(value, NotJson) and (repaired := cut_value(body)) is not None:
        value = decode(repaired)
    if (success or status >= 500) and not isinstance(value, NotJson) and (refs := pictures_in(value)):  # noqa: PLR2004
        return Pictures(refs=refs, flags=("cut_after_end",) if success else ())
    if status in _PERHAPS_TAKEN or status >= 500 or success:  # noqa: PLR2004 - HTTP's server errors
        task = named_in_pieces(body) if isinstance(value, NotJson) else task_named_in(value)
        if task is not None and not task.guess:
            message = (
                f"HTTP {status}, and the reply names task {task.id[:80]}, which this dialect cannot poll"
                f" (if the server has /tasks, use `provider.dialect: modelscope-images`):  {problem.message}"
            )
            return replace(problem, kind=ProblemKind.NOT_UNDERSTOOD, message=message)
    if not (success and POLICY[problem.kind].no_answer):
        return problem
    if body.lstrip()[:6].startswith(_STREAM_STARTS) and b"data: [DONE]" not in body[-_END_BYTES:]:
        return problem  # a stream that broke off
    said = without_lone_surrogates(body[:_SHOWN_BYTES].decode("utf-8", "replace").strip()) or "(empty)"
    message = f"the server accepted the request with HTTP {status}, but its reply has no picture: {said}"
    return replace(problem, kind=ProblemKind.NOT_UNDERSTOOD, message=message)


def _usage(value: Json) -> Usage | None:
    usage = Usage(
        input_tokens=whole_number(at(value, "usage", "input_tokens")),
        output_tokens=whole_number(at(value, "usage", "output_tokens")),
    )
    return None if usage == Usage() else usage


def _whole_or_streamed(body: bytes) -> Json | NotJson:
    """The reply's JSON; of a stream, its finished pictures put together as an unstreamed reply would hold them."""
    value = decode(body)
    if not isinstance(value, NotJson) or not body.lstrip()[:6].startswith(_STREAM_STARTS):
        return value
    parser = SseParser(cap_bytes=PICTURES_CAP_BYTES)
    said = [decode(event.data) for event in [*parser.feed(body), *parser.end()] if not event.data.startswith(DONE)]
    events = [event for event in said if is_object(event)]
    if failed := next((event for event in events if event.get("error") or event.get("type") == "error"), None):
        return failed
    finished = [event for event in events if str(event.get("type")).endswith(_COMPLETED)]
    if not finished:
        return value
    data: list[Json] = [{name: event[name] for name in _PACKED if name in event} for event in finished]
    return {"data": data, "usage": finished[-1].get("usage")}
