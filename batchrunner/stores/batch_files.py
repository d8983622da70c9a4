"""`batches/` in a run's directory: the result files of batches, as the server sent them, but for keys that it repeats.

The file of requests of a batch is here while it is built and sent, and is removed then: it is made of the job, and can
be made again.

They are whole and durable before any of their lines counts, so that a crash while they are read costs nothing but time.
Refuses to follow links.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from errno import EIO
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from batchrunner.core.http import StreamedBody
from batchrunner.core.remote_batch import RequestFile, ResultFile
from batchrunner.stores.files import (
    DISK,
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    Files,
    broken,
    open_beside,
    write_all,
    write_pieces,
)

BATCHES: Final = "batches"
_STEP_BYTES: Final = 1 << 20
Clean: TypeAlias = Callable[[bytes], bytes]
"""Whole lines without the keys in them."""


class ResultFileWriter:
    """Implements `core.batch_ports.FileBeingWritten`."""

    def __init__(self, folder: Path, name: str, *, files: Files, clean: Clean) -> None:
        self._files = files
        self._clean = clean
        self._rest = bytearray()
        """The beginning of a line."""
        self._path = folder / name
        self._beside, self._descriptor = open_beside(files, folder, PRIVATE_FILE)
        self._sha256 = sha256()
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"<ResultFileWriter {self._path} {self._size_bytes} B>"

    def write(self, data: bytes) -> None:
        """See the port."""
        whole = data.rfind(b"\n") + 1
        if whole:
            self._write(self._clean(bytes(self._rest) + data[:whole]))
            self._rest.clear()
        self._rest += data[whole:]

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._files, self._descriptor, data)
        except OSError as error:
            raise broken(self._path, error) from error
        self._sha256.update(data)
        self._size_bytes += len(data)

    def finish(self) -> ResultFile:
        """See the port."""
        if self._rest:
            self._write(self._clean(bytes(self._rest)))
        try:
            self._files.fsync(self._descriptor)
            self._files.close(self._descriptor)
            self._files.rename(self._beside, self._path)
            self._files.fsync_folder(self._path.parent)
        except OSError as error:
            raise broken(self._path, error) from error
        return f"{BATCHES}/{self._path.name}", self._size_bytes, self._sha256.hexdigest()

    def give_up(self) -> None:
        """See the port."""
        with suppress(OSError):  # a left-over is removed by the next run
            self._files.close(self._descriptor)
            self._files.unlink(self._beside)


class RequestFileWriter:
    """Implements `core.batch_ports.RequestsBeingWritten`."""

    def __init__(self, folder: Path, between: bytes, *, files: Files) -> None:
        self._files = files
        self._between = between
        self._path, self._descriptor = open_beside(files, folder, PRIVATE_FILE)
        self._is_open = True
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._sha256 = sha256()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """See the port."""
        return self._size_bytes

    def __repr__(self) -> str:
        return f"<RequestFileWriter {self._path} {self.size_bytes} B>"

    @property
    def is_due(self) -> bool:
        """See the port."""
        return self._waiting_bytes >= _STEP_BYTES

    def add(self, line: bytes) -> None:
        """See the port."""
        if self._between and self.size_bytes:
            line = self._between + line
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._size_bytes += len(line)

    def flush(self) -> None:
        """See the port."""
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        try:
            write_all(self._files, self._descriptor, data)
        except OSError as error:
            raise broken(self._path, error) from error
        self._sha256.update(data)

    def finish(self) -> RequestFile:
        """See the port."""
        self.flush()
        self._close()
        body = StreamedBody(size_bytes=self.size_bytes, pieces=self._pieces)
        return RequestFile(body=body, sha256=self._sha256.hexdigest())

    def remove(self) -> None:
        """See the port."""
        with suppress(OSError):  # a left-over is removed by the next run
            self._close()
            self._files.unlink(self._path)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._files.close(self._descriptor)

    def _pieces(self) -> Iterator[bytes]:
        """The whole file. A file that changed meanwhile is none of ours: what was ordered must be what was recorded."""
        offset, seen = 0, sha256()
        for piece in pieces_of(self._files, self._path):
            offset += len(piece)
            if offset > self.size_bytes:
                break
            seen.update(piece)
            yield piece
        if offset != self.size_bytes or seen.digest() != self._sha256.digest():
            raise broken(self._path, OSError(EIO, "the file of requests was changed while it was being sent"))


class BatchFolder:
    """Implements `core.batch_ports.BatchFiles`; the folder is made when it is first needed."""

    def __init__(self, folder: Path, *, files: Files = DISK, clean: Clean = bytes) -> None:
        self._folder = folder
        self._files = files
        self._clean = clean

    def __repr__(self) -> str:
        return f"<BatchFolder {self._folder / BATCHES}>"

    def begin_requests(self, between: bytes) -> RequestFileWriter:
        """See the port."""
        try:
            return RequestFileWriter(self._made(), between, files=self._files)
        except OSError as error:
            raise broken(self._folder / BATCHES, error) from error

    def begin(self, name: str) -> ResultFileWriter:
        """See the port."""
        try:
            return ResultFileWriter(self._made(), name, files=self._files, clean=self._clean)
        except OSError as error:
            raise broken(self._folder / BATCHES / name, error) from error

    def stands(self, file: ResultFile) -> bool:
        """See the port."""
        path, size_bytes, digest = file
        found, length = sha256(), 0
        for piece in self._pieces(path):
            found.update(piece)
            length += len(piece)
        return length == size_bytes and found.hexdigest() == digest

    def lines(self, path: str) -> Iterator[tuple[int, bytes]]:
        """See the port."""
        offset, rest = 0, b""
        for piece in self._pieces(path):
            first, *others = piece.split(b"\n")
            rest += first
            for other in others:
                yield offset, rest
                offset += len(rest) + 1
                rest = other
        if rest:
            yield offset, rest

    def line_at(self, path: str, offset: int, size_bytes: int) -> bytes:
        """See the port."""
        place = self._folder / path
        try:
            descriptor = self._files.open_read(place)
            try:
                return self._files.read_at(descriptor, size_bytes, offset)
            finally:
                self._files.close(descriptor)
        except OSError as error:
            raise broken(place, error) from error

    def set_aside(self, name: str, lines: Iterable[bytes]) -> str:
        """See the port."""
        try:
            write_pieces(self._files, self._made() / name, (b"%b\n" % line for line in lines), PRIVATE_FILE)
        except OSError as error:
            raise broken(self._folder / BATCHES / name, error) from error
        return f"{BATCHES}/{name}"

    def _made(self) -> Path:
        folder = self._folder / BATCHES
        if not self._files.exists(folder):
            self._files.make_folder(folder, PRIVATE_FOLDER)
            self._files.fsync_folder(self._folder)
        return folder

    def _pieces(self, path: str) -> Iterator[bytes]:
        """The whole file; nothing where there is none."""
        place = self._folder / path
        try:
            if not self._files.exists(place):
                return
        except OSError as error:
            raise broken(place, error) from error
        yield from pieces_of(self._files, place)


def pieces_of(files: Files, path: Path) -> Iterator[bytes]:
    """The whole file, piece by piece. Raises StoreBrokenError."""
    offset = 0
    try:
        descriptor = files.open_read(path)
        try:
            while piece := files.read_at(descriptor, _STEP_BYTES, offset):
                offset += len(piece)
                yield piece
        finally:
            files.close(descriptor)
    except OSError as error:
        raise broken(path, error) from error
