"""How far memory rose above where it stood: the peak of the resident set, which Linux lets a process reset."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SELF = Path("/proc/self")
_RESET_PEAK = "5"


@dataclass
class Peak:
    """`bytes` is right after the block."""

    bytes: int = 0


@contextmanager
def peak_above() -> Iterator[Peak]:
    """The highest resident size within the block, less the size at its beginning."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text(_RESET_PEAK)
    peak, before = Peak(), _resident_bytes("VmRSS")
    yield peak
    peak.bytes = _resident_bytes("VmHWM") - before


def _resident_bytes(name: str) -> int:
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
