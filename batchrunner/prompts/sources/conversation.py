"""What the body of a ready request says: its conversation, taken out of the body; what is left are parameters.

A turn here is a text, and pictures stand in the last turn of the user, before or behind its words: that is what an
item can hold. Anything else (tools' turns, sounds, files, marks for a cache, a picture between words) is refused and
named, never dropped. Several texts of a turn are put together line by line. Source: PROTOCOL 4.1, 5.1, 6.1, 7.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

from batchrunner.core.job import Json, Turn
from batchrunner.prompts.sources.row import AskedPicture, BadRowError

_CHAT_ROLES = ("system", "developer", "user", "assistant")
_MESSAGES_ROLES = ("user", "assistant")
_DEFAULT_DETAIL = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns, and the pictures of the user's last one."""

    turns: tuple[Turn, ...]
    pictures: tuple[AskedPicture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A message as read."""

    place: str
    turn: Turn
    pictures: tuple[AskedPicture, ...]


def of_chat(body: dict[str, Json]) -> Conversation:
    """Takes `messages` out of the body of a chat completion.

    Raises:
        BadRowError: there are none, or something in them has no place in an item.
    """
    return _conversation(body, roles=_CHAT_ROLES)


def of_messages(body: dict[str, Json]) -> Conversation:
    """Takes `messages`, and a `system` that is text, out of the body of Anthropic's messages.

    A `system` of several parts is left among the parameters, where it is sent as it stands.

    Raises:
        BadRowError: as `of_chat`.
    """
    found = _conversation(body, roles=_MESSAGES_ROLES)
    if not isinstance(body.get("system"), str):
        return found
    told = Turn(role="system", content=str(body.pop("system")))
    return Conversation(turns=(told, *found.turns) if told.content.strip() else found.turns, pictures=found.pictures)


def of_picture(body: dict[str, Json]) -> Conversation:
    """Takes `prompt` out of the body of a picture's generation.

    Raises:
        BadRowError: there is none.
    """
    prompt = body.pop("prompt", None)
    if not isinstance(prompt, str):
        raise BadRowError("`body.prompt` is no text")
    if not prompt.strip():
        raise BadRowError("`body.prompt` is empty")
    return Conversation(turns=(Turn(role="user", content=prompt),))


def _conversation(body: dict[str, Json], *, roles: tuple[str, ...]) -> Conversation:
    messages = body.pop("messages", None)
    if not isinstance(messages, list) or not messages:
        raise BadRowError("`body.messages` is no list of messages")
    said = [_said(message, f"body.messages[{place}]", roles) for place, message in enumerate(messages)]
    last = next((one for one in reversed(said) if one.turn.role == "user"), None)
    if last is None:
        raise BadRowError("`body.messages` has no message of the user")
    if not last.turn.content.strip() and not last.pictures:
        raise BadRowError(f"`{last.place}.content` is empty")
    elsewhere = next((one.place for one in said if one.pictures and one is not last), None)
    if elsewhere is not None:
        raise BadRowError(f"`{elsewhere}` has a picture; only the last message of the user can have some")
    return Conversation(turns=tuple(one.turn for one in said), pictures=last.pictures)


def _said(message: Json, place: str, roles: tuple[str, ...]) -> _Said:
    given = _only(message, place, known=("role", "content"))
    role = given.get("role")
    if not isinstance(role, str) or role not in roles:
        raise BadRowError(f"`{place}.role` is {role}, which is not supported; what is: {', '.join(roles)}")
    content = given.get("content")
    if isinstance(content, str):
        return _Said(place=place, turn=Turn(role=role, content=content), pictures=())
    if not isinstance(content, list):
        raise BadRowError(f"`{place}.content` is neither text nor a list of parts")
    parts = [_part(part, f"{place}.content[{n}]") for n, part in enumerate(content)]
    texts = [part for part in parts if isinstance(part, str)]
    pictures = tuple(part for part in parts if not isinstance(part, str))
    kinds = [isinstance(part, str) for part in parts]
    if kinds not in (sorted(kinds), sorted(kinds, reverse=True)):
        raise BadRowError(f"`{place}.content` has pictures between its texts; they can stand before or behind them")
    return _Said(place=place, turn=Turn(role=role, content="\n".join(texts)), pictures=pictures)


def _part(part: Json, place: str) -> str | AskedPicture:
    kind = part.get("type") if isinstance(part, dict) else None
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise BadRowError(f"`{place}` is a part of the type {kind}, which is not supported; what is: {_KNOWN_PARTS}")
    return read(part, place)


def _words(part: Json, place: str) -> str:
    text = _only(part, place, known=("type", "text")).get("text")
    if not isinstance(text, str):
        raise BadRowError(f"`{place}.text` is no text")
    return text


def _linked(part: Json, place: str) -> AskedPicture:
    linked = _only(part, place, known=("type", "image_url")).get("image_url")
    if isinstance(linked, str):
        return AskedPicture(url=linked)
    given = _only(linked, f"{place}.image_url", known=("url", "detail"))
    detail = given.get("detail")
    if detail is not None and not isinstance(detail, str):
        raise BadRowError(f"`{place}.image_url.detail` is no text")
    url = _address(given.get("url"), f"{place}.image_url.url")
    return AskedPicture(url=url, detail=None if detail == _DEFAULT_DETAIL else detail)


def _sourced(part: Json, place: str) -> AskedPicture:
    source = _only(part, place, known=("type", "source")).get("source")
    given = _only(source, f"{place}.source", known=("type", "url", "media_type", "data"))
    if given.get("type") == "url":
        return AskedPicture(url=_address(given.get("url"), f"{place}.source.url"))
    if given.get("type") == "base64":
        packed = _address(given.get("data"), f"{place}.source.data")
        return AskedPicture(url=f"data:{given.get('media_type')};base64,{packed}")
    raise BadRowError(f"`{place}.source` is of the type {given.get('type')}; what is supported: base64, url")


def _address(value: Json, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadRowError(f"`{place}` is no text")
    return value


def _only(value: Json, place: str, *, known: tuple[str, ...]) -> dict[str, Json]:
    """The object's values that are not null, if it has no others than the known ones."""
    if not isinstance(value, dict):
        raise BadRowError(f"`{place}` is no object")
    given: dict[str, Json] = {name: one for name, one in value.items() if one is not None and one != []}
    for name in sorted(given.keys() - {*known}):
        raise BadRowError(f"`{place}.{name}` is not supported here")
    return given


_PARTS: dict[str, Callable[[Json, str], str | AskedPicture]] = {
    "text": _words,
    "image_url": _linked,
    "image": _sourced,
}
_KNOWN_PARTS = ", ".join(_PARTS)
