"""What leaves, and to whom: keys, headers, redirects, proxies, TLS."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.http import Completed, Interrupted, Request
from batchrunner.core.job import AuthScheme
from batchrunner.transport import ApiTransport
from tests.transport.servers import (
    ACCOUNT,
    CANARY,
    KEYS,
    PATIENT,
    Kept,
    api,
    header_lines,
    one,
    post,
    provider,
    reply,
    sends,
    serve,
)

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return cert, context


@pytest.mark.parametrize(
    ("auth", "line"),
    [("bearer", f"authorization: bearer {CANARY}"), ("x-api-key", f"x-api-key: {CANARY}"), ("none", None)],
)
def test_the_key_goes_once_in_the_header_of_its_scheme(auth: AuthScheme, line: str | None) -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server:
            kept = await one(provider(server.url("/v1"), auth=auth), server.url())
            assert kept.ending == Completed()
            lines = header_lines(server.requests[0])
            assert [found for found in lines if CANARY in found] == ([line] if line else [])
            assert any(found.startswith("user-agent: batchrunner/") for found in lines)

    asyncio.run(scene())


def test_a_request_to_another_origin_carries_neither_key_nor_own_headers() -> None:
    """Threat 1."""

    async def scene() -> None:
        async with serve(sends(reply())) as home, serve(sends(reply())) as other:
            async with api(provider(home.url("/v1"), headers={"X-Team": "evals"})) as transport:
                await transport.exchange(post(other.url()), Kept(), account=ACCOUNT)
                await transport.exchange(post(home.url()), Kept(), account=ACCOUNT)
            assert CANARY.encode() not in other.requests[0]
            assert b"evals" not in other.requests[0]
            assert CANARY.encode() in home.requests[0]
            assert b"evals" in home.requests[0]

    asyncio.run(scene())


def test_a_longer_authority_that_begins_like_the_configured_one_is_another_origin() -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server:
            job = provider(server.url("/v1"), auth="x-api-key")
            await one(job, f"http://127.0.0.1:{server.port}@localhost:{server.port}/v1/chat/completions")
            assert len(server.requests) == 1
            assert CANARY.encode() not in server.requests[0]

    asyncio.run(scene())


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_a_redirect_is_a_reply_and_the_second_host_sees_nothing(status: str) -> None:
    """Threat 1."""

    async def scene() -> None:
        async with serve(sends(reply())) as second:
            moved = reply(status=status, headers=f"Location: {second.url()}\r\n")
            async with serve(sends(moved)) as first:
                kept = await one(first.url("/v1"), first.url())
                assert kept.head is not None
                assert kept.head.status == int(status[:3])
                assert kept.head.headers["location"] == second.url()
                assert kept.ending == Completed()
            assert second.connections == 0

    asyncio.run(scene())


def test_proxies_and_netrc_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Threat 14: a canary proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login canary password canary-from-netrc\n")
    netrc.chmod(0o600)

    async def scene() -> None:
        async with serve(sends(reply())) as proxy, serve(sends(reply())) as server:
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url(""))
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.setenv("NETRC", str(netrc))
            await one(provider(server.url("/v1"), auth="none"), server.url())
            assert proxy.connections == 0
            assert not any(line.startswith("authorization") for line in header_lines(server.requests[0]))

    asyncio.run(scene())


def test_the_proxy_of_the_job_is_used() -> None:
    async def scene() -> None:
        async with serve(sends(reply(b"by proxy"))) as proxy:
            job = provider("http://api.invalid/v1", proxy=proxy.url(""), allow_http=True)
            kept = await one(job, "http://api.invalid/v1/chat/completions")
            assert kept.body == b"by proxy"
            assert proxy.requests[0].startswith(b"POST http://api.invalid/v1/chat/completions ")

    asyncio.run(scene())


def test_own_headers_beat_the_dialects_and_the_key_beats_both_whatever_the_case() -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server:
            job = provider(server.url("/v1"), headers={"anthropic-version": "2", "AUTHORIZATION": "mine"})
            async with api(job) as transport:
                request = post(server.url(), headers={"Anthropic-Version": "1", "Authorization": "dialect"})
                await transport.exchange(request, Kept(), account=ACCOUNT)
            lines = header_lines(server.requests[0])
            assert [line for line in lines if "anthropic" in line] == ["anthropic-version: 2"]
            assert [line for line in lines if "authorization" in line] == [f"authorization: bearer {CANARY}"]

    asyncio.run(scene())


def test_head_names_are_lower_case_the_last_of_repeated_ones_stands_and_cookies_are_forgotten() -> None:
    headers = "X-One: a\r\nx-one: b\r\nX-Odd: caf\xe9\r\nSet-Cookie: session=1\r\n"
    body = reply(b"hello", headers=headers).decode().encode("latin-1")

    async def scene() -> None:
        async with serve(sends(body)) as server, api(server.url("/v1")) as transport:
            await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            kept = await transport.exchange(post(server.url()), Kept(), account=ACCOUNT)
            assert kept.head is not None
            assert kept.head.headers["x-one"] == "b"
            assert kept.head.headers["x-odd"].encode("utf-8")
            assert kept.head.received_at > 1_700_000_000
            assert server.connections == 1
            assert b"session=1" not in server.requests[1]

    asyncio.run(scene())


def test_a_body_of_several_megabytes_arrives_whole_and_without_a_warning() -> None:
    body = b"x" * 3_000_000

    async def scene() -> None:
        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            await transport.exchange(post(server.url(), body), Kept(), account=ACCOUNT)
            assert server.requests[0].endswith(b"\r\n\r\n" + body)

    asyncio.run(scene())


def test_without_a_key_for_the_account_nothing_is_sent() -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            kept = await transport.exchange(post(server.url()), Kept(), account="OTHER_KEY")
            assert isinstance(kept.ending, Interrupted)
            assert kept.ending.cause == "connect"
            assert not kept.ending.sent
            assert "OTHER_KEY" in kept.ending.message
            assert server.connections == 0

    asyncio.run(scene())


def test_a_poll_is_a_get_without_a_body() -> None:
    async def scene() -> None:
        async with serve(sends(reply())) as server, api(server.url("/v1")) as transport:
            request = Request(method="GET", url=server.url("/v1/tasks/a%2Fb"), headers={"X-Task": "image"})
            await transport.exchange(request, Kept(), account=ACCOUNT)
            assert server.requests[0].startswith(b"GET /v1/tasks/a%2Fb HTTP/1.1\r\n")
            assert server.requests[0].endswith(b"\r\n\r\n")

    asyncio.run(scene())


@pytest.mark.parametrize(
    "base_url",
    ["http://api.example.com/v1", "http://10.0.0.5/v1", "http://localhost.example.com", "http://127.0.0.1.nip.io/v1"],
)
def test_a_key_goes_over_plain_http_to_this_machine_only_unless_the_job_allows_it(base_url: str) -> None:
    """Threat 14."""
    with pytest.raises(JobMistakesError, match="plain http") as caught:
        api(base_url)
    assert CANARY not in str(caught.value)
    api(provider(base_url, allow_http=True))
    api(provider(base_url, auth="none"))


def test_a_proxy_on_the_way_makes_plain_http_to_loopback_leave_the_machine() -> None:
    with pytest.raises(JobMistakesError, match="plain http"):
        api(provider("http://127.0.0.1:8000/v1", proxy="http://proxy:3128"))


@pytest.mark.parametrize(
    "base_url", ["", "api.example.com", "ftp://h/v1", "https://user:pw@h/v1", "https://h:port/v1", "https:///v1"]
)
def test_a_base_url_that_cannot_be_used_is_a_mistake(base_url: str) -> None:
    with pytest.raises(JobMistakesError, match=r"provider\.base_url"):
        api(base_url)


def test_a_self_signed_certificate_is_refused_before_anything_is_sent(certificate: tuple[Path, ssl.SSLContext]) -> None:
    """Threat 16."""

    async def scene() -> None:
        async with serve(sends(reply()), tls=certificate[1]) as server:
            kept = await one(server.url("/v1", scheme="https"), server.url(scheme="https"))
            assert isinstance(kept.ending, Interrupted)
            assert kept.ending.cause == "connect"
            assert not kept.ending.sent
            assert "certificate" in kept.ending.message
            assert kept.ending.look_at == "provider.ca_file"
            assert server.requests == []

    asyncio.run(scene())


def test_a_ca_file_makes_it_accepted(certificate: tuple[Path, ssl.SSLContext]) -> None:
    async def scene() -> None:
        async with serve(sends(reply(b"hello")), tls=certificate[1]) as server:
            job = provider(server.url("/v1", scheme="https"), ca_file=str(certificate[0]))
            assert (await one(job, server.url(scheme="https"))).body == b"hello"

    asyncio.run(scene())


def test_a_ca_file_that_cannot_be_used_is_a_mistake(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    for path in (empty, tmp_path / "missing.pem", tmp_path):
        with pytest.raises(JobMistakesError, match=r"provider\.ca_file") as caught:
            api(provider("https://h/v1", ca_file=str(path)))
        assert str(path) in str(caught.value)


def test_nothing_that_holds_keys_shows_them() -> None:
    transport = api("https://api.example.com/v1")
    assert CANARY not in repr(transport)
    assert CANARY not in repr(KEYS)
    assert "api.example.com:443" in repr(transport)


def test_a_closed_transport_sends_nothing() -> None:
    async def scene() -> None:
        transport = ApiTransport(provider("https://h/v1"), timeouts=PATIENT, keys=KEYS, limit=0)
        kept = await transport.exchange(post("https://h/v1/chat/completions"), Kept(), account=ACCOUNT)
        assert isinstance(kept.ending, Interrupted)
        assert not kept.ending.sent

    asyncio.run(scene())


class HeldGate:
    """A gate that opens when a test sends so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[BaseException | None], None]] = []
        self.asked = asyncio.Event()

    def __call__(self, call: Callable[..., None], /, *args: object) -> None:
        self.calls.append(lambda refused: call(refused, *args))
        self.asked.set()

    def decide(self, refused: BaseException | None = None) -> None:
        for call in self.calls:
            call(refused)
        self.calls.clear()


