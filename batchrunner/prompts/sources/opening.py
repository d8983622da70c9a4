"""How a source's files are opened, here or in a store, on a hub, on a web server. The only module that has fsspec.

A remote file is read piece by piece, as one that lies here. Its state (etag, version, size, time) is asked for when it
is opened and again at its end: what ended early, or was replaced meanwhile, is an error and never a shorter source. A
piece that does not come is asked for again after a while, in smaller pieces. A server that is silent has some seconds,
and a person is told meanwhile. Credentials come from where the store's own package takes them: the environment, and
never from a job.
"""

import io
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO, Final, TypeVar, cast

from batchrunner.core.places import PLACES, address_without_query, is_remote, scheme_of
from batchrunner.core.values import dataclass
from batchrunner.prompts.sources.base import BadSourceError, require_regular
from batchrunner.prompts.sources.remote_faults import AGAIN, cause_of, fault_of, is_final

_PIECE_BYTES: Final = 4 << 20
"""Of one request; the readers above ask for less at a time."""
WAITS_S: Final = [0.5, 2.0, 5.0]
"""Before each further try to get a piece. The packages of some stores try several times themselves."""
_STATES: Final = ("ETag", "etag", "e_tag", "md5Hash", "crc32c", "content_md5", "Content-MD5", "blob_id", "generation")
"""What stores call that which changes with the content."""
_TIMES: Final = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated")
SILENCE_S: Final = 10.0
"""So long a server may send nothing."""
PATIENCE_S: Final = 12.0
"""No further try begins after so many seconds without a piece."""
TELL_S: Final = 5.0
"""After so long without a piece a person is told."""
_SMALL_BYTES: Final = 64 << 10
"""Of a request after one that brought nothing: what such a server sends before it stands still may be little."""
waiting_voice: ContextVar[Callable[[str], None] | None] = ContextVar("waiting_voice", default=None)
"""Who is told that a server is waited for; called from another thread. Nobody by default."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the store says of a file."""

    size: int | None
    state: tuple[str, ...]
    """Equal for equal content; empty where the store says nothing but a size."""


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file of a path or an address, to be read from its beginning; seekable. Blocks.

    Raises:
        BadSourceError: it is no regular file, or in a store that cannot be reached or does not have it; while a remote
            one is read also, when it ended early or was changed.
        OSError: a path at which nothing can be read.
    """
    if not is_remote(path):
        require_regular(path)
        with open(path, "rb") as local:  # noqa: PTH123 - as messages show it
            yield local
        return
    with _worded(path):
        file = _RemoteFile(path)
    try:
        yield cast("BinaryIO", file)
    finally:
        file.close()


def found(address: str) -> Found:
    """The state of a file now. Blocks.

    Raises:
        BadSourceError: as `opened`.
    """
    with _worded(address):
        return _found(_again(lambda: _store_of(address).info(address), address))


def is_folder(address: str) -> bool:
    """Whether objects lie below this address; false also where that cannot be known. Blocks."""
    if not PLACES[scheme_of(address)].has_folders:
        return False
    try:
        with _worded(address):
            return bool(_store_of(address).isdir(address))
    except BadSourceError:
        return False


def listed(address: str) -> dict[str, Found]:
    """The files directly below a folder, by name. Blocks.

    Raises:
        BadSourceError: as `opened`.
    """
    with _worded(address):
        store = _store_of(address)
        entries = _again(lambda: store.ls(address.rstrip("/"), detail=True), address)
        own = store._strip_protocol(address).rstrip("/")  # noqa: SLF001 - how fsspec names what it lists
    return {
        str(entry["name"]).rsplit("/", 1)[-1]: _found(entry)
        for entry in entries
        if entry.get("type") == "file"
        and str(entry["name"]).rstrip("/") != own
        and not str(entry["name"]).endswith("/")
    }


def content_of(address: str, most: int) -> bytes:
    """At most so many bytes of a small file. Blocks.

    Raises:
        BadSourceError: as `opened`.
    """
    with _worded(address):
        store = _store_of(address)
        return bytes(_again(lambda: store.cat_file(address, end=most), address))


class _RemoteFile(io.RawIOBase):
    """A file of a store, whose end is its end."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._store = _store_of(address)
        self._most = _PIECE_BYTES
        """Of a request."""
        self._grows = True
        """Requests become larger again while they are answered; not after a second one that brought nothing."""
        self._before = _found(_again(lambda: self._store.info(address), address))
        self._file = _again(self._opened, address)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)  # of an empty file of a web server it returns None
        return int(self._file.tell())

    def readinto(self, into: Any) -> int:
        piece = self.read(len(into))
        into[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_PIECE_BYTES), b""))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        with _worded(self._address, self._far):
            pieces, missing = list[bytes](), size
            while missing and (piece := self._piece(self.tell(), missing)):
                pieces.append(piece)
                missing -= len(piece)
            if size and not pieces:
                self._look_at_end()
        return b"".join(pieces)

    def _far(self) -> str:
        size = self._before.size
        return f" after {self.tell():,}{'' if size is None else f' of {size:,}'} bytes"

    def _piece(self, place: int, most: int) -> bytes:
        """Bytes from a place of the file on. After a try that brought nothing they are asked for in small requests."""
        if self._most >= _PIECE_BYTES:
            try:
                with _with_notice(self._address, place):
                    return bytes(self._file.read(most))
            except Exception as error:  # each store raises exceptions of its own
                if is_final(cause_of(error)) or self._before.size is None:
                    raise
            self._most, self._grows = _SMALL_BYTES, True
        piece = _again(lambda: self._small(place, most), self._address, came=place)
        self.seek(place + len(piece))
        return piece

    def _small(self, place: int, most: int) -> bytes:
        """One request."""
        whole = self._before.size or 0
        end = min(place + min(most, self._most), whole)
        if place >= end:
            return b""
        try:
            piece = bytes(self._store.cat_file(self._address, start=place, end=end))
        except Exception:
            self._most, self._grows = _SMALL_BYTES, False
            raise
        if self._grows:
            self._most *= 2
        if len(piece) == whole:  # a web server that gives whole files only
            piece = piece[place:end]
        if len(piece) > end - place:
            raise BadSourceError("was sent in other pieces than were asked for", hint=AGAIN)
        return piece

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _opened(self) -> Any:
        options = {} if self._before.size is None else {"cache_type": "readahead", "block_size": _PIECE_BYTES}
        file = self._store.open(self._address, "rb", **options)
        if not file.seekable():
            return self._spooled(file)
        if PLACES[scheme_of(self._address)].may_lack_ranges and (self._before.size or 0) > 1:
            try:
                with self._store.open(self._address, "rb", cache_type="none", block_size=1) as tried:
                    tried.seek(1)
                    tried.read(1)
            except ValueError:  # fsspec's word for a server that gives whole files only
                file.close()
                return self._spooled(self._store.open(self._address, "rb", block_size=0))
        return file

    @staticmethod
    def _spooled(file: Any) -> Any:
        """The whole file, in a temporary one without a name: its server gives no parts, and a pass may take hours."""
        with file:
            spool = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with this file
            try:
                shutil.copyfileobj(file, spool, _PIECE_BYTES)
            except BaseException:
                spool.close()
                raise
        spool.seek(0)
        return spool

    def _look_at_end(self) -> None:
        size = self._before.size
        if size is not None and self.tell() < size:
            raise BadSourceError(f"ended after {self.tell():,} of {size:,} bytes", hint=AGAIN)
        if self._before != _found(_again(lambda: self._store.info(self._address), self._address, came=self.tell())):
            raise BadSourceError("was changed while it was read", hint=AGAIN)


