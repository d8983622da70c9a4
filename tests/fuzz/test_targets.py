"""Any bytes at any entry: one typed outcome, no traceback, within bounded time and memory. Past inputs are tried again.

An example is a sound input spoilt by a seed, or bytes out of nowhere. What fails is shown as bytes, to be kept in
`past_inputs/TARGET-….bin`. Longer, guided by coverage: `python -m tests.fuzz.atheris_campaign TARGET SECONDS`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.memory import peak_above
from tests.fuzz.mutations import mutated
from tests.fuzz.target import MEMORY_BYTES, Target
from tests.fuzz.targets import BY_NAME, TARGETS
from tests.support.torture import Tried, at_size

PAST = Path(__file__).parent / "past_inputs"
WORK_S, WALL_S = 5, 60
"""Of the processor, and of the clock on a busy machine: more than any example may take."""
USUAL, LONG = 150, 6_000


class TookTooLongError(BaseException):
    """An example neither ended nor failed."""


@contextmanager
def within_time() -> Iterator[None]:
    """Ends what hangs: in its own loop, or waiting for what never comes."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError(f"more than {WORK_S} s of work or {WALL_S} s by the clock")

    alarms = ((signal.SIGPROF, signal.ITIMER_PROF, WORK_S), (signal.SIGALRM, signal.ITIMER_REAL, WALL_S))
    before = [signal.signal(number, ring) for number, _, _ in alarms]
    for _, timer, seconds in alarms:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), old in zip(alarms, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, old)


def attempt(target: Target, text: bytes) -> None:
    try:
        with within_time():
            target.run(text)
    except BaseException as error:
        error.add_note(f"{target.name}: {len(text)} bytes: {text[:3000]!r}")
        raise


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_any_bytes_give_a_typed_outcome(target: Target, tried: Tried) -> None:
    """Threats 5, 7, 8, 10 and 13, and what every other reader of strangers' bytes promises."""
    seeds = target.seeds()
    spoilt = st.builds(mutated, st.sampled_from(seeds), st.integers(0, 2**40), st.just(seeds))
    examples = max(10, int(at_size(USUAL, LONG) * target.share))
    count = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(spoilt, spoilt, spoilt, st.binary(max_size=300)))
    def try_all(text: bytes) -> None:
        nonlocal count
        count += 1
        attempt(target, text)

    with peak_above() as peak:
        for seed in seeds[: at_size(40, len(seeds))]:
            attempt(target, seed)
        try_all()
    assert peak.bytes < MEMORY_BYTES, f"{target.name}: {peak.bytes:,} bytes more than before"
    tried(f"fuzz: {target.name}", count + len(seeds))


@pytest.mark.parametrize("path", sorted(PAST.glob("*.bin")), ids=lambda path: path.stem)
def test_past_inputs_stay_repaired(path: Path) -> None:
    """Each was a traceback, a hang or a wrong outcome once; the file's name begins with its target's."""
    name = next(name for name in sorted(BY_NAME, key=len, reverse=True) if path.stem.startswith(name.replace(" ", "_")))
    attempt(BY_NAME[name], path.read_bytes())


def test_a_hang_and_a_greedy_reader_are_noticed() -> None:
    """The two guards themselves."""

    def for_ever(_: bytes) -> object:
        while True:
            pass

    short = pytest.MonkeyPatch()
    with short.context() as patch:
        patch.setattr(f"{__name__}.WORK_S", 0.2)
        with pytest.raises(TookTooLongError):
            attempt(Target("x", for_ever, tuple), b"")
    with peak_above() as peak:
        bytearray(b"x" * (64 << 20))
    assert peak.bytes > 32 << 20
