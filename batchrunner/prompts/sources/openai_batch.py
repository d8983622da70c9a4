"""An OpenAI batch file: a `.jsonl` whose lines are ready requests, `{"custom_id", "method", "url", "body"}`.

What stands beside these four is kept as the row's variables; what a body says becomes the request as it stands, with
what the program writes itself (`model`, `stream` and the conversation) taken out of its parameters. Refused, as bad
rows: other endpoints, streams, and whatever a conversation of texts and pictures cannot hold.
"""

import re
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache

from batchrunner.core.job import DialectName, Json
from batchrunner.prompts.sources.conversation import Conversation, of_chat, of_messages, of_picture
from batchrunner.prompts.sources.json_lines import read_json_lines
from batchrunner.prompts.sources.row import PLAIN, Asked, BadRow, BadRowError, BadSourceError, Form, Row, Rows

CUSTOM_ID = "custom_id"
_METHOD, _URL, _BODY = "method", "url", "body"
_OWN = (CUSTOM_ID, _METHOD, _URL, _BODY)
_NEEDED = frozenset(_OWN)
_VERSION = re.compile(r"^(?:/v[0-9]+)?/")
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoint:
    """What may be asked for, and how its bodies are read."""

    dialects: tuple[DialectName, ...]
    read: Callable[[dict[str, Json]], Conversation]
    """Takes the conversation out of a body and leaves the parameters."""


_ENDPOINTS: dict[str, _Endpoint] = {
    "chat/completions": _Endpoint(dialects=("openai-chat",), read=of_chat),
    "messages": _Endpoint(dialects=("anthropic-messages",), read=of_messages),
    "images/generations": _Endpoint(dialects=("modelscope-images", "openai-images"), read=of_picture),
}
"""By the URL's path behind its version."""


async def is_openai_batch(path: str, form: Form = PLAIN) -> bool:
    """True when the first line that is not blank is a request of a batch; false also for what cannot be read."""
    try:
        async with aclosing(read_json_lines(path, form)) as rows:
            async for row, *_ in rows:
                return isinstance(row, Row) and row.values.keys() >= {*_OWN}
    except BadSourceError:
        pass
    return False


async def read_openai_batch(path: str, form: Form = PLAIN) -> Rows:
    """A row for every line that is not blank."""
    async with aclosing(read_json_lines(path, form)) as rows:
        async for batch in rows:
            yield [_request(row) if isinstance(row, Row) else row for row in batch]


def _request(row: Row) -> Row | BadRow:
    try:
        asked = _asked(row.values)
    except BadRowError as error:
        return BadRow(number=row.number, line=row.line, problem=str(error), hint=error.hint)
    beside = {name: value for name, value in row.values.items() if name not in _NEEDED}
    return Row(row.number, row.line, {CUSTOM_ID: asked.id, **beside}, row.where, asked)


@lru_cache(maxsize=16)
def _endpoint(url: str) -> _Endpoint | None:
    return _ENDPOINTS.get(_VERSION.sub("", url).rstrip("/"))


def _asked(line: dict[str, Json]) -> Asked:
    if not line.keys() >= _NEEDED:
        missing = [f"`{name}`" for name in _OWN if name not in line]
        raise BadRowError(f"the line has no {' and no '.join(missing)}, as every line of a batch file has")
    body = line[_BODY]
    if not isinstance(body, dict):
        raise BadRowError("`body` is no object")
    if body.get("stream"):
        raise BadRowError("`body.stream` must not be true in a batch file")
    if str(line[_METHOD]).upper() != "POST":
        raise BadRowError(f"`method` is {str(line[_METHOD])[:_SHOWN_CHARS]}, not POST")
    url = _text(line[_URL], _URL)
    endpoint = _endpoint(url)
    if endpoint is None:
        known = ", ".join(f"/v1/{path}" for path in _ENDPOINTS)
        raise BadRowError(f"`url` is {url[:_SHOWN_CHARS]}, which cannot be sent from here; what can is {known}")
    params = {name: value for name, value in body.items() if name not in ("model", "stream")}
    said = endpoint.read(params)
    return Asked(
        id=_text(line[CUSTOM_ID], CUSTOM_ID),
        url=url,
        dialects=endpoint.dialects,
        model=None if body.get("model") is None else _text(body["model"], "body.model"),
        turns=said.turns,
        pictures=said.pictures,
        params=params,
    )


def _text(value: Json, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"`{name}` is no text" if not isinstance(value, str) else f"`{name}` is empty")
    return value