def _found(info: Mapping[str, Any]) -> Found:
    size = info.get("size")
    state = next((str(info[name]) for name in _STATES if info.get(name)), "")
    changed = next((str(_moment(info[name])) for name in _TIMES if info.get(name)), "")
    # A time alone says little: most stores give whole seconds. Beside a size it is what local files are trusted by.
    known = (state,) if state else (changed,) if changed and size is not None else ()
    return Found(size=None if size is None else int(size), state=known)


def _moment(value: object) -> object:
    """The same for the same moment, in whatever zone it is told."""
    stamp = getattr(value, "timestamp", None)
    return stamp() if callable(stamp) else value


def _store_of(address: str) -> Any:
    """The fsspec file system of an address, which remembers no listings."""
    scheme = scheme_of(address)
    try:
        import fsspec  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        hint = "install it with: pip install 'batchrunner[remote]'"
        raise BadSourceError(f"cannot be read without fsspec, which reads {scheme}://", hint=hint) from error
    try:
        store = fsspec.filesystem(scheme, use_listings_cache=False, **_patience(scheme))
    except ImportError as error:
        package = PLACES[scheme].package
        hint = f"install it with: pip install {package}"
        raise BadSourceError(f"cannot be read without {package}, which reads {scheme}://", hint=hint) from error
    store.invalidate_cache()
    if (loop := getattr(store, "loop", None)) is not None:  # of connections that broke it would print warnings
        loop.set_exception_handler(lambda *_: None)
    return store


def _patience(scheme: str) -> dict[str, Any]:
    """What a store's package is told of time limits; what the environment says comes first (`FSSPEC_HTTP_…`)."""
    import fsspec  # noqa: PLC0415 - as in `_store_of`

    options: dict[str, Any] = {}
    if scheme in {"http", "https"}:
        import aiohttp  # noqa: PLC0415 - fsspec takes its limits in this form; without them a silent server has 5 minutes

        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        options = {"client_kwargs": {"timeout": limits}}
    elif scheme == "s3":
        limits_s = {"connect_timeout": SILENCE_S, "read_timeout": SILENCE_S}
        options = {"config_kwargs": {**limits_s, "retries": {"max_attempts": 1}}}
    return {**options, **fsspec.config.conf.get(scheme, {})}


def _again(what: Callable[[], _T], address: str, *, came: int = 0) -> _T:
    """What is asked of a store, a few times where it may come later, and told to a person while it does not come.

    `came` are the bytes of the file that came before.
    """
    began = time.monotonic()
    for wait_s in WAITS_S:
        try:
            with _with_notice(address, came):
                return what()
        except Exception as error:  # each store raises exceptions of its own
            if is_final(cause_of(error)) or time.monotonic() - began > PATIENCE_S:
                raise
            time.sleep(wait_s)
    with _with_notice(address, came):
        return what()


@contextmanager
def _with_notice(address: str, came: int) -> Iterator[None]:
    """Say once in a while that nothing comes, for as long as the block goes."""
    say = waiting_voice.get()
    if say is None:
        yield
        return
    far = f"{came:,} bytes came so far" if came else "nothing came so far"
    words = f"{address_without_query(address)}: waiting for the server ({far}); it is asked again if it stays silent"
    timer = threading.Timer(TELL_S, say, [words])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _worded(address: str, far: Callable[[], str] = str) -> Iterator[None]:
    """Whatever a store raises, as a `BadSourceError` in words for a person; `far` says how far it came."""
    try:
        yield
    except BadSourceError:
        raise
    except Exception as error:
        raise fault_of(address, cause_of(error), far=far(), silence_s=SILENCE_S) from error
