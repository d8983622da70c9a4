"""The dialect of Anthropic's messages, as Anthropic and ModelScope's second route speak it.

Parameters are passed on as they are, unknown ones too. Text alone is sent as a string, for one back end takes no list
there. See docs/providers/anthropic.md#request.
"""

from base64 import b64encode
from typing import Final
from urllib.parse import unquote_to_bytes

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Request
from batchrunner.core.item import InputPicture, Item
from batchrunner.core.job import Json, Provider, Turn
from batchrunner.core.outcome import Revision, SendOutcome
from batchrunner.providers.answer_tool import NAME, AnswerTool
from batchrunner.providers.anthropic_messages_reply import MessagesDecoder
from batchrunner.providers.endpoints import anthropic_url
from batchrunner.providers.json_text import at, whole_number
from batchrunner.providers.kept_body import KeptBody
from batchrunner.providers.structured import SchemaChecks, correction_text

VERSION: Final = "2023-06-01"
MAX_TOKENS: Final = 4096
"""Of an answer, unless the job's parameters say otherwise: the server insists on a figure."""
UNSTREAMED_MAX_TOKENS: Final = 21_333
"""More must be streamed: the whole answer could take longer than ten minutes."""

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_THINKING: Final = ("thinking", "enable_thinking")


class AnthropicMessages:
    """A `Dialect`. Keeps the ready-made check of the job's schema, and what its requests have in common."""

    def __init__(self, provider: Provider) -> None:
        self._url = anthropic_url(provider, "messages")
        self._family = family_of(provider)
        self._checks = SchemaChecks()
        self._bodies = KeptBody(self._url, body=_body, headers=_headers)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<AnthropicMessages {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:
        """The POST of one message, streamed unless the item says otherwise."""
        return self._bodies.request(item, revision)

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for its reply."""
        tool = None if item.schema is None else AnswerTool(item.schema)
        return MessagesDecoder(self._family, check=self._checks.of(item.schema), tool=tool)


def _headers(body: dict[str, Json]) -> dict[str, str]:
    accept = "text/event-stream" if body.get("stream") is True else "application/json"
    return {"content-type": "application/json", "accept": accept, "anthropic-version": VERSION}


def _body(item: Item, revision: Revision) -> dict[str, Json]:
    body: dict[str, Json] = {
        "model": item.model,
        "max_tokens": MAX_TOKENS + (whole_number(at(item.params, "thinking", "budget_tokens")) or 0),
        "messages": _messages(item, revision),
        "stream": item.stream,
    }
    system = "\n\n".join(turn.content for turn in item.turns if turn.role in _SYSTEM_ROLES and turn.content)
    if system:
        body["system"] = system
    body.update(item.params)
    if item.schema is not None:
        _force_tool(body, AnswerTool(item.schema))
    if "no_thinking_switch" in revision.adapted:
        for name in _THINKING:
            body.pop(name, None)
    if revision.adapted & {"stream", "no_thinking_switch"} or _takes_long(body):
        body["stream"] = True
    if "no_stream" in revision.adapted:
        body["stream"] = False
    return body


def _takes_long(body: dict[str, Json]) -> bool:
    return (whole_number(body.get("max_tokens")) or 0) > UNSTREAMED_MAX_TOKENS


def _force_tool(body: dict[str, Json], tool: AnswerTool) -> None:
    """Beside the tools that the person offers. A model that thinks may not be forced: it is only offered the tool."""
    given = body.get("tools")
    body["tools"] = [*(given if isinstance(given, list) else []), tool.offer()]
    thinks = at(body, "thinking", "type") in {"enabled", "adaptive"}
    body.setdefault("tool_choice", {"type": "auto"} if thinks else {"type": "tool", "name": NAME})


def _messages(item: Item, revision: Revision) -> list[Json]:
    """The turns but the system's; the pictures stand in the last user turn; a correction comes behind all."""
    turns = [turn for turn in item.turns if turn.role not in _SYSTEM_ROLES]
    last_user = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
    is_ready = any(turn.raw is not None for turn in turns)  # its pictures stand in its messages
    pictures = () if is_ready else item.pictures
    messages = [_message(turn, pictures if place == last_user else ()) for place, turn in enumerate(turns)]
    if last_user is None and item.pictures:
        messages.append(_message(Turn(role="user", content=""), item.pictures))
    if revision.correction is not None:
        if revision.correction.said.strip():  # an empty turn is refused; two of the same role are not
            messages.append({"role": "assistant", "content": revision.correction.said})
        messages.append({"role": "user", "content": correction_text(revision.correction)})
    return messages


def _message(turn: Turn, pictures: tuple[InputPicture, ...]) -> Json:
    """Pictures come before the words that speak of them; a ready message stays as it stands."""
    if turn.raw is not None:
        return turn.raw
    if not pictures:
        return {"role": turn.role, "content": turn.content}
    shown: list[Json] = [{"type": "image", "source": _source(picture.url)} for picture in pictures]
    words: list[Json] = [{"type": "text", "text": turn.content}] if turn.content else []
    return {"role": turn.role, "content": shown + words}


def _source(url: str) -> Json:
    """A picture by its URL, or the media type and base64 of a data URL."""
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    described, _, payload = url[5:].partition(",")
    media_type, *options = described.split(";")
    packed = payload if "base64" in options else b64encode(unquote_to_bytes(payload)).decode()
    return {"type": "base64", "media_type": media_type or "image/png", "data": packed}
