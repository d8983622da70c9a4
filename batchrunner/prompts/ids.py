"""Ids and keys: the names of one pass, each unique in the job, and what an item is known by in the ledger."""

import json
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from math import isfinite

from batchrunner.core.item import UNNAMED, canonical, digest, fold, safe_stem
from batchrunner.core.job import DialectName, Json, Turn

# Keys: checksums of what makes an item another one.

KEY_VERSION = 1
"""Goes into every key: raised when the algorithm changes, so that old keys are never mistaken for new ones."""


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
        self._head.update(f"{canonical(params)}{self._after_params}".encode("utf-8", "surrogatepass"))
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
        own = _flat(params) or canonical(params)
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
    """What `canonical` makes of values that hold no others, a good deal sooner; None where one does."""
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
    """As `canonical` writes it."""
    return canonical(_turn_fields(turn)) if turn.raw_decides else f"[{_quoted(turn.role)},{_quoted(turn.content)}]"


_AFTER_TURNS = f'],"version":{KEY_VERSION}}}'
"""What the canonical JSON of a key has after the turns: its names are in alphabetical order."""
_quoted = json.encoder.encode_basestring
"""Text as `canonical` writes it."""


def _turn_fields(turn: Turn) -> Json:
    return [turn.role, turn.content, turn.raw] if turn.raw_decides else [turn.role, turn.content]


# Slugs, and ids that are made from a text.

_SHORT = blake2b(digest_size=3)
"""Copied for every id, which takes half as long as a new one."""
_SLUG_LIMIT = 40
_SLUG_CHARS = bytes(
    ord(chr(code).lower()) if chr(code).isascii() and chr(code).isalnum() else 32 for code in range(256)
)
"""Every byte of ASCII as it stands in a slug; a space for whatever parts words."""


def slug(text: str, limit: int = _SLUG_LIMIT) -> str:
    """The text's beginning as lower-case ASCII letters, digits and single hyphens, at most `limit` characters.

    Never empty: text without any ASCII letter or digit, even after accents are taken off, gives `item`.
    """
    start = text[: 2 * limit]
    if not start.isascii():
        start = unicodedata.normalize("NFKD", start)
    words = start.encode("ascii", "ignore").translate(_SLUG_CHARS).split()
    return b"-".join(words)[:limit].rstrip(b"-").decode("ascii") or UNNAMED[:limit]


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
                words = joined[:limit].rstrip(b"-").decode() or UNNAMED
            else:
                words, start = slug(text), b""
        found.append(f"{words}-{hashed.hexdigest()}")
    return found


# Which names were given already, in twelve bytes a slot: the names themselves are never kept.
#
# Names are compared by 64 bits of Python's keyed hash. Two different names of a million fall together once in 37
# million runs; what follows then is a needless suffix or a refusal to start, never a lost or doubled item.

_FIRST_SIZE = 1 << 10
_WORD = (1 << 64) - 1


