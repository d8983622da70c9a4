"""An object store as runs use it: how long it may be silent, whether it can be reached, and its faults in our words.

Its library says what it did and not what is wrong: of a machine without credentials it tells that an address of the
cloud's metadata did not answer. So a fault becomes a sentence with the host, the reason and what to do; the library's
own words stand at its end, as the detail for whoever helps.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from batchrunner.core.places import PLACES, scheme_of
from batchrunner.core.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may take."""

    connect_s: float
    answer_s: float
    """From the request to the end of its reply."""
    retries: int
    retry_s: float
    """After so long no further try begins."""


WORK: Final = Patience(connect_s=10.0, answer_s=60.0, retries=2, retry_s=60.0)
"""For requests with content."""
FIRST_LOOK: Final = Patience(connect_s=5.0, answer_s=8.0, retries=1, retry_s=10.0)
"""For the question whether the store is there: at most 16 seconds."""
_PROBED: Final = "run.json"
_SHOWN_CHARS: Final = 200
_DURATION: Final = re.compile(
    r" in [0-9.]+[mµn]?s\b(?:, after [0-9]+ retries, max_retries: [0-9]+, retry_timeout: [0-9]+s)?"
)
_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_HOST: Final = re.compile(r"https?://([^/\s\"]+)")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z_]+[A-Z]")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_METADATA: Final = (
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "/latest/api/token",
    "/latest/meta-data",
)
"""Where machines of a cloud get credentials: it is asked when the environment has none."""
_SIGNS: Final = (
    ("dns error", "its name is unknown"),
    ("ConnectionRefused", "the connection was refused"),
    ("kind: Timeout", "no answer"),
    ("TimedOut", "no answer"),
    ("UnknownIssuer", "its certificate is not trusted"),
    ("certificate", "its certificate is not accepted"),
    ("InvalidContentType", "it does not speak TLS"),
    ("kind: Connect", "no connection"),
    ("kind: Request", "the connection broke"),
    ("kind: Interrupted", "the connection broke"),
)
"""What stands in the library's account of a fault of the network, and what it means; the first match wins."""


def open_store(to: str, patience: Patience = WORK) -> Any:
    """The store of an address, with credentials from the environment. Blocks; raises what obstore raises."""
    from obstore.store import from_url  # noqa: PLC0415 - an extra

    return from_url(
        to,
        client_options={
            "timeout": timedelta(seconds=patience.answer_s),
            "connect_timeout": timedelta(seconds=patience.connect_s),
            "allow_http": _endpoint().startswith("http://"),
        },
        retry_config={"max_retries": patience.retries, "retry_timeout": timedelta(seconds=patience.retry_s)},
    )


def require_reachable(to: str) -> None:
    """Return when the store and the bucket are there and take the credentials; say so soon if not. Blocks.

    Raises:
        Exception: what obstore raises, for `words_of`.
    """
    from obstore.exceptions import PermissionDeniedError  # noqa: PLC0415 - an extra

    store = open_store(to, FIRST_LOOK)
    try:
        store.head(_PROBED)
    except FileNotFoundError:  # so does a bucket that is not there; a list tells, for those who may list
        with suppress(PermissionDeniedError):
            next(iter(store.list(chunk_size=1)), None)


def words_of(error: BaseException, to: str) -> str:
    """What is wrong with a store and what to do, and what its library says, without the document that it sends along.

    In that document names of keys may stand.
    """
    said = str(error)
    place, raw = PLACES.get(scheme_of(to)), _first_line(error)
    if place is None:
        return raw
    bucket = f"`{urlsplit(to).netloc}`"
    status = found[1] if (found := _STATUS.search(said)) else ""
    missing = [name for name in _VARIABLE.findall(place.credentials) if not os.environ.get(name)]
    if missing and (any(host in said for host in _METADATA) or "Missing" in raw or "credential" in raw.lower()):
        words = f"there are no credentials for {bucket}: set {' and '.join(missing)} in the environment"
    elif status in {"401", "403"} or type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"}:
        words = f"these credentials may not do this in {bucket}: look at {place.credentials} and at the bucket's rights"
    elif "NoSuchBucket" in said:
        words = f"there is no bucket {bucket} at {_host(said)}: make it, or look at its name"
    elif status in {"301", "307", "400"} and "egion" in said:
        words = f"{bucket} is in another region: set AWS_REGION"
    elif (reason := next((words for sign, words in _SIGNS if sign in said), "")) and not status:
        hint = f" and at {place.address}" if place.address else ""
        words = f"{_host(said)} cannot be reached ({reason}) for {bucket}: look at the network{hint}"
    else:
        return raw
    return f"{words} (the library's words: {raw})"


def _first_line(error: BaseException) -> str:
    line = str(error).partition("\n")[0].partition("<")[0].strip() or type(error).__name__
    return _DURATION.sub("", line)[:_SHOWN_CHARS].rstrip(" :")


def _host(said: str) -> str:
    """The server that was asked, as far as it is known."""
    hosts: Iterator[str] = (found[1] for found in _HOST.finditer(said))
    return next(hosts, "") or urlsplit(_endpoint()).netloc or "the store"


def _endpoint() -> str:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
