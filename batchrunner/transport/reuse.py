"""Whether a connection may carry another request: it may until the server was seen to close one behind its reply.

Some servers promise to keep a connection and close it a moment after the reply all the same; llama.cpp does so after
every stream. A POST that crosses with the closing cannot be told from one that was executed. So the first connection
that is to be used again is watched for a moment, and where one was closed, each request gets a connection of its own
for a while. Refuses to judge by a connection that broke or that we closed ourselves.
"""

import asyncio
from functools import partial
from typing import Final
from weakref import WeakSet

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

_SETTLE_S: Final = 0.1
"""A server that closes behind its reply does so within this time."""
_WARY_FOR: Final = 1000
"""So many requests get a connection of their own before the server is judged anew."""


class Reuse:
    """What is known of one session's connections."""

    __slots__ = ("_trusted", "_used", "_wary")

    def __init__(self) -> None:
        self._trusted = False
        self._wary = 0
        self._used: WeakSet[ResponseHandler] = WeakSet()

    def __repr__(self) -> str:
        """What it came to."""
        return f"<Reuse trusted={self._trusted}, wary for {self._wary} requests>"

    async def allows(self, connection: Connection) -> bool:
        """Whether a request may leave on it; one that may not is closed. Waits as long as nothing is known."""
        protocol = connection.protocol
        if protocol is None:
            return True
        try:
            allowed = protocol not in self._used or await self._lasts(protocol)
        except BaseException:
            connection.close()
            raise
        if not allowed:
            connection.close()
            return False
        self._used.add(protocol)
        if self._wary:
            self._wary -= 1
            protocol.force_close()
        else:
            connection.add_callback(partial(self._is_over, protocol))
        return True

    async def _lasts(self, protocol: ResponseHandler) -> bool:
        if not self._trusted and not self._wary:
            await asyncio.sleep(_SETTLE_S)
            self._look(protocol)
        return not self._wary

    def _is_over(self, protocol: ResponseHandler) -> None:
        """The exchange came to its end. What we close ourselves is closed before the loop comes to its next call."""
        if protocol.is_connected() and not protocol.should_close:
            asyncio.get_running_loop().call_soon(self._rests, protocol)

    def _rests(self, protocol: ResponseHandler) -> None:
        if protocol.is_connected():
            asyncio.get_running_loop().call_later(_SETTLE_S, self._look, protocol)

    def _look(self, protocol: ResponseHandler) -> None:
        """A while after a reply: does its connection still stand?"""
        self._trusted = protocol.is_connected()
        if not self._trusted:
            self._wary = _WARY_FOR
