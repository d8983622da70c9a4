"""What is known of one item, as one integer: how its fields lie in it."""

from typing import Final

from batchrunner.core.lifecycle import STANDINGS, ItemRecord

# The packed integer, from its lowest bit: standing 3, doubtful 1, cut 1, fresh 1, attempts 8, ambiguous 8, sends 16,
# the model's number, 0 while no send has named it, 16; and of a done item: seen 1, epoch 16, crc 32.
DOUBTFUL: Final = 1 << 3
CUT: Final = 1 << 4
FRESH: Final = 1 << 5
ATTEMPTS: Final = 6
AMBIGUOUS: Final = 14
SENDS: Final = 22
MODEL: Final = 38
SEEN: Final = 1 << 54
EPOCH: Final = 55
CRC: Final = 71
CRC_MASK: Final = 0xFFFFFFFF
MODEL_MASK: Final = 0xFFFF
BELOW_SEEN: Final = SEEN - 1
DONE_KEEPS: Final = BELOW_SEEN & ~(7 | 0xFF << ATTEMPTS)
LASTS: Final = FRESH | 0xFF << AMBIGUOUS
"""What an item keeps when it is sent once more; all else is told by the intent."""
BYTE: Final = 0xFF
SENDS_MAX: Final = 0xFFFF


def record_of(packed: int) -> ItemRecord:
    """The integer unpacked."""
    return ItemRecord(
        standing=STANDINGS[packed & 7],
        attempts=packed >> ATTEMPTS & BYTE,
        ambiguous=packed >> AMBIGUOUS & BYTE,
        sends=packed >> SENDS & SENDS_MAX,
        doubtful=bool(packed & DOUBTFUL),
        fresh=bool(packed & FRESH),
    )


def effort_of(packed: int) -> tuple[int, int, int, bool]:
    """(sends, attempts, ambiguous, fresh), as in its record."""
    return packed >> SENDS & SENDS_MAX, packed >> ATTEMPTS & BYTE, packed >> AMBIGUOUS & BYTE, bool(packed & FRESH)


def with_attempts(packed: int, attempts: int) -> int:
    """So many attempts charged, as far as they can be counted."""
    return packed & ~(BYTE << ATTEMPTS) | min(attempts, BYTE) << ATTEMPTS


def plus_ambiguous(packed: int) -> int:
    """One more send that got no clear answer."""
    count = min((packed >> AMBIGUOUS & BYTE) + 1, BYTE)
    return packed & ~(BYTE << AMBIGUOUS) | count << AMBIGUOUS


def with_sends(packed: int, sends: int) -> int:
    """So many sends."""
    return packed & ~(SENDS_MAX << SENDS) | min(sends, SENDS_MAX) << SENDS
