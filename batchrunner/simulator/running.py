"""The simulator as a program: opens its door, says where, and stays until it is cancelled."""

import asyncio
from collections.abc import Callable

from batchrunner.simulator.faults import Faults, Latency
from batchrunner.simulator.http_door import serve
from batchrunner.simulator.world import World


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
    world = World(seed, faults=Faults.parse(faults), scenario=scenario, latency=pace, auth=auth)
    door = await serve(world, host=host, port=port, files_port=files_port)
    try:
        say(f"api    {door.api_url}/v1")
        say(f"files  {door.files_url}")
        await asyncio.Event().wait()
    finally:
        await door.close()
