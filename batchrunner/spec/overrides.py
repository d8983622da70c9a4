"""`--set a.b=VALUE`: changes to a job file from the command line. Refuses what it cannot place."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from batchrunner.core.job import Json
from batchrunner.spec.places import Fault, KeyPath, parsed_path
from batchrunner.spec.reader import Reading, read_yaml

OPTION = "--set"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""What the system makes of bytes of the command line that are no text."""


def apply(overrides: Sequence[str], reading: Reading) -> tuple[list[Fault], set[KeyPath]]:
    """Put every override into `reading`; gives what is wrong with them, and the paths that were set."""
    faults: list[Fault] = []
    given: set[KeyPath] = set()
    for override in overrides:
        if _HALF_CHARACTER.search(override):
            problem = "is no setting: it holds a byte that is no UTF-8"
            faults.append(Fault(path=(OPTION,), problem=problem, expected="text that a job file could hold"))
            continue
        written_path, equals, text = override.partition("=")
        path = parsed_path(written_path.strip())
        if not equals or path is None:
            # Its text is not repeated: it may be a secret that was meant as a value.
            problem = "is no setting: its key cannot be read" if equals else "is no setting: the equals sign is missing"
            faults.append(Fault(path=(OPTION,), problem=problem, expected="KEY=VALUE, like limits.concurrency=4"))
            continue
        value = _value(text)
        given.add(path)
        faults.extend(replace(fault, path=(*path, *fault.path), line=None) for fault in value.faults)
        _forget(path, reading)
        reading.written.update({(*path, *rest): written for rest, written in value.written.items()})
        if not isinstance(reading.tree, dict) or not _put(reading.tree, path, value.tree):
            faults.append(Fault(path=path, problem="cannot be set: there is no mapping or entry to hold it"))
    return faults, given


def _value(text: str) -> Reading:
    """VALUE as a YAML scalar or a flow collection; whatever reads as anything else is text."""
    if text.startswith(("[", "{", '"', "'")) and not text.startswith("{{"):
        return read_yaml(text)
    reading = read_yaml(text)
    if isinstance(reading.tree, dict | list) or (reading.tree is None and reading.faults):
        return Reading(tree=text)
    return reading


def _forget(path: KeyPath, reading: Reading) -> None:
    """What stood below the path in the file stands there no more."""
    depth = len(path)
    for old in [old for old in reading.written if old[:depth] == path]:
        del reading.written[old]
    reading.faults[:] = [fault for fault in reading.faults if not path or fault.path[:depth] != path]


def _put(tree: dict[str, Json], path: KeyPath, value: Json) -> bool:
    """Place the value, making mappings on the way; `provider: NAME` becomes a mapping with that preset."""
    here: Json = tree
    for step, following in pairwise(path):
        below = _step(here, step)
        if path[0] == step == "provider" and isinstance(below, str):
            below = {"preset": below}
        if below is None and isinstance(following, str):
            below = {}
        if below is None or not _store(here, step, below):
            return False
        here = below
    return _store(here, path[-1], value)


def _step(holder: Json, step: str | int) -> Json:
    match holder, step:
        case dict(), str():
            return holder.get(step)
        case list(), int() if step < len(holder):
            return holder[step]
        case _:
            return None


def _store(holder: Json, step: str | int, value: Json) -> bool:
    match holder, step:
        case dict(), str():
            holder[step] = value
        case list(), int() if step < len(holder):
            holder[step] = value
        case _:
            return False
    return True
