"""The one place where errors of aiohttp, of TLS and of the system become words.

Never quotes an exception's own text: `repr` of some holds the request's headers, and others quote the server, who
knows the key as well (threat 2).
"""

import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from batchrunner.transport.addresses import Reach
from batchrunner.transport.coding import CodingError
from batchrunner.transport.deadlines import Deadlines, TimeoutPolicy


class AddressRefusedError(OSError):
    """The address gate said no; the same text for every address, so that happy eyeballs keeps it whole."""

    def __init__(self, reach: Reach) -> None:
        super().__init__(f"refused: a {reach} address")
        self.reach = reach


def explain(error: BaseException, where: str) -> str:
    """What happened to an exchange with `where` (host and port), in a sentence without anybody's secrets."""
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words(error, where)
    return f"the exchange with {where} failed ({type(error).__name__})"


def of_the_proxy(error: Exception) -> Exception:
    """The same fault on the way through a proxy: only the proxy's own name is looked up there."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return aiohttp.ClientProxyConnectionError(error.args[0], error.os_error)
    return error


def explain_late(deadlines: Deadlines, pace: TimeoutPolicy, where: str) -> str:
    """Which deadline passed."""
    match deadlines.late:
        case "connect":
            return f"no connection to {where} within {pace.connect_s:g} s"
        case "first_byte":
            return f"{where} sent no reply within {pace.first_byte_s:g} s"
        case "idle":
            return f"{where} sent nothing for {pace.idle_s:g} s in the middle of its reply"
        case "drip":
            return f"{where} sent less than {pace.least_bytes:g} bytes in {pace.window_s:g} s"
        case "settled":
            return f"{where} sent a complete reply but did not end it"
        case "total" | None:
            return f"the exchange with {where} took longer than {pace.total_s:g} s"


def _system(error: BaseException) -> str:
    """The system's own word for an error number; numbers of look-ups are not among them."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else type(error).__name__


def _connector(error: BaseException, where: str) -> str:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, AddressRefusedError):
        return f"{where} is an address from which pictures are not fetched ({inner.reach})"
    return f"could not connect to {where}: {_system(inner)}"


def _certificate(error: BaseException, where: str) -> str:
    inner = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    reason = inner.verify_message if isinstance(inner, ssl.SSLCertVerificationError) else "not valid"
    return f"certificate verification failed for {where}: {reason}"


def _tls(error: BaseException, where: str) -> str:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    reason = inner.reason if isinstance(inner, ssl.SSLError) and inner.reason else "handshake failed"
    return f"TLS handshake with {where} failed: {reason.replace('_', ' ').lower()}"


def _tunnel(error: BaseException, where: str) -> str:
    status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else 0
    return f"the proxy rejected the tunnel to {where}: HTTP {status}"


def wrong_key(error: BaseException) -> str | None:
    """The key of the job to look at, where the same would come again however long one waits; None where it may pass.

    A certificate, a name that does not exist and a proxy's refusal do not go away by waiting; a refused connection, a
    name server that gives no answer and a handshake that breaks may.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError():
            inner = error.certificate_error
            wrong_host = isinstance(inner, ssl.SSLCertVerificationError) and inner.verify_code == _HOST_MISMATCH
            return "provider.base_url" if wrong_host else "provider.ca_file"
        case aiohttp.ClientConnectorDNSError():
            return "provider.base_url" if _name_unknown(error) else None
        case aiohttp.ClientConnectorSSLError():
            reason = getattr(error.os_error, "reason", None)
            return "provider.base_url" if reason in _PLAIN_HTTP else None
        case aiohttp.ClientProxyConnectionError():
            return "provider.proxy" if _name_unknown(error.os_error) else None
        case aiohttp.ClientHttpProxyError():
            return "provider.proxy" if error.status in _PROXY_REFUSES else None
        case _:
            return None


def _name_unknown(error: BaseException) -> bool:
    """Whether a look-up was answered: there is no such name. No answer at all may come later."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(inner, socket.gaierror) and inner.errno in _NO_SUCH_NAME


def _name(error: BaseException, where: str) -> str:
    if _name_unknown(error):
        return f"could not connect to {where}: unknown host name"
    return f"could not connect to {where}: the DNS server did not answer"


def _proxy(error: BaseException, where: str) -> str:
    if not isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy to {where} could not be reached"
    proxy = f"the proxy {error.host}:{error.port}"
    if isinstance(error.os_error, socket.gaierror | aiohttp.ClientConnectorDNSError):
        return _name(error.os_error, proxy)
    return f"could not connect to {proxy}: {_system(error.os_error)}"


_HOST_MISMATCH: Final = 62
"""OpenSSL's number for a certificate of another host."""
_PLAIN_HTTP: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons when the other side does not use TLS."""
_PROXY_REFUSES: Final = frozenset({400, 401, 403, 404, 405, 407})
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_WORDS: Final[tuple[tuple[type[BaseException], Callable[[BaseException, str], str]], ...]] = (
    (aiohttp.ClientConnectorDNSError, _name),
    (aiohttp.ClientConnectorCertificateError, _certificate),
    (aiohttp.ClientConnectorSSLError, _tls),
    (aiohttp.ClientProxyConnectionError, _proxy),
    (aiohttp.ClientConnectorError, _connector),
    (aiohttp.ClientHttpProxyError, _tunnel),
    (aiohttp.ClientResponseError, lambda _, where: f"{where} did not send valid HTTP"),
    (HttpProcessingError, lambda _, where: f"{where} did not send valid HTTP"),
    (aiohttp.ClientPayloadError, lambda _, where: f"{where} closed the connection before the reply was complete"),
    (aiohttp.ServerDisconnectedError, lambda _, where: f"{where} closed the connection without a reply"),
    (aiohttp.InvalidURL, lambda _, where: f"the address {where} cannot be used"),
    (CodingError, lambda error, where: f"the reply of {where} is unusable: {error}"),
    (OSError, lambda error, where: f"the connection to {where} broke: {_system(error)}"),
    (aiohttp.ClientConnectionError, lambda _, where: f"the connection to {where} broke"),
)
"""First match wins, so the narrow ones stand first."""
