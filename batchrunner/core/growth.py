"""How long a pace is kept once it was found, and how it grows after that. Arithmetic for the governor.

Rates are calls a second; the figures stand in `tuning`.
"""

from batchrunner.core import tuning


def hold_s(rate_per_s: float) -> float:
    """Long enough that one refusal at its end is a small share of the calls in it."""
    most = min(max(tuning.HOLD_MOST_S, tuning.HOLD_FEW_CALLS / rate_per_s), tuning.HOLD_SLOW_S)
    return min(max(tuning.HOLD_LEAST_S, tuning.HOLD_CALLS / rate_per_s), most)


def share_per_s(rate_per_s: float) -> float:
    """Share by which the pace grows in a second, once it grows: little a call, lest it overshoots."""
    return min(tuning.GROWTH_PER_S, max(tuning.GROWTH_PER_CALL * rate_per_s, tuning.GROWTH_LEAST))


def grown(rate_per_s: float, *, over_s: float, searching: bool = False) -> float:
    """The pace, `over_s` seconds after it was kept long enough: faster and faster, up to a most."""
    over = min(max(0.0, over_s), tuning.GROWN_S)
    share = min(tuning.SEARCH_PER_S, tuning.SEARCH_PER_CALL * rate_per_s) if searching else share_per_s(rate_per_s)
    return min(float(rate_per_s * (1.0 + share) ** (over + over * over / 20.0)), tuning.FASTEST)
