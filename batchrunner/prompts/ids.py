"""Hands out the names of one pass: ids of prompts and items, stems of files, each unique in the job."""

from array import array
from collections.abc import Callable, Sequence

from batchrunner.core.item import auto_id, auto_ids, fold, safe_stem

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
