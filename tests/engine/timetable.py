"""A provider that behaves by the clock."""

from collections.abc import Callable

from batchrunner.simulator.scenarios import parse_scenarios
from batchrunner.simulator.script import Call, Script
from batchrunner.simulator.world import World


class Timetable(World):
    """`scenario_at(seconds since the first call)` is asked at every call, and names how it is answered."""

    def __init__(self, scenario_at: Callable[[float], str]) -> None:
        super().__init__()
        self._scenario_at = scenario_at
        self._first_at: float | None = None

    def answer(self, call: Call, now: float) -> Script:
        self._first_at = now if self._first_at is None else self._first_at
        self._scenario = parse_scenarios(self._scenario_at(now - self._first_at))
        return super().answer(call, now)
