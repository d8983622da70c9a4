"""The key of an item: a content hash that recognises it across runs, files, orders and names.

In it: what decides the answer. Out of it, on purpose: credentials, URLs, limits, paths, ids, the order, and `stream`,
which changes how an answer travels and not what is asked.
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256
from math import isfinite

from batchrunner.core.job import DialectName, Json, Turn

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
            "turns": [_said(turn) for turn in turns],
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
    return _canonical(_said(turn)) if turn.raw_decides else f"[{_quoted(turn.role)},{_quoted(turn.content)}]"


_AFTER_TURNS = f'],"version":{KEY_VERSION}}}'
"""What canonical JSON of a key has behind the turns: its names stand in order of the alphabet."""
_quoted = json.encoder.encode_basestring
"""Text as `_canonical` writes it."""


def _said(turn: Turn) -> Json:
    return [turn.role, turn.content, turn.raw] if turn.raw_decides else [turn.role, turn.content]
