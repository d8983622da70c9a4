"""What the keys of a source must be to each other and to the rest of the job."""

from collections.abc import Iterator
from os.path import normpath
from pathlib import PurePosixPath

from batchrunner.core.item import is_address
from batchrunner.core.places import PLACES, address_without_query, holds_secret, scheme_of
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.partial import PartialSpec, is_there, located
from batchrunner.spec.source_keys import DrawSpec, SourceSpec

_KINDS = ("file", "run", "count")
"""Keys that say where rows come from; a source has one of them."""
_NO_RUNS = (".", "..", "/")
_ONLY_FOR = {"file": ("encoding", "delimiter"), "run": ("unfinished",)}
"""Keys that mean something for one kind of source alone."""


def source_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """What is wrong with `prompts:` as a source; nothing where it is a list."""
    source = partial.spec.prompts
    if not isinstance(source, SourceSpec):
        return
    yield from _kind_faults(partial, source)
    if source.file is not None:
        yield from _file_faults(partial, source, source.file)
    yield from _draw_faults(partial, source)
    is_drawn = source.count is not None and source.file is None and source.run is None
    if is_drawn and not source.draw and partial.knows("prompts", "draw"):
        yield SpecError(path=("prompts", "count"), problem="needs `draw`: without it, all of them are the same")
    if source.run is not None:
        yield from _run_faults(source.run)
    if source.template and partial.given("messages"):
        problem = "cannot be combined with `messages`, which set the same"
        yield SpecError(path=("prompts", "template"), problem=problem, expected="one of the two")
    if source.images is not None and partial.given("images"):
        problem = "cannot be combined with `images` of the job"
        yield SpecError(path=("prompts", "images"), problem=problem, expected="one of the two")


def _kind_faults(partial: PartialSpec, source: SourceSpec) -> Iterator[SpecError]:
    given = [kind for kind in _KINDS if getattr(source, kind) is not None]
    if not given and all(partial.knows("prompts", kind) for kind in _KINDS):
        expected = "a file or folder, or `run:` with the results folder of another job"
        yield SpecError(path=("prompts", "file"), problem="is missing", expected=expected)
    for kind in given[1:]:
        yield SpecError(path=("prompts", kind), problem=f"cannot be combined with `{given[0]}`", expected="one of them")
    for kind, keys in _ONLY_FOR.items():
        for key in keys if given and kind not in given else ():
            if getattr(source, key) is not None:
                yield SpecError(path=("prompts", key), problem=f"is for a source with `{kind}` only")


def _run_faults(run: str) -> Iterator[SpecError]:
    path: KeyPath = ("prompts", "run")
    if is_address(run):
        problem = f"is the address {short(run)}; a run is read from a local folder"
        yield SpecError(path=path, problem=problem, hint="copy it here first")
    elif "\0" in run or run.startswith("~") or normpath(run) in _NO_RUNS:
        yield SpecError(path=path, problem="cannot be the folder of a run", expected="a path like outputs/NAME")


def store_faults(key: str, address: str | None) -> Iterator[SpecError]:
    """What is wrong with `output.upload` or `output.ledger`."""
    if address is None:
        return
    path: KeyPath = ("output", key)
    place = PLACES.get(scheme_of(address))
    if place is None or not place.is_written:
        known = ", ".join(f"{scheme}://" for scheme, one in PLACES.items() if one.is_written)
        shown = short(address_without_query(address))
        yield SpecError(path=path, problem=f"is {shown}, where nothing can be written", expected=f"{known}…")
    elif holds_secret(address) or "?" in address:
        hint = "keys come from the environment"
        yield SpecError(path=path, problem="is an address with more than a bucket and a path in it", hint=hint)


def _draw_faults(partial: PartialSpec, source: SourceSpec) -> Iterator[SpecError]:
    for name, choice in source.draw.items():
        if not name.isidentifier():
            yield SpecError(path=("prompts", "draw", name), problem="cannot be a name in templates")
        if not isinstance(choice, DrawSpec):
            continue
        path: KeyPath = ("prompts", "draw", name, "file")
        if is_address(choice.file):
            yield from _address_faults(path, choice.file)
        elif not is_there(located(partial.folder, choice.file), as_file=True):
            yield SpecError(
                path=path, problem=f"there is no file {choice.file}", hint="paths are relative to the job file"
            )


def _address_faults(path: KeyPath, address: str) -> Iterator[SpecError]:
    """Whether the address is one that can be read is known when it is read; what it is, before."""
    known = ", ".join(f"{scheme}://" for scheme in PLACES)
    if scheme_of(address) not in PLACES:
        hint = "name a file of this machine by its path" if address.lower().startswith("file:") else None
        problem = f"is {short(address_without_query(address))}, which is no address that can be read"
        yield SpecError(path=path, problem=problem, expected=f"a path, or an address with {known}", hint=hint)
    elif holds_secret(address):
        yield SpecError(
            path=path,
            problem="is an address with a password or signature in it, which would stand in the results",
            hint="keys come from the environment; what can be read only with a signed address, download first",
        )


def _file_faults(partial: PartialSpec, source: SourceSpec, file: str) -> Iterator[SpecError]:
    if is_address(file):
        yield from _address_faults(("prompts", "file"), file)
    elif not is_there(located(partial.folder, file)):
        folder = str(partial.folder)
        hint = f"paths are relative to the job file, in {folder}" if folder != "." else None
        yield SpecError(path=("prompts", "file"), problem=f"there is no file or folder {file}", hint=hint)
    ending = PurePosixPath(address_without_query(file)).suffix.lower()
    encoding: KeyPath = ("prompts", "encoding")
    if source.encoding is not None and not _is_text_encoding(source.encoding):
        yield SpecError(
            path=encoding,
            problem=f"is {short(source.encoding)}, which is not a text encoding that Python knows",
            expected="a name like gb18030, big5, shift_jis, utf-16-le or cp1252",
        )
    elif source.encoding is not None and ending == ".parquet":
        yield SpecError(path=encoding, problem="is for files of text; Parquet has an encoding of its own")
    delimiter: KeyPath = ("prompts", "delimiter")
    if source.delimiter is not None and ending != ".csv":
        hint = "a .tsv file is always split at tabs" if ending == ".tsv" else None
        yield SpecError(path=delimiter, problem="is for .csv files only", hint=hint)
    elif source.delimiter is not None and source.delimiter in '\r\n"\0':
        yield SpecError(path=delimiter, problem=f"cannot be {short(source.delimiter)}", expected="like ;")


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return isinstance(b"".decode(name), str)
    except (LookupError, ValueError, TypeError):
        return False
