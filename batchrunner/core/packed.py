"""What is known of one item, in one word of 64 bits: how its fields lie in it."""

from typing import Final

from batchrunner.core.lifecycle import STANDINGS, ItemRecord

# The word, from its lowest bit: standing 3, doubtful 1, cut 1, fresh 1, attempts 8, ambiguous 8, sends 16, the model's
# number, 0 while no send has named it, 16; known to the ledger 1, in the job 1; of a done item: seen 1, epoch 7.
DOUBTFUL: Final = 1 << 3
"""Its last send got no clear answer."""
CUT: Final = 1 << 4
"""It was under way when its process ended."""
FRESH: Final = 1 << 5
ATTEMPTS: Final = 6
AMBIGUOUS: Final = 14
SENDS: Final = 22
MODEL: Final = 38
KNOWN: Final = 1 << 54
IN_JOB: Final = 1 << 55
SEEN: Final = 1 << 56
"""Its row was seen by the look at the directory that is under way."""
EPOCH: Final = 57
"""Which rewriting of results.jsonl the checksum of its row goes with; 0: none."""
EPOCHS: Final = 127
STANDING: Final = 7
BYTE: Final = 0xFF
SENDS_MAX: Final = 0xFFFF
MODEL_MASK: Final = 0xFFFF
LASTING: Final = ~(FRESH | IN_JOB | SEEN) & (1 << 64) - 1
"""What the ledger alone says of an item, without what this process and this job add to it."""
BELOW_SEEN: Final = SEEN - 1
SENT_KEEPS: Final = KNOWN | IN_JOB | FRESH | BYTE << AMBIGUOUS
"""What stays of an item that is sent once more; all else is told by the intent."""
DONE_KEEPS: Final = BELOW_SEEN & ~(STANDING | BYTE << ATTEMPTS)


def record_of(packed: int) -> ItemRecord:
    """The word unpacked; of an item of which the ledger has never heard, that it is fresh."""
    packed = packed if packed & KNOWN else FRESH
    return ItemRecord(
        standing=STANDINGS[packed & STANDING],
        attempts=packed >> ATTEMPTS & BYTE,
        ambiguous=packed >> AMBIGUOUS & BYTE,
        sends=packed >> SENDS & SENDS_MAX,
        doubtful=bool(packed & DOUBTFUL),
        fresh=bool(packed & FRESH),
    )


def effort_of(packed: int) -> tuple[int, int, int, bool]:
    """(sends, attempts, ambiguous, fresh), as in its record."""
    fresh = bool(packed & FRESH) or not packed & KNOWN
    return packed >> SENDS & SENDS_MAX, packed >> ATTEMPTS & BYTE, packed >> AMBIGUOUS & BYTE, fresh


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
