"""Keys that decide how a server is reached: each with a job, a change, and what a real socket on this machine sees."""

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from batchrunner import api
from batchrunner.core.outcome import Answer, Problem, SendOutcome
from batchrunner.core.plan import Plan
from batchrunner.providers import dialect_for
from batchrunner.simulator.http_server import serve
from batchrunner.simulator.script import Call, Script
from batchrunner.simulator.world import World
from batchrunner.transport import ApiTransport, read_keys
from batchrunner.transport.secrets import read_proxy_auth
from tests.engine.job_key_effects.bench import Bench, Effect, paid

T = TypeVar("T")

KEYS = {"VOCABULARY_A": "key-of-account-a", "VOCABULARY_B": "key-of-account-b"}
BASE_URL, TLS_URL = "http://127.0.0.1:1", "https://127.0.0.1:1"
"""Stand for addresses that are known once a server listens."""
ELSEWHERE = "http://192.0.2.1/v1"
"""An address that is nobody's (RFC 5737)."""
ANSWER = b'{"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}'
OURS = {"preset": "openai", "base_url": f"{BASE_URL}/v1", "api_key_env": ["VOCABULARY_A"]}
POINTS = {"preset": "modelscope", "base_url": f"{BASE_URL}/v1", "api_key_env": ["VOCABULARY_A"]}


THEIR_TABLE = b"""{source: here, base: "https://api.example", submit: {path: /orders, body: {p: $prompt}, id: [id]},
poll: {path: "/orders/{id}", state: [state]}, states: {done: [ready]}, result: {urls: [file]}}"""


class Noticing(World):
    """A provider that remembers the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def answer(self, call: Call, now: float) -> Script:
        """As ever."""
        self.calls.append(call)
        return super().answer(call, now)


def over_http(bench: Bench, use: Callable[[Bench], Awaitable[T]]) -> tuple[T, list[Call]]:
    """What `use` makes of the job with a real server for BASE_URL, and the calls that came there."""

    async def scene() -> tuple[T, list[Call]]:
        world = Noticing()
        server = await serve(world)
        try:
            return await use(moved(bench, BASE_URL, server.api_url)), world.calls
        finally:
            await server.close()

    with pytest.MonkeyPatch.context() as environment:
        for name, key in KEYS.items():
            environment.setenv(name, key)
        environment.setenv("VOCABULARY_PROXY", "me:password-of-mine")
        bench.items  # noqa: B018 - made here, for they are made on a loop of their own
        return asyncio.run(scene())


def moved(bench: Bench, word: str, place: str) -> Bench:
    """The same job with an address for a word of its provider."""
    provider = {
        name: value.replace(word, place) if isinstance(value, str) else value
        for name, value in bench.tree["provider"].items()
    }
    there = Bench(folder=bench.folder, tree={**bench.tree, "provider": provider})
    there.items = bench.items
    return there


async def outcomes(bench: Bench) -> list[SendOutcome]:
    """One send by each account, through the transport that a run would have."""
    dialect = dialect_for(bench.job.provider)
    keys = read_keys(bench.job.provider, os.environ).keys
    name = bench.job.provider.proxy_auth_env
    proxy_auth = read_proxy_auth(name, os.environ) if name else None
    async with ApiTransport(
        bench.job.provider, timeouts=bench.job.timeouts, keys=keys, proxy_auth=proxy_auth
    ) as transport:
        return [
            await transport.exchange(bench.request(), dialect.decoder(bench.items[0]), account=account)
            for account in (keys or ("",))
        ]


def header(name: str) -> Callable[[Bench], object]:
    """A look at one header of every call."""
    return lambda bench: [call.headers.get(name) for call in over_http(bench, outcomes)[1]]


def version_asked(bench: Bench) -> object:
    """Azure's version in the URL of every call."""
    return [
        version[0] if (version := parse_qs(urlsplit(call.path).query).get("api-version")) else None
        for call in over_http(bench, outcomes)[1]
    ]


def reached(bench: Bench) -> int:
    """How many requests came to the server, whichever host they were meant for."""
    return len(over_http(bench, outcomes)[1])


async def _planned(bench: Bench) -> Plan:
    return await api.plan(bench.job)


def points(bench: Bench) -> object:
    """What a plan says of points: a day, a call."""
    plan, _ = over_http(bench, _planned)
    assert plan.points is not None
    return plan.points.per_day, plan.points.needed


def balances(bench: Bench) -> int:
    """How many accounts were asked for their balance, and told it."""
    plan, calls = over_http(bench, _planned)
    asked = [call.path for call in calls if "balance" in call.path]
    assert len(asked) == len(plan.balances)
    return len(asked)


def by_tls(bench: Bench) -> bool:
    """Whether a server of our own certificate is spoken to. A job that trusts it reads `here.pem`."""
    certificate, key = bench.folder / "here.pem", bench.folder / "here.key"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here"
    alternative = "subjectAltName=IP:127.0.0.1"
    command = [*made.split(), "-addext", alternative, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + ANSWER)
        await writer.drain()
        writer.close()

    async def scene() -> bool:
        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
        try:
            port = server.sockets[0].getsockname()[1]
            (outcome,) = await outcomes(moved(bench, TLS_URL, f"https://127.0.0.1:{port}"))
            return isinstance(outcome, Answer)
        finally:
            server.close()

    bench.items  # noqa: B018 - as above
    return asyncio.run(scene())


