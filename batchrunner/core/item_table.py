"""One table of what is kept for every item: its key, a word of 64 bits (`packed`) and the checksum of its row.

What the ledger has of an item and whether the job has it are in the same word, so that a run of a million items
keeps each key once. The entries stand in four arrays in the order in which they came; a fifth one, the index, leads
from a key to its entry by open addressing with linear probing, and doubles before it is two thirds full. That is 28
bytes an entry and 6 to 12 of the index, where a dict and a set of `bytes` took more than 200.

Keys are compared in all their 128 bits: two items are never taken for one, as 64 bits would do for one pair in 37
million runs of a million items. Keys are checksums of contents, so their own bits serve as the hash.
"""

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice
from struct import Struct
from typing import Final, Self

from batchrunner.core.lifecycle import (
    DOUBTFUL,
    EPOCH,
    EPOCHS,
    IN_JOB,
    ITEM_STATE,
    ITEM_STATES,
    KNOWN,
    LASTING,
    MODEL,
    MODEL_MASK,
)

_SMALLEST: Final = 1 << 6
_PIECE: Final = 1 << 16
"""Words that are changed in one step where all are."""
_WORD: Final = (1 << 64) - 1
_ONLY_KNOWN: Final = ~LASTING & _WORD | KNOWN
_halves: Final[Callable[[bytes], tuple[int, int]]] = Struct(">QQ").unpack
_all_halves: Final[Callable[[bytes], Iterator[tuple[int, int]]]] = Struct(">QQ").iter_unpack
_whole = Struct(">QQ").pack
_KNOWN_BYTE: Final = array("Q", (KNOWN,)).tobytes().index(KNOWN >> 48)
"""Which byte of a word in memory holds `KNOWN`."""
_KNOWN_BITS: Final = bytes(byte >> 6 & 1 for byte in range(256))


def _masked(words: "array[int]", keep: int) -> "array[int]":
    """These words with no other bits than `keep`: as one long number, and not a word at a time."""
    piece = words.tobytes()
    mask = int.from_bytes(keep.to_bytes(8, sys.byteorder) * len(words), "little")
    return array("Q", (int.from_bytes(piece, "little") & mask).to_bytes(len(piece), "little"))


def _known_of(words: "array[int]") -> bytes:
    """1 for each of these words with a record in the ledger, 0 for each other."""
    return words.tobytes()[_KNOWN_BYTE::8].translate(_KNOWN_BITS)


