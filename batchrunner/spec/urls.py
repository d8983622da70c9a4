"""Base URLs as people paste them, in the one form that the dialects expect.

See docs/providers/README.md#presets-and-families.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

from batchrunner.core.job import DialectName

_ENDPOINTS = re.compile(
    r"(/chat/completions|/images/(generations|edits)|/messages|/completions|/models|/embeddings|/tasks(/[^/]*)?)$"
)
_MODELSCOPE_HOSTS = ("modelscope.cn", "modelscope.ai")


def url_problem(url: str) -> str | None:
    """What keeps a text from being a base URL or a proxy; None when it is one. Never repeats the text."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return "is no http or https URL"
    if parts.username is not None or parts.password is not None:
        return "has a name or password in it"
    if parts.query or parts.fragment:
        return "has a query or a fragment"
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        return "has spaces or characters that a URL cannot have"
    return None


def normalised(url: str, dialect: DialectName, *, of_modelscope: bool) -> str:
    """Without end slash and pasted endpoint; with or without `/v1` as dialect and server want it."""
    parts = urlsplit(url)
    path = _ENDPOINTS.sub("", parts.path.rstrip("/")).rstrip("/")
    of_modelscope = of_modelscope or _below(parts.hostname or "", _MODELSCOPE_HOSTS)
    if dialect == "anthropic-messages":
        path = path.removesuffix("/v1")
    elif (of_modelscope or dialect == "modelscope-images") and not path.endswith("/v1"):
        path += "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def is_loopback(url: str) -> bool:
    """True when the URL's host is this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _below(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _split(url: str) -> SplitResult | None:
    """The parts, None when not even a port or an IPv6 address can be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