def unanswered(bench: Bench) -> str:
    """What is said of a machine that takes no connection: its queue is full, so it answers nothing at all."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 - the socket's own signature
            waiting.connect_ex(listener.getsockname())
        there = moved(bench, BASE_URL, f"http://127.0.0.1:{listener.getsockname()[1]}")
        (outcome,) = asyncio.run(outcomes(there))
    assert isinstance(outcome, Problem)
    return outcome.message.rpartition(" within ")[2]


NETWORK: dict[str, Effect] = {
    "provider.api_key_env": Effect(
        base=paid(provider={**OURS, "api_key_env": []}),
        change={"provider.api_key_env": ["VOCABULARY_A", "VOCABULARY_B"]},
        look=header("authorization"),
        was=[None],
        now=[f"Bearer {key}" for key in KEYS.values()],
    ),
    "provider.api_key_file": Effect(
        base=paid(provider=OURS),
        change={"provider.api_key_file": "here.key"},
        files={"here.key": b"key-of-a-file\n"},
        look=header("authorization"),
        was=[f"Bearer {KEYS['VOCABULARY_A']}"],
        now=[f"Bearer {KEYS['VOCABULARY_A']}", "Bearer key-of-a-file"],
    ),
    "provider.api_key_cmd": Effect(
        base=paid(provider={**OURS, "api_key_env": []}),
        change={"provider.api_key_cmd": "printf 'key-of-a-%s' command"},
        look=header("authorization"),
        was=[None],
        now=["Bearer key-of-a-command"],
    ),
    "provider.auth": Effect(
        base=paid(provider=OURS),
        change={"provider.auth": "x-api-key"},
        look=header("x-api-key"),
        was=[None],
        now=[KEYS["VOCABULARY_A"]],
    ),
    "provider.headers": Effect(
        base=paid(provider=OURS),
        change={"provider.headers": {"X-Team": "evals"}},
        look=header("x-team"),
        was=[None],
        now=["evals"],
    ),
    "provider.proxy": Effect(
        base=paid(provider={"base_url": "http://127.0.0.1:9/v1"}),
        change={"provider.proxy": BASE_URL},
        look=reached,
        was=0,
        now=1,
    ),
    "provider.proxy_auth_env": Effect(
        base=paid(provider={"base_url": "http://127.0.0.1:9/v1", "proxy": BASE_URL}),
        change={"provider.proxy_auth_env": "VOCABULARY_PROXY"},
        look=header("proxy-authorization"),
        was=[None],
        now=["Basic bWU6cGFzc3dvcmQtb2YtbWluZQ=="],
    ),
    "provider.api_version": Effect(
        base=paid(provider=OURS),
        change={"provider.api_version": "2024-10-21"},
        look=version_asked,
        was=[None],
        now=["2024-10-21"],
    ),
    "provider.allow_http": Effect(
        base=paid(provider={**OURS, "base_url": ELSEWHERE}),
        change={"provider.allow_http": True},
        look=lambda bench: bench.problems,
        was=("provider.base_url",),
        now=(),
    ),
    "provider.task": Effect(
        base={**paid(provider={"dialect": "task", "task": "luma", "base_url": f"{BASE_URL}/v1"}), "kind": "image"},
        change={"provider.task": "there.yaml"},
        look=lambda bench: bench.request().url.rpartition("/")[2],
        was="generations",
        now="orders",
        files={"there.yaml": THEIR_TABLE},
    ),
    "provider.body_file": Effect(
        base={
            **paid(provider={"dialect": "task", "task": "comfyui", "body_file": "one.json", "base_url": BASE_URL}),
            "kind": "image",
        },
        change={"provider.body_file": "two.json"},
        look=lambda bench: bench.body()["prompt"],
        was={"1": "A: one"},
        now={"2": "B: one"},
        files={"one.json": b'{"1": "A: {{ prompt }}"}', "two.json": b'{"2": "B: {{ prompt }}"}'},
    ),
    "provider.ca_file": Effect(
        base=paid(provider={"base_url": f"{TLS_URL}/v1"}),
        change={"provider.ca_file": "here.pem"},
        look=by_tls,
        was=False,
        now=True,
        files={"here.pem": b""},
    ),
    "provider.points_per_day": Effect(
        base=paid(provider=POINTS), change={"provider.points_per_day": 5}, look=points, was=(200.0, 1.0), now=(5.0, 1.0)
    ),
    "provider.points_per_call": Effect(
        base=paid(provider=POINTS),
        change={"provider.points_per_call": 3},
        look=points,
        was=(200.0, 1.0),
        now=(200.0, 3.0),
    ),
    "provider.balance": Effect(
        base=paid(provider=POINTS), change={"provider.balance": True}, look=balances, was=0, now=1
    ),
    "timeouts.connect_s": Effect(
        base=paid(provider={"base_url": f"{BASE_URL}/v1"}, timeouts={"connect_s": 0.2}),
        change={"timeouts.connect_s": 0.3},
        look=unanswered,
        was="0.2 s",
        now="0.3 s",
    ),
}
