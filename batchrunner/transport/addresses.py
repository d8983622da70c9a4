"""Which addresses are public, which are private, and which must never be contacted.

Rules over numbers; the one look-up is `is_private_host`. IPv6 addresses that carry an IPv4 one (mapped, 6to4, NAT64)
are judged by the one they carry. Source: the IANA special-purpose registries. Threat 3.
"""

import asyncio
import ipaddress
import socket
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

Reach = Literal["public", "private", "special"]
"""`private`: this machine and the networks that people run servers in. `special`: link-local (cloud metadata),
multicast, reserved, documentation and all others without pictures."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# 198.18/15 is what proxies in TUN mode answer for every name ("fake IP"); 100.64/10 is what private overlays use.
_PRIVATE_V4 = tuple(
    ipaddress.IPv4Network(net)
    for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "198.18.0.0/15")
)
_PRIVATE_V6 = (ipaddress.IPv6Network("::1/128"), ipaddress.IPv6Network("fc00::/7"))
_SPECIAL_V4 = (ipaddress.IPv4Network("192.88.99.0/24"),)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_RESOLVE_S = 10.0


def reach(address: str) -> Reach:
    """The reach of a numeric address; text that is no address counts as special."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "special"
    if isinstance(parsed, ipaddress.IPv6Address):
        carried = _carried(parsed)
        return _reach_v6(parsed) if carried is None else _reach_v4(carried)
    return _reach_v4(parsed)


def literal(host: str) -> _Address | None:
    """The address that a URL's host is, when it is one in canonical numbers and not a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback_name(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and names that never leave this machine, by their spelling alone."""
    address = literal(host)
    if address is not None:
        return address.is_loopback
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def looks_internal(host: str) -> bool:
    """True for names of machines inside a network, if the name cannot be looked up here."""
    name = host.rstrip(".").lower()
    return "." not in name or name.endswith((".localhost", ".local", ".internal", ".lan", ".home.arpa", ".intranet"))


async def is_private_host(base_url: str) -> bool:
    """True when every address of the URL's host is private or loopback; False when it cannot be looked up in 10 s."""
    try:
        host = urlsplit(base_url).hostname
    except ValueError:
        return False
    if not host:
        return False
    if literal(host) is not None:
        return reach(host) == "private"
    if is_loopback_name(host):
        return True
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(reach(str(sockaddr[0])) == "private" for *_, sockaddr in found)


def _reach_v4(address: ipaddress.IPv4Address) -> Reach:
    if any(address in net for net in _PRIVATE_V4):
        return "private"
    special = (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or any(address in net for net in _SPECIAL_V4)
    )
    return "special" if special else "public"


def _reach_v6(address: ipaddress.IPv6Address) -> Reach:
    if any(address in net for net in _PRIVATE_V6):
        return "private"
    return "public" if address in _GLOBAL_V6 and address.is_global else "special"


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
