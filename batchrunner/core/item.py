"""The item: one prompt × model × parameters, the unit that is paid for."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import blake2b, sha256
from typing import Literal, TypeAlias, overload

from batchrunner.core.job import Json, Turn
from batchrunner.core.values import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPicture:
    """A picture given to a model."""

    name: str
    """The path or URL as the person wrote it; this is what rows show."""
    sha256: str
    """Hex digest of the bytes of a local file, or of the URL's text when it is passed on."""
    url: str
    """What is sent: a data URL for a local file, else the URL itself."""
    detail: str | None = None
    """How closely the model shall look, where a ready request says it and the dialect has a word for it."""


FileKind: TypeAlias = Literal["pdf", "wav", "mp3", "flac", "mp4", "ogg", "webm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A document or a sound given to a model."""

    name: str
    """The path or URL as the person wrote it; this is what rows show."""
    kind: FileKind
    sha256: str
    """Hex digest of the bytes of a local file, or of the URL's text when it is passed on."""
    url: str
    """What is sent: a data URL for a local file, else the URL itself."""


@dataclass(slots=True, kw_only=True)
class Item:
    """What is encoded, sent, decoded and recorded. Nobody changes an item, only its state changes.

    It is not frozen: that would cost three times as much, for every item of every pass.
    """

    id: str
    """Its name for people, unique in the job."""
    prompt_id: str
    """The prompt's own name, before matrix, model and replica suffixes."""
    index: int
    """1-based place in the job's order."""
    key: str
    """Content hash, 32 hex digits: what recognises the item across runs."""
    model: str
    prompt: str
    """The last rendered user text."""
    turns: tuple[Turn, ...]
    """The whole conversation as sent, system first; one user turn for images."""
    vars: dict[str, Json] = field(default_factory=dict)
    params: dict[str, Json] = field(default_factory=dict)
    pictures: tuple[InputPicture, ...] = ()
    files: tuple[InputFile, ...] = ()
    schema: dict[str, Json] | None = None
    schema_sha256: str | None = None
    """Of `schema` as canonical JSON, hex; made once per job."""
    stream: bool = True
    replica: int = 1
    stem: str = ""
    """Safe file name without ending for its artifacts, unique in the job by casefold and NFC."""
    shows_messages: bool = False
    """True when the job has `messages:`: its row then has them too."""
    body: Json = None
    """The job's `provider.body_file` with the item in its holes."""
    origin: dict[str, Json] | None = None
    """The item of another run that it is made of: `from` of its row."""
    then: "Item | None" = None
    """The same prompt for the job's next model, which is asked if this one gives no answer for certain reasons."""
    fallback_of: str | None = None
    """The id of the first model's item, where this one is another model's."""
    fallback_keys: tuple[str, ...] = ()
    """The keys of the items that this one is asked in place of, in the order in which their models are asked."""

    @property
    def instead_of(self) -> str:
        """The key of the item whose place it takes; empty where it is the first model's."""
        return self.fallback_keys[-1] if self.fallback_keys else ""

    @property
    def media_chars(self) -> int:
        """Of pictures and files that stand in the request."""
        return sum(len(one.url) for one in self.pictures) + sum(len(one.url) for one in self.files)


class AlikeItems(Sequence[Item]):
    """Items of one model that differ in id, key, prompt and `vars` only. An item is made when it is asked for.

    Most passes count items and compare their keys with the ledger: they need no object for each of a million.
    """

    __slots__ = ("first_index", "ids", "keys", "like", "texts", "values")

    def __init__(
        self,
        like: Item,
        *,
        first_index: int,
        ids: list[str],
        keys: list[str],
        texts: list[str],
        values: Sequence[dict[str, Json]],
    ) -> None:
        self.like = like
        """What they share. Its turns are those that stand before the user's own."""
        self.first_index = first_index
        """Of the first."""
        self.ids = ids
        self.keys = keys
        self.texts = texts
        """What the user says."""
        self.values = values

    def __repr__(self) -> str:
        return f"<AlikeItems {self.first_index} to {self.first_index + len(self) - 1}>"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._made(0, len(self.ids)))

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            begin, end, step = place.indices(len(self.ids))
            return self._made(begin, end)[::step] if step > 0 else list(self)[place]
        place = range(len(self.ids))[place]
        return self._made(place, place + 1)[0]

    def _made(self, begin: int, end: int) -> list[Item]:
        like = self.like
        turns, model, params, stream = like.turns, like.model, like.params, like.stream
        schema, schema_sha256 = like.schema, like.schema_sha256
        columns = self.ids[begin:end], self.keys[begin:end], self.texts[begin:end], self.values[begin:end]
        return [
            Item(
                id=name,
                prompt_id=name,
                index=place,
                key=key,
                model=model,
                prompt=text,
                turns=(*turns, Turn("user", text)),
                vars=values,
                params=params,
                pictures=(),
                schema=schema,
                schema_sha256=schema_sha256,
                stream=stream,
                replica=1,
                stem=name,
                shows_messages=False,
            )
            for place, (name, key, text, values) in enumerate(zip(*columns, strict=True), self.first_index + begin)
        ]


