"""Which addresses are out in the world and which are not."""

import asyncio

import pytest

from batchrunner.transport import is_private_host
from batchrunner.transport.addresses import Reach, is_loopback_name, looks_internal, reach

REACHES: dict[str, Reach] = {
    "8.8.8.8": "public",
    "47.92.0.1": "public",
    "2606:4700::1111": "public",
    "::ffff:8.8.8.8": "public",
    "64:ff9b::808:808": "public",
    "127.0.0.1": "private",
    "127.8.9.10": "private",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "private",
    "100.100.100.200": "private",
    "198.18.0.7": "private",
    "::1": "private",
    "fd00::1": "private",
    "::ffff:127.0.0.1": "private",
    "::ffff:a00:1": "private",
    "64:ff9b::7f00:1": "private",
    "2002:7f00:1::1": "private",
    "169.254.169.254": "special",
    "::ffff:169.254.169.254": "special",
    "fd00:ec2::254": "private",
    "fe80::1": "special",
    "0.0.0.0": "special",
    "0.1.2.3": "special",
    "::": "special",
    "224.0.0.1": "special",
    "239.1.2.3": "special",
    "ff02::1": "special",
    "240.0.0.1": "special",
    "255.255.255.255": "special",
    "192.0.2.1": "special",
    "192.88.99.1": "special",
    "198.51.100.1": "special",
    "2001:db8::1": "special",
    "fec0::1": "special",
    "::7f00:1": "special",
    "100::1": "special",
    "4000::1": "special",
    "2001::1": "special",
    "64:ff9b:1::1": "special",
    "example.com": "special",
    "": "special",
}


@pytest.mark.parametrize(("address", "lies"), REACHES.items())
def test_an_address_lies_where_the_registries_state(address: str, lies: Reach) -> None:
    """Threat 3."""
    assert reach(address) == lies


@pytest.mark.parametrize(
    ("base_url", "private"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://192.168.1.7/v1", True),
        ("https://8.8.8.8/v1", False),
        ("https://169.254.169.254/v1", False),
        ("https://nowhere.invalid/v1", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_only_a_base_url_on_this_machine_or_in_a_private_network_is_private(base_url: str, *, private: bool) -> None:
    assert asyncio.run(is_private_host(base_url)) is private


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "api.localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback_is_reported_by_spelling(host: str) -> None:
    assert is_loopback_name(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "127.0.0.1.nip.io", "10.0.0.1", "0.0.0.0", "example.com"])
def test_what_only_looks_like_loopback_is_not(host: str) -> None:
    assert not is_loopback_name(host)


def test_names_of_internal_hosts_are_recognised() -> None:
    assert all(map(looks_internal, ["nas", "printer.local", "db.internal", "x.lan", "a.localhost."]))
    assert not any(map(looks_internal, ["oss-cn-hangzhou.aliyuncs.com", "internal.example.com"]))