class Seen:
    """An open-addressing table from names to small numbers (a line, a count); it grows before it is two thirds full."""

    def __init__(self) -> None:
        self._count = 0
        self._make(_FIRST_SIZE)

    def __repr__(self) -> str:
        return f"<Seen {self._count} names in {len(self._hashes)} slots>"

    def __len__(self) -> int:
        return self._count

    def claim(self, name: str, note: int = 0) -> int | None:
        """Take the name: None if it was free, else the note it was taken with. Notes are 0 … 2³²−1."""
        code = hash(name) & _WORD or 1  # as `_code` and `_slot`, written out: this is called twice for every item
        hashes, mask = self._hashes, self._mask
        slot = code & mask
        while found := hashes[slot]:
            if found == code:
                return self._notes[slot]
            slot = (slot + 1) & mask
        hashes[slot] = code
        self._notes[slot] = note
        self._count += 1
        if 3 * self._count > 2 * mask:
            self._grow()
        return None

    def claim_all(self, names: Sequence[str], begin: int, note: int) -> int:
        """Take the names from `begin` on, each with this note, up to the first that is taken already.

        Returns:
            Where that one stands; the number of names when all of them were free.
        """
        hashes, notes, mask, room = self._hashes, self._notes, self._mask, 2 * self._mask - 3 * self._count
        for place in range(begin, len(names)):
            code = hash(names[place]) & _WORD or 1
            slot = code & mask
            while found := hashes[slot]:
                if found == code:
                    return place
                slot = (slot + 1) & mask
            hashes[slot] = code
            notes[slot] = note
            self._count += 1
            room -= 3
            if room < 0:
                self._grow()
                hashes, notes, mask, room = self._hashes, self._notes, self._mask, 2 * self._mask - 3 * self._count
        return len(names)

    def renote(self, name: str, note: int) -> None:
        """Change the note of a name that is taken."""
        self._notes[self._slot(_code(name))] = note

    def _slot(self, code: int) -> int:
        hashes, mask = self._hashes, self._mask
        slot = code & mask
        while hashes[slot] and hashes[slot] != code:
            slot = (slot + 1) & mask
        return slot

    def _make(self, size: int) -> None:
        self._mask = size - 1
        self._hashes = array("Q", (0,)) * size
        self._notes = array("I", (0,)) * size

    def _grow(self) -> None:
        hashes, notes = self._hashes, self._notes
        self._make(2 * len(hashes))
        grown, grown_notes, mask = self._hashes, self._notes, self._mask
        for code, note in zip(hashes, notes, strict=True):
            if code:
                slot = code & mask
                while grown[slot]:
                    slot = (slot + 1) & mask
                grown[slot] = code
                grown_notes[slot] = note


def _code(name: str) -> int:
    # Zero marks an empty slot.
    return hash(name) & _WORD or 1


ID_LIMIT_CHARS = 1_000
"""An id stands in every line of the ledger, which has a cap of its own."""
_LAST_NOTE = 2**32 - 1


class Names:
    """Unique names, the same in every pass over the same rows."""

    def __init__(self, *, shares_ids: bool) -> None:
        self._prompts = Seen()
        self._items = self._prompts if shares_ids else Seen()
        self._shares_ids = shares_ids
        self._stems = Seen()

    def __repr__(self) -> str:
        return f"<Names of {len(self._prompts)} prompts, {len(self._items)} items, {len(self._stems)} files>"

    def given(self, name: str, *, line: int | None) -> int | None:
        """Take a given prompt id: None, or the line (0 if unknown) where it was given before."""
        return self._prompts.claim(name, min(line or 0, _LAST_NOTE))

    def automatic(self, text: str) -> str:
        """The id of a prompt that has none: from its text, a repeat with `-2`."""
        base = auto_id(text)
        return base if self._prompts.claim(base, 1) is None else self._numbered(self._prompts, base)

    def automatic_all(self, texts: Sequence[str]) -> list[str]:
        """As `automatic` of each, in order."""
        names = auto_ids(texts)
        place = -1
        while (place := self._prompts.claim_all(names, place + 1, 1)) < len(names):
            names[place] = self._numbered(self._prompts, names[place])
        return names

    def item(self, prompt_id: str, suffix: str) -> str:
        """The id of an item of that prompt; with a number appended if another item has it by chance."""
        if self._shares_ids:
            return prompt_id
        return self._numbered(self._items, prompt_id + suffix)

    def stem(self, name: str, key: Callable[[], str]) -> str:
        """A file name that no other item of the job has, on any file system; the key distinguishes equal names."""
        stem = safe_stem(name)
        if self._stems.claim(fold(stem), 1) is None:
            return stem
        suffix = f"-{key()[:8]}"
        first = fold(safe_stem(name, suffix=suffix))
        times = self._stems.claim(first, 1)
        if times is None:
            return safe_stem(name, suffix=suffix)
        while True:
            times += 1
            stem = safe_stem(name, suffix=f"{suffix}-{times}")
            if self._stems.claim(fold(stem), 1) is None:
                self._stems.renote(first, times)
                return stem

    @staticmethod
    def _numbered(seen: Seen, base: str) -> str:
        times = seen.claim(base, 1)
        if times is None:
            return base
        while True:
            times += 1
            name = f"{base}-{times}"
            if seen.claim(name, 1) is None:
                seen.renote(base, times)
                return name
