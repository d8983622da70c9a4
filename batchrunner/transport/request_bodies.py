"""What a large request sends: a body in memory in steps, and one from the disk as it is read.

A body from the disk has its length in the head, because servers that take files refuse one without. It is read in a
thread, a piece at a time, and the next piece only when the network has taken the last: memory does not grow with it.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from multidict import CIMultiDict

from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.http import Request, StreamedBody
from batchrunner.transport.deadlines import Deadlines

Body: TypeAlias = io.BytesIO | AsyncIterator[bytes]
IN_ONE_PIECE_BYTES: Final = 1 << 20
"""Above this aiohttp warns of a body in one piece; as a file it goes in steps."""


@contextmanager
def large_body(request: Request, headers: CIMultiDict[str], deadlines: Deadlines) -> Iterator[Body]:
    """What aiohttp is given as a body, for as long as the request is on its way to the head of its reply.

    Raises:
        StoreBrokenError: the file that it is read from cannot be read any more, whatever aiohttp made of that.
    """
    body, streamed = request.body, request.streamed
    if streamed is None:
        yield io.BytesIO(body or b"")
        return
    reading = _BodyReader(streamed, deadlines)
    headers["Content-Length"] = str(streamed.size_bytes)
    try:
        yield reading.pieces()
    except Exception as error:
        if reading.fault is not None:
            raise reading.fault from error
        raise


class _BodyReader:
    """One way through a body that is read from the disk."""

    def __init__(self, body: StreamedBody, deadlines: Deadlines) -> None:
        self._body = body
        self._deadlines = deadlines
        self.fault: StoreBrokenError | None = None
        """Why there is no more of it; aiohttp says a fault of the connection for whatever happens here."""

    def __repr__(self) -> str:
        return f"<_BodyReader of {self._body.size_bytes} B>"

    async def pieces(self) -> AsyncIterator[bytes]:
        """Piece by piece."""
        parts = self._body.pieces()
        try:
            while piece := await asyncio.to_thread(next, parts, b""):
                yield piece
                self._deadlines.part_left()
        except StoreBrokenError as error:
            self.fault = error
            raise