class ItemTable:
    """Entries have numbers from 1, which stay; number 0 stands for every key that is not there, and its word is 0."""

    __slots__ = ("_highs", "_lows", "_mask", "_slots", "crcs", "words")

    def __init__(self) -> None:
        self.words: array[int] = array("Q", (0,))
        """By number."""
        self.crcs: array[int] = array("I", (0,))
        """By number."""
        self._highs: array[int] = array("Q", (0,))
        self._lows: array[int] = array("Q", (0,))
        self._slots: array[int] = array("I")
        self._mask = -1

    def __repr__(self) -> str:
        return f"<ItemTable {len(self)} items in {len(self._slots)} slots>"

    def __len__(self) -> int:
        return len(self.words) - 1

    def find(self, key: bytes) -> int:
        """The number of this key; 0 when it is not there."""
        high, low = _halves(key)
        slots, mask, lows = self._slots or self._make_index(), self._mask, self._lows
        slot = (high ^ low) & mask
        while (number := slots[slot]) and (lows[number] != low or self._highs[number] != high):
            slot = (slot + 1) & mask
        return number

    def add(self, key: bytes) -> int:
        """The number of this key, which is there afterwards; a new one's word is 0."""
        high, low = _halves(key)
        slots, mask, lows = self._slots or self._make_index(), self._mask, self._lows
        slot = (high ^ low) & mask
        while number := slots[slot]:
            if lows[number] == low and self._highs[number] == high:
                return number
            slot = (slot + 1) & mask
        slots[slot] = number = len(lows)
        self._highs.append(high)
        lows.append(low)
        self.words.append(0)
        self.crcs.append(0)
        if 3 * number > 2 * mask:
            self._make_index()
        return number

    def add_all(self, keys: Iterable[bytes]) -> list[int]:
        """The numbers of these keys, which are there afterwards."""
        found: list[int] = []
        slots, mask, lows, highs = self._slots or self._make_index(), self._mask, self._lows, self._highs
        for high, low in _all_halves(b"".join(keys)):  # as `add`, written out: done for every item of every pass
            slot = (high ^ low) & mask
            while (number := slots[slot]) and (lows[number] != low or highs[number] != high):
                slot = (slot + 1) & mask
            if not number:
                slots[slot] = number = len(lows)
                highs.append(high)
                lows.append(low)
                if 3 * number > 2 * mask:
                    slots = self._make_index()
                    mask = self._mask
            found.append(number)
        if new := len(lows) - len(self.words):
            self.words.frombytes(bytes(8 * new))
            self.crcs.frombytes(bytes(4 * new))
        return found

    def take_in(self, other: "ItemTable", *, models: Sequence[int], epochs: int) -> None:
        """The items of another table, none of which is here; their numbers follow those that are.

        `models`: the numbers here of the models there; `epochs`: how many rewritings of the rows were before its own.
        """
        words = other.words[1:]
        if epochs or list(models) != list(range(len(models))):
            numbers, keep = [number << MODEL for number in models], ~(MODEL_MASK << MODEL)
            later, has_row = epochs << EPOCH, EPOCHS << EPOCH
            moved = [word & keep | numbers[word >> MODEL & MODEL_MASK] for word in words]
            words = array("Q", [word + later if word & has_row else word for word in moved])
        self.words.extend(words)
        for name in ("_highs", "_lows", "crcs"):
            getattr(self, name).extend(getattr(other, name)[1:])
        self._slots, self._mask = array("I"), -1

    def reserve(self, count: int) -> None:
        """Make room for so many items at once: an index that grows with them is made anew a dozen times."""
        if 3 * count > 2 * self._mask:
            self._make_index(count)

    def find_all(self, keys: Iterable[bytes]) -> list[int]:
        """As `find` of each."""
        found: list[int] = []
        slots, mask, lows, highs = self._slots or self._make_index(), self._mask, self._lows, self._highs
        for high, low in _all_halves(b"".join(keys)):
            slot = (high ^ low) & mask
            while (number := slots[slot]) and (lows[number] != low or highs[number] != high):
                slot = (slot + 1) & mask
            found.append(number)
        return found

    def word(self, key: bytes) -> int:
        """The word of this key."""
        return self.words[self.find(key)]

    def claim(self, key: bytes) -> int:
        """Note that the job has this item; its word as it was before, see `claim_all`."""
        number = self.add(key)
        word = self.words[number]
        self.words[number] = word | IN_JOB
        return word

    def claim_all(self, keys: Iterable[bytes]) -> list[int]:
        """Note that the job has these items; their words as they were before: with IN_JOB where it was known.

        An item without a record in the ledger has 0.
        """
        words, before = self.words, len(self.words)
        numbers = self.add_all(keys)
        if numbers == list(range(before, len(words))):  # all of them are new, and each is another one
            words[before:] = array("Q", (IN_JOB,)) * len(numbers)
            return [0] * len(numbers)
        found: list[int] = []
        for number in numbers:
            word = words[number]
            found.append(word)
            words[number] = word | IN_JOB
        return found

    def forget_job(self) -> None:
        """No item is known to be the job's."""
        self.clear(IN_JOB)

    def clear(self, bits: int) -> None:
        """Take these bits from every word."""
        words = self.words
        for start in range(0, len(words), _PIECE):
            words[start : start + _PIECE] = _masked(words[start : start + _PIECE], ~bits & _WORD)

    def key(self, number: int) -> bytes:
        """The key of an entry."""
        return _whole(self._highs[number], self._lows[number])

    def known(self) -> Iterator[tuple[bytes, int]]:
        """Every item with a record in the ledger, with its word."""
        for number, word in enumerate(self.words):
            if word & KNOWN:
                yield self.key(number), word

    def vanished(self) -> Iterator[tuple[bytes, int]]:
        """Items with a record in the ledger that the job does not have, with their words."""
        for number, word in enumerate(self.words):
            if word & (KNOWN | IN_JOB) == KNOWN:
                yield self.key(number), word

    def dump(self) -> Iterator[bytes]:
        """The items with a record in the ledger, as `load` takes them; `known_count` says how many."""
        whole = self.known_count() == len(self)
        for column in (self._highs, self._lows, self.words, self.crcs):
            for start in range(1, len(column), _PIECE):
                piece = column[start : start + _PIECE]
                if not whole:
                    chosen = _known_of(self.words[start : start + _PIECE])
                    piece = array(column.typecode, compress(piece, chosen))
                if column is self.words:
                    piece = _masked(piece, LASTING)
                yield piece.tobytes()

    def known_count(self) -> int:
        """How many items have a record in the ledger."""
        known = 0
        for start in range(1, len(self.words), _PIECE):
            known += _known_of(self.words[start : start + _PIECE]).count(1)
        return known

    @classmethod
    def load(cls, count: int, read: Callable[[int], bytes]) -> Self:
        """A table of so many items; `read` gives exactly so many bytes of what `dump` gave, or raises."""
        table = cls()
        for column in (table._highs, table._lows, table.words, table.crcs):
            rest = count
            while rest:
                size = min(rest, _PIECE)
                column.frombytes(read(size * column.itemsize))
                rest -= size
        return table

    def counts(self, *, models: int, doubtful: int) -> list[int] | None:
        """Items by state; None if a word is impossible with this number of models and doubtful items."""
        found = [0] * (ITEM_STATE + 1)
        doubts = most = 0
        for word in islice(self.words, 1, None):
            if word & _ONLY_KNOWN != KNOWN:
                return None
            found[word & ITEM_STATE] += 1
            doubts += word & DOUBTFUL
            most = max(most, word >> MODEL & MODEL_MASK)
        if any(found[len(ITEM_STATES) :]) or doubts != doubtful * DOUBTFUL or most >= models:
            return None
        return found[: len(ITEM_STATES)]

    def _make_index(self, room_for: int = 0) -> "array[int]":
        """The index anew, at most half full; with `room_for` so many items as long as it need not be made again."""
        size = _SMALLEST
        while 2 * len(self._lows) > size or 3 * room_for > 2 * (size - 1):
            size *= 2
        slots, mask = array("I", (0,)) * size, size - 1
        for number, (high, low) in enumerate(zip(self._highs, self._lows, strict=True)):
            if number:
                slot = (high ^ low) & mask
                while slots[slot]:
                    slot = (slot + 1) & mask
                slots[slot] = number
        self._slots, self._mask = slots, mask
        return slots