# The key of an item: a content hash that recognises it across runs, files, orders and names.
#
# In it: what decides the answer. Out of it, on purpose: credentials, URLs, limits, paths, ids, the order, and `stream`,
# which changes how an answer travels and not what is asked.

canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def digest(value: Json) -> str:
    """blake2b-128 of the value's canonical JSON (sorted keys, no spaces, UTF-8), 32 hex digits.

    Lone surrogates are hashed as they are: they are not valid UTF-8, but they must not crash a plan.
    """
    return blake2b(canonical(value).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def schema_sha256(schema: Json) -> str:
    """SHA-256 of a JSON Schema's canonical JSON, as above; 64 hex digits, so that others can make it, too."""
    return sha256(canonical(schema).encode("utf-8", "surrogatepass")).hexdigest()


# Names of files: what is safe as one, and when two names are the same on a disk.
#
# Pure functions over any text at all, lone surrogates and NULs included. They refuse nothing: they always give a name.
# Uniqueness is not decided here; whoever hands out names compares them with `fold`.

STEM_LIMIT_BYTES = 120
"""Room is left below the usual 255 for endings and for the names of half-written files."""

UNNAMED = "item"
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
_PLAIN_STEM = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,117}[A-Za-z0-9_-])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\.|$)", re.IGNORECASE)


def is_address(path: str) -> bool:
    """True for what names no folder of this machine: `s3://bucket/x`, `https://…`, `file:///tmp`, `s3:/bucket`."""
    return _ADDRESS.match(path) is not None


def safe_stem(text: str, *, suffix: str = "") -> str:
    """One path component that is safe on every usual file system, at most 120 bytes of UTF-8, `suffix` included.

    Letters, digits and marks of every script stay, and so do `_`, `-` and inner dots; all else becomes a hyphen. No
    separator, control or bidi character, no dot or hyphen at the front, no dot at the end, no device name of Windows.
    `suffix` must be safe itself; the text is cut to make room for it.
    """
    if not suffix and _PLAIN_STEM.fullmatch(text) and not _RESERVED.match(text):
        return text
    # A character is at least a byte: what lies beyond the limit can only matter by being cut off.
    composed = unicodedata.normalize("NFC", text[: 8 * STEM_LIMIT_BYTES])
    kept = "".join(char if _stays(char) else "-" for char in composed)
    name = _cut(re.sub(r"-{2,}", "-", kept).strip(".-"), STEM_LIMIT_BYTES - len(suffix) - 1).rstrip(".-")
    if _RESERVED.match(name):
        name = f"_{name}"
    return (name or UNNAMED) + suffix


def fold(name: str) -> str:
    """What names are compared by: equal for case twins and for composed and decomposed accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _stays(char: str) -> bool:
    return char in "_-." or char.isalnum() or unicodedata.category(char).startswith("M")


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")
