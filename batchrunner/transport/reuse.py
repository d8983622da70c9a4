"""Whether a connection may carry another request: it may until the server was seen to close one behind its reply.

Some servers promise to keep a connection and close it a moment after the reply all the same; llama.cpp does so after
every stream. A POST that crosses with the closing cannot be told from one that was executed. So the first connection
that is to be used again is watched for a moment, and where one was closed, now or later, each request gets a connection
of its own for a while. Refuses to judge by a connection that broke or that we closed ourselves.
"""

import asyncio
from typing import Final, Protocol

from aiohttp.connector import Connection

_SETTLE_S: Final = 0.1
"""A server that closes behind its reply does so within this time."""
_WARY_FOR: Final = 1000
"""So many requests get a connection of their own before the server is judged anew."""


class Line(Protocol):
    """A connection as far as its reuse goes."""

    uses: int
    """Requests that it carried so far."""
    rests_since: float | None
    """When its last exchange ended, on the loop's clock; None while one is under way."""

    @property
    def should_close(self) -> bool:
        """No other request may leave on it."""

    def is_connected(self) -> bool:
        """It stands, on both sides."""

    def force_close(self) -> None:
        """It is not to be used again."""


class Reuse:
    """What is known of one session's connections."""

    __slots__ = ("_looks", "_trusted", "_wary")

    def __init__(self) -> None:
        self._trusted = False
        self._wary = 0
        self._looks = False
        """A connection is looked at, to be trusted."""

    def __repr__(self) -> str:
        """What it came to."""
        return f"<Reuse trusted={self._trusted}, wary for {self._wary} requests>"

    def allows_at_once(self, line: Line) -> bool:
        """Whether a request may leave on it, as far as that is known without waiting; then it counts as used."""
        if (line.uses and not self._trusted) or self._wary or line.should_close:
            return False
        line.uses += 1
        line.rests_since = None
        return True

    async def allows(self, connection: Connection, line: Line) -> bool:
        """Whether a request may leave on it; one that may not is closed. Waits as long as nothing is known.

        Whoever was let in tells `is_over` of the end of its exchange.
        """
        try:
            allowed = not line.should_close and (not line.uses or (await self._lasts(line) and not line.should_close))
        except BaseException:
            connection.close()
            raise
        if not allowed:
            connection.close()
            return False
        line.uses += 1
        line.rests_since = None
        if self._wary:
            self._wary -= 1
            line.force_close()
        return True

    def is_over(self, line: Line) -> None:
        """The exchange came to its end."""
        loop = asyncio.get_running_loop()
        line.rests_since = loop.time()
        if not self._trusted and not self._looks and line.is_connected() and not line.should_close:
            self._looks = True
            loop.call_later(_SETTLE_S, self._look, line)

    def was_closed(self, line: Line) -> None:
        """The server closed it, with no part of a reply on its way and without having said that it would."""
        since = line.rests_since
        if since is None or asyncio.get_running_loop().time() - since <= _SETTLE_S:
            self._trusted, self._wary = False, _WARY_FOR

    async def _lasts(self, line: Line) -> bool:
        if not self._trusted and not self._wary:
            await asyncio.sleep(_SETTLE_S)
            self._trusted = line.is_connected()
            if not self._trusted:
                self._wary = _WARY_FOR
        return not self._wary

    def _look(self, line: Line) -> None:
        """A while after a reply: does its connection still stand? If the server closed it, that is known by now."""
        self._looks = False
        self._trusted = self._trusted or (not self._wary and line.is_connected())
