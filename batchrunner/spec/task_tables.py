"""`provider.task`: the table of a task server, one that is shipped or a file beside the job.

Reads YAML with its lines and says every mistake with file, line and key.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, replace
from batchrunner.spec.job_errors import KeyPath, SpecError, decoded, header_problem, hidden, shows_secret
from batchrunner.spec.partial import PartialSpec, first_bytes, located
from batchrunner.spec.pydantic_errors import meant
from batchrunner.spec.reader import Reading, read_yaml

if TYPE_CHECKING:
    from batchrunner.core.task_table import TaskTable

_SHIPPED: Final = Path(__file__).parents[1] / "providers" / "tables"
_ENDINGS: Final = (".yaml", ".yml")
_MOST_BYTES: Final = 256 * 1024
_MOST_BODY_BYTES: Final = 4 * 1024 * 1024
KEY: Final = ("provider", "task")
BODY: Final = ("provider", "body_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBody:
    """The body of `provider.body_file`, or what is wrong with it."""

    body: dict[str, Json] | None = None
    faults: tuple[SpecError, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTable:
    """The table, or what is wrong with it."""

    table: "TaskTable | None" = None
    faults: tuple[SpecError, ...] = ()


def shipped_tables() -> tuple[str, ...]:
    """The names of the tables that come with batchrunner."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def shipped_table(name: str) -> "TaskTable":
    """A table that comes with batchrunner. Blocks."""
    table = _read(_SHIPPED / f"{name}.yaml", name).table
    assert table is not None, f"{name} is a sound table"
    return table


def found_table(partial: PartialSpec, name: str) -> FoundTable:
    """The table that the job names: a shipped one, or a file relative to the job file. Blocks; never raises."""
    if not name.endswith(_ENDINGS):
        known = shipped_tables()
        if name in known:
            return _read(_SHIPPED / f"{name}.yaml", str(_SHIPPED / f"{name}.yaml"))
        problem = f"names no table that comes with batchrunner: {name[:80]!r}"
        expected = f"{', '.join(known)}; or a file that ends with .yaml"
        return FoundTable(faults=(SpecError(path=KEY, problem=problem, expected=expected, hint=meant(name, known)),))
    return _read(Path(located(partial.folder, name)), located(partial.folder, name))


def found_body(partial: PartialSpec, name: str) -> FoundBody:
    """The JSON object in a file relative to the job file. Blocks; never raises."""
    shown = located(partial.folder, name)
    try:
        raw = first_bytes(Path(shown), _MOST_BODY_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = f"names a file that cannot be read: {shown}: {getattr(error, 'strerror', None) or error}"
        return FoundBody(faults=(SpecError(path=BODY, problem=problem),))
    text = decoded(raw)
    if isinstance(text, SpecError):
        return FoundBody(faults=(replace(text, file=shown),))
    fault = SpecError(path=(), problem="is no body", expected="a JSON object", line=1, file=shown)
    if len(raw) > _MOST_BODY_BYTES:
        return FoundBody(faults=(replace(fault, problem=f"is larger than {_MOST_BODY_BYTES // 2**20} MiB"),))
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        return FoundBody(faults=(replace(fault, problem=f"is not JSON: {error.msg}", line=error.lineno),))
    except (ValueError, RecursionError) as error:
        return FoundBody(faults=(replace(fault, problem=f"is not JSON: {error}"),))
    if not isinstance(body, dict):
        return FoundBody(faults=(fault,))
    if isinstance(body.get("nodes"), list) and isinstance(body.get("links"), list):
        problem = "is the drawing of a graph, which ComfyUI's API does not take"
        return FoundBody(faults=(replace(fault, problem=problem, hint="save it with `Export (API)`"),))
    faults = tuple(replace(found, file=shown) for found in _keys_within(body, ()))
    return FoundBody(faults=faults) if faults else FoundBody(body=body)


def _read(path: Path, shown: str) -> FoundTable:
    try:
        stat = path.stat()
        return _read_once(path, shown, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except (OSError, ValueError):
        return _read_once(path, shown, ())


@lru_cache(maxsize=8)
def _read_once(path: Path, shown: str, _stamp: tuple[int, ...]) -> FoundTable:
    """As long as the file stays what it is: several rules of one job ask for its table."""
    try:
        raw = first_bytes(path, _MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = f"names a table that cannot be read: {shown}: {getattr(error, 'strerror', None) or error}"
        return FoundTable(faults=(SpecError(path=KEY, problem=problem),))
    text = decoded(raw)
    if len(raw) > _MOST_BYTES:
        text = SpecError(path=(), problem=f"is larger than {_MOST_BYTES // 1024} KiB; no table is")
    reading = Reading(faults=[text]) if isinstance(text, SpecError) else read_yaml(text)
    tree, faults = reading.tree, list(reading.faults)
    if not faults and not isinstance(tree, dict):
        faults.append(
            SpecError(path=(), problem="is no table", expected="a mapping with `base`, `submit`, `poll`, …", line=1)
        )
    if faults or not isinstance(tree, dict):
        return FoundTable(faults=tuple(_placed(fault, reading, shown) for fault in faults))
    from batchrunner.core.task_table import TaskTable  # noqa: PLC0415 - msgspec, for jobs with a table only
    from batchrunner.core.task_table_faults import table_of  # noqa: PLC0415 - msgspec, for jobs with a table only

    made = table_of(tree)
    wrong = () if isinstance(made, TaskTable) else made
    faults = [
        *(
            SpecError(path=fault.path, problem=hidden(fault.problem), expected=fault.expected, hint=fault.hint)
            for fault in wrong
        ),
        *_keys_within(tree, ()),
        *(_headers(made) if isinstance(made, TaskTable) else ()),
    ]
    if faults or not isinstance(made, TaskTable):
        return FoundTable(faults=tuple(_placed(fault, reading, shown) for fault in faults))
    return FoundTable(table=made)


def _keys_within(tree: Json, path: KeyPath) -> Iterator[SpecError]:
    match tree:
        case str() if shows_secret(tree):
            yield SpecError(
                path=path, problem="looks like a key or token", hint="name its environment variable instead"
            )
        case list():
            for place, entry in enumerate(tree):
                yield from _keys_within(entry, (*path, place))
        case dict():
            for name, entry in tree.items():
                yield from _keys_within(entry, (*path, name))
        case _:
            return


def _headers(table: "TaskTable") -> Iterator[SpecError]:
    for part, headers in (("submit", table.submit.headers), ("poll", table.poll.headers)):
        for name, value in headers.items():
            if (problem := header_problem(name, value)) is not None:
                hint = "the key belongs into `auth`" if "key" in problem else "leave it out, or write it otherwise"
                yield SpecError(path=(part, "headers", name), problem=problem, hint=hint)


def _placed(fault: SpecError, reading: Reading, shown: str) -> SpecError:
    path = fault.path
    while path and path not in reading.lines:
        path = path[:-1]
    line = fault.line or (reading.lines.get(path) if path else None)
    return SpecError(
        path=fault.path, problem=fault.problem, expected=fault.expected, hint=fault.hint, line=line, file=shown
    )
