"""The dialect of OpenAI's Responses (`POST /v1/responses`), as OpenAI, Azure and newer local servers have it.

Parameters are passed on as they are, unknown ones too. Turns are sent as the items of `input`; what a ready message
holds in the chat dialect's words (parts, calls of tools and their results) is said in this one's.
See docs/providers/openai-responses.md#request.
"""

from typing import Final

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Request
from batchrunner.core.item import InputFile, InputPicture, Item
from batchrunner.core.job import Json, Provider, Turn
from batchrunner.core.outcome import Revision, SendOutcome
from batchrunner.providers.json_bodies import KeptBody, at, is_object, openai_url
from batchrunner.providers.openai_responses_reply import ResponsesDecoder
from batchrunner.providers.structured import SchemaChecks, correction_text, schema_in_words

_TEXT: Final = "text"
_FORMAT: Final = "format"


class OpenAiResponses:
    """A `Dialect`. Keeps the ready-made check of the job's schema, and what its requests have in common."""

    def __init__(self, provider: Provider) -> None:
        self._url = openai_url(provider, "responses")
        self._family = family_of(provider)
        self._checks = SchemaChecks()
        self._bodies = KeptBody(self._url, body=_body, headers=_headers)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<OpenAiResponses {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:
        """The POST of one response, streamed unless the item says otherwise."""
        return self._bodies.request(item, revision)

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""
        check = None if item.schema is None else self._checks.of(item.schema)
        return ResponsesDecoder(self._family, check=check, sends_schema=_sends_schema(item))


def _headers(body: dict[str, Json]) -> dict[str, str]:
    accept = "text/event-stream" if body.get("stream") is True else "application/json"
    return {"content-type": "application/json", "accept": accept}


def _body(item: Item, revision: Revision) -> dict[str, Json]:
    body: dict[str, Json] = {"model": item.model, "input": _input(item, revision), "stream": item.stream}
    body.update(item.params)
    if item.schema is not None and (form := _form_of(item.schema, revision)) is not None:
        given = item.params.get(_TEXT)
        body[_TEXT] = {_FORMAT: form, **(given if is_object(given) else {})}
    if "stream" in revision.adapted:
        body["stream"] = True
    if "no_stream" in revision.adapted:
        body["stream"] = False
    if body["stream"] is not True or "no_stream_options" in revision.adapted:
        body.pop("stream_options", None)
    return body


def _sends_schema(item: Item) -> bool:
    """False without a schema, and where the person wrote the format: that is sent as it is, whatever comes of it."""
    return item.schema is not None and at(item.params, _TEXT, _FORMAT) is None


def _form_of(schema: dict[str, Json], revision: Revision) -> Json:
    """How the request carries the schema; where a server takes none, `json_object` promises an object and no more."""
    if "json_object" not in revision.adapted:
        return {"type": "json_schema", "name": "answer", "schema": schema}
    return {"type": "json_object"} if schema.get("type") == "object" else None


def _input(item: Item, revision: Revision) -> list[Json]:
    """The turns; pictures, files and a schema in words are in the last user turn; a correction comes last."""
    needs_words = "json_object" in revision.adapted and _sends_schema(item)
    words = schema_in_words(item.schema) if needs_words and item.schema is not None else ""
    last_user = max((place for place, turn in enumerate(item.turns) if turn.role == "user"), default=None)
    is_ready = any(turn.raw is not None for turn in item.turns)  # its pictures stand in its messages
    given: tuple[InputPicture | InputFile, ...] = () if is_ready else (*item.pictures, *item.files)
    said: list[Json] = []
    for place, turn in enumerate(item.turns):
        is_last = place == last_user
        said += _items_of(turn, words if is_last else "", given if is_last else ())
    if last_user is None and (item.pictures or item.files or words):
        said += _items_of(Turn(role="user", content=words), "", (*item.pictures, *item.files))
    if revision.correction is not None:
        if revision.correction.said.strip():
            said.append({"role": "assistant", "content": revision.correction.said})
        said.append({"role": "user", "content": correction_text(revision.correction)})
    return said


def _items_of(turn: Turn, words: str, given: tuple[InputPicture | InputFile, ...]) -> list[Json]:
    if turn.raw is not None:
        return _ready(turn.raw, words)
    text = "\n\n".join(filter(None, (turn.content, words)))
    if not given:
        return [{"role": turn.role, "content": text}]
    # before the text about them, as in the other dialects
    content: list[Json] = [_given(one) for one in given]
    if text:
        content.append({"type": "input_text", "text": text})
    return [{"role": turn.role, "content": content}]


def _given(one: InputPicture | InputFile) -> Json:
    """A file is named where its bytes go along, which is required there; one behind an address has its name in it."""
    if isinstance(one, InputPicture):
        return {"type": "input_image", "image_url": one.url, "detail": one.detail or "auto"}
    if not one.url.startswith("data:"):
        return {"type": "input_file", "file_url": one.url}
    return {"type": "input_file", "filename": one.name.rpartition("/")[2] or "file.pdf", "file_data": one.url}


def _ready(message: dict[str, Json], words: str) -> list[Json]:
    """A ready message. One that is an item of this dialect already stays as it stands."""
    role, content = message.get("role"), message.get("content")
    more: list[Json] = [{"role": "user", "content": words}] if words else []
    if role == "tool":
        output = content if isinstance(content, str) else _joined(content)
        return [{"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output}, *more]
    calls = message.get("tool_calls")
    if not isinstance(calls, list) and not isinstance(content, list):
        return [message, *more]
    said: list[Json] = []
    if isinstance(content, list):
        said.append({"role": role, "content": [_part(part, by_model=role == "assistant") for part in content]})
    elif content:
        said.append({"role": role, "content": content})
    for call in calls if isinstance(calls, list) else []:
        name, arguments = at(call, "function", "name"), at(call, "function", "arguments")
        said.append({"type": "function_call", "call_id": at(call, "id"), "name": name, "arguments": arguments})
    return [*said, *more]


def _part(part: Json, *, by_model: bool) -> Json:
    """A part of a content in this dialect's words; whatever is not one of the chat dialect's stays as it is."""
    match at(part, "type"):
        case "text":
            return {"type": "output_text" if by_model else "input_text", "text": at(part, "text")}
        case "image_url":
            shown = at(part, "image_url")
            url = at(shown, "url") if is_object(shown) else shown
            return {"type": "input_image", "image_url": url, "detail": at(shown, "detail") or "auto"}
        case "file" if is_object(file := at(part, "file")):
            return {"type": "input_file", **file}
        case _:
            return part


def _joined(content: Json) -> str:
    parts = content if isinstance(content, list) else []
    return "\n".join(text for part in parts if isinstance(text := at(part, "text"), str))
