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
MOST = 24.0
"""Between 8 and 64, as far from both by their ratio as the noise of a machine may reach."""
_LEAST_S = 0.004
_LONG_S = 0.05
_ROUNDS = 2


def assert_linear(prepared: Callable[[int], Callable[[], object]], size: int) -> None:
    """Work at `size` and at 8 times `size` must differ by far less than 64 times, by the CPU time of this thread.

    `prepared` makes the work of a size; making it is not measured. Where a machine does the small work faster than its
    clock can tell from noise, both sizes grow. Both are measured alternately and the quickest of each counts, so that
    neither a pause nor another process is taken for growth.
    """
    small, large = prepared(size), prepared(FACTOR * size)
    while (least := _quickest(small)) < _LEAST_S and size < 1 << 24:
        size *= 2
        small, large = prepared(size), prepared(FACTOR * size)
    found = []
    most = float("inf")
    for _ in range(_ROUNDS):
        most = min(most, _cpu_s(large))
        found.append(most / least)
        if found[-1] < MOST:
            return
        least = min(least, _cpu_s(small))
    ratios = ", ".join(f"{ratio:.0f}" for ratio in found)
    raise AssertionError(
        f"{FACTOR} times the size ({FACTOR * size:,}) takes {ratios} times as long; at most {MOST:.0f}"
    )


def _quickest(small: Callable[[], object]) -> float:
    took = _cpu_s(small)
    return took if took > _LONG_S else min(took, _cpu_s(small), _cpu_s(small))


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
