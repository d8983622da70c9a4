"""Pictures are fetched from anywhere in the world and from nowhere inside, without credentials, within limits."""

import asyncio
import gzip
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.outcome import Problem
from batchrunner.transport import PictureDownloads
from tests.transport.download_scenes import PICTURE, SIGNED, failed, fetch
from tests.transport.servers import (
    PATIENT,
    Server,
    Talk,
    chunked,
    downloads,
    header_lines,
    reply,
    sends,
    serve,
    silent,
)

INSIDE = [
    "http://127.0.0.1:{port}/a.png",
    "http://localhost:{port}/a.png",
    "http://LOCALHOST.:{port}/a.png",
    "http://[::1]:{port}/a.png",
    "http://[::ffff:127.0.0.1]:{port}/a.png",
    "http://[::ffff:7f00:1]:{port}/a.png",
    "http://[64:ff9b::7f00:1]:{port}/a.png",
    "http://[2002:7f00:1::]:{port}/a.png",
    "http://[::]:{port}/a.png",
    "http://0.0.0.0:{port}/a.png",
    "http://0:{port}/a.png",
    "http://2130706433:{port}/a.png",
    "http://0x7f000001:{port}/a.png",
    "http://0x7f.1:{port}/a.png",
    "http://0177.0.0.1:{port}/a.png",
    "http://127.1:{port}/a.png",
    "http://10.0.0.1/a.png",
    "http://100.100.100.200/latest/meta-data",
    "http://169.254.169.254/latest/meta-data",
    "http://[fe80::1%25lo]/a.png",
    "http://[fd00:ec2::254]/latest",
    "http://224.0.0.1/a.png",
    "http://255.255.255.255/a.png",
    "http://user:pw@example.com/a.png",
    "http://example.com@127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}\\@example.com/a.png",
    "http://①②⑦.0.0.1:{port}/a.png",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/a.png",
    "data:image/png;base64,AAAA",
    "//127.0.0.1:{port}/a.png",
    "/a.png",
    "http://",
    "http:///a.png",
    "http://127.0.0.1:99999/",
    "",
]


def strict(*, allow_http: bool = True, allow_private: bool = False) -> PictureDownloads:
    return PictureDownloads(timeouts=PATIENT, allow_private=allow_private, allow_http=allow_http)


@pytest.mark.parametrize("url", INSIDE)
def test_nothing_inside_is_fetched_however_it_is_spelt(url: str) -> None:
    """Threat 3: the table of URLs."""

    async def scene() -> None:
        async with serve(sends(reply(PICTURE))) as server:
            problem = failed(await fetch(url.format(port=server.port) + SIGNED, strict()))
            assert "pw" not in problem.message
            assert server.connections == 0

    asyncio.run(scene())


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/a.png", "http://localhost:{port}/a.png"])
def test_private_addresses_are_open_when_the_caller_allows_it(url: str) -> None:
    async def scene() -> None:
        async with serve(sends(reply(PICTURE))) as server:
            assert await fetch(url.format(port=server.port), strict(allow_private=True)) == PICTURE

    asyncio.run(scene())


def test_a_url_with_a_password_in_it_is_not_fetched_and_not_shown() -> None:
    async def scene() -> None:
        async with serve(sends(reply(PICTURE))) as server:
            for user in ("user:canary-signature@", "canary-signature@", ":canary-signature@"):
                problem = failed(await fetch(f"http://{user}127.0.0.1:{server.port}/a.png"))
                assert "user name or password" in problem.message
            assert server.connections == 0

    asyncio.run(scene())


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "224.0.0.1", "0.0.0.0", "240.0.0.1"])
def test_metadata_multicast_and_reserved_addresses_stay_closed_all_the_same(host: str) -> None:
    problem = failed(asyncio.run(fetch(f"http://{host}/latest", strict(allow_private=True))))
    assert "special" in problem.message


def test_plain_http_is_fetched_only_if_allowed() -> None:
    async def scene() -> None:
        async with serve(sends(reply(PICTURE))) as server:
            loader = strict(allow_http=False, allow_private=True)
            assert "only https" in failed(await fetch(server.url("/a.png"), loader)).message
            assert server.connections == 0

    asyncio.run(scene())


def test_a_download_carries_no_credential_and_no_cookie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Threats 1 and 3."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login canary password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    async def scene() -> None:
        async with serve(sends(reply(PICTURE, headers="Set-Cookie: session=1\r\n"))) as server, downloads() as loader:
            for _ in range(2):
                assert await loader.fetch(server.url("/img/a%2Fb.png?Sign=a%2Bb%3D&x=~%7E")) == PICTURE
            assert server.requests[1].startswith(b"GET /img/a%2Fb.png?Sign=a%2Bb%3D&x=~%7E HTTP/1.1\r\n")
            names = {line.partition(":")[0] for line in header_lines(server.requests[1])}
            assert names == {"host", "user-agent", "accept", "accept-encoding"}

    asyncio.run(scene())


