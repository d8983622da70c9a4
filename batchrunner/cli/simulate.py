"""`batchrunner simulate`: the simulated provider as an HTTP server, for a job or for any other client.

Ctrl-C is the normal way to stop it and gives exit status 0.
"""

import asyncio
import math
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.interruption import install
from batchrunner.cli.options import AsJson
from batchrunner.cli.output import emit, print_message
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 picks a free one.")]
FilesPort = Annotated[int, typer.Option(min=0, max=65535, help="Port of the picture downloads; 0 picks a free one.")]
Faults = Annotated[
    str, typer.Option(metavar="NAME=RATE,...", help="Random faults, each with its probability from 0 to 1.")
]
Scenario = Annotated[
    str | None, typer.Option(metavar="NAME", help="Apply one scenario to every request, for example throttle:3.")
]
Latency = Annotated[
    str, typer.Option(metavar="S", help="Seconds until an answer begins, or NAME=S,... for other delays (see --list).")
]
Auth = Annotated[
    bool, typer.Option("--auth", help="Reject requests without an API key, as real providers do; any key is accepted.")
]
ListThem = Annotated[bool, typer.Option("--list", help="List the scenarios, faults and delays, and exit.")]


def simulate(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    files_port: FilesPort = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers and faults.")] = 0,
    faults: Faults = "",
    scenario: Scenario = None,
    latency: Latency = "",
    auth: Auth = False,
    list_them: ListThem = False,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Serve the simulated provider over HTTP.

    \b
    No key is needed and nothing is billed. Point a job at it:
      provider: {preset: openai, base_url: http://127.0.0.1:8000/v1, api_key_env: []}
    or any client of the OpenAI, Anthropic or ModelScope API. Ctrl-C stops it:
      batchrunner simulate
      batchrunner simulate --faults "throttle=0.1,5xx=0.05" --latency 0.5
      batchrunner simulate --list
    """
    if list_them:
        return _list(as_json=as_json)
    addresses = _Addresses(as_json=as_json)
    serving = batchrunner.run_server(
        host=host,
        port=port,
        files_port=files_port,
        seed=seed,
        faults=faults,
        scenario=scenario,
        latency=_latency(latency),
        auth=auth,
        say=addresses.opened,
    )
    asyncio.run(until_asked(serving))
    print_message("simulator stopped")
    return ExitStatus.DONE


class _Addresses:
    """Collects the addresses that the server reports, and prints how to use them once both are open."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._urls: dict[str, str] = {}

    def opened(self, line: str) -> None:
        """`api    http://127.0.0.1:8000/v1`, then `files  http://127.0.0.1:40123`."""
        name, _, url = line.partition(" ")
        self._urls[name] = url.strip()
        if {"api", "files"} <= self._urls.keys():
            self._print_result(self._urls["api"])

    def _print_result(self, api: str) -> None:
        if self._as_json:
            emit({"base_url": api, "files_url": self._urls["files"]})
        print_message(f"simulator listening (no real requests, nothing is billed); Ctrl-C stops it\n  base_url: {api}")
        print_message(f"  in a job file:   provider: {{preset: openai, base_url: {api!r}, api_key_env: []}}")
        print_message(f"  for ModelScope:  provider: {{preset: modelscope, base_url: {api!r}, api_key_env: []}}")
        print_message(f"  pictures:        {self._urls['files']}")


async def until_asked(serving: Coroutine[object, object, None]) -> None:
    """Serve until SIGINT or SIGTERM: a server's ordinary ends."""
    server = asyncio.ensure_future(serving)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.cancel)
    with suppress(asyncio.CancelledError):
        await server
    install()  # the loop would leave the system's own handlers behind


def _latency(text: str) -> str | float | None:
    try:
        seconds = float(text)
    except ValueError:
        return text or None
    if not 0 <= seconds < math.inf:
        raise JobMistakesError((Mistake(key="--latency", problem=f"is {text}", expected="seconds, 0 or more"),))
    return seconds


def _list(*, as_json: bool) -> ExitStatus:
    from batchrunner.simulator.profiles import FAULT_NAMES, LATENCY_NAMES  # noqa: PLC0415 - for this question only
    from batchrunner.simulator.scenarios import SCENARIOS  # noqa: PLC0415 - for this question only

    if as_json:
        emit({"scenarios": list(SCENARIOS.values()), "faults": list(FAULT_NAMES), "latency": list(LATENCY_NAMES)})
        return ExitStatus.DONE
    for group in dict.fromkeys(scenario.group for scenario in SCENARIOS.values()):
        print_message(f"{group}:")
        for scenario in SCENARIOS.values():
            if scenario.group == group:
                name = f"{scenario.name}:{scenario.figure}" if scenario.figure else scenario.name
                print_message(f"  {name:<28} {scenario.summary}")
    print_message(f"random faults (--faults):\n  {', '.join(FAULT_NAMES)}")
    print_message(f"delays in seconds (--latency):\n  {', '.join(LATENCY_NAMES)}")
    print_message("scenarios can also be appended to a model name: sim-model#throttle:3, sim-model#throttle:3+sse-crlf")
    return ExitStatus.DONE
