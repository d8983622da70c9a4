"""llama.cpp's server in a process of its own, as the `xllamacpp` wheel brings it; `python llama.py OPTIONS`.

The process says `ready` on its standard output once the model is loaded, and serves until it is ended by a signal.
Before that the server answers 503 "Loading model". Its own log goes to standard error.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from batchrunner.core.values import asdict

_PATIENCE_S = 120.0
_LOOK_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the server is started. `context_tokens` is what each of its `slots` has for prompt and answer together."""

    model: str
    port: int
    slots: int = 8
    context_tokens: int = 1024
    api_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A server that was started, loaded or not yet."""

    options: Options
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def root(self) -> str:
        """Where it listens; a job's `base_url` adds `/v1`, or nothing for Anthropic's dialect."""
        return f"http://127.0.0.1:{self.options.port}"

    def health(self) -> int | None:
        """The HTTP status of its health: 503 while it loads, then 200; None while nothing listens."""
        try:
            with urllib.request.urlopen(self.root + "/health", timeout=10) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            return None

    def wait_until(self, health: int) -> None:
        """Wait for this health; fails when the process ends or goes past it."""
        self._wait(lambda: self.health() == health, f"its health did not become {health}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The whole process stands still: connections are taken by the kernel, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _wait(self, until: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if until():
                return
            time.sleep(_LOOK_S)  # a real process is watched in real time
        raise AssertionError(f"{otherwise}: {self.log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@contextlib.contextmanager
def llama(options: Options, folder: Path) -> Iterator[Llama]:
    """Start the server and end it afterwards; it is not waited for."""
    log = folder / f"llama-{options.port}.log"
    with log.open("wb") as out:
        command = [sys.executable, __file__, json.dumps(asdict(options))]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield Llama(options=options, process=process, log=log)
    finally:
        process.kill()  # it has nothing to put in order
        process.wait(timeout=30)


def _serve(options: Options) -> None:
    import xllamacpp  # noqa: PLC0415 - heavy, and only in the server's own process

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context_tokens
    params.cpuparams.n_threads = 1
    params.sampling.seed = 1
    params.ui = False
    if options.api_key is not None:
        params.api_keys = [options.api_key]
    server = xllamacpp.Server(params)
    print("ready", server.listening_address, flush=True)  # noqa: T201 - for the log
    signal.pause()


if __name__ == "__main__":
    _serve(Options(**json.loads(sys.argv[1])))
