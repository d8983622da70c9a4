"""A folder: a row for each file in it, in the order in which people count (`2.png` before `10.png`).

Every row has `path` (relative to the folder), `name` (without its ending) and `suffix`; a text file has its `text` too,
a picture, a PDF and sound their `file`, which `images` or `files` takes.
Hidden files are nothing, and subfolders are not entered: what lies deeper
may be another kind of thing, and a row too many is paid for. A file of any other kind is a bad row, for a question
about a picture must not be sent without the picture. Only names are kept in memory; texts are read one by one.
"""

import os
import re
import stat
from collections.abc import Iterator

from batchrunner.core.job import Json
from batchrunner.core.places import is_remote
from batchrunner.core.text import has_surrogate
from batchrunner.prompts.sources.base import (
    BATCH_BYTES,
    BATCH_ROWS,
    LINE_LIMIT_BYTES,
    PLAIN,
    BadRow,
    BadRowError,
    BadSourceError,
    Batch,
    SourceRow,
    TextForm,
)
from batchrunner.prompts.sources.opening import content_of, listed
from batchrunner.prompts.sources.text_files import decoded, encoding_of

TEXT = "text"
"""The column with a text file's content."""
FILE = "file"
"""The column with the path of a picture, a document or a sound."""
_TEXTS = (".txt", ".md")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_FILES = (".pdf", ".wav", ".mp3", ".flac", ".m4a", ".mp4", ".mpeg", ".mpga", ".oga", ".ogg", ".webm")
_BOM = "\ufeff"
_DIGITS = re.compile(r"([0-9]+)")


def read_folder(path: str, form: TextForm = PLAIN) -> Iterator[Batch]:
    """A row for every file that is not hidden."""
    names = names_of(path)
    if not names:
        raise BadSourceError("has no files", hint="hidden files do not count, and subfolders are not entered")
    rows: list[SourceRow | BadRow] = []
    size = 0
    for number, name in enumerate(names, 1):
        try:
            row = SourceRow(number, None, _values(path, name, form), f"/{name}")
            size += len(str(row.values.get(TEXT, "")))
            rows.append(row)
        except BadRowError as error:
            shown = name.encode("utf-8", "replace").decode()
            rows.append(BadRow(number=number, line=None, where=f"/{shown}", problem=str(error), hint=error.hint))
        if size > BATCH_BYTES or len(rows) == BATCH_ROWS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def names_of(path: str) -> list[str]:
    """The files that are rows, in the order in which they are. Raises OSError, or BadSourceError of a remote folder."""
    if is_remote(path):
        return sorted((name for name in listed(path) if not name.startswith(".")), key=_counted)
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    return sorted(names, key=_counted)


def _counted(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """What names are ordered by: numbers as numbers, letters without their case; the whole name if that is the same."""
    return tuple(_parts(name)), name


def _parts(name: str) -> Iterator[tuple[int, str]]:
    for place, part in enumerate(_DIGITS.split(name)):
        yield (int(part), "") if place % 2 else (-1, part.casefold())


def _values(path: str, name: str, form: TextForm) -> dict[str, Json]:
    if has_surrogate(name):
        raise BadRowError("the file's name is not UTF-8")
    dot = name.rfind(".")
    stem, suffix = (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")
    values: dict[str, Json] = {"path": name, "name": stem, "suffix": suffix}
    kind = suffix.lower()
    if kind in _PICTURES or kind in _FILES:
        return {**values, FILE: name}
    if kind in _TEXTS:
        return {**values, TEXT: _text(f"{path.rstrip('/')}/{name}", form)}
    known = f"text ({', '.join(_TEXTS)}), a picture ({', '.join(_PICTURES)}), a document or sound ({', '.join(_FILES)})"
    raise BadRowError(f"the file is none of these: {known}")


def _text(path: str, form: TextForm) -> str:
    """The file's text, without the line end that editors append."""
    if is_remote(path):
        return _decoded(content_of(path, LINE_LIMIT_BYTES + 1), form)
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - a path of its own is dear for a small text
    except OSError:
        is_file = False
    if not is_file:
        raise BadRowError("it is not a regular file")
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
            raw = file.read(LINE_LIMIT_BYTES + 1) or b""
            while more := file.read(LINE_LIMIT_BYTES + 1 - len(raw)):
                raw += more
    except OSError as error:
        raise BadRowError(f"the file cannot be read: {error.strerror or error}") from error
    return _decoded(raw, form)


def _decoded(raw: bytes, form: TextForm) -> str:
    if len(raw) > LINE_LIMIT_BYTES:
        raise BadRowError(f"the file is longer than {LINE_LIMIT_BYTES >> 20} MiB")
    return decoded(raw, "file", form, encoding_of(raw, form.encoding)).removeprefix(_BOM).rstrip("\r\n")
