"""The ports of batches: how they are ordered and read, and the files that they have on the disk.

As of `core.ports`, of which they are a part: protocols of what the engine needs from outside.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from batchrunner.core.http import Decoder, Request
from batchrunner.core.item import Item
from batchrunner.core.outcome import Problem, SendOutcome
from batchrunner.core.remote_batch import BatchLine, BatchLook, BatchPage, RequestFile, ResultFile


class BatchDialect(Protocol):
    """A wire protocol of batches: files of requests that are ordered as a whole. Pure."""

    @property
    def most_items(self) -> int:
        """Requests of a batch."""

    @property
    def most_bytes(self) -> int:
        """Of the file of requests."""

    @property
    def is_known(self) -> bool:
        """Whether the provider is known to have batches."""

    @property
    def finds_again(self) -> bool:
        """Whether a batch is found in the account's list by what was known before it was ordered.

        Otherwise the list tells the size and the time of each, and with that at most that none can be it.
        """

    @property
    def uploads(self) -> bool:
        """Whether requests are uploaded as a file before the order; otherwise they stand in the order."""

    @property
    def between(self) -> bytes:
        """What stands between two lines of the file."""

    def line(self, item: Item) -> bytes:
        """The item's line in the file of requests, newline included."""

    def upload(self, requests: RequestFile, *, name: str) -> Request:
        """The POST of the file of requests; free, and may be repeated."""

    def uploaded(self) -> Decoder[str | Problem]:
        """A fresh reader for its reply: the file's id."""

    def create(self, file: str, *, key: str, model: str, requests: RequestFile) -> Request:
        """The paid POST that orders the batch of an uploaded file, with what names our intent.

        Where nothing is uploaded, it has the requests in it.
        """

    def look(self, batch_id: str) -> Request:
        """The GET that asks how a batch stands."""

    def cancel(self, batch_id: str) -> Request:
        """The POST that asks for a batch's end; free, and may be repeated. What it has finished stays paid for."""

    def looked(self) -> Decoder[BatchLook | Problem]:
        """A fresh reader for the reply to `create`, `look` and `cancel`."""

    def listing(self, after: str | None) -> Request:
        """The GET of a page of the account's batches."""

    def listed(self, after: str | None = None) -> Decoder[BatchPage | Problem]:
        """A fresh reader for the reply to the same `listing`."""

    def content(self, file: str) -> Request:
        """The GET of a result file."""

    def downloaded(self, write: Callable[[bytes], None]) -> Decoder[Problem | None]:
        """A fresh reader for its reply: gives each piece to `write`, and comes to None when the file is whole."""

    def read(self, line: bytes) -> BatchLine:
        """A line of a result file. Never raises."""

    def answer(self, item: Item, line: BatchLine, *, received_at: float) -> SendOutcome:
        """What the reply in a line comes to."""


class FileBeingWritten(Protocol):
    """A result file on its way to the disk."""

    def write(self, data: bytes) -> None:
        """The next piece. Raises StoreBrokenError."""

    def finish(self) -> ResultFile:
        """Durable under its name when this returns; blocks. Raises StoreBrokenError."""

    def give_up(self) -> None:
        """Nothing is left of it."""


class RequestsBeingWritten(Protocol):
    """A file of requests that grows, line by line. What a killed process leaves of it, the next run removes."""

    @property
    def size_bytes(self) -> int:
        """Of all lines so far."""

    @property
    def is_due(self) -> bool:
        """Enough is in memory: `flush` is to be called."""

    def add(self, line: bytes) -> None:
        """The next line, newline included; in memory until `flush`."""

    def flush(self) -> None:
        """What was added is in the file when this returns; blocks. Raises StoreBrokenError."""

    def finish(self) -> RequestFile:
        """Nothing more comes; it can be read as often as it is sent. Blocks; raises StoreBrokenError."""

    def remove(self) -> None:
        """Nothing is left of it. Blocks."""


class BatchFiles(Protocol):
    """`batches/`: files of batches. Every call blocks, and raises StoreBrokenError."""

    def begin_requests(self, between: bytes) -> RequestsBeingWritten:
        """A new file of requests, with these bytes between its lines."""

    def begin(self, name: str) -> FileBeingWritten:
        """A new file in the folder."""

    def stands(self, file: ResultFile) -> bool:
        """Whether the file is there with the bytes that were recorded."""

    def lines(self, path: str) -> Iterator[tuple[int, bytes]]:
        """(offset, line without its newline) of a result file, in order."""

    def line_at(self, path: str, offset: int, size_bytes: int) -> bytes:
        """One of these lines again."""

    def set_aside(self, name: str, lines: Iterable[bytes]) -> str:
        """Keep lines of results that belong to no item; the path below the run's directory."""
