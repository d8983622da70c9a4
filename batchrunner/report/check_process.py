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
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from batchrunner.core.errors import Mistake
from batchrunner.core.job import Job, Json
from batchrunner.core.presets import PRESETS
from batchrunner.evaluation.check_kinds import CheckBrokenError

PYTHON_LIMIT_S: Final = 10.0
PATTERN_LIMIT_S: Final = 1.0
_START_LIMIT_S: Final = 60.0
"""For the process to start, and for a file of functions to be loaded: it may import a large library."""
_KILL_AFTER_S: Final = 2.0
"""Beyond its limit a child ends by itself, should this process have been killed meanwhile."""
_MOST_STOPPED: Final = 5
"""So many times in a row a function or pattern is stopped before it is not asked again."""
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
        self._loaded: set[str] = set()
        """Files that the child has loaded."""
        self._broken: dict[str, str] = {}
        """Files that cannot be loaded, and why: they are not tried again for every row."""
        self._stopped: dict[str, int] = {}
        """How often in a row each function, file or pattern took too long."""

    def __repr__(self) -> str:
        return f"<CheckProcess {'none' if self._child is None else self._child.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def python(self, place: str, row: Mapping[str, Json]) -> Json:
        """What the function at `FILE:NAME` gives for the row. Raises CheckBrokenError."""
        path, _, name = place.rpartition(":")
        if path in self._broken:
            raise CheckBrokenError(self._broken[path])
        if path not in self._loaded:
            try:
                self._ask({"load": path}, path, _START_LIMIT_S)
            except CheckBrokenError as error:
                self._broken[path] = f"{path} cannot be loaded: {error}"
                raise CheckBrokenError(self._broken[path]) from error
            self._loaded.add(path)
        return self._ask({"python": path, "function": name, "row": row}, place, self._python_limit_s)

    def require(self, place: str) -> None:
        """Load the file of `FILE:NAME`, without a call of the function. Raises CheckBrokenError if it has none."""
        path, _, name = place.rpartition(":")
        self._ask({"load": path, "function": name}, place, _START_LIMIT_S)

    def search(self, pattern: str, text: str) -> list[str | None] | None:
        """The match and its groups; None without one. Raises CheckBrokenError."""
        found = self._ask({"pattern": pattern, "text": text}, pattern, self._pattern_limit_s)
        return [entry if isinstance(entry, str) else None for entry in found] if isinstance(found, list) else None

    def _ask(self, asked: Mapping[str, object], place: str, limit_s: float) -> Json:
        if self._stopped.get(place, 0) >= _MOST_STOPPED:
            raise CheckBrokenError(f"it was stopped {_MOST_STOPPED} times in a row and is not tried again")
        try:
            child = self._started()
            assert child.stdin is not None
            child.stdin.write(json.dumps({**asked, "limit_s": limit_s + _KILL_AFTER_S}).encode() + b"\n")
            child.stdin.flush()
            said = json.loads(self._line(child, limit_s))
        except TimeoutError:
            self._end()
            self._stopped[place] = self._stopped.get(place, 0) + 1
            raise CheckBrokenError(f"it took more than {limit_s:g} s and was stopped") from None
        except (OSError, ValueError) as error:
            self._end()
            raise CheckBrokenError(f"the process that makes the check ended: {error}") from error
        self._stopped.pop(place, None)
        if "error" in said:
            raise CheckBrokenError(str(said["error"])[:_SHOWN_CHARS])
        value: Json = said["value"]
        return value

    def _started(self) -> subprocess.Popen[bytes]:
        """The child, started and ready. Raises OSError, TimeoutError."""
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = subprocess.Popen(  # noqa: S603 - this interpreter and a file of this package
                [sys.executable, "-I", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
            self._line(self._child, _START_LIMIT_S)
        return self._child

    def _line(self, child: subprocess.Popen[bytes], limit_s: float) -> bytes:
        """The next line of the child. Raises TimeoutError, OSError, ValueError."""
        assert child.stdout is not None
        ends = time.monotonic() + limit_s
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(max(0.0, ends - time.monotonic())):
                    raise TimeoutError
                piece = os.read(child.stdout.fileno(), _READ_BYTES)
                if not piece:
                    raise ValueError(_last_words(child))
                if len(self._rest) > _ANSWER_BYTES:
                    raise ValueError("its answer is too long")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _end(self) -> None:
        child, self._child, self._rest = self._child, None, b""
        self._loaded.clear()
        if child is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()


def function_mistakes(job: Job) -> Iterator[Mistake]:
    """Functions of the job's checks that are not there, or whose file cannot be loaded. Runs these files. Blocks."""
    with CheckProcess(key_env=job.provider.key_env) as process:
        for number, check in enumerate(job.checks):
            if check.kind != "python":
                continue
            shown, _, name = str(check.expected).rpartition(":")
            path = Path(job.folder / shown).absolute()
            key = f"checks[{number}].{'not.' if check.negated else ''}python"
            try:
                with path.open("rb"):
                    process.require(f"{path}:{name}")
            except OSError as error:
                problem = f"the file {shown} cannot be read: {error.strerror or error}"
                expected = "a file relative to the job file's folder"
                yield Mistake(file=job.file, key=key, problem=problem, expected=expected)
            except CheckBrokenError as error:
                yield Mistake(file=job.file, key=key, problem=f"{shown}: {error}")


def _last_words(child: subprocess.Popen[bytes]) -> str:
    """How it ended; a function may also have closed the pipe of a child that lives on."""
    try:
        return f"exit status {child.wait(1)}"
    except subprocess.TimeoutExpired:
        return "it closed its output"
