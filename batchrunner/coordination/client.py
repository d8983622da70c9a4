"""A worker's end of the wire to the coordinator. It connects again by itself; whoever asks decides how long to try."""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from batchrunner.coordination.address import (
    Address,
    CoordinatorGoneError,
    CoordinatorRefusedError,
    proof_of,
)
from batchrunner.core import VERSION
from batchrunner.core.coordination_messages import (
    LINE_BYTES,
    Beat,
    Beaten,
    Claim,
    Claimed,
    Counts,
    End,
    Ended,
    Granted,
    Hello,
    Lease,
    Nonce,
    Outcome,
    Request,
    Welcome,
)

_ANSWERS_S: Final = 2.0
"""A coordinator that takes longer counts as gone: its replies take microseconds."""

Replied = TypeVar("Replied", Welcome, Claimed, Beaten, Ended, Granted)


class CoordinatorClient:
    """Asks the coordinator. Beats and leases have a connection each, so that neither waits for the other.

    Every method raises CoordinatorGoneError when there is no answer, and CoordinatorRefusedError when the coordinator
    has another job or another secret. A request is sent a second time, over a new connection, where the old one broke.
    """

    def __init__(self, address: Address, *, job: str, secret: str = "", worker: str | None = None) -> None:
        """`job`: digest of the job file's meaning; `worker`: a name of its own for each process."""
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.welcome: Welcome | None = None
        self._address = address
        self._claims = _Connection(address, self._hello(job), secret)
        self._leases = _Connection(address, self._hello(job), secret)

    def _hello(self, job: str) -> Hello:
        return Hello(worker=self.worker, pid=os.getpid(), host=socket.gethostname(), job=job, version=VERSION)

    def __repr__(self) -> str:
        return f"<CoordinatorClient {self.worker} at {self._address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def hello(self) -> Welcome:
        """How many shards there are, how often to beat."""
        self.welcome = await self._claims.hello()
        return self.welcome

    async def claim(self) -> Claimed:
        """A shard, or what to do instead."""
        return await self._claims.ask(Claim(worker=self.worker), Claimed)

    async def beat(self, shard: int, epoch: int, counts: Counts) -> Beaten:
        """This worker is alive; not ok: the shard is another's."""
        return await self._claims.ask(Beat(worker=self.worker, shard=shard, epoch=epoch, counts=counts), Beaten)

    async def end(
        self,
        shard: int,
        epoch: int,
        outcome: Outcome,
        *,
        not_before_s: float | None = None,
        counts: Counts | None = None,
        message: str = "",
    ) -> Ended:
        """The shard is put down, and its lock released."""
        said = End(
            worker=self.worker,
            shard=shard,
            epoch=epoch,
            outcome=outcome,
            not_before_s=not_before_s,
            counts=counts,
            message=message,
        )
        return await self._claims.ask(said, Ended)

    async def lease(self, wanted: Lease) -> Granted:
        """What may be sent."""
        return await self._leases.ask(wanted, Granted)

    async def close(self) -> None:
        """Close both connections; the claim, if there is one, expires."""
        await self._claims.close()
        await self._leases.close()


class _Connection:
    """One connection: a request and its reply at a time."""

    def __init__(self, address: Address, hello: Hello, secret: str) -> None:
        self._address, self._hello, self._secret = address, hello, secret
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def hello(self) -> Welcome:
        """Connect anew. Raises as the client's methods."""
        async with self._lock:
            await self.close()
            return await self._tried(self._connect)

    async def ask(self, request: Request, kind: type[Replied]) -> Replied:
        """Raises as the client's methods."""
        async with self._lock:
            if self._streams is not None:
                with suppress(CoordinatorGoneError):
                    return await self._tried(lambda: self._exchange(request, kind))
            await self._tried(self._connect)
            return await self._tried(lambda: self._exchange(request, kind))

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_ANSWERS_S):
                    await writer.wait_closed()

    async def _tried(self, step: Callable[[], Coroutine[object, object, Replied]]) -> Replied:
        try:
            async with asyncio.timeout(_ANSWERS_S):
                return await step()
        except (OSError, EOFError, ValueError, TimeoutError, msgspec.MsgspecError) as error:
            await self.close()
            raise CoordinatorGoneError(
                f"the coordinator at {self._address} does not answer ({_why(error)}); start it again with "
                "`batchrunner coordinate JOB --listen ADDRESS`; nothing is sent without it, and nothing is lost"
            ) from error
        except BaseException:
            await self._dropped()
            raise

    async def _dropped(self) -> None:
        """A request was cancelled between its line and the reply: the next one must not read that reply."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connect(self) -> Welcome:
        where = self._address
        if where.path is not None:
            reader, writer = await asyncio.open_unix_connection(where.path, limit=LINE_BYTES)
        else:
            reader, writer = await asyncio.open_connection(where.host, where.port, limit=LINE_BYTES)
        self._streams = reader, writer
        nonce = msgspec.json.decode(await reader.readuntil(), type=Nonce)
        hello = self._hello
        if nonce.secret:
            hello = msgspec.structs.replace(hello, proof=proof_of(self._secret, nonce.nonce))
        return await self._exchange(hello, Welcome)

    async def _exchange(self, request: Request, kind: type[Replied]) -> Replied:
        assert self._streams is not None, "it is connected"
        reader, writer = self._streams
        writer.write(msgspec.json.encode(request) + b"\n")
        await writer.drain()
        said = msgspec.json.decode(await reader.readuntil())
        if isinstance(said, dict) and "error" in said:
            text = f"the coordinator at {self._address} refuses: {str(said['error'])[:1000]}"
            is_final = said.get("kind") in {"job", "secret"}
            raise CoordinatorRefusedError(text) if is_final else CoordinatorGoneError(text)
        return msgspec.convert(said, kind)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no reply within {_ANSWERS_S:g} s"
    if isinstance(error, asyncio.IncompleteReadError):
        return "it closed the connection"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "its reply is no message"
