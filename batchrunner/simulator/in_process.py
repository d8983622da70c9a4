"""A transport without a network: plays the world's scripts on the running loop, also in virtual time.

Breaks and deadlines reach the decoder as a real transport would report them. Opens no socket and reads no clock but the
one it is given.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, TypeVar, assert_never
from urllib.parse import urljoin, urlsplit

from batchrunner.core.http import (
    SETTLED_STREAM_S,
    Completed,
    Decoder,
    Ending,
    Gate,
    Interrupted,
    Request,
    ResponseHead,
)
from batchrunner.core.job import Timeouts
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.ports import Clock, Write
from batchrunner.simulator.profiles import INSTANT, Latency
from batchrunner.simulator.scenarios import require_scenarios
from batchrunner.simulator.script import Call, Cut, Delay, EarlyStep, Hang, Reset, Role, Script, Send
from batchrunner.simulator.world import World
from batchrunner.transport.coding import CodingError, unpacker
from batchrunner.transport.deadlines import passed

T = TypeVar("T")

MAX_REDIRECTS: Final = 3
CHAT_CAP_BYTES: Final = 16 * 1024 * 1024
BULK_CAP_BYTES: Final = 4_000_000_000
PICTURE_CAP_BYTES: Final = 64 * 1024 * 1024
_WHOLE: Final = Completed()


class SimulatedTransport:
    """`core.ports.GatedTransport` in front of a world. An account's name is its token here."""

    takes_gates = True

    def __init__(self, world: World, clock: Clock, *, timeouts: Timeouts | None = None) -> None:
        self._world = world
        self._clock = clock
        self._timeouts = timeouts or Timeouts()

    def __repr__(self) -> str:
        return f"SimulatedTransport({self._world!r})"

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        """Send once the gate lets it, let the decoder read, and give what it makes of it.

        Raises:
            asyncio.CancelledError: as the port says.
            Exception: what the gate refused with.
        """
        if gate is not None:
            await passed(gate)
        headers = {name.lower(): value for name, value in request.headers.items()}
        headers["authorization"] = f"Bearer {account or 'in-process'}"
        call = _call(request.method, request.url, role="api", headers=headers, body=_body_of(request))
        script = self._world.answer(call, self._clock.wall())
        cap_bytes = BULK_CAP_BYTES if request.bulk else CHAT_CAP_BYTES
        play = _Play(script, self._clock, self._timeouts, total_s=self._timeouts.total_s, cap_bytes=cap_bytes)
        try:
            if (waits := play.only_waits()) is not None:
                return await play.at_once(waits, decoder)
            # A reply never comes in the same turn of the loop as its request
            await asyncio.sleep(0)
            return decoder.end(await _read(play, decoder))
        finally:
            self._world.leave(script)


class SimulatedDownloads:
    """`core.ports.Downloads` in front of a world's storage port. Whatever the host, the path counts."""

    def __init__(self, world: World, clock: Clock, *, timeouts: Timeouts | None = None) -> None:
        self._world = world
        self._clock = clock
        self._timeouts = timeouts or Timeouts()

    def __repr__(self) -> str:
        return f"SimulatedDownloads({self._world!r})"

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:  # noqa: ARG002 - the port's
        """The whole body, at most 64 MiB; a DOWNLOAD_FAILED problem otherwise."""
        for _ in range(MAX_REDIRECTS + 1):
            script = self._world.answer(_call("GET", url, role="files"), self._clock.wall())
            if script.status not in (301, 302, 303, 307, 308):
                return await self._take(script, url)
            url = urljoin(url, script.headers.get("location", ""))
        return _download_problem(f"{url}: more than {MAX_REDIRECTS} redirects")

    async def fetch_into(self, url: str, write: Write, *, account: str = "") -> Problem | None:
        """The same, passed on."""
        fetched = await self.fetch(url, account=account)
        if isinstance(fetched, Problem):
            return fetched
        await write(fetched)
        return None

    async def _take(self, script: Script, url: str) -> bytes | Problem:
        collector = _Collector()
        total_s = self._timeouts.download_s
        play = _Play(script, self._clock, self._timeouts, total_s=total_s, cap_bytes=PICTURE_CAP_BYTES)
        if (waits := play.only_waits()) is not None:
            ending = await play.at_once(waits, collector)
        else:
            await asyncio.sleep(0)
            ending = await _read(play, collector)
        if isinstance(ending, Interrupted):
            return _download_problem(f"{url}: {ending.message}")
        if script.status != 200:
            return _download_problem(f"{url} answered {script.status}", status=script.status)
        return b"".join(collector.pieces) or _download_problem(f"{url} is empty", status=script.status)


def simulated_network(
    *,
    clock: Clock,
    timeouts: Timeouts,
    scenario: str | None = None,
    models: Iterable[str] = (),
    films: bool = False,
    latency: Latency = INSTANT,
    seed: int = 0,
) -> tuple[SimulatedTransport, SimulatedDownloads]:
    """Both ports of a world of their own.

    Raises:
        JobMistakesError: an unknown scenario, of the job or after the `#` of one of its models.
    """
    require_scenarios(scenario, models)
    world = World(seed, scenario=scenario, latency=latency, films=films)
    return (SimulatedTransport(world, clock, timeouts=timeouts), SimulatedDownloads(world, clock, timeouts=timeouts))


