"""Waiting for a moment of a real process: with patience, and without taking the processor from what is waited for.

One function, so that no test waits in its own way: a loop without a pause takes a processor, one without a deadline
hangs with what it waits for, and one that is content with a process's end says nothing of why.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PATIENCE_S: Final = 120.0
"""What a loaded machine may take for anything that takes a moment elsewhere."""
_LOOK_EVERY_S: Final = 0.01


def wait_until(
    holds: Callable[[], object],
    what: str,
    *,
    process: "subprocess.Popen[Any] | None" = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Wait until it holds; AssertionError when it does not in time, or `process` has ended and it does not hold."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if process is not None and process.poll() is not None:
            assert holds(), f"it ended with {process.returncode} before {what}: {process.communicate()}"
            return
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(_LOOK_EVERY_S)  # a real process is watched in real time


def has_taken_its_signals(pid: int) -> bool:
    """Whether none that was sent to it is still on its way: two of a kind that both wait count as one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return all(int(status.partition(name)[2].split()[0], 16) == 0 for name in ("SigPnd:", "ShdPnd:"))
