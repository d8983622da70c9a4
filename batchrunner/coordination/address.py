"""Where a coordinator is: a socket of this machine (a path), or HOST:PORT with a shared secret. Pure but for `secret`.

Short: both ends of the wire need it, and nothing else of each other.
"""

import hmac
import os
import re
from typing import Final

from batchrunner.core.errors import BatchrunnerError, JobMistakesError, Mistake
from batchrunner.core.values import dataclass

PROCESSES_VARIABLE: Final = "BATCHRUNNER_PROCESSES"
"""In the environment of a worker of `run --processes N`: N, for the command that goes on when its parent has died."""
SECRET_VARIABLE: Final = "BATCHRUNNER_COORDINATOR_SECRET"  # noqa: S105 - a name
UNIX_BYTES: Final = 100
"""Longer paths of sockets are refused by some systems."""
_TCP: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", re.ASCII)


class CoordinatorGoneError(BatchrunnerError):
    """The coordinator does not answer: it is not there, or not reachable."""


class CoordinatorRefusedError(BatchrunnerError):
    """The coordinator refuses this worker: another job, or another secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Either a path or host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"


def address_of(text: str, *, option: str) -> Address:
    """What `unix:PATH`, a path with a slash, or HOST:PORT names. Raises JobMistakesError."""
    path = text.removeprefix("unix:")
    if path != text or ("/" in text and "://" not in text):
        if not path or len(os.fsencode(path)) > UNIX_BYTES:
            problem = f"`{text[:120]}` is no path for a socket: it is empty, or longer than {UNIX_BYTES} bytes"
            raise JobMistakesError((Mistake(key=option, problem=problem, hint="use a short path below /tmp"),))
        return Address(path=path)
    found = _TCP.fullmatch(text)
    if found is None or int(found[2]) > 65535:  # noqa: PLR2004 - the last port
        problem, expected = f"`{text[:120]}` is no address", "HOST:PORT, like 10.0.0.5:7070, or unix:PATH"
        raise JobMistakesError((Mistake(key=option, problem=problem, expected=expected),))
    return Address(host=found[1].strip("[]"), port=int(found[2]))


def secret_for(address: Address, *, option: str) -> str:
    """The shared secret of a TCP address, from the environment; empty for a socket of this machine.

    Raises:
        JobMistakesError: it is not set.
    """
    if address.path is not None:
        return ""
    secret = os.environ.get(SECRET_VARIABLE, "")
    if not secret:
        problem = f"{address} can be reached over the network, and {SECRET_VARIABLE} is not set"
        hint = f"set {SECRET_VARIABLE} to the same random text for the coordinator and each worker, or use unix:PATH"
        raise JobMistakesError((Mistake(key=option, problem=problem, hint=hint),))
    return secret


def proof_of(secret: str, nonce: str) -> str:
    """What shows that a worker knows the secret, without saying it."""
    return hmac.new(secret.encode(), nonce.encode(), "sha256").hexdigest()