def at_once(call: Callable[..., None], /, *args: object) -> None:
    call(None, *args)


SMALL, LARGE = b"small", b"x" * 3_000_000


@pytest.mark.parametrize("by_proxy", [False, True])
@pytest.mark.parametrize("body", [SMALL, LARGE])
@pytest.mark.parametrize("is_kept_alive", [False, True])
def test_nothing_leaves_before_the_gate_lets_it(body: bytes, *, by_proxy: bool, is_kept_alive: bool) -> None:
    async def scene() -> None:
        async with serve(sends(reply(b"hello"))) as server:
            base = "http://api.invalid/v1" if by_proxy else server.url("/v1")
            job = provider(base, proxy=server.url("") if by_proxy else None, allow_http=True)
            async with api(job) as transport:
                url = base + "/chat/completions"
                if is_kept_alive:
                    await transport.exchange(post(url), Kept(), account=ACCOUNT, gate=at_once)
                before, gate = len(server.requests), HeldGate()
                asked = asyncio.ensure_future(transport.exchange(post(url, body), Kept(), account=ACCOUNT, gate=gate))
                await gate.asked.wait()
                await asyncio.sleep(0.05)
                assert len(server.requests) == before
                gate.decide()
                assert (await asked).body == b"hello"
                assert server.requests[-1].endswith(b"\r\n\r\n" + body)

    asyncio.run(scene())


