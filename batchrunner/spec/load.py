"""The whole way from a job file to a `Job`, in order: read, change, check types, check rules, resolve.

Refuses to stop at the first mistake: a file that is YAML at all is checked to its end.
"""

import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import is_address
from batchrunner.core.job import Check, Job, Json
from batchrunner.core.values import replace
from batchrunner.spec.check_keys import check_faults, checks_of
from batchrunner.spec.job_errors import KeyPath, SpecError, decoded, dotted, hidden, parsed_path, short, shows_secret
from batchrunner.spec.partial import PartialSpec, drafted, real_name
from batchrunner.spec.pydantic_errors import suggestion
from batchrunner.spec.reader import Reading, read_yaml
from batchrunner.spec.resolve import resolved
from batchrunner.spec.rules import ADDRESS_HINT, ADDRESS_PROBLEM, broken_rules

# `--set a.b=VALUE`: changes to a job file from the command line. Refuses what it cannot place.

OPTION = "--set"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""What the system makes of bytes of the command line that are no text."""


def apply(overrides: Sequence[str], reading: Reading) -> tuple[list[SpecError], set[KeyPath]]:
    """Put every override into `reading`; gives what is wrong with them, and the paths that were set."""
    faults: list[SpecError] = []
    given: set[KeyPath] = set()
    for override in overrides:
        if _HALF_CHARACTER.search(override):
            problem = "is not a setting: it has a byte that is not UTF-8"
            faults.append(SpecError(path=(OPTION,), problem=problem, expected="text that could be in a job file"))
            continue
        written_path, equals, text = override.partition("=")
        path = parsed_path(written_path.strip())
        if not equals or path is None:
            # Its text is not repeated: it may be a secret that was meant as a value.
            problem = (
                "is not a setting: its key cannot be read" if equals else "is not a setting: the equals sign is missing"
            )
            faults.append(SpecError(path=(OPTION,), problem=problem, expected="KEY=VALUE, like limits.concurrency=4"))
            continue
        value = parsed_value(text)
        given.add(path)
        faults.extend(replace(fault, path=(*path, *fault.path), line=None) for fault in value.faults)
        _forget(path, reading)
        reading.written.update({(*path, *rest): written for rest, written in value.written.items()})
        if not isinstance(reading.tree, dict) or not put(reading.tree, path, value.tree):
            faults.append(SpecError(path=path, problem="cannot be set: there is no mapping or entry to hold it"))
    return faults, given


def parsed_value(text: str) -> Reading:
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


def put(tree: dict[str, Json], path: KeyPath, value: Json) -> bool:
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


# Finds keys and tokens that stand literally in a job file, wherever they stand. Says where, never what.


def leak_faults(tree: Json) -> Iterator[SpecError]:
    """A fault for every value or key that has a literal secret in it."""
    texts: list[str] = []
    _gather(tree, texts)
    if any(map(shows_secret, texts)):  # almost never: where they stand is asked only then
        yield from _found(tree, ())


def _gather(tree: Json, texts: list[str]) -> None:
    match tree:
        case str():
            texts.append(tree)
        case list():
            for entry in tree:
                _gather(entry, texts)
        case dict():
            texts.extend(tree)
            for value in tree.values():
                _gather(value, texts)
        case _:
            return


def _found(tree: Json, path: KeyPath) -> Iterator[SpecError]:
    match tree:
        case str() if shows_secret(tree):
            yield _leak(path)
        case list():
            for place, entry in enumerate(tree):
                yield from _found(entry, (*path, place))
        case dict():
            for key, value in tree.items():
                if shows_secret(key):
                    yield _leak((*path, key))
                yield from _found(value, (*path, key))
        case _:
            return


def _leak(path: KeyPath) -> SpecError:
    return SpecError(
        path=path,
        problem="looks like a key or token",
        hint="keys must not be in a job file: put it into an environment variable and name that in "
        "`provider.api_key_env`",
    )


MAX_FILE_BYTES = 8 * 1024 * 1024


def load_job(path: str, *, overrides: Sequence[str] = (), simulate: bool = False, out: str | None = None) -> Job:
    """Read a job file.

    Args:
        path: the job file, relative to the working directory or absolute.
        overrides: `limits.concurrency=4` and the like, as `--set` takes them; values are YAML scalars or `[…]`, `{…}`.
        simulate: ask nothing real; the results then go to a folder that ends with `.simulated`.
        out: the output folder, taken as it is; None: from the job.

    Raises:
        JobMistakesError: with every mistake of the file and of the overrides, in the file's order.
    """
    with _collected_later():
        return _loaded(path, overrides=overrides, simulate=simulate, out=out)


def load_checks(path: str) -> tuple[tuple[Check, ...], PurePath]:
    """The `checks:` of a YAML file, and the folder that they are relative to; its other keys are not looked at.

    Raises:
        JobMistakesError: with every mistake of the checks.
    """
    reading = _reading(path)
    tree = reading.tree if isinstance(reading.tree, dict) else {}
    faults = [fault for fault in reading.faults if not fault.path or fault.path[0] == _CHECKS]
    if not faults and not tree.get(_CHECKS):
        faults.append(SpecError(path=(), problem="has no `checks`", expected="`checks:` with a list of checks", line=1))
    partial = drafted(
        replace(reading, tree={_CHECKS: tree.get(_CHECKS)}), file=path, folder=real_name(path).parent, simulate=False
    )
    faults += partial.faults
    faults += [fault for fault in check_faults(partial.spec.checks) if partial.knows(_CHECKS)]
    if faults:
        raise _error(path, faults, reading, given=set())
    return checks_of(partial.spec.checks), partial.folder


_CHECKS: Final = "checks"


def _loaded(path: str, *, overrides: Sequence[str], simulate: bool, out: str | None) -> Job:
    if out is not None and not out.strip():
        raise JobMistakesError((Mistake(problem="is empty", file="--out", expected="a folder"),))
    if out is not None and is_address(out):
        problem = f"is the address {short(out)}; {ADDRESS_PROBLEM}"
        raise JobMistakesError((Mistake(problem=problem, file="--out", hint=ADDRESS_HINT),))
    reading = _reading(path)
    faults = [*reading.faults]
    mapping = isinstance(reading.tree, dict)
    if not mapping and not faults:
        problem = "is empty" if reading.tree is None else "is not a mapping"
        faults.append(SpecError(path=(), problem=problem, expected="keys like `provider:` and `prompts:`", line=1))
    if not mapping:
        raise _error(path, faults, reading, given=set())
    wrong_settings, given = apply(overrides, reading)
    faults = [*reading.faults, *wrong_settings, *leak_faults(reading.tree)]
    partial = drafted(reading, file=path, folder=real_name(path).parent, simulate=simulate, known=faults)
    faults += [*partial.faults, *further_faults(partial)]
    if faults:
        raise _error(path, faults, reading, given=given, partial=_partial(partial, faults, out=out))
    return replace(resolved(partial, out=out), overridden=tuple(sorted(map(dotted, given))))


@contextmanager
def _collected_later() -> Iterator[None]:
    """Without the cyclic collector: all that a job file makes lives to the end, and to look through it took half.

    How much that can be is bounded by `MAX_FILE_BYTES`.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _partial(partial: PartialSpec, faults: Iterable[SpecError], *, out: str | None) -> Job | None:
    """The job as far as it is right, when its prompts can be checked without it inventing mistakes."""
    broken = {fault.path[0] for fault in faults if len(fault.path) == 1} | {
        path[0] for path in partial.left_out if path
    }
    if broken & _DECIDE_PROMPTS or any(fault.path[:2] in _NO_SOURCE for fault in faults):
        return None
    try:
        return resolved(partial, out=out)
    except Exception:  # noqa: BLE001 - a draft with faults promises nothing; what is wrong with it is known already
        return None