def _call(method: str, url: str, *, role: Role, headers: dict[str, str] | None = None, body: bytes = b"") -> Call:
    """A request as it would come in; of the URL, only path and query count."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return Call(method=method, path=path, headers=headers or {}, body=body, role=role)


def _body_of(request: Request) -> bytes:
    return request.body or (b"".join(request.streamed.pieces()) if request.streamed is not None else b"")


class _Play:
    """One performance of a script against deadlines."""

    def __init__(self, script: Script, clock: Clock, timeouts: Timeouts, *, total_s: float, cap_bytes: int) -> None:
        self.script = script
        self.clock = clock
        self.cap_bytes = cap_bytes
        self._timeouts = timeouts
        self._ends_at = clock.monotonic() + total_s
        self._total_s = total_s

    def only_waits(self) -> tuple[float, float] | None:
        """(seconds to the head, seconds after it) where nothing but waits precedes the one piece of the body.

        None where anything else happens, and where a deadline would pass: that has to be played step by step.
        """
        script, limits = self.script, self._timeouts
        early_s = late_s = 0.0
        for step in script.early:
            if type(step) is not Delay:
                return None
            early_s += step.seconds
        *waits, last = script.steps or (None,)
        for pause in waits:
            if type(pause) is not Delay or pause.seconds > limits.idle_s:
                return None
            late_s += pause.seconds
        if type(last) is not Send or len(last.piece) > self.cap_bytes or "content-encoding" in script.headers:
            return None
        in_time = early_s <= limits.first_byte_s and early_s + late_s < self._total_s
        return (early_s, late_s) if in_time and early_s + late_s > 0.0 else None

    async def at_once(self, waits: tuple[float, float], decoder: Decoder[T]) -> T:
        """The whole reply after one wait; the outcome is the same as in steps."""
        script, early_s = self.script, waits[0]
        head = ResponseHead(status=script.status, headers=dict(script.headers), received_at=self.clock.wall() + early_s)
        await asyncio.sleep(early_s + waits[1])
        decoder.begin(head)
        last = script.steps[-1]
        assert isinstance(last, Send)
        decoder.feed(last.piece)
        return decoder.end(_WHOLE)

    async def wait(self, seconds: float, *, patience_s: float) -> Interrupted | None:
        """Wait, unless patience or the whole exchange's time is over before; then say so."""
        left_s = self._ends_at - self.clock.monotonic()
        if seconds <= min(patience_s, left_s):
            await asyncio.sleep(seconds)
            return None
        await asyncio.sleep(max(0.0, min(patience_s, left_s)))
        limit = f"no data for {patience_s:g} s" if patience_s <= left_s else f"not complete after {self._total_s:g} s"
        return Interrupted(cause="timeout", message=limit, sent=True)

    async def head(self) -> Interrupted | None:
        """Play what comes before the head."""
        patience_s = self._timeouts.first_byte_s
        for step in self.script.early:
            if (broken := await self._step(step, patience_s=patience_s)) is not None:
                return broken
            patience_s -= step.seconds if isinstance(step, Delay) else 0.0
        return None

    async def pause(self, step: Delay | Cut | Reset | Hang) -> Interrupted | None:
        """Play a step of the body that sends nothing."""
        return await self._step(step, patience_s=self._timeouts.idle_s)

    async def _step(self, step: EarlyStep | Cut, *, patience_s: float) -> Interrupted | None:
        match step:
            case Delay(seconds=seconds):
                return await self.wait(seconds, patience_s=patience_s)
            case Hang():
                return await self.wait(float("inf"), patience_s=patience_s)
            case Reset():
                return Interrupted(cause="reset", message="connection reset by peer", sent=True)
            case Cut():
                return Interrupted(cause="reset", message="the connection ended before the reply did", sent=True)
            case _:
                assert_never(step)


async def _read(play: _Play, decoder: Decoder[T]) -> Ending:
    """Let the decoder read the reply, and say how it ended."""
    if (broken := await play.head()) is not None:
        return broken
    script = play.script
    decoder.begin(ResponseHead(status=script.status, headers=dict(script.headers), received_at=play.clock.wall()))
    got_bytes = 0
    coding = script.headers.get("content-encoding")
    undo = None if coding is None else unpacker(coding)
    for step in script.steps:
        if not isinstance(step, Send):
            settled = getattr(decoder, "settled", None)
            if isinstance(step, Hang) and settled is not None and settled(SETTLED_STREAM_S):
                broken = await play.wait(SETTLED_STREAM_S, patience_s=SETTLED_STREAM_S)
                return broken or Interrupted(
                    cause="timeout", message="the reply is complete, but was not ended", sent=True
                )
            if (broken := await play.pause(step)) is not None:
                return broken
            continue
        got_bytes += len(step.piece)
        if got_bytes > play.cap_bytes:
            return Interrupted(cause="too_large", message=f"more than {play.cap_bytes} bytes", sent=True)
        try:
            if any(decoder.feed(plain) for plain in (undo.feed(step.piece) if undo is not None else (step.piece,))):
                break
        except CodingError as error:
            return Interrupted(cause="reset", message=str(error), sent=True)
    return _WHOLE


class _Collector:
    """A decoder that keeps the bytes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def begin(self, head: ResponseHead) -> None:
        """Nothing of the head is needed."""

    def feed(self, data: bytes) -> bool:
        """Keep a piece."""
        self.pieces.append(data)
        return False

    def end(self, ending: Ending) -> Ending:
        """How it ended."""
        return ending


def _download_problem(message: str, *, status: int | None = None) -> Problem:
    return Problem(kind=ProblemKind.DOWNLOAD_FAILED, message=message, status=status)
