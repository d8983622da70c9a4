"""The dialect of OpenAI's chat completions, as ModelScope, vLLM and many others use it.

Parameters are passed on as they are, unknown ones too; nothing is dropped or renamed but what a revision asks for.
See docs/providers/openai.md#request.
"""

from dataclasses import replace
from typing import Final

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Request
from batchrunner.core.item import InputFile, InputPicture, Item
from batchrunner.core.job import Json, Provider, Turn
from batchrunner.core.outcome import Revision, SendOutcome
from batchrunner.providers.json_bodies import KeptBody, is_object, openai_url
from batchrunner.providers.openai_chat_reply import ChatDecoder
from batchrunner.providers.structured import SchemaChecks, correction_text, schema_in_words

_THINKING: Final = "enable_thinking"
_FORMAT: Final = "response_format"


class OpenAiChat:
    """A `Dialect`. Keeps the ready-made check of the job's schema, and what its requests have in common."""

    def __init__(self, provider: Provider) -> None:
        self._url = openai_url(provider, "chat/completions")
        self._family = family_of(provider)
        self._checks = SchemaChecks()
        self._bodies = KeptBody(self._url, body=_body, headers=_headers)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<OpenAiChat {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:
        """The POST of one chat, streamed unless the item says otherwise."""
        return self._bodies.request(item, revision)

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""
        check = None if item.schema is None else self._checks.of(item.schema)
        return ChatDecoder(self._family, check=check, sends_schema=_sends_schema(item))


def _headers(body: dict[str, Json]) -> dict[str, str]:
    accept = "text/event-stream" if body.get("stream") is True else "application/json"
    return {"content-type": "application/json", "accept": accept}


def _body(item: Item, revision: Revision) -> dict[str, Json]:
    body: dict[str, Json] = {"model": item.model, "messages": _messages(item, revision), "stream": item.stream}
    if item.schema is not None and (form := _form_of(item.schema, revision)) is not None:
        body[_FORMAT] = form
    body.update(item.params)
    if "no_thinking_switch" in revision.adapted:
        _drop_thinking_switch(body)
    if revision.adapted & {"stream", "no_thinking_switch"}:
        body["stream"] = True
    if "no_stream" in revision.adapted:
        body["stream"] = False
        body.pop("stream_options", None)
    if body["stream"] is True and "stream_options" not in body:
        body["stream_options"] = {"include_usage": True}
    if "no_stream_options" in revision.adapted:
        body.pop("stream_options", None)
    return body


def _sends_schema(item: Item) -> bool:
    """False without a schema, and where the person wrote the format: that is sent as it is, whatever comes of it."""
    return item.schema is not None and _FORMAT not in item.params


def _form_of(schema: dict[str, Json], revision: Revision) -> Json:
    """How the request carries the schema; where a server takes none, `json_object` promises an object and no more."""
    if "json_object" not in revision.adapted:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {"type": "json_object"} if schema.get("type") == "object" else None


def _drop_thinking_switch(body: dict[str, Json]) -> None:
    """For a model that only thinks: any switch is refused, so both places where one can stand are cleared."""
    body.pop(_THINKING, None)
    options = body.get("chat_template_kwargs")
    if is_object(options):
        body["chat_template_kwargs"] = {name: value for name, value in options.items() if name != _THINKING}


def _messages(item: Item, revision: Revision) -> list[Json]:
    """The turns; pictures, files and a schema in words are in the last user turn; a correction comes last."""
    words = _schema_in_words(item, revision)
    last_user = max((place for place, turn in enumerate(item.turns) if turn.role == "user"), default=None)
    is_ready = any(turn.raw is not None for turn in item.turns)  # its pictures stand in its messages
    messages: list[Json] = [
        _message(_with(turn, words), None if is_ready else item) if place == last_user else _message(turn, None)
        for place, turn in enumerate(item.turns)
    ]
    if last_user is None and (item.pictures or item.files or words):
        messages.append(_message(Turn(role="user", content=words), item))
    if revision.correction is not None:
        messages.append({"role": "assistant", "content": revision.correction.said})
        messages.append({"role": "user", "content": correction_text(revision.correction)})
    return messages


def _schema_in_words(item: Item, revision: Revision) -> str:
    """Where the format cannot carry it, the conversation does; empty where it can."""
    needs_words = "json_object" in revision.adapted and _sends_schema(item)
    return schema_in_words(item.schema) if needs_words and item.schema is not None else ""


def _with(turn: Turn, words: str) -> Turn:
    if words and turn.raw is not None:
        content = turn.raw.get("content")
        more: Json = [*content, {"type": "text", "text": words}] if isinstance(content, list) else None
        return replace(turn, raw={**turn.raw, "content": more or f"{turn.content}\n\n{words}"})
    return replace(turn, content="\n\n".join(filter(None, (turn.content, words)))) if words else turn


def _message(turn: Turn, pictured: Item | None) -> Json:
    if turn.raw is not None:
        return turn.raw
    if pictured is None or not (pictured.pictures or pictured.files):
        return {"role": turn.role, "content": turn.content}
    # before the text about them, as ModelScope's own example has it
    text: list[Json] = [{"type": "text", "text": turn.content}] if turn.content else []
    pictures: list[Json] = [{"type": "image_url", "image_url": _shown(picture)} for picture in pictured.pictures]
    return {"role": turn.role, "content": pictures + [_attached(file) for file in pictured.files] + text}


def _attached(file: InputFile) -> Json:
    """A PDF as a data URL with a name, which is required; sound as bare base64 with its format."""
    if file.kind == "pdf":
        return {
            "type": "file",
            "file": {"filename": file.name.rpartition("/")[2] or "file.pdf", "file_data": file.url},
        }
    return {"type": "input_audio", "input_audio": {"data": file.url.partition(",")[2], "format": file.kind}}


def _shown(picture: InputPicture) -> Json:
    return {"url": picture.url} if picture.detail is None else {"url": picture.url, "detail": picture.detail}
