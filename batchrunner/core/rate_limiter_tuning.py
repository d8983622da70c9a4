"""The limiter's figures. Found by `benchmarks/limits.py`: change one, and look at its tables again.

Seconds, calls and shares, as the names say.
"""

from typing import Final

CEILING: Final = 1024
"""The widest window of `concurrency: auto`."""

# What it remembers: sends for the limit of a window, the latest of them for the first guess of a rate.
REMEMBERED: Final = 200
RECENT_CALLS: Final = 20
PERIOD_S: Final = 30.0
# Our count and the server's differ by what is on its way. Of a few in flight one more or less is much: such a share
# of sends that were accepted at the level of a refusal is chance.
CHANCE: Final = 0.1
FEW: Final = 32
# A rate needs at least this many accepted calls; the limit of a window needs a few accepted calls below it.
ENOUGH: Final = 3
EVIDENT: Final = 4

# Failures: of so many sends in a row, this share halves the window.
FAILED_OF: Final = 40
FAILED_SHARE: Final = 0.4

# The pace stays just below what was found for about so many calls: the refusal at the end is then 2 to 3 % of them.
BELOW: Final = 0.985
HOLD_CALLS: Final = 45.0
HOLD_LEAST_S: Final = 5.0
HOLD_MOST_S: Final = 36.0
# Where a call comes every few seconds it stays for some calls at least, else every fifth would be a refusal.
HOLD_FEW_CALLS: Final = 15.0
HOLD_SLOW_S: Final = 120.0
SHORT_HOLD_S: Final = 2.0
# Then it grows, faster and faster, but little from one call to the next.
GROWTH_PER_S: Final = 0.10
GROWTH_PER_CALL: Final = 0.03
GROWTH_LEAST: Final = 0.02
GROWN_S: Final = 90.0
# The first guess of a pace is made while the window still opens: it is sought above that in bigger steps.
SEARCH_PER_S: Final = 0.7
SEARCH_PER_CALL: Final = 0.1
SEARCH_HOLD_S: Final = 0.5
FIRST_SPAN_S: Final = 0.7
"""A shorter measurement shows a burst, not a rate."""
OVERSHOT: Final = 2.3
"""Calls by which the growth has gone too far when the refusal arrives."""
OVERSHOT_MOST: Final = 0.3
SOON: Final = 0.4
"""Share of an interval after which a call that was refused at a pace just too high is tried again."""
FAR: Final = 0.75
STEP: Final = 0.9
LEAP: Final = 2.0
"""The most that a pace may become in one cycle, as a multiple of the last."""
TRUSTED_CYCLES: Final = 2
TRUSTED_MOST: Final = 16
SLOWEST: Final = 0.02
FASTEST: Final = 10_000.0

# Refusals right after a cut: more than half means far too fast; as many as before after deep cuts means chance.
WORSE: Final = 0.5
WORSE_AT_FIRST: Final = 0.35
CUT: Final = 0.7
CUT_MOST: Final = 0.25
CUTS: Final = 3
CUT_DEEP: Final = 0.3
LESS: Final = 0.6
IMMUNE_S: Final = 60.0

# Sends are spread over the time that an answer takes, with some slack; a timer's grain may be made good.
SMOOTH: Final = 1.5
SMOOTH_START: Final = 3.0
# Where answers take milliseconds, a dozen would be sent above the first limit before its first refusal arrives.
OPENING_S: Final = 0.2
OPENING_PER_S: Final = 150.0
TIMER_GRAIN_S: Final = 0.002

# The window is tried a little wider, then more; answers that take longer for it end that, and the patience doubles.
PROBE_SHARE: Final = 0.02
PATIENCE_MOST: Final = 16
DOUBLED: Final = 2.0
WIDER: Final = 1.3
LONGER: Final = 0.5
SMALL: Final = 8
OWN_WORK_S: Final = 0.05
"""An answer may take this much longer because of our own work; it says nothing about the server."""


# How long a pace is kept once it was found, and how it grows after that. Arithmetic for the limiter.
#
# Rates are calls a second; the figures stand in `tuning`.


def hold_s(rate_per_s: float) -> float:
    """Long enough that one refusal at its end is a small share of the calls in it."""
    most = min(max(HOLD_MOST_S, HOLD_FEW_CALLS / rate_per_s), HOLD_SLOW_S)
    return min(max(HOLD_LEAST_S, HOLD_CALLS / rate_per_s), most)


def share_per_s(rate_per_s: float) -> float:
    """Share by which the pace grows in a second, once it grows: little a call, lest it overshoots."""
    return min(GROWTH_PER_S, max(GROWTH_PER_CALL * rate_per_s, GROWTH_LEAST))


def grown(rate_per_s: float, *, over_s: float, searching: bool = False) -> float:
    """The pace, `over_s` seconds after it was kept long enough: faster and faster, up to a most."""
    over = min(max(0.0, over_s), GROWN_S)
    share = min(SEARCH_PER_S, SEARCH_PER_CALL * rate_per_s) if searching else share_per_s(rate_per_s)
    return min(float(rate_per_s * (1.0 + share) ** (over + over * over / 20.0)), FASTEST)
