"""How fast a run goes and when it may end, from snapshots alone: the arithmetic behind the progress display. Pure."""

from collections import deque

_WINDOW_S = 60.0
_LEAST_S = 1.0
"""Below this much time a rate would be noise."""


class Pace:
    """The finished items of the last minute. `note` is called with a clock that never goes back."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def __repr__(self) -> str:
        return f"<Pace: {len(self._samples)} samples, {self.per_s()} a second>"

    def note(self, *, now_s: float, finished: int) -> None:
        """So many items are finished (done or failed) at this moment."""
        self._samples.append((now_s, finished))
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """Items a second over the last minute; None while nothing can be said."""
        if not self._samples:
            return None
        (first_s, before), (last_s, after) = self._samples[0], self._samples[-1]
        if last_s - first_s < _LEAST_S:
            return None
        return max(0, after - before) / (last_s - first_s)

    def eta_s(self, *, left: int) -> float | None:
        """Seconds until `left` items are finished at this pace; None when it stands still or is unknown."""
        rate = self.per_s()
        return left / rate if rate else None
