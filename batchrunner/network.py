"""The network of a run: the real sessions or the simulated world, opened now or once something is to be sent.

Libraries that cost time to load are loaded inside the functions that need them.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from batchrunner.core.job import Job, Provider
from batchrunner.core.plan import PointBalance
from batchrunner.core.ports import Downloads, Transport
from batchrunner.core.presets import PRESETS
from batchrunner.core.values import replace
from batchrunner.engine.work_queue import LoopClock
from batchrunner.providers.modelscope_images import BalanceReader, balance_origin, balance_request
from batchrunner.stores.threads import Threads
from batchrunner.transport import Secret, is_private_host
from batchrunner.transport.memory_budget import MemoryBudget
from batchrunner.transport.on_demand import NetworkOnDemand
from batchrunner.transport.secrets import read_proxy_auth


async def network_of(
    opening: Callable[[], Awaitable[tuple[Transport, Downloads]]], *, is_needed: bool
) -> tuple[Transport, Downloads]:
    """The network that this opens: now, or once it is needed after all."""
    if is_needed:
        return await opening()
    on_demand = NetworkOnDemand(opening)
    return on_demand, on_demand


async def open_network(
    job: Job,
    stack: AsyncExitStack,
    disk: Threads,
    *,
    clock: LoopClock,
    keys: dict[str, Secret],
    say: Callable[[str], None],
) -> tuple[Transport, Downloads]:
    """The real sessions, or the simulated world in process."""
    if job.provider.base_url.removesuffix("/v1") == PRESETS["simulator"].base_url.removesuffix("/v1"):
        from batchrunner.simulator.in_process import simulated_network  # noqa: PLC0415 - for simulated runs only

        return simulated_network(
            scenario=job.scenario, models=job.models, films=job.kind == "media", timeouts=job.timeouts, clock=clock
        )
    from batchrunner.transport import ApiTransport, PictureDownloads  # noqa: PLC0415 - aiohttp, for real runs only

    provider, memory_budget = job.provider, MemoryBudget()
    proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
    transport = await disk.run(  # reads certificates
        ApiTransport,
        provider,
        timeouts=job.timeouts,
        keys=keys,
        wall=clock.wall,
        memory_budget=memory_budget,
        say=say,
        proxy_auth=proxy_auth,
    )
    private = await is_private_host(provider.base_url)
    downloads = await disk.run(
        PictureDownloads,
        timeouts=job.timeouts,
        allow_private=private,
        allow_http=private or provider.allow_http,
        proxy=provider.proxy,
        proxy_auth=proxy_auth,
        ca_file=provider.ca_file,
        hide=tuple(keys.values()),
        keyed=_keyed_by(provider, keys),
        memory_budget=memory_budget,
        stream_cap_bytes=job.output.max_mb * 1_000_000,
    )
    return await stack.enter_async_context(transport), await stack.enter_async_context(downloads)


def _keyed_by(provider: Provider, keys: Mapping[str, Secret]) -> Callable[[str, str], Mapping[str, str]] | None:
    """What gives the key for files that the API itself holds; None where it holds none."""
    table = provider.task
    if table is None or table.result.content is None:
        return None
    from batchrunner.core.task_table import is_content  # noqa: PLC0415 - msgspec, for jobs with a table only
    from batchrunner.transport.api_transport import account_headers  # noqa: PLC0415 - aiohttp, for real runs only

    def keyed(url: str, account: str) -> Mapping[str, str]:
        return account_headers(provider, keys, account) if is_content(url, provider.base_url, table) else {}

    return keyed


async def ask_balances(job: Job, keys: dict[str, Secret]) -> tuple[PointBalance, ...]:
    """What each account has at ModelScope, when the job wants to know; a free question to a host of its own."""
    if not job.provider.balance or not keys:
        return ()
    from batchrunner.transport import ApiTransport  # noqa: PLC0415 - as above

    base_url = job.provider.base_url
    provider = replace(job.provider, base_url=balance_origin(base_url), auth="bearer", headers={}, api_version=None)
    proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
    async with ApiTransport(provider, timeouts=job.timeouts, keys=keys, proxy_auth=proxy_auth) as transport:
        request = balance_request(base_url)
        asked = [transport.exchange(request, BalanceReader(account), account=account) for account in keys]
        return tuple(await asyncio.gather(*asked))
