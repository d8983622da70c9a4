"""Seeded chance: a throw depends on the seed, on what is sent, on how often it was sent, and on what is thrown for.

So a run is reproduced by its seed whatever the order in which concurrent calls arrive.
"""

import hashlib
from dataclasses import dataclass


def digest_of(*parts: str | bytes, bits: int = 64) -> int:
    """A number from the parts, the same on every machine."""
    mixed = hashlib.blake2b(digest_size=bits // 8)
    for part in parts:
        piece = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        mixed.update(len(piece).to_bytes(8, "big"))
        mixed.update(piece)
    return int.from_bytes(mixed.digest(), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dice:
    """The chance of one call."""

    seed: int
    content: int
    """Digest of what is sent."""
    nth: int
    """1 for the first time that this content came."""

    def roll(self, purpose: str) -> float:
        """A number in [0, 1)."""
        # 53 bits, because a 64-bit fraction may round up to 1.0
        return (digest_of(f"{self.seed}/{self.content}/{self.nth}/{purpose}") >> 11) / 2.0**53

    def spread(self, seconds: float, share: float, purpose: str) -> float:
        """`seconds`, more or less by at most `share` of it."""
        return seconds * (1.0 + share * (2.0 * self.roll(purpose) - 1.0)) if share and seconds else seconds
