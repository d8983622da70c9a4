"""The coordinator of a job that several processes share: who has which shard, and who may send how much. Pure.

`Coordinator.answer` takes a request and the time, and gives its reply; sockets and actors are around it. A shard has
one holder, who beats; when no beat came for `expires_s` and a grace, or the holder's death is proven, the shard is
given away as its next epoch. What the disk says of claims that an earlier coordinator gave is passed in: their holders
may go on by a beat, and nobody else gets them until they would have expired.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from batchrunner.core.coordination_lanes import CoordinatedLanes
from batchrunner.core.coordination_messages import (
    Beat,
    Beaten,
    Claim,
    Claimed,
    Counts,
    Declined,
    End,
    Ended,
    Hello,
    Lease,
    Reply,
    Request,
    Stop,
    Welcome,
)
from batchrunner.core.job import Job
from batchrunner.core.values import dataclass, field

EXPIRES_S: Final = 6.0
_GRACE: Final = 0.25
"""Of the time after which a claim expires: its holder stops by its own clock, which began when the beat left."""
MOST_LOSSES: Final = 5
"""Holders of one shard who may die in a row without an item more; then it is given up."""


@dataclass(slots=True, kw_only=True, eq=False)
class ShardState:
    """One shard, as the coordinator knows it."""

    epoch: int = 0
    """The newest that was given; 0: none."""
    worker: str | None = None
    """Who has it; None with `held_until`: somebody whom an earlier coordinator gave it to."""
    held_until: float | None = None
    is_fresh: bool = False
    """Its holder has not been heard of since it was given."""
    goes_on: bool = False
    """It was put down in order: the same epoch goes on."""
    not_before: float = 0.0
    outcome: str = ""
    """`finished`, `paused`, `failed` once it will not be given again; else empty."""
    message: str = ""
    losses: int = 0
    counts: Counts = field(default_factory=Counts)
    ended_at_loss: int = 0

    @property
    def is_held(self) -> bool:
        """Somebody works on it, as far as is known."""
        return self.held_until is not None


class Coordinator:
    """One for a job. Every method returns at once; `now` is monotonic, `wall` is the time of day, both in seconds."""

    def __init__(
        self,
        job: Job,
        *,
        digest: str,
        shards: int,
        now: float,
        expires_s: float = EXPIRES_S,
        epochs: Mapping[int, int] | None = None,
        goes_on: Collection[int] = (),
        finished: Collection[int] = (),
        held: Collection[int] = (),
        sent_today: Mapping[str, int] | None = None,
        counts: Mapping[int, Counts] | None = None,
    ) -> None:
        """What the disk knows of shards, by number.

        Args:
            job: the whole job, with its limits.
            digest: of the job file's meaning; workers of another one are refused.
            shards: how many.
            now: monotonic seconds.
            expires_s: a claim without a beat is lost after it.
            epochs: the newest epoch of each that has begun.
            goes_on: those that were put down in order: their newest epoch goes on.
            finished: those with nothing left to do.
            held: those that somebody may still work on.
            sent_today: requests of today by lane, for `limits.requests_per_day`.
            counts: where those stand that were put down.
        """
        self.digest, self.expires_s = digest, expires_s
        self.shards = [ShardState(epoch=(epochs or {}).get(number, 0)) for number in range(shards)]
        for number, known in (counts or {}).items():
            self.shards[number].counts = known
        for number in goes_on:
            self.shards[number].goes_on = True
        for number in finished:
            self.shards[number].outcome = "finished"
        for number in held:
            self.shards[number].held_until = now + self._lasts_s
        self.lanes = CoordinatedLanes(job, now=now, sent_today=sent_today or {})
        self._workers: dict[str, float] = {}
        self.stop: Stop | None = None
        """Why every worker is told to end, once that is so."""

    def __repr__(self) -> str:
        held = sum(shard.is_held for shard in self.shards)
        return f"<Coordinator: {len(self.shards)} shards, {held} held, {len(self._workers)} workers>"

    @property
    def _lasts_s(self) -> float:
        return self.expires_s * (1.0 + _GRACE)

    @property
    def is_finished(self) -> bool:
        """Every shard has nothing left to do."""
        return all(shard.outcome == "finished" for shard in self.shards)

    @property
    def is_over(self) -> bool:
        """No shard is held, and none will be given again."""
        return all(shard.outcome or (self.stop is not None and not shard.is_held) for shard in self.shards)

    def answer(self, request: Request, *, now: float, wall: float) -> Reply:
        """The reply to a request."""
        match request:
            case Hello():
                return self._welcome(request, now)
            case Claim():
                return self.claim(request.worker, now=now)
            case Beat():
                return self._beat(request, now)
            case End():
                return self._end(request, now)
            case Lease():
                return self._lease(request, now=now, wall=wall)

    def _lease(self, told: Lease, *, now: float, wall: float) -> Reply:
        self.expire(now)
        held = (number for number, shard in enumerate(self.shards) if shard.worker == told.worker)
        granted = self.lanes.lease(told, now=now, wall=wall, shard=next(held, None), stop=self.stop)
        if granted.stop is not None:
            self.drain(granted.stop)
        return granted

    def drain(self, reason: Stop) -> None:
        """Every worker is told to end, with its next beat or lease; the first reason stays."""
        self.stop = self.stop or reason

    def _welcome(self, hello: Hello, now: float) -> Reply:
        if hello.job != self.digest:
            return Declined(
                error="the worker's job file is another one, or another version of it, than the coordinator's; use the "
                "same file, and the same --set, --simulate and --out, everywhere",
                kind="job",
            )
        self._workers[hello.worker] = now
        return Welcome(shards=len(self.shards), beat_s=self.expires_s / 3.0, expires_s=self.expires_s)

    # -- claims

    def claim(self, worker: str, *, now: float) -> Claimed:
        """A shard for a worker. One whose reply was lost asks again, and gets the same shard."""
        self.expire(now)
        for number, shard in enumerate(self.shards):
            if shard.worker == worker:
                if shard.is_fresh:
                    shard.held_until = now + self._lasts_s
                    return Claimed(shard=number, epoch=shard.epoch)
                self._lost(shard, now)  # it has put it down, and its word of that was lost with a coordinator
        if self.stop is not None:
            return Claimed(stop=self.stop)
        free = [shard for shard in self.shards if not shard.is_held and not shard.outcome and shard.not_before <= now]
        if free:
            shard = min(free, key=lambda one: one.losses)
            shard.epoch += not shard.goes_on
            shard.worker, shard.is_fresh, shard.goes_on = worker, True, False
            shard.held_until = now + self._lasts_s
            return Claimed(shard=self.shards.index(shard), epoch=shard.epoch)
        return self._nothing_free(now)

    def refused(self, claimed: Claimed, *, taken: int) -> None:
        """The disk has a later epoch of a shard that has just been given: it is given away as the one after that."""
        assert claimed.shard is not None, "a shard was given"
        shard = self.shards[claimed.shard]
        shard.worker = shard.held_until = None
        shard.epoch, shard.is_fresh, shard.goes_on = max(shard.epoch, taken), False, False

    def _nothing_free(self, now: float) -> Claimed:
        later = [shard.not_before - now for shard in self.shards if not shard.outcome and not shard.is_held]
        if any(shard.is_held for shard in self.shards):
            return Claimed(wait_s=max(0.05, min([self.expires_s / 3.0, *later])))
        if later:
            return Claimed(wait_s=max(0.05, min(later)))
        if self.is_finished:
            return Claimed(finished=True)
        outcomes = {shard.outcome for shard in self.shards}
        return Claimed(stop="failed" if "failed" in outcomes else "paused")

    def _beat(self, beat: Beat, now: float) -> Beaten:
        self.expire(now)
        shard = self._shard(beat.shard)
        if shard is None or shard.epoch != beat.epoch or not shard.is_held or shard.worker not in {None, beat.worker}:
            return Beaten(ok=False)
        shard.worker, shard.is_fresh, shard.counts = beat.worker, False, beat.counts
        shard.held_until = now + self._lasts_s
        self._workers[beat.worker] = now
        return Beaten(ok=True, stop=self.stop)

    def _end(self, end: End, now: float) -> Ended:
        self.expire(now)
        shard = self._shard(end.shard)
        if shard is None or shard.epoch != end.epoch or not shard.is_held or shard.worker not in {None, end.worker}:
            return Ended(ok=False)
        shard.counts = end.counts or shard.counts
        if end.outcome == "lost":
            self._lost(shard, now)
            return Ended(ok=True)
        self.lanes.forget(end.worker, now=now)
        shard.worker = shard.held_until = None
        shard.is_fresh, shard.goes_on = False, True
        shard.message, shard.losses = end.message, 0
        self.lanes.put_down(end.shard, end.counts)
        if end.outcome == "paused" and end.not_before_s is not None:
            shard.not_before = now + end.not_before_s
        elif end.outcome != "paused" or self.stop is None:
            shard.outcome = end.outcome
        return Ended(ok=True)

    def died(self, worker: str, *, now: float) -> None:
        """A worker's death is proven: what it had is free at once."""
        for shard in self.shards:
            if shard.worker == worker:
                self._lost(shard, now)
        self._workers.pop(worker, None)
        self.lanes.forget(worker, now=now)

    def lost(self, number: int, epoch: int, *, now: float) -> bool:
        """The death of whoever has this shard is proven; False where nobody has it, or another epoch of it."""
        shard = self.shards[number]
        if not shard.is_held or shard.epoch != epoch:
            return False
        self._lost(shard, now)
        return True

    def expire(self, now: float) -> None:
        """Claims without a beat are lost; to be called from time to time where nobody asks for anything."""
        for shard in self.shards:
            if shard.held_until is not None and shard.held_until <= now:
                self._lost(shard, now)

    def _lost(self, shard: ShardState, now: float) -> None:
        self.lanes.put_down(self.shards.index(shard), None)
        if shard.worker is not None:
            self.lanes.forget(shard.worker, now=now)
        shard.worker = shard.held_until = None
        shard.is_fresh, shard.goes_on = False, False
        ended = shard.counts.done + shard.counts.failed
        shard.losses = 1 if ended > shard.ended_at_loss else shard.losses + 1
        shard.ended_at_loss = ended
        if shard.losses >= MOST_LOSSES:
            shard.outcome = "failed"
            shard.message = f"{MOST_LOSSES} processes in a row ended on it without finishing an item"

    def _shard(self, number: int) -> ShardState | None:
        return self.shards[number] if 0 <= number < len(self.shards) else None

    # -- what people see

    @property
    def items(self) -> int:
        """Of the whole job; 0 before a worker has planned them."""
        return max(shard.counts.of_job for shard in self.shards)

    def counts(self) -> Iterator[tuple[int, ShardState]]:
        """Each shard by number."""
        return enumerate(self.shards)
