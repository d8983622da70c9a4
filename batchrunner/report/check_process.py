"""Checks that must not be made in this process: the person's own functions, and regular expressions without an end.

One child answers all of them, one after the other, each within a limit of time. A child that takes too long is killed
with whatever it started, and the next check gets a new one. It inherits no provider's key.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from batchrunner.core.job import PRESETS, Json
from batchrunner.evaluation.check_kinds import CheckBrokenError

PYTHON_LIMIT_S: Final = 10.0
PATTERN_LIMIT_S: Final = 1.0
_CHILD: Final = Path(__file__).with_name("check_child.py")
_READ_BYTES: Final = 1 << 16
_ANSWER_BYTES: Final = 1 << 24
_SHOWN_CHARS: Final = 200


class CheckProcess:
    """A context manager; the child is started by the first check that needs it."""

    def __init__(
        self, *, key_env: Iterable[str], limits_s: tuple[float, float] = (PYTHON_LIMIT_S, PATTERN_LIMIT_S)
    ) -> None:
        secrets = {*key_env, *(preset.key_env for preset in PRESETS.values())}
        self._environment = {name: value for name, value in os.environ.items() if name not in secrets}
        self._python_limit_s, self._pattern_limit_s = limits_s
        self._child: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def __repr__(self) -> str:
        return f"<CheckProcess {'none' if self._child is None else self._child.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def python(self, place: str, row: Mapping[str, Json]) -> Json:
        """What the function at `FILE:NAME` gives for the row. Raises CheckBrokenError."""
        path, _, name = place.rpartition(":")
        return self._ask({"python": path, "function": name, "row": row}, self._python_limit_s)

    def search(self, pattern: str, text: str) -> list[str | None] | None:
        """The match and its groups; None without one. Raises CheckBrokenError."""
        found = self._ask({"pattern": pattern, "text": text}, self._pattern_limit_s)
        return [entry if isinstance(entry, str) else None for entry in found] if isinstance(found, list) else None

    def _ask(self, asked: Mapping[str, object], limit_s: float) -> Json:
        child = self._started()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            child.stdin.flush()
            said = json.loads(self._line(child, limit_s))
        except (OSError, ValueError) as error:
            self._end()
            raise CheckBrokenError(f"the process that makes the check ended: {error}") from error
        if "error" in said:
            raise CheckBrokenError(str(said["error"])[:_SHOWN_CHARS])
        value: Json = said["value"]
        return value

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            try:
                self._child = subprocess.Popen(  # noqa: S603 - this interpreter and a file of this package
                    [sys.executable, "-I", str(_CHILD)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=self._environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise CheckBrokenError(f"no process could be started for the check: {error.strerror}") from error
        return self._child

    def _line(self, child: subprocess.Popen[bytes], limit_s: float) -> bytes:
        assert child.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(limit_s):
                    self._end()
                    raise CheckBrokenError(f"it took more than {limit_s:g} s and was stopped")
                piece = os.read(child.stdout.fileno(), _READ_BYTES)
                if not piece or len(self._rest) > _ANSWER_BYTES:
                    raise ValueError(f"exit status {child.wait()}" if not piece else "its answer is too long")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _end(self) -> None:
        child, self._child, self._rest = self._child, None, b""
        if child is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()
