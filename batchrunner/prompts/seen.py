"""Which names were given already, in twelve bytes a slot: the names themselves are never kept.

Names are told apart by 64 bits of Python's keyed hash. Two different names of a million fall together once in 37
million runs; what follows then is a needless suffix or a refusal to start, never a lost or doubled item.
"""

from array import array
from collections.abc import Sequence

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
        self._hashes = array("Q", bytes(8 * size))
        self._notes = array("I", bytes(4 * size))

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
