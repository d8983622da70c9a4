"""What SIGINT, SIGTERM and SIGHUP do wherever no run has handlers of its own.

That is while libraries are imported, while a long source is read, in commands that only look, and after a run's end.
The process ends at once, with one line and 130 or 143. That is as safe as a kill at that moment, which every file of a
run is made for, and unlike an exception it cannot surface as a traceback from the middle of other code. Imports nothing
that takes time: it is the first thing that the program does.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_WORDS: Final = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "stopped by SIGTERM",
    getattr(signal, "SIGHUP", None): "stopped because the terminal was closed (SIGHUP)",
}
_INTERRUPTED: Final = 130
_TERMINATED: Final = 143
STATUS_SIGNALS: Final = [getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)]
"""These ask a run how it stands."""
_HANGUP: Final[int | None] = getattr(signal, "SIGHUP", None)
_received: list[int] = []
"""Signals received; only the first one prints its message."""


class InterruptedBySignal(BaseException):
    """Raised by a signal within `unwinding`; no Exception, so that nothing on the way takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def install() -> None:
    """End this process with a message at the next signal. SIGHUP that is ignored (nohup) stays ignored.

    Signals that ask how a run stands are not heard before there is one: by default they would end the process.
    """
    for number in STATUS_SIGNALS:
        signal.signal(number, unheard)
    for number in _WORDS:
        if number is not None and not (number == _HANGUP and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, _stop)


def unheard(*_: object) -> None:
    """No run works yet, or none any more. SIG_IGN would be inherited by the commands that a run starts."""


@contextmanager
def unwinding() -> Iterator[None]:
    """Let the first signal unwind the stack instead, so that a half-written file is removed; for ordinary code only.

    Nothing is changed where `install` was not called: then the signals belong to another program.
    """
    ours = [number for number in _WORDS if number is not None and signal.getsignal(number) is _stop]
    try:
        for number in ours:
            signal.signal(number, _unwind)
        yield
    except InterruptedBySignal as interruption:
        _stop(interruption.number, None)
    finally:
        for number in ours:
            signal.signal(number, _stop)


def _unwind(number: int, _: FrameType | None) -> None:
    for each in _WORDS:
        if each is not None and signal.getsignal(each) is _unwind:
            signal.signal(each, _stop)  # the next one does not wait for the cleaning up
    raise InterruptedBySignal(number)


def _stop(number: int, _: FrameType | None) -> None:
    status = _INTERRUPTED if number == signal.SIGINT else _TERMINATED
    _received.append(number)
    if len(_received) == 1:  # a second signal may come while the first message is being written, perhaps to a full pipe
        words = f"{_WORDS[number]}; finished results are saved"
        if "--json" in sys.argv:
            _write(1, f'{{"error": {{"message": "{words}", "exit_status": {status}}}}}')  # json takes 3 ms to import
        _write(2, words)
    os._exit(status)


def _write(descriptor: int, line: str) -> None:
    try:
        os.write(descriptor, line.encode() + b"\n")
    except OSError:  # a reader or a terminal that went away
        return
