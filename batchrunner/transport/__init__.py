"""What sends: API requests with an account's key, and picture downloads without any.

The only package that knows aiohttp's client, and it is loaded when one of the two classes is first asked for.
Refuses: redirects of API calls, proxies and netrc of the environment, cookies, TLS without verification, a key over
plain http to another machine, addresses inside the network for downloads, and replies without end.
"""

from typing import TYPE_CHECKING

from batchrunner.transport.addresses import is_private_host
from batchrunner.transport.key_sources import FoundKeys, read_keys
from batchrunner.transport.secrets import Secret, clean_key, mask

if TYPE_CHECKING:
    from batchrunner.transport.api_transport import ApiTransport
    from batchrunner.transport.downloads import PictureDownloads

__all__ = [
    "ApiTransport",
    "FoundKeys",
    "PictureDownloads",
    "Secret",
    "clean_key",
    "is_private_host",
    "mask",
    "read_keys",
]


def __getattr__(name: str) -> object:
    """Load a class that needs aiohttp when it is first named."""
    match name:
        case "ApiTransport":
            from batchrunner.transport.api_transport import ApiTransport  # noqa: PLC0415 - aiohttp takes a third of a second

            return ApiTransport
        case "PictureDownloads":
            from batchrunner.transport.downloads import PictureDownloads  # noqa: PLC0415 - as above

            return PictureDownloads
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
