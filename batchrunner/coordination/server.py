"""The coordinator's end of the wire: one line in, one line out, for each connection. No peer can end it."""

import asyncio
import hmac
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import msgspec

from batchrunner.coordination.address import UNIX_BYTES, Address, proof_of
from batchrunner.coordination.desk import Desk
from batchrunner.core.coordination_messages import LINE_BYTES, Declined, Hello, Nonce, Reply, Request
from batchrunner.core.errors import StoreBrokenError

_PREFIX: Final = "batchrunner-"
_SOCKET: Final = "coordinator"
_NAME_BYTES: Final = 40
"""Of the folder and the socket, at most."""
_STARTS_S: Final = 60.0
"""A folder that is younger may be of a process that does not listen yet."""
_HELLO_S: Final = 10.0
"""Whoever has not said hello by then is turned away."""


class CoordinatorServer:
    """Serves a desk; an asynchronous context manager. `address` has the port that was chosen, for port 0."""

    def __init__(self, desk: Desk, address: Address, *, secret: str) -> None:
        self.desk, self.address = desk, address
        self._secret = secret
        self._decoder = msgspec.json.Decoder(Request)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def __repr__(self) -> str:
        return f"<CoordinatorServer at {self.address}, {len(self._writers)} connections>"

    async def __aenter__(self) -> Self:
        """Raises StoreBrokenError where the address cannot be listened on."""
        where = self.address
        try:
            if where.path is not None:
                _remove_stale(where.path)
                mask = os.umask(0o177)  # only this user may connect, from the first moment
                try:
                    self._server = await asyncio.start_unix_server(self._serve, where.path, limit=LINE_BYTES)
                finally:
                    os.umask(mask)
            else:
                self._server = await asyncio.start_server(self._serve, where.host, where.port, limit=LINE_BYTES)
                port = self._server.sockets[0].getsockname()[1]
                self.address = Address(host=where.host, port=port)
        except OSError as error:
            said = error.strerror or str(error)
            raise StoreBrokenError(f"{where}: cannot listen there: {said}; choose another --listen") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None
        if self.address.path is not None:
            with suppress(OSError):
                os.unlink(self.address.path)  # noqa: PTH108 - as quick as a socket's close

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._talk(reader, writer)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass  # a peer that went away, or says what is no line
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonce = secrets.token_hex(16)
        self._write_reply(writer, Nonce(nonce=nonce, secret=bool(self._secret)))
        async with asyncio.timeout(_HELLO_S):
            first = await self._received(reader, writer)
        if not isinstance(first, Hello):
            if first is not None:
                self._write_reply(writer, Declined(error="the first message has to be a hello"))
            return
        if self._secret and not hmac.compare_digest(first.proof.encode(), proof_of(self._secret, nonce).encode()):
            self._write_reply(writer, Declined(error="the shared secret is another one here", kind="secret"))
            return
        request: Request | None = first
        while request is not None:
            reply = self.desk.answer(request)
            self._write_reply(writer, reply)
            if isinstance(reply, Declined):
                return
            await writer.drain()
            request = await self._received(reader, writer)
            if request is not None and request.worker != first.worker:
                self._write_reply(writer, Declined(error="this connection is another worker's"))
                return

    async def _received(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        """The next request; None once the peer has closed, or was told what is wrong."""
        try:
            line = await reader.readuntil()
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            self._write_reply(writer, Declined(error=f"a line is longer than {LINE_BYTES:,} bytes"))
            return None
        try:
            request: Request = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            self._write_reply(writer, Declined(error=f"no message: {str(error)[:200]}"))
            return None
        return request

    @staticmethod
    def _write_reply(writer: asyncio.StreamWriter, reply: Reply | Nonce) -> None:
        writer.write(msgspec.json.encode(reply) + b"\n")


@contextmanager
def own_socket() -> Iterator[Address]:
    """An address for a coordinator and workers of this machine; what killed processes have left of theirs is removed.

    In the folder for temporary files, or in `/tmp` where the path would be too long for a socket. Blocks.

    Raises:
        StoreBrokenError: no folder can be made there.
    """
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > UNIX_BYTES - _NAME_BYTES:
        parent = "/tmp"  # noqa: S108 - the folder below has a random name and is private
    _remove_abandoned(Path(parent))
    try:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    except OSError as error:
        raise StoreBrokenError(f"{parent}: no folder can be made for a socket: {error.strerror or error}") from error
    try:
        yield Address(path=str(Path(folder) / _SOCKET))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Folders of this user whose socket nobody listens on: their process was killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            look, names = folder.lstat(), [path.name for path in folder.iterdir()]
            if look.st_uid != os.getuid() or names != [_SOCKET] or time.time() - look.st_mtime < _STARTS_S:
                continue
            _remove_stale(str(folder / _SOCKET))
            folder.rmdir()


def _remove_stale(path: str) -> None:
    """A socket that a coordinator left behind, and that nobody listens on. Raises OSError: somebody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError("a file that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            Path(path).unlink(missing_ok=True)
            return
    raise OSError("another coordinator listens there")