@pytest.mark.parametrize("body", [SMALL, LARGE])
@pytest.mark.parametrize("later", [False, True])
def test_a_request_whose_intent_was_refused_never_leaves(body: bytes, *, later: bool) -> None:
    def refuses(call: Callable[..., None], /, *args: object) -> None:
        call(OSError("no space left"), *args)

    async def scene() -> None:
        async with serve(sends(reply(b"hello"))) as server, api(server.url("/v1")) as transport:
            gate = HeldGate()
            chosen = gate if later else refuses
            asked = asyncio.ensure_future(
                transport.exchange(post(server.url(), body), Kept(), account=ACCOUNT, gate=chosen)
            )
            if later:
                await gate.asked.wait()
                gate.decide(OSError("no space left"))
            with pytest.raises(OSError, match="no space left"):
                await asked
            await transport.exchange(post(server.url(), b"next"), Kept(), account=ACCOUNT)
            assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b"next"]

    asyncio.run(scene())


@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_a_gate_that_opens_after_a_cancellation_lets_nothing_leave(body: bytes) -> None:
    async def scene() -> None:
        async with serve(sends(reply(b"hello"))) as server, api(server.url("/v1")) as transport:
            gate = HeldGate()
            asked = asyncio.ensure_future(
                transport.exchange(post(server.url(), body), Kept(), account=ACCOUNT, gate=gate)
            )
            await gate.asked.wait()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            gate.decide()
            await transport.exchange(post(server.url(), b"next"), Kept(), account=ACCOUNT)
            assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b"next"]

    asyncio.run(scene())