def test_proxies_of_the_environment_are_ignored_and_the_jobs_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threat 14, for pictures."""

    async def scene() -> None:
        async with serve(sends(reply(b"proxied"))) as proxy, serve(sends(reply(PICTURE))) as server:
            monkeypatch.setenv("HTTP_PROXY", proxy.url(""))
            monkeypatch.setenv("http_proxy", proxy.url(""))
            assert await fetch(server.url("/a.png")) == PICTURE
            assert proxy.connections == 0
            own = PictureDownloads(timeouts=PATIENT, allow_private=False, allow_http=True, proxy=proxy.url(""))
            assert await fetch("http://storage.example.com/a.png", own) == b"proxied"
            for url in ("http://10.0.0.1/a", "http://[::1]/a", "http://localhost/a", "http://nas/a", "http://x.lan/"):
                own = PictureDownloads(timeouts=PATIENT, allow_private=False, allow_http=True, proxy=proxy.url(""))
                failed(await fetch(url, own))
            assert proxy.connections == 1

    asyncio.run(scene())


def hops(to: str) -> Talk:
    """Redirect /N to /N-1, and /0 to `to`, or to a picture if that is empty."""

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        left = int(request.split(b" ")[1].strip(b"/").partition(b"?")[0])
        if left == 0 and not to:
            writer.write(reply(PICTURE))
            return
        where = f"/{left - 1}" if left else to
        writer.write(reply(b"moved", status="302 Found", headers=f"Location: {where}\r\n"))

    return talk


def test_three_redirects_are_followed_and_a_fourth_is_not() -> None:
    async def scene() -> None:
        async with serve(hops("")) as server:
            assert await fetch(server.url("/3")) == PICTURE
            assert "more than 3 redirects" in failed(await fetch(server.url("/4" + SIGNED))).message
            assert len(server.requests) == 4 + 4

    asyncio.run(scene())


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/latest", "file:///etc/passwd", "http://u:p@127.0.0.1/", "//[::]/", "http://[", ""]
)
def test_every_redirect_is_checked_anew(to: str) -> None:
    """Threat 3."""
    moved = reply(status="302 Found", headers=f"Location: {to}\r\n" if to else "")

    async def scene() -> None:
        async with serve(sends(moved)) as server:
            failed(await fetch(server.url("/a.png" + SIGNED)))
            assert len(server.requests) == 1

    asyncio.run(scene())


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_picture_comes_whole(*, packed: bool) -> None:
    body = gzip.compress(PICTURE) if packed else PICTURE
    head = "Content-Encoding: gzip\r\n" if packed else ""

    async def scene() -> None:
        for wire in (reply(body, headers=head), chunked(body[:100], body[100:], headers=head)):
            async with serve(sends(wire)) as server:
                assert await fetch(server.url("/a.png")) == PICTURE

    asyncio.run(scene())


def test_a_bomb_needs_no_more_than_the_cap_and_a_little() -> None:
    """Threat 4."""
    bomb = gzip.compress(b"\0" * 40_000_000, 9)
    cap_bytes = 4 << 20

    async def scene() -> tuple[bytes | Problem, int]:
        async with (
            serve(sends(reply(bomb, headers="Content-Encoding: gzip\r\n"))) as server,
            downloads(cap_bytes=cap_bytes) as loader,
        ):
            tracemalloc.start()
            try:
                result = await loader.fetch(server.url("/a.png"))
                return result, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    result, peak_bytes = asyncio.run(scene())
    assert f"more than {cap_bytes} bytes" in failed(result).message
    assert peak_bytes < cap_bytes + 500_000


def test_a_refused_connection_and_an_unknown_name_are_problems() -> None:
    async def scene() -> None:
        async with serve(sends(b"")) as server:
            gone: Server = server
        assert "could not connect" in failed(await fetch(gone.url("/a.png" + SIGNED))).message
        assert "unknown host name" in failed(await fetch("https://nowhere.invalid/a.png" + SIGNED)).message

    asyncio.run(scene())


def test_cancellation_passes_through() -> None:
    async def scene() -> None:
        async with serve(silent) as server, downloads() as loader:
            task = asyncio.create_task(loader.fetch(server.url("/a.png")))
            await server.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.lost.wait()

    asyncio.run(scene())


@settings(deadline=None, max_examples=80)
@given(tail=st.text(max_size=30))
@pytest.mark.parametrize("start", ["", "http://", "http://[", "http://127.0.0.1:1/", "https://127.0.0.1:1/%"])
def test_any_text_as_a_url_is_a_problem_and_never_an_exception(start: str, tail: str) -> None:
    async def scene() -> bytes | Problem:
        loader = PictureDownloads(timeouts=PATIENT, allow_private=False, allow_http=True, proxy="http://127.0.0.1:1")
        return await fetch(start + tail, loader)

    failed(asyncio.run(scene()))
