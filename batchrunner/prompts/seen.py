"""Which names were given already, in twelve bytes a slot: the names themselves are never kept.

Names are told apart by 64 bits of Python's keyed hash. Two different names of a million fall together once in 37
million runs; what follows then is a needless suffix or a refusal to start, never a lost or doubled item.
"""

from array import array

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
        for code, note in zip(hashes, notes, strict=True):
            if code:
                slot = self._slot(code)
                self._hashes[slot] = code
                self._notes[slot] = note


def _code(name: str) -> int:
    # Zero marks an empty slot.
    return hash(name) & _WORD or 1
