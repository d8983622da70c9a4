"""The item: one prompt × model × parameters, the unit that is paid for."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from math import isfinite
from typing import Literal, TypeAlias, overload

from batchrunner.core.job import DialectName, Json, Turn


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

KEY_VERSION = 1
"""Goes into every key: raised when the algorithm changes, so that old keys are never mistaken for new ones."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def digest(value: Json) -> str:
    """blake2b-128 of the value's canonical JSON (sorted keys, no spaces, UTF-8), 32 hex digits.

    Lone surrogates are hashed as they are: they are not valid UTF-8, but they must not crash a plan.
    """
    return blake2b(_canonical(value).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def schema_sha256(schema: Json) -> str:
    """SHA-256 of a JSON Schema's canonical JSON, as above; 64 hex digits, so that others can make it, too."""
    return sha256(_canonical(schema).encode("utf-8", "surrogatepass")).hexdigest()


def item_key(
    *,
    dialect: DialectName,
    model: str,
    turns: Sequence[Turn],
    params: dict[str, Json],
    pictures_sha256: Sequence[str] = (),
    schema_digest: str | None = None,
    replica: int = 1,
) -> str:
    """The item's key, 32 hex digits. `schema_digest` is `digest(schema)`, made once per job: schemas can be long.

    Params count as JSON writes them: `1` and `1.0` are different, the order of keys is not.
    """
    return digest(
        {
            "version": KEY_VERSION,
            "dialect": dialect,
            "model": model,
            "turns": [_turn_fields(turn) for turn in turns],
            "params": params,
            "pictures": list(pictures_sha256),
            "schema": schema_digest,
            "replica": replica,
        }
    )


class KeyMaker:
    """Makes the keys of items that differ in their turns, and perhaps in their parameters: all else is hashed once.

    The same keys as `item_key`, which says what the arguments are; for items without pictures.
    """

    __slots__ = ("_after_params", "_before", "_first", "_head", "_head_and_first", "_to_params")

    def __init__(
        self,
        *,
        dialect: DialectName,
        model: str,
        params: dict[str, Json],
        schema_digest: str | None = None,
        replica: int = 1,
    ) -> None:
        # Names stand in order of the alphabet, and so do the pieces of this.
        self._to_params = _begun(f'{{"dialect":{_quoted(dialect)},"model":{_quoted(model)},"params":')
        schema = "null" if schema_digest is None else _quoted(schema_digest)
        self._after_params = f',"pictures":[],"replica":{replica},"schema":{schema},"turns":['
        self._head = self._to_params.copy()
        self._head.update(f"{_canonical(params)}{self._after_params}".encode("utf-8", "surrogatepass"))
        self._before: Turn | None = None
        self._first: Turn | None = None
        self._head_and_first = self._head

    def __repr__(self) -> str:
        return "<KeyMaker>"

    def key(self, turns: Sequence[Turn]) -> str:
        """The key of the item that has these turns, 32 hex digits."""
        first, rest = turns[0], turns[1:]
        if not rest and not first.raw_decides:  # as `_written`, for what most items are
            hashed = self._head.copy()
            text = f"[{_quoted(first.role)},{_quoted(first.content)}]{_AFTER_TURNS}"
        elif rest and first is self._first:
            hashed, text = self._head_and_first.copy(), f"{','.join(map(_written, rest))}{_AFTER_TURNS}"
        else:
            hashed, text = self._head.copy(), f"{','.join(map(_written, turns))}{_AFTER_TURNS}"
            if rest:
                self._note_first(first)
        hashed.update(text.encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()

    def keys_of(self, first: Sequence[Turn], contents: Iterable[str]) -> list[str]:
        """The keys of items that have these turns and then a user's turn with one of the contents; valid Unicode."""
        head = self._head.copy()
        head.update("".join([f"{_written(turn)}," for turn in first] + ['["user",']).encode("utf-8", "surrogatepass"))
        begin, after, quoted = head.copy, f"]{_AFTER_TURNS}", _quoted
        found: list[str] = []
        for content in contents:
            hashed = begin()
            hashed.update(f"{quoted(content)}{after}".encode())
            found.append(hashed.hexdigest())
        return found

    def key_with(self, params: dict[str, Json], turns: Sequence[Turn]) -> str:
        """The key of the item that has these parameters and turns."""
        hashed = self._to_params.copy()
        own = _flat(params) or _canonical(params)
        text = f"{own}{self._after_params}{','.join(map(_written, turns))}{_AFTER_TURNS}"
        hashed.update(text.encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()

    def _note_first(self, turn: Turn) -> None:
        """The system's turn is most often the same for all prompts: then it is hashed once."""
        if turn is not self._before:
            self._before = turn
            return
        self._first = turn
        self._head_and_first = self._head.copy()
        self._head_and_first.update(f"{_written(turn)},".encode("utf-8", "surrogatepass"))


def _flat(params: dict[str, Json]) -> str | None:
    """What `_canonical` makes of values that hold no others, a good deal sooner; None where one does."""
    parts: list[str] = []
    for name in sorted(params):
        value = params[name]
        kind = type(value)
        if kind is str:
            parts.append(f"{_quoted(name)}:{_quoted(value)}")  # type: ignore[arg-type]  # it is a string
        elif kind is bool:
            parts.append(f"{_quoted(name)}:{'true' if value else 'false'}")
        elif kind is int or (kind is float and isfinite(value)):  # type: ignore[arg-type]  # it is a number
            parts.append(f"{_quoted(name)}:{value!r}")
        elif value is None:
            parts.append(f"{_quoted(name)}:null")
        else:
            return None
    return f"{{{','.join(parts)}}}"


def _begun(text: str) -> "blake2b":
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)


def _written(turn: Turn) -> str:
    """As `_canonical` writes it."""
    return _canonical(_turn_fields(turn)) if turn.raw_decides else f"[{_quoted(turn.role)},{_quoted(turn.content)}]"


_AFTER_TURNS = f'],"version":{KEY_VERSION}}}'
"""What the canonical JSON of a key has after the turns: its names are in alphabetical order."""
_quoted = json.encoder.encode_basestring
"""Text as `_canonical` writes it."""


def _turn_fields(turn: Turn) -> Json:
    return [turn.role, turn.content, turn.raw] if turn.raw_decides else [turn.role, turn.content]


# Names for people and for files: slugs, automatic ids, file stems, and when two names are the same on a disk.
#
# Pure functions over any text at all, lone surrogates and NULs included. They refuse nothing: they always give a name.
# Uniqueness is not decided here; whoever hands out names compares them with `fold`.

STEM_LIMIT_BYTES = 120
"""Room is left below the usual 255 for endings and for the names of half-written files."""

_SHORT = blake2b(digest_size=3)
"""Copied for every id, which takes half as long as a new one."""
_FALLBACK = "item"
_SLUG_LIMIT = 40
_SLUG_CHARS = bytes(
    ord(chr(code).lower()) if chr(code).isascii() and chr(code).isalnum() else 32 for code in range(256)
)
"""Every byte of ASCII as it stands in a slug; a space for whatever parts words."""
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
_PLAIN_STEM = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,117}[A-Za-z0-9_-])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\.|$)", re.IGNORECASE)


