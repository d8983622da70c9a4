"""Places that are no folder of this machine: which addresses sources and outputs may have, and who reads them.

One table, for the rules of the job file, for messages and for whoever reads or writes there.
"""

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from batchrunner.core.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePlace:
    """A kind of address."""

    package: str
    """The one on PyPI that lets fsspec read it."""
    credentials: str
    """Where its credentials come from, for messages; empty where none are sent."""
    address: str = ""
    """The variable that names another server than the usual one; empty where there is none."""
    has_folders: bool = True
    """What lies below an address can be listed."""
    may_lack_ranges: bool = False
    """Its servers may give whole files only."""
    is_written: bool = False
    """Finished files can be uploaded there."""


_AWS: Final = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_GOOGLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
_AZURE: Final = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
_WEB: Final = RemotePlace(package="aiohttp", credentials="", has_folders=False, may_lack_ranges=True)

PLACES: Final[dict[str, RemotePlace]] = {
    "s3": RemotePlace(package="s3fs", credentials=_AWS, address="AWS_ENDPOINT_URL", is_written=True),
    "gs": RemotePlace(package="gcsfs", credentials=_GOOGLE, is_written=True),
    "gcs": RemotePlace(package="gcsfs", credentials=_GOOGLE),
    "oss": RemotePlace(package="ossfs", credentials="FSSPEC_OSS_KEY, FSSPEC_OSS_SECRET and OSS_ENDPOINT"),
    "hf": RemotePlace(package="huggingface_hub", credentials="HF_TOKEN"),
    "az": RemotePlace(package="adlfs", credentials=_AZURE, is_written=True),
    "abfs": RemotePlace(package="adlfs", credentials=_AZURE),
    "http": _WEB,
    "https": _WEB,
}
"""By the scheme of the address: what a source can be read from."""

_REMOTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET: Final = re.compile(r"sig|token|secret|password|credential|access.?key|api.?key|auth", re.IGNORECASE)
"""Of the names of parameters that hold a right."""


def is_remote(path: str) -> bool:
    """Whether it is an address with a scheme, like `s3://bucket/questions.jsonl`, and no path of this machine."""
    return _REMOTE.match(path) is not None


def scheme_of(address: str) -> str:
    """`s3` of `s3://bucket/questions.jsonl`, in lower case; empty where there is none."""
    found = _REMOTE.match(address)
    return found[1].lower() if found else ""


def address_without_query(address: str) -> str:
    """The address up to its question mark: of a web address alone, for elsewhere it is a letter like any other."""
    return address.partition("?")[0] if scheme_of(address) in {"http", "https"} else address


def holds_secret(address: str) -> bool:
    """Whether the address itself has a password or a signature: it would stand in outputs then."""
    try:
        parts = urlsplit(address)
        return "@" in parts.netloc or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, True))  # noqa: FBT003 - blank values too
    except ValueError:
        return True
