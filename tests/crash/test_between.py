"""Death between two steps of one answer: URLs that are known and not yet fetched, a miss and its re-ask.

At every call to the disk. What the server was sent is read from the requests themselves, byte for byte.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from batchrunner.core.errors import ExitStatus
from batchrunner.core.http import Decoder, Request
from batchrunner.simulator.in_process import SimulatedTransport
from batchrunner.simulator.profiles import FaultRates
from batchrunner.simulator.world import World
from tests.crash.invariants import check, check_end
from tests.crash.lives import CrashHarness
from tests.support.crashing_disk import Trouble
from tests.support.torture import Tried, at_size

KINDS = ["urls", "schema"]


@dataclass
class Sent:
    """Every POST that left, whole."""

    bodies: Counter[bytes] = field(default_factory=Counter)

    @property
    def repeated(self) -> int:
        """Requests that were sent once more as they were."""
        return self.bodies.total() - len(self.bodies)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    seen, exchange = Sent(), SimulatedTransport.exchange

    async def watched(self: SimulatedTransport, request: Request, decoder: Decoder[Any], *, account: str) -> Any:
        if request.method == "POST":
            seen.bodies[request.body or b""] += 1
        return await exchange(self, request, decoder, account=account)

    monkeypatch.setattr(SimulatedTransport, "exchange", watched)
    return seen


def harness_of(kind: str, seed: int, items: int) -> CrashHarness:
    return CrashHarness(seed, kind=kind, items=items, world=World(faults=FaultRates(schema_break=1.0)))


def calls_of(kind: str, items: int) -> int:
    harness = harness_of(kind, 1, items)
    assert harness.live() is ExitStatus.DONE
    return harness.disk.calls


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_every_second_payment_is_reported(
    kind: str, sent: Sent, tried: Tried, *, power: bool
) -> None:
    items = at_size(2, 4)
    calls = calls_of(kind, items)
    repeats = 0
    for call in range(1, calls + 1):
        harness = harness_of(kind, call, items)
        sent.bodies.clear()
        try:
            harness.live(trouble=Trouble(at_call=call, kind="crash"))
            harness.wake(power_was_lost=power)
            check(harness)
            ended = harness.live()
            check_end(harness, ended)
            assert ended is ExitStatus.DONE
            assert harness.status is not None
            assert sent.repeated <= harness.status.sends.possible_duplicates + harness.witness.unaccounted
            repeats += sent.repeated
        except BaseException as error:
            error.add_note(f"{kind}, crash at call {call}, power={power}")
            raise
    assert repeats, "no death fell between a request and what it came to"
    tried("calls to the disk that were the last one", calls)