def is_address(path: str) -> bool:
    """True for what names no folder of this machine: `s3://bucket/x`, `https://…`, `file:///tmp`, `s3:/bucket`."""
    return _ADDRESS.match(path) is not None


def slug(text: str, limit: int = _SLUG_LIMIT) -> str:
    """The text's beginning as lower-case ASCII letters, digits and single hyphens, at most `limit` characters.

    Never empty: text without any ASCII letter or digit, even after accents are taken off, gives `item`.
    """
    start = text[: 2 * limit]
    if not start.isascii():
        start = unicodedata.normalize("NFKD", start)
    words = start.encode("ascii", "ignore").translate(_SLUG_CHARS).split()
    return b"-".join(words)[:limit].rstrip(b"-").decode("ascii") or _FALLBACK[:limit]


def auto_id(prompt_text: str) -> str:
    """A stable id from content alone: a slug of the beginning, a hyphen, six hex digits of the text's blake2b."""
    hashed = _SHORT.copy()
    hashed.update(prompt_text.encode("utf-8", "surrogatepass"))
    return f"{slug(prompt_text)}-{hashed.hexdigest()}"


def auto_ids(prompt_texts: Iterable[str]) -> list[str]:
    """As `auto_id` of each, with as few steps for each of many texts as there can be; they are valid Unicode."""
    found: list[str] = []
    begin, limit, chars = _SHORT.copy, _SLUG_LIMIT, _SLUG_CHARS
    # Prompts of a template often begin alike, and a beginning that fills a slug decides it, whatever comes after it.
    start_bytes, start, words = limit + limit // 2, b"", ""
    for text in prompt_texts:
        raw = text.encode()
        hashed = begin()
        hashed.update(raw)
        if not start or raw[:start_bytes] != start:
            start = raw[:start_bytes]
            joined = b"-".join(start.translate(chars).split())
            if start.isascii() and (len(joined) >= limit or len(raw) <= start_bytes):
                words = joined[:limit].rstrip(b"-").decode() or _FALLBACK
            else:
                words, start = slug(text), b""
        found.append(f"{words}-{hashed.hexdigest()}")
    return found


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
    return (name or _FALLBACK) + suffix


def fold(name: str) -> str:
    """What names are compared by: equal for case twins and for composed and decomposed accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _stays(char: str) -> bool:
    return char in "_-." or char.isalnum() or unicodedata.category(char).startswith("M")


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")
