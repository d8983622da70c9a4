"""What work costs, measured so that a slow or busy machine measures the same: by growth, and by calls.

No test compares a time with a limit in seconds: `tests/test_architecture.py` holds them to that.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType

FACTOR = 8
"""How many times as much the large size is. The work of a square is then 64 times as much."""
MOST = 32.0
"""A square gives 64; linear work 8, and up to three times that where the large size leaves the processor's caches."""
_LONG_S = 0.01
_ROUNDS = 4


def assert_linear(prepared: Callable[[int], Callable[[], object]], size: int) -> None:
    """Work at `size` and at 8 times `size` must differ by far less than 64 times, by the CPU time of this thread.

    `prepared` makes the work of a size; making it is not measured. The small work should take a tenth of a millisecond
    or more. Both are measured alternately and the quickest of each counts, so that neither a pause nor another process
    is taken for growth.
    """
    small, large = prepared(size), prepared(FACTOR * size)
    least = most = float("inf")
    found = []
    for _ in range(_ROUNDS):
        least, most = min(least, _quickest_s(small)), min(most, _quickest_s(large))
        found.append(f"{most / least:.0f}")
        if most / least < MOST:
            return
    raise AssertionError(f"{FACTOR} times the size takes {', '.join(found)} times as long; at most {MOST:.0f}")


def _quickest_s(work: Callable[[], object]) -> float:
    """Of one run that takes long, or of several that are short."""
    runs = [_cpu_s(work)]
    while sum(runs) < _LONG_S:
        runs.append(_cpu_s(work))
    return min(runs)


def _cpu_s(work: Callable[[], object]) -> float:
    gc.disable()
    try:
        began = time.thread_time()
        work()
        return time.thread_time() - began
    finally:
        gc.enable()


@contextmanager
def calls_within(budget: int, *, of: ModuleType | None = None) -> Iterator[None]:
    """What is done inside may call at most so many functions, of Python and of C, and is ended at the first one more.

    `of` counts only the functions of that package or module, and what they call.
    """
    where = "" if of is None else str(of.__file__).removesuffix("__init__.py")
    left = budget

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event in {"call", "c_call"} and frame.f_code.co_filename.startswith(where):
            left -= 1
            if left < 0:
                sys.setprofile(before)
                raise AssertionError(f"more than {budget:,} calls, in {frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
