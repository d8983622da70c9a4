"""`schema:` of a job: read, and checked to be a JSON Schema that can be used with nothing fetched from anywhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from batchrunner.core.job import Json
from batchrunner.core.json_schema import SchemaFault, prepare
from batchrunner.spec.job_errors import KeyPath, SpecError, decoded, dotted, short
from batchrunner.spec.partial import PartialSpec, first_bytes, located
from batchrunner.spec.reader import read_yaml

MAX_SCHEMA_BYTES = 1024 * 1024


def answer_schema(partial: PartialSpec) -> dict[str, Json] | None:
    """The schema of a draft without faults."""
    found, _faults = _read(partial)
    return found


def schema_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """What is wrong with the schema or with its file."""
    found, faults = _read(partial)
    yield from faults
    if found is None or faults:
        return
    place = ("schema",) if isinstance(partial.spec.answer_schema, dict) else ()
    where = "" if place else f"in {partial.spec.answer_schema}: "
    lost = [(path, reference) for path, reference in _references(found, ()) if not _resolves(found, reference)]
    for path, reference in lost:
        inside = "" if place else f"{dotted(path)} "
        problem = f"{where}{inside}refers to {short(reference)}, which is not in the schema"
        yield SpecError(
            path=("schema", *path) if place else ("schema",), problem=problem, expected="a reference like #/$defs/name"
        )
    ready = prepare(found) if not lost else None
    if isinstance(ready, SchemaFault):
        inside = "" if place or not ready.path else f"{dotted(ready.path)} "
        yield SpecError(
            path=("schema", *ready.path) if place else ("schema",), problem=f"{where}{inside}{ready.problem}"
        )


def _read(partial: PartialSpec) -> tuple[dict[str, Json] | None, list[SpecError]]:
    given = partial.spec.answer_schema
    if given is None:
        return None, []
    if isinstance(given, dict):
        inline: dict[str, Json] = dict(given)
        return inline, []
    return _from_file(Path(located(partial.folder, given)), shown=given)


def _from_file(path: Path, *, shown: str) -> tuple[dict[str, Json] | None, list[SpecError]]:
    def fault(problem: str, expected: str | None = None) -> tuple[None, list[SpecError]]:
        return None, [SpecError(path=("schema",), problem=problem, expected=expected)]

    try:
        raw = first_bytes(path, MAX_SCHEMA_BYTES + 1)
    except (OSError, ValueError) as error:
        return fault(f"the file {shown} cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(raw) > MAX_SCHEMA_BYTES:
        return fault(f"the file {shown} is larger than {MAX_SCHEMA_BYTES} bytes")
    text = decoded(raw)
    if isinstance(text, SpecError):
        return fault(f"{shown}:{text.line}: {text.problem}")
    tree: Json
    if path.suffix.lower() == ".json":
        try:
            tree = json.loads(text, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            return fault(f"{shown}:{error.lineno}: is not valid JSON: {error.msg}")
        except (ValueError, RecursionError) as error:
            return fault(f"{shown}: is not valid JSON: {error}")
    else:
        reading = read_yaml(text)
        if reading.faults:
            first = reading.faults[0]
            line = first.line or reading.lines.get(first.path)
            return fault(f"{shown}:{line}: {dotted(first.path)} {first.problem}")
        tree = reading.tree
    if not isinstance(tree, dict):
        return fault(f"the file {shown} contains no schema", "a mapping")
    return tree, []


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _references(tree: Json, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    match tree:
        case dict():
            for key, value in tree.items():
                if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                    yield (*path, key), value
                elif key not in ("const", "enum", "default", "examples"):
                    yield from _references(value, (*path, key))
        case list():
            for place, entry in enumerate(tree):
                yield from _references(entry, (*path, place))
        case _:
            return


def _resolves(schema: Json, reference: str) -> bool:
    """True for the schema itself, a JSON pointer into it, or an anchor in it; nothing is ever fetched."""
    if not reference.startswith("#"):
        return False
    pointer = reference[1:]
    if pointer and not pointer.startswith("/"):
        return pointer in set(_anchors(schema))
    here: Json = schema
    for raw in pointer.split("/")[1:]:
        step = raw.replace("~1", "/").replace("~0", "~")
        match here:
            case dict() if step in here:
                here = here[step]
            case list() if step.isdecimal() and int(step) < len(here):
                here = here[int(step)]
            case _:
                return False
    return True


def _anchors(tree: Json) -> Iterator[str]:
    match tree:
        case dict():
            for key, value in tree.items():
                if key in ("$anchor", "$dynamicAnchor") and isinstance(value, str):
                    yield value
                else:
                    yield from _anchors(value)
        case list():
            for entry in tree:
                yield from _anchors(entry)
        case _:
            return
