"""How a source's files are opened, here or in a store, on a hub, on a web server. The only module that has fsspec.

A remote file is read piece by piece, as one that lies here. Its state (etag, version, size, time) is asked for when it
is opened and again at its end: what ended early, or was replaced meanwhile, is an error and never a shorter source. A
piece that does not come is asked for again after a while. Credentials come from where the store's own package
takes them: the environment, and never from a job.
"""

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import urlsplit

from batchrunner.core.places import PLACES, address_without_query, is_remote, scheme_of
from batchrunner.core.values import dataclass
from batchrunner.prompts.sources.base import BadSourceError, require_regular

_PIECE_BYTES: Final = 4 << 20
"""Of one request; the readers above ask for less at a time."""
WAITS_S: Final = [0.5, 2.0, 5.0]
"""Before each further try to get a piece. The packages of some stores try several times themselves."""
_STATES: Final = ("ETag", "etag", "e_tag", "md5Hash", "crc32c", "content_md5", "Content-MD5", "blob_id", "generation")
"""What stores call that which changes with the content."""
_TIMES: Final = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated")
_NO_CREDENTIALS: Final = (
    "NoCredentials",
    "PartialCredentials",
    "DefaultCredentials",
    "GatedRepo",
    "CredentialRetrieval",
)
"""Of the names of exceptions."""
_SHOWN_CHARS: Final = 200

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
        return _found(_again(lambda: _store_of(address).info(address)))


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
        entries = _again(lambda: store.ls(address.rstrip("/"), detail=True))
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
        return bytes(_again(lambda: store.cat_file(address, end=most)))


class _RemoteFile(io.RawIOBase):
    """A file of a store, whose end is its end."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._store = _store_of(address)
        self._before = _found(_again(lambda: self._store.info(address)))
        self._file = _again(self._opened)

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
        with _worded(self._address):
            place = self.tell()

            def piece() -> bytes:
                self.seek(place)
                return bytes(self._file.read(size))

            read = _again(piece)
            if size and not read:
                self._look_at_end()
        return read

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _opened(self) -> Any:
        options = {} if self._before.size is None else {"cache_type": "readahead", "block_size": _PIECE_BYTES}
        file = self._store.open(self._address, "rb", **options)
        if not file.seekable():
            return self._spooled(file)
        if PLACES[scheme_of(self._address)].may_lack_ranges:
            try:
                file.read(1)
                file.seek(0)
            except ValueError:  # fsspec's word for a server that gives whole files only
                file.close()
                return self._spooled(self._store.open(self._address, "rb", block_size=0))
        return file

    @staticmethod
    def _spooled(file: Any) -> Any:
        """The whole file, in a temporary one without a name: its server gives no parts, and a pass may take hours."""
        with file:
            spool = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with this file
            shutil.copyfileobj(file, spool, _PIECE_BYTES)
        spool.seek(0)
        return spool

    def _look_at_end(self) -> None:
        size = self._before.size
        if size is not None and self.tell() < size:
            raise BadSourceError(f"ended after {self.tell():,} of {size:,} bytes", hint=_AGAIN)
        if self._before != _found(_again(lambda: self._store.info(self._address))):
            raise BadSourceError("was changed while it was read", hint=_AGAIN)


_AGAIN: Final = "nothing is wrong with the job: run the command again"


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
        store = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        package = PLACES[scheme].package
        hint = f"install it with: pip install {package}"
        raise BadSourceError(f"cannot be read without {package}, which reads {scheme}://", hint=hint) from error
    store.invalidate_cache()
    return store


_IN_BROWSER: Final = "look at the address: open it in a browser"
_PUBLIC_ONLY: Final = "no credentials are sent to web servers: download the file, and name the copy in `file`"
_FINAL: Final = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, BadSourceError)
"""What no second try changes."""


def _again(what: Callable[[], _T]) -> _T:
    """What is asked of a store, a few times where it may come later."""
    for wait_s in WAITS_S:
        try:
            return what()
        except Exception as error:  # each store raises exceptions of its own
            cause = _cause_of(error)
            if isinstance(cause, _FINAL) or _is_refusal(cause) or _lacks_credentials(cause) or _is_changed(cause):
                raise
            time.sleep(wait_s)
    return what()


@contextmanager
def _worded(address: str) -> Iterator[None]:
    """Whatever a store raises, as a `BadSourceError` in words for a person."""
    try:
        yield
    except BadSourceError:
        raise
    except Exception as error:
        raise _fault(address, _cause_of(error)) from error


def _fault(address: str, error: Exception) -> BadSourceError:
    words, credentials = _words_of(error, address), PLACES[scheme_of(address)].credentials
    if isinstance(error, FileNotFoundError):
        where = urlsplit(address).netloc
        problem = f"is not there: {words}" if " " in words else f"is not there: `{where}` has nothing of this name"
        hint = "look at the bucket and the path; names in stores are case-sensitive" if credentials else _IN_BROWSER
        return BadSourceError(problem, hint=hint)
    if _lacks_credentials(error):
        hint = f"set {credentials} in the environment"
        return BadSourceError("cannot be read: there are no credentials for it", hint=hint)
    if isinstance(error, PermissionError) or _is_refusal(error):
        hint = f"look at what these credentials may read: {credentials}" if credentials else _PUBLIC_ONLY
        return BadSourceError(f"may not be read: {words}", hint=hint)
    if _is_changed(error):
        return BadSourceError("was changed while it was read", hint=_AGAIN)
    return BadSourceError(f"cannot be read: {words}", hint=_AGAIN if _is_network(error) else None)


def _words_of(error: Exception, address: str) -> str:
    """The first line of what a store says, without the part of an address that may hold a signature."""
    text = str(error).partition("\n")[0] or type(error).__name__
    query = urlsplit(address).query
    return (text.replace(address, address_without_query(address)).replace(query, "…") if query else text)[:_SHOWN_CHARS]


def _cause_of(error: Exception) -> Exception:
    """What really happened: for web servers fsspec says "not found" of whatever keeps it from asking."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    status = getattr(cause, "status", None)
    return cause if isinstance(cause, OSError | TimeoutError) or status not in {None, 404, 410} else error


def _is_refusal(error: Exception) -> bool:
    return getattr(error, "status", None) in {401, 403}


def _lacks_credentials(error: Exception) -> bool:
    return any(word in type(error).__name__ for word in _NO_CREDENTIALS)


def _is_changed(error: Exception) -> bool:
    return type(error).__name__ == "FileExpired"


def _is_network(error: Exception) -> bool:
    return isinstance(error, OSError) or any(word in type(error).__name__ for word in ("Connect", "Timeout", "Client"))
