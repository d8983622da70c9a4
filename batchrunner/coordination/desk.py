"""The coordinator with its clock and its files: answers requests, whoever brings them: a socket, or Ray's actor."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from batchrunner.core.coordination import Coordinator
from batchrunner.core.coordination_messages import Claim, Claimed, Declined, End, Reply, Request
from batchrunner.core.errors import BatchrunnerError
from batchrunner.stores.shard_claims import ClaimFiles

_TRIES: Final = 20
"""Claims that another coordinator may have given before this one finds a free epoch."""


class Desk:
    """One for a coordinator. Blocks for a moment where a claim is given or ends; else returns at once."""

    def __init__(
        self,
        coordinator: Coordinator,
        claims: ClaimFiles,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.coordinator = coordinator
        self._claims, self._monotonic, self._wall = claims, monotonic, wall

    def __repr__(self) -> str:
        return f"<Desk of {self.coordinator!r}>"

    def answer(self, request: Request) -> Reply:
        """The reply; a disk that refuses is a refusal, so that the worker tries again later."""
        try:
            if isinstance(request, Claim):
                return self._given(request)
            reply = self.coordinator.answer(request, now=self._monotonic(), wall=self._wall())
            if isinstance(request, End) and getattr(reply, "ok", False):
                self._claims.ended(request.shard, request.epoch, request.outcome, counts=request.counts)
        except BatchrunnerError as error:
            return Declined(error=str(error))
        return reply

    def died(self, worker: str) -> None:
        """A worker's death is proven: what it had is free at once. Raises StoreBrokenError."""
        held = [(number, shard.epoch) for number, shard in self.coordinator.counts() if shard.worker == worker]
        self.coordinator.died(worker, now=self._monotonic())
        for number, epoch in held:
            self._claims.ended(number, epoch, "lost")

    def found_dead(self) -> list[tuple[int, int]]:
        """Shards, with their epochs, whose processes have died on this machine: their locks say so. Blocks."""
        held = [(number, shard.epoch) for number, shard in self.coordinator.counts() if shard.is_held]
        return [(number, epoch) for number, epoch in held if self._claims.died(number, epoch)]

    def lost(self, number: int, epoch: int) -> None:
        """Its process is dead: the shard is free at once. Raises StoreBrokenError."""
        if self.coordinator.lost(number, epoch, now=self._monotonic()):
            self._claims.ended(number, epoch, "lost")

    def _given(self, request: Claim) -> Claimed:
        coordinator, now = self.coordinator, self._monotonic()
        for _ in range(_TRIES):
            going_on = {number for number, shard in coordinator.counts() if shard.goes_on}
            before = {number: shard.worker for number, shard in coordinator.counts()}
            claimed = coordinator.claim(request.worker, now=now)
            if claimed.shard is None or claimed.epoch is None or before[claimed.shard] == request.worker:
                return claimed
            at = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            again = claimed.shard in going_on
            try:
                if self._claims.give(claimed.shard, claimed.epoch, worker=request.worker, at=at, again=again):
                    return claimed
            except BatchrunnerError:
                coordinator.refused(claimed, taken=claimed.epoch)
                raise
            coordinator.refused(claimed, taken=self._claims.newest(claimed.shard))
        return Claimed(wait_s=coordinator.expires_s / 3.0)
