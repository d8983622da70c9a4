"""Two HTTP servers, one for the API and one for the pictures, that play the world's scripts.

Resets abort the socket, cuts close it without the body's end, a hang lasts until the client leaves. Knows nothing of
what is said; that is the world's business.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import assert_never

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from batchrunner.core.errors import BatchrunnerError
from batchrunner.core.values import dataclass
from batchrunner.simulator.profiles import FaultRates, Latency
from batchrunner.simulator.script import Call, Cut, Delay, Hang, Reset, Role, Script, Send
from batchrunner.simulator.world import World

MAX_BODY_BYTES = 64 * 1024 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER on with no time: closing sends a reset instead of an orderly end."""


class PortTakenError(BatchrunnerError):
    """The simulator cannot listen on the given address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorServer:
    """A listening server; close it when done."""

    host: str
    port: int
    files_port: int
    runners: tuple[web.ServerRunner, ...]

    @property
    def api_url(self) -> str:
        """Scheme, host and port of the API, without `/v1`."""
        return _url(self.host, self.port)

    @property
    def files_url(self) -> str:
        """Scheme, host and port of the picture storage."""
        return _url(self.host, self.files_port)

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        for runner in self.runners:
            await runner.cleanup()


async def serve(
    world: World,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    files_port: int = 0,
    wall: Callable[[], float] | None = None,
) -> SimulatorServer:
    """Open both ports of a world; 0 takes a free one. The world's pictures then have URLs of the files port.

    `wall` is the world's clock; by default it is the wall clock at the start, going on with the running loop's clock,
    so that the world lives in virtual time on a virtual-time loop.

    Raises:
        PortTakenError: an address cannot be listened on.
    """
    now = wall or _wall_of_loop()
    runners: list[web.ServerRunner] = []
    ports: list[int] = []
    roles: tuple[tuple[Role, int], ...] = (("api", port), ("files", files_port))
    for role, wanted in roles:
        runner = web.ServerRunner(_server(world, role, now), shutdown_timeout=0.2)
        await runner.setup()
        runners.append(runner)
        try:
            await web.TCPSite(runner, host, wanted, backlog=2048, reuse_address=True).start()
        except OSError as error:
            await SimulatorServer(host=host, port=0, files_port=0, runners=tuple(runners)).close()
            raise PortTakenError(f"cannot listen on {host}:{wanted}: {error.strerror or error}") from error
        ports.append(int(runner.addresses[0][1]))
    server = SimulatorServer(host=host, port=ports[0], files_port=ports[1], runners=tuple(runners))
    world.files_base = server.files_url
    return server


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wall_of_loop() -> Callable[[], float]:
    loop = asyncio.get_running_loop()
    offset = time.time() - loop.time()
    return lambda: loop.time() + offset


def _server(world: World, role: Role, now: Callable[[], float]) -> web.Server:
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        call = Call(
            method=request.method,
            path=request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read() if request.body_exists else b"",
            role=role,
        )
        script = world.answer(call, now())
        try:
            return await _play(request, script)
        finally:
            world.leave(script)

    # A client that leaves ends its hang, hence the cancellation
    return web.Server(respond, request_factory=_large_request, handler_cancellation=True, access_log=None)


def _large_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)


async def _play(request: web.BaseRequest, script: Script) -> web.StreamResponse:
    for early in script.early:
        match early:
            case Delay(seconds=seconds):
                await asyncio.sleep(seconds)
            case Hang():
                await asyncio.Event().wait()
            case Reset():
                return _abort(request)
            case _:
                assert_never(early)
    if len(script.steps) == 1 and isinstance(only := script.steps[0], Send) and "content-length" not in script.headers:
        return web.Response(status=script.status, headers=script.headers, body=only.piece)
    return await _play_body(request, script)


async def _play_body(request: web.BaseRequest, script: Script) -> web.StreamResponse:
    response = web.StreamResponse(status=script.status, headers=script.headers)
    if "content-length" not in script.headers and script.steps:
        response.enable_chunked_encoding()
    await response.prepare(request)
    for step in script.steps:
        match step:
            case Send(piece=piece):
                await response.write(piece)
            case Delay(seconds=seconds):
                await asyncio.sleep(seconds)
            case Hang():
                await asyncio.Event().wait()
            case Reset():
                return _abort(request, response)
            case Cut():
                return _close(request, response)
            case _:
                assert_never(step)
    return response


def _abort(request: web.BaseRequest, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Reset the connection; what is returned can no longer be sent."""
    transport = request.transport
    if transport is not None:
        wire = transport.get_extra_info("socket")
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
    return response or web.Response()


def _close(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection in good order, without the body's end."""
    if request.transport is not None:
        request.transport.close()
    return response


# The simulator as a program: listens, prints its addresses, and runs until it is cancelled.


async def run_server(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    files_port: int = 0,
    seed: int = 0,
    faults: str = "",
    scenario: str | None = None,
    latency: str | float | None = None,
    auth: bool = False,
    say: Callable[[str], None],
) -> None:
    """Serve a world over HTTP until cancelled; `say` gets the two addresses, a line each, once they are open.

    `faults` and `latency` are texts like `throttle=0.1,5xx=0.05` and `first=0.5,task=14`; a bare figure as latency is
    the time to the first byte, in seconds. With `auth` calls without a token are refused.

    Raises:
        JobMistakesError: an unknown fault, latency or scenario.
        PortTakenError: an address cannot be listened on.
    """
    pace = Latency(first_byte_s=float(latency)) if isinstance(latency, int | float) else Latency.parse(latency or "")
    world = World(seed, faults=FaultRates.parse(faults), scenario=scenario, latency=pace, auth=auth)
    server = await serve(world, host=host, port=port, files_port=files_port)
    try:
        say(f"api    {server.api_url}/v1")
        say(f"files  {server.files_url}")
        await asyncio.Event().wait()
    finally:
        await server.close()
