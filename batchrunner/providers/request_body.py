"""Bodies of requests that differ in their last turn only: what stands around it is encoded once.

The bytes are those that encoding the whole body would give. Whatever has more in it than plain turns (pictures, a
schema, a correction, ready messages) is encoded as a whole.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from batchrunner.core.http import Request
from batchrunner.core.item import Item
from batchrunner.core.job import Json, PresetName, Provider, Turn
from batchrunner.core.outcome import Revision
from batchrunner.providers.json_text import encode

_MARK: Final = "\0the last turn\0"
_MARKED: Final = encode(_MARK)
_AS_WRITTEN: Final = Revision()


class _Frame:
    """What stands around the last turn, and what it was made for."""

    __slots__ = ("after", "before", "headers", "lead", "model", "params", "stream")

    def __init__(self, item: Item, before: bytes, after: bytes, headers: dict[str, str]) -> None:
        self.params, self.model, self.stream, self.lead = item.params, item.model, item.stream, item.turns[:-1]
        self.before, self.after, self.headers = before, after, headers


class KeptBody:
    """Makes the POSTs of one dialect. `body` makes a body, `headers` the headers for it."""

    def __init__(
        self,
        url: str,
        *,
        body: Callable[[Item, Revision], dict[str, Json]],
        headers: Callable[[dict[str, Json]], dict[str, str]],
    ) -> None:
        self._url = url
        self._body = body
        self._headers = headers
        self._frame: _Frame | None = None
        self._seen: dict[str, Json] | None = None
        """The parameters of the last item: what comes twice may come more often."""

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<KeptBody {self._url}, {'with' if self._frame else 'without'} a frame>"

    def request(self, item: Item, revision: Revision) -> Request:
        """The POST of an item."""
        if item.schema is None and not (item.pictures or item.files or revision.adapted or revision.correction):
            last = item.turns[-1] if item.turns else None
            if last is not None and last.role == "user" and last.raw is None:
                frame = self._framed(item)
                if frame is not None and (said := _encoded(last.content)) is not None:
                    body = b"%b%b%b" % (frame.before, said, frame.after)
                    return Request(method="POST", url=self._url, headers=frame.headers, body=body)
        whole = self._body(item, revision)
        return Request(method="POST", url=self._url, headers=self._headers(whole), body=encode(whole))

    def _framed(self, item: Item) -> _Frame | None:
        """The frame that fits; by the parameters' identity, for equal ones (1, 1.0, true) may be written otherwise."""
        frame = self._frame
        if (
            frame is not None
            and frame.params is item.params
            and frame.stream is item.stream
            and frame.model == item.model
            and frame.lead == item.turns[:-1]
        ):
            return frame
        is_new, self._seen = self._seen is not item.params, item.params
        if is_new or any(turn.raw is not None for turn in item.turns):
            return None
        marked = replace(item, turns=(*item.turns[:-1], Turn(role="user", content=_MARK)))
        body = self._body(marked, _AS_WRITTEN)
        before, _, after = encode(body).partition(_MARKED)
        if not after or _MARKED in after:
            return None
        self._frame = _Frame(item, before, after, self._headers(body))
        return self._frame


def _encoded(text: str) -> bytes | None:
    """None for a text that UTF-8 cannot hold: then the whole body is written with escapes."""
    try:
        text.encode()
    except UnicodeError:
        return None
    return encode(text)


# Where requests go: the base URL as it was given, and what a dialect appends to it.

_V1: Final = "/v1"
_VERSIONED: Final[frozenset[PresetName]] = frozenset({"modelscope", "modelscope-anthropic", "simulator"})
"""Presets whose base URL may stand with or without `/v1`: the path always has it."""


def openai_url(provider: Provider, path: str) -> str:
    """The URL of a path of the OpenAI kind, such as `chat/completions`."""
    base = provider.base_url.rstrip("/")
    if provider.preset in _VERSIONED:
        base = base.removesuffix(_V1) + _V1
    return f"{base}/{path}"


def anthropic_url(provider: Provider, path: str) -> str:
    """The URL of a path of the Anthropic kind, such as `messages`: after `/v1`, which is not doubled."""
    return f"{provider.base_url.rstrip('/').removesuffix(_V1)}{_V1}/{path}"