_NO_SOURCE = (("prompts", "file"), ("prompts", "run"))
_DECIDE_PROMPTS = {
    "kind",
    "provider",
    "prompts",
    "matrix",
    "messages",
    "model",
    "models",
    "system",
    "images",
    "files",
    "params",
}
"""Keys without which the prompts would be others: what is said of those would be guesses."""


def further_faults(partial: PartialSpec) -> Iterable[SpecError]:
    """Faults of the rules, without those about a key already known to be wrong or misspelt."""
    hints = {fault.hint for fault in partial.faults if fault.hint}
    return [
        fault
        for fault in broken_rules(partial)
        if fault.path not in partial.left_out
        and not (fault.problem == "is missing" and suggestion(dotted(fault.path)) in hints)
    ]


def _reading(path: str) -> Reading:
    """The file's YAML; what keeps it from being read stands in `faults`."""
    problem = None
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "is a folder, not a job file"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    else:
        text = decoded(raw)
        if len(raw) > MAX_FILE_BYTES:
            problem = f"is larger than {MAX_FILE_BYTES // 2**20} MiB; put the prompts into a file of their own"
        elif isinstance(text, SpecError):
            return Reading(faults=[text])
        else:
            return read_yaml(text)
    return Reading(faults=[SpecError(path=(), problem=problem)])


def _error(
    path: str, faults: Iterable[SpecError], reading: Reading, *, given: set[KeyPath], partial: Job | None = None
) -> JobMistakesError:
    """All faults as mistakes, in the file's order, settings last, without secrets and without repetitions."""
    mistakes = [_mistake(path, fault, reading, given) for fault in faults]
    ordered = sorted(mistakes, key=lambda mistake: (mistake.file != path, mistake.line or 0))
    return JobMistakesError(tuple(dict.fromkeys(ordered)), partial=partial)


def _mistake(path: str, fault: SpecError, reading: Reading, given: set[KeyPath]) -> Mistake:
    set_here = fault.path[:1] == (OPTION,) or bool(given and any(fault.path[: len(key)] == key for key in given))
    key_path = () if fault.path[:1] == (OPTION,) else fault.path
    line = fault.line if fault.file is not None else fault.line or _line(reading, fault.path)
    return Mistake(
        problem=hidden(fault.problem),
        file=fault.file or (OPTION if set_here else path),
        line=None if set_here else line,
        key=hidden(dotted(key_path)) or None,
        expected=fault.expected and hidden(fault.expected),
        hint=fault.hint and hidden(fault.hint),
    )


def line_of(path: str, key: KeyPath) -> int | None:
    """The line of a key in a job file that was read before, for mistakes that are found later. Blocks."""
    return _line(_reading(path), key)


def _line(reading: Reading, path: KeyPath) -> int | None:
    """The line of the path, or of the nearest thing around it that stands in the file."""
    while path and path not in reading.lines:
        path = path[:-1]
    return reading.lines.get(path) if path else None
