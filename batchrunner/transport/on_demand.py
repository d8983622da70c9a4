"""A network that is opened at its first request. Apart from what it opens, so that it loads nothing of that."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchrunner.core.http import Decoder, Request
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import Downloads, Transport, Write

T = TypeVar("T")


class NetworkOnDemand:
    """The network of a run that has nothing to send: loaded and opened if a person asks for an item again after all."""

    def __init__(self, opening: Callable[[], Awaitable[tuple[Transport, Downloads]]]) -> None:
        self._opening = opening
        self._opened: asyncio.Future[tuple[Transport, Downloads]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'not opened' if self._opened is None else 'opened'}>"

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str) -> T:
        """See `core.ports.Transport`."""
        transport, _ = await self._network()
        return await transport.exchange(request, decoder, account=account)

    async def fetch(self, url: str, *, account: str = "") -> bytes | Problem:
        """See `core.ports.Downloads`."""
        _, downloads = await self._network()
        return await downloads.fetch(url, account=account)

    async def fetch_into(self, url: str, write: Write, *, account: str = "") -> Problem | None:
        """See `core.ports.Downloads`."""
        _, downloads = await self._network()
        return await downloads.fetch_into(url, write, account=account)

    async def _network(self) -> tuple[Transport, Downloads]:
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._opening())
        return await asyncio.shield(self._opened)  # others may wait for it, too
