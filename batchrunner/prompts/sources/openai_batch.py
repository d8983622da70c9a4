"""An OpenAI batch file: a `.jsonl` whose lines are ready requests, `{"custom_id", "method", "url", "body"}`.

Fields besides these four are kept as the row's variables; what a body says becomes the request as it stands, with
what the program writes itself (`model`, `stream` and the conversation) taken out of its parameters. Refused, as bad
rows: other endpoints, streams, and whatever a conversation of texts and pictures cannot hold.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from batchrunner.core.job import DialectName, Json, Turn
from batchrunner.core.values import dataclass, replace
from batchrunner.prompts.sources.base import (
    PLAIN,
    AskedFile,
    AskedPicture,
    BadRow,
    BadRowError,
    BadSourceError,
    Batch,
    BatchRequest,
    SourceRow,
    TextForm,
)
from batchrunner.prompts.sources.text_files import read_json_lines

# What the body of a ready request says: its conversation, taken out of the body; what is left are parameters.
#
# A message that is a text, or texts that are put together line by line, becomes a turn. One that is more (pictures
# among
# the words, calls of tools and what they gave, a name) becomes a turn with the message as it stands, and that is sent;
# pictures, documents and sound are looked at all the same. Anything unknown to this program (videos, marks for a
# cache) is refused and named, never dropped.

_DEFAULT_DETAIL = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns, and all pictures and files in them."""

    turns: tuple[Turn, ...]
    pictures: tuple[AskedPicture, ...] = ()
    files: tuple[AskedFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A message as read."""

    place: str
    turn: Turn
    pictures: tuple[AskedPicture, ...]
    files: tuple[AskedFile, ...] = ()
    is_plain: bool
    """True for texts alone, and for texts followed by pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grammar:
    """What may stand in a dialect's messages."""

    roles: tuple[str, ...]
    history_roles: tuple[str, ...] = ()
    """Of messages that are sent as they stand."""
    keys: tuple[str, ...] = ()
    """Beside role and content; such a message is sent as it stands."""
    history_parts: tuple[str, ...] = ()


_CHAT = _Grammar(
    roles=("system", "developer", "user", "assistant", "tool", "function"),
    history_roles=("tool", "function"),
    keys=("name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content"),
    history_parts=("refusal",),
)
_MESSAGES = _Grammar(
    roles=("user", "assistant"), history_parts=("tool_use", "tool_result", "thinking", "redacted_thinking")
)


def of_chat(body: dict[str, Json]) -> Conversation:
    """Takes `messages` out of the body of a chat completion.

    Raises:
        BadRowError: there are none, or something in them has no place in an item.
    """
    return _conversation(body, _CHAT)


def of_messages(body: dict[str, Json]) -> Conversation:
    """Takes `messages`, and a `system` that is text, out of the body of Anthropic's messages.

    A `system` of several parts is left among the parameters, where it is sent as it stands.

    Raises:
        BadRowError: as `of_chat`.
    """
    found = _conversation(body, _MESSAGES)
    if not isinstance(body.get("system"), str):
        return found
    system = Turn(role="system", content=str(body.pop("system")))
    return Conversation(
        turns=(system, *found.turns) if system.content.strip() else found.turns,
        pictures=found.pictures,
        files=found.files,
    )


def of_picture(body: dict[str, Json]) -> Conversation:
    """Takes `prompt` out of the body of a picture's generation.

    Raises:
        BadRowError: there is none.
    """
    prompt = body.pop("prompt", None)
    if not isinstance(prompt, str):
        raise BadRowError("`body.prompt` is not text")
    if not prompt.strip():
        raise BadRowError("`body.prompt` is empty")
    return Conversation(turns=(Turn(role="user", content=prompt),))


_PLAIN = ("role", "content")


def _conversation(body: dict[str, Json], grammar: "_Grammar") -> Conversation:
    messages = body.pop("messages", None)
    if not isinstance(messages, list) or not messages:
        raise BadRowError("`body.messages` is not a list of messages")
    if (plain := _plain_turns(messages, grammar)) is not None:
        return Conversation(turns=plain)
    said = [_message(message, f"body.messages[{place}]", grammar) for place, message in enumerate(messages)]
    last = next((one for one in reversed(said) if one.turn.role == "user"), None)
    if last is None:
        raise BadRowError("`body.messages` has no message with `role: user`")
    if not last.turn.content.strip() and last.turn.raw is None:
        raise BadRowError(f"`{last.place}.content` is empty")
    # Where the program itself would put the last message's words and pictures, the key is that of any such item.
    turns = (
        replace(one.turn, raw_decides=True)
        if one.turn.raw is not None and not (one is last and one.is_plain)
        else one.turn
        for one in said
    )
    return Conversation(
        turns=tuple(turns),
        pictures=tuple(picture for one in said for picture in one.pictures),
        files=tuple(file for one in said for file in one.files),
    )


def _plain_turns(messages: list[Json], grammar: "_Grammar") -> tuple[Turn, ...] | None:
    """The turns of a conversation in which everybody has a role and a text, and nothing else; None of any other."""
    turns: list[Turn] = []
    words = ""
    for message in messages:
        if type(message) is not dict or len(message) != len(_PLAIN):
            return None
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or type(content) is not str:
            return None
        if role not in grammar.roles or role in grammar.history_roles:
            return None
        turns.append(Turn(role, content))
        words = content if role == "user" else words
    return tuple(turns) if words and not words.isspace() else None


def _message(message: Json, place: str, grammar: "_Grammar") -> _Message:
    given = _only(message, place, known=("role", "content", *grammar.keys))
    role = given.get("role")
    if not isinstance(role, str) or role not in grammar.roles:
        raise BadRowError(f"`{place}.role` is {role}, which is not supported; supported: {', '.join(grammar.roles)}")
    content = given.get("content")
    is_text = given.keys() <= {"role", "content"} and role not in grammar.history_roles
    whole = message if isinstance(message, dict) else None
    if isinstance(content, str) or (content is None and not is_text and role != "user"):
        turn = Turn(role=role, content=content or "", raw=None if is_text else whole)
        return _Message(place=place, turn=turn, pictures=(), is_plain=is_text)
    if not isinstance(content, list):
        raise BadRowError(f"`{place}.content` is neither text nor a list of parts")
    parts = [_part(part, f"{place}.content[{n}]", grammar) for n, part in enumerate(content)]
    texts = [part for part in parts if isinstance(part, str)]
    pictures = tuple(part for part in parts if isinstance(part, AskedPicture))
    files = tuple(part for part in parts if isinstance(part, AskedFile))
    kinds = [isinstance(part, str) for part in parts]
    is_plain = is_text and not files and None not in parts and kinds == sorted(kinds, reverse=True)
    raw = None if is_plain and not pictures else whole
    return _Message(
        place=place,
        turn=Turn(role=role, content="\n".join(texts), raw=raw),
        pictures=pictures,
        files=files,
        is_plain=is_plain,
    )


def _part(part: Json, place: str, grammar: "_Grammar") -> str | AskedPicture | AskedFile | None:
    """Its text, its picture or file, or None for a piece of a conversation with tools, which is sent as it stands."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in grammar.history_parts:
        return None
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise BadRowError(f"`{place}` is a part of the type {kind}, which is not supported; supported: {_KNOWN_PARTS}")
    return read(part, place)


def _words(part: Json, place: str) -> str:
    text = _only(part, place, known=("type", "text")).get("text")
    if not isinstance(text, str):
        raise BadRowError(f"`{place}.text` is not text")
    return text


def _linked(part: Json, place: str) -> AskedPicture:
    linked = _only(part, place, known=("type", "image_url")).get("image_url")
    if isinstance(linked, str):
        return AskedPicture(url=linked)
    given = _only(linked, f"{place}.image_url", known=("url", "detail"))
    detail = given.get("detail")
    if detail is not None and not isinstance(detail, str):
        raise BadRowError(f"`{place}.image_url.detail` is not text")
    url = _address(given.get("url"), f"{place}.image_url.url")
    return AskedPicture(url=url, detail=None if detail == _DEFAULT_DETAIL else detail)


def _sourced(part: Json, place: str) -> AskedPicture:
    return AskedPicture(url=_source_url(_only(part, place, known=("type", "source")).get("source"), place))


def _document(part: Json, place: str) -> AskedFile:
    given = _only(part, place, known=("type", "source", "title", "context", "citations"))
    title = given.get("title")
    return AskedFile(url=_source_url(given.get("source"), place), name=title if isinstance(title, str) else "")


def _audio(part: Json, place: str) -> AskedFile:
    sound = _only(part, place, known=("type", "input_audio")).get("input_audio")
    given = _only(sound, f"{place}.input_audio", known=("data", "format"))
    packed = _address(given.get("data"), f"{place}.input_audio.data")
    return AskedFile(url=f"data:audio/{given.get('format')};base64,{packed}")


def _file(part: Json, place: str) -> AskedFile:
    file = _only(part, place, known=("type", "file")).get("file")
    given = _only(file, f"{place}.file", known=("filename", "file_data"))
    name = given.get("filename")
    url = _address(given.get("file_data"), f"{place}.file.file_data")
    return AskedFile(url=url, name=name if isinstance(name, str) else "")


def _source_url(source: Json, place: str) -> str:
    given = _only(source, f"{place}.source", known=("type", "url", "media_type", "data"))
    if given.get("type") == "url":
        return _address(given.get("url"), f"{place}.source.url")
    if given.get("type") == "base64":
        packed = _address(given.get("data"), f"{place}.source.data")
        return f"data:{given.get('media_type')};base64,{packed}"
    raise BadRowError(f"`{place}.source` is of the type {given.get('type')}; supported: base64, url")


def _address(value: Json, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadRowError(f"`{place}` is not text")
    return value


def _only(value: Json, place: str, *, known: tuple[str, ...]) -> dict[str, Json]:
    """The object's values that are not null, if it has no others than the known ones."""
    if not isinstance(value, dict):
        raise BadRowError(f"`{place}` is not an object")
    given: dict[str, Json] = {name: one for name, one in value.items() if one is not None and one != []}
    for name in sorted(given.keys() - {*known}):
        raise BadRowError(f"`{place}.{name}` is not supported here")
    return given


_PARTS: dict[str, Callable[[Json, str], str | AskedPicture | AskedFile]] = {
    "text": _words,
    "image_url": _linked,
    "image": _sourced,
    "input_audio": _audio,
    "file": _file,
    "document": _document,
}
_KNOWN_PARTS = ", ".join(_PARTS)


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
"""By the URL's path after its version."""


def is_openai_batch(path: str, form: TextForm = PLAIN) -> bool:
    """True when the first line that is not blank is a request of a batch; false also for what cannot be read."""
    try:
        first = next(iter(read_json_lines(path, form)), None)
    except (BadSourceError, OSError):
        return False
    return first is not None and isinstance(row := first[0], SourceRow) and row.values.keys() >= {*_OWN}


def read_openai_batch(path: str, form: TextForm = PLAIN) -> Iterator[Batch]:
    """A row for every line that is not blank."""
    for batch in read_json_lines(path, form):
        yield [_request(row) if isinstance(row, SourceRow) else row for row in batch]


def _request(row: SourceRow) -> SourceRow | BadRow:
    try:
        asked = _asked(row.values)
    except BadRowError as error:
        return BadRow(number=row.number, line=row.line, problem=str(error), hint=error.hint)
    beside = {name: value for name, value in row.values.items() if name not in _NEEDED}
    return SourceRow(row.number, row.line, {CUSTOM_ID: asked.id, **beside}, row.where, asked)


@lru_cache(maxsize=16)
def _endpoint(url: str) -> _Endpoint | None:
    return _ENDPOINTS.get(_VERSION.sub("", url).rstrip("/"))


def _asked(line: dict[str, Json]) -> BatchRequest:
    if not line.keys() >= _NEEDED:
        missing = [f"`{name}`" for name in _OWN if name not in line]
        raise BadRowError(f"the line has no {' and no '.join(missing)}; every line of a batch file needs it")
    body = line[_BODY]
    if not isinstance(body, dict):
        raise BadRowError("`body` is not an object")
    if body.get("stream"):
        raise BadRowError("`body.stream` must not be true in a batch file")
    if str(line[_METHOD]).upper() != "POST":
        raise BadRowError(f"`method` is {str(line[_METHOD])[:_SHOWN_CHARS]}, not POST")
    url = _text(line[_URL], _URL)
    endpoint = _endpoint(url)
    if endpoint is None:
        known = ", ".join(f"/v1/{path}" for path in _ENDPOINTS)
        raise BadRowError(f"`url` is {url[:_SHOWN_CHARS]}, which is not supported; supported: {known}")
    params = {name: value for name, value in body.items() if name not in ("model", "stream")}
    said = endpoint.read(params)
    return BatchRequest(
        id=_text(line[CUSTOM_ID], CUSTOM_ID),
        url=url,
        dialects=endpoint.dialects,
        model=None if body.get("model") is None else _text(body["model"], "body.model"),
        turns=said.turns,
        pictures=said.pictures,
        files=said.files,
        params=params,
    )


def _text(value: Json, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"`{name}` is not text" if not isinstance(value, str) else f"`{name}` is empty")
    return value
