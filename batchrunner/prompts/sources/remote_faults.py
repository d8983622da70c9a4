"""What went wrong with a file in a store or on a web server, in words for a person.

The packages behind fsspec raise exceptions of their own, which are known by their names here: none of them is loaded
for a job whose source lies on this machine. Where a text of theirs is empty or says how a library is built, ours is
shown; where it is the store's answer, that.
"""

import os
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from batchrunner.core.places import PLACES, address_without_query, scheme_of
from batchrunner.prompts.sources.base import BadSourceError

AGAIN: Final = "nothing is wrong with the job: run the command again"
_SILENT: Final = (
    "look at its server and the network, then run the command again; or download the file, and name the copy"
)
_IN_BROWSER: Final = "look at the address: open it in a browser"
_PUBLIC_ONLY: Final = "no credentials are sent to web servers: download the file, and name the copy in `file`"
_SHOWN_CHARS: Final = 200
_NO_CREDENTIALS: Final = (
    "NoCredentials",
    "PartialCredentials",
    "DefaultCredentials",
    "GatedRepo",
    "CredentialRetrieval",
)
"""Of the names of exceptions."""
_ABSENT: Final = frozenset({404, 410})
_REFUSED: Final = frozenset({401, 403})
_FINAL: Final = (FileNotFoundError, PermissionError, IsADirectoryError, BadSourceError)
_FINAL_NAMES: Final = frozenset(
    {"TooManyRedirects", "RedirectClientError", "InvalidURL", "SSLCertVerificationError", "FileExpired", "ValueError"}
)
"""What no second try changes, by exceptions and by their names."""
_TIMEOUTS: Final = frozenset({"TimeoutError", "FSTimeoutError", "ReadTimeoutError", "ConnectTimeoutError", "Timeout"})


def fault_of(address: str, error: Exception, *, far: str = "", silence_s: float) -> BadSourceError:
    """The mistake to show; `far` is how far the file was read, like ` after 10 of 20 bytes`."""
    words, credentials = _words_of(error, address), PLACES[scheme_of(address)].credentials
    if isinstance(error, FileNotFoundError):
        where = urlsplit(address).netloc
        problem = f"is not there: {words}" if " " in words else f"is not there: `{where}` has nothing of this name"
        hint = "look at the bucket and the path; names in stores are case-sensitive" if credentials else _IN_BROWSER
        return BadSourceError(problem, hint=hint)
    if _lacks_credentials(error):
        hint = f"set {credentials} in the environment"
        return BadSourceError("cannot be read: there are no credentials for it", hint=hint)
    if isinstance(error, PermissionError) or _is_refusal(error):
        hint = f"look at what these credentials may read: {credentials}" if credentials else _PUBLIC_ONLY
        return BadSourceError(f"may not be read: {words}", hint=hint)
    names = _names_of(error)
    if "FileExpired" in names:
        return BadSourceError("was changed while it was read", hint=AGAIN)
    if names & _TIMEOUTS:
        problem = f"cannot be read{far}: its server sent nothing for {silence_s:.0f} s, several times"
        return BadSourceError(problem, hint=_SILENT)
    hint = _IN_BROWSER if names & _FINAL_NAMES or getattr(error, "status", None) else AGAIN
    return BadSourceError(f"cannot be read{far}: {words}", hint=hint)


def cause_of(error: Exception) -> Exception:
    """What really happened: for web servers fsspec says "not found" of whatever keeps it from asking."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    return error if getattr(cause, "status", None) in _ABSENT or isinstance(cause, FileNotFoundError) else cause


def is_final(error: Exception) -> bool:
    """Whether the same would come again."""
    names = _names_of(error)
    return isinstance(error, _FINAL) or bool(names & _FINAL_NAMES) or _is_refusal(error) or _lacks_credentials(error)


def _names_of(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _is_refusal(error: Exception) -> bool:
    return getattr(error, "status", None) in _REFUSED


def _lacks_credentials(error: Exception) -> bool:
    return any(word in type(error).__name__ for word in _NO_CREDENTIALS)


def _words_of(error: Exception, address: str) -> str:
    """One line, without the part of an address that may hold a signature."""
    names, host = _names_of(error), urlsplit(address).netloc
    if getattr(error, "host", None):
        host = f"{getattr(error, 'host', '')}:{getattr(error, 'port', '')}"
    for name, words in _WORDS:
        if name in names:
            return words(error, host)
    if getattr(error, "status", None) and "ClientResponseError" in names:
        if "HttpProcessingError" in {kind.__name__ for kind in type(error.__context__).__mro__}:
            return f"{host} did not send valid HTTP"
        return f"{host} answered {getattr(error, 'status', '')} {getattr(error, 'message', '')}".rstrip()
    text = str(error).partition("\n")[0] or type(error).__name__
    query = urlsplit(address).query
    return (text.replace(address, address_without_query(address)).replace(query, "…") if query else text)[:_SHOWN_CHARS]


def _reason_of(error: Exception) -> str:
    """The system's word of a connection that could not be made."""
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None)
    if isinstance(inner, ConnectionResetError) and not number:
        return "connection reset"
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(inner).__name__


def _name(error: Exception, host: str) -> str:
    inner = getattr(error, "os_error", error)
    if getattr(inner, "errno", None) == socket.EAI_AGAIN:
        return f"could not connect to {host}: the DNS server did not answer"
    return f"could not connect to {host}: unknown host name"


def _certificate(error: Exception, host: str) -> str:
    inner = getattr(error, "certificate_error", error)
    return f"certificate verification failed for {host}: {getattr(inner, 'verify_message', '') or 'not valid'}"


def _tls(error: Exception, host: str) -> str:
    reason = getattr(getattr(error, "os_error", error), "reason", None) or "handshake failed"
    return f"the TLS handshake with {host} failed: {str(reason).replace('_', ' ').lower()}"


_WORDS: Final[tuple[tuple[str, Callable[[Exception, str], str]], ...]] = (
    ("TooManyRedirects", lambda _, host: f"{host} redirects without end (a redirect loop)"),
    ("RedirectClientError", lambda _, host: f"{host} redirects to something that is no web address"),
    ("InvalidURL", lambda _, __: "it is no web address"),
    ("ClientConnectorDNSError", _name),
    ("ClientConnectorCertificateError", _certificate),
    ("SSLCertVerificationError", _certificate),
    ("ClientConnectorSSLError", _tls),
    ("SSLError", _tls),
    ("ClientProxyConnectionError", lambda error, host: f"the proxy {host} could not be reached: {_reason_of(error)}"),
    ("ClientConnectorError", lambda error, host: f"could not connect to {host}: {_reason_of(error)}"),
    ("ServerDisconnectedError", lambda _, host: f"{host} closed the connection without a reply"),
    ("ContentEncodingError", lambda _, host: f"{host} sent compressed data that cannot be unpacked"),
    ("ClientPayloadError", lambda _, host: f"{host} closed the connection before the file was complete"),
    ("ClientOSError", lambda error, host: f"the connection to {host} broke: {_reason_of(error)}"),
    ("ClientConnectionError", lambda _, host: f"the connection to {host} broke"),
)
"""By the names of aiohttp's exceptions and their bases; the first match wins, so the narrow ones stand first."""
