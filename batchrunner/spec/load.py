"""The whole way from a job file to a `Job`, in order: read, change, check types, check rules, resolve.

Refuses to stop at the first mistake: a file that is YAML at all is checked to its end.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import is_address
from batchrunner.core.job import Job
from batchrunner.spec import overrides as settings
from batchrunner.spec.draft import Draft, drafted
from batchrunner.spec.hiding import hidden
from batchrunner.spec.leaks import leak_faults
from batchrunner.spec.named_files import real_name
from batchrunner.spec.places import Fault, KeyPath, dotted, short
from batchrunner.spec.reader import Reading, read_yaml
from batchrunner.spec.resolve import resolved
from batchrunner.spec.rules import ADDRESS_HINT, ADDRESS_PROBLEM, broken_rules
from batchrunner.spec.syntax import decoded
from batchrunner.spec.translate import suggestion

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
        faults.append(Fault(path=(), problem=problem, expected="keys like `provider:` and `prompts:`", line=1))
    if not mapping:
        raise _error(path, faults, reading, given=set())
    wrong_settings, given = settings.apply(overrides, reading)
    faults = [*reading.faults, *wrong_settings, *leak_faults(reading.tree)]
    draft = drafted(reading, file=path, folder=real_name(path).parent, simulate=simulate, known=faults)
    faults += [*draft.faults, *_further(draft)]
    if faults:
        raise _error(path, faults, reading, given=given, partial=_partial(draft, faults, out=out))
    return resolved(draft, out=out)


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


def _partial(draft: Draft, faults: Iterable[Fault], *, out: str | None) -> Job | None:
    """The job as far as it is right, when its prompts can be checked without it inventing mistakes."""
    broken = {fault.path[0] for fault in faults if len(fault.path) == 1} | {path[0] for path in draft.left_out if path}
    if broken & _DECIDE_PROMPTS or any(fault.path[:2] == ("prompts", "file") for fault in faults):
        return None
    try:
        return resolved(draft, out=out)
    except Exception:  # noqa: BLE001 - a draft with faults promises nothing; what is wrong with it is known already
        return None


_DECIDE_PROMPTS = {"kind", "provider", "prompts", "matrix", "messages", "model", "models", "system", "images", "params"}
"""Keys without which the prompts would be others: what is said of those would be guesses."""


def _further(draft: Draft) -> Iterable[Fault]:
    """Faults of the rules, without those that speak of a key already known to be wrong, or misspelt."""
    hints = {fault.hint for fault in draft.faults if fault.hint}
    return [
        fault
        for fault in broken_rules(draft)
        if fault.path not in draft.left_out
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
        elif isinstance(text, Fault):
            return Reading(faults=[text])
        else:
            return read_yaml(text)
    return Reading(faults=[Fault(path=(), problem=problem)])


def _error(
    path: str, faults: Iterable[Fault], reading: Reading, *, given: set[KeyPath], partial: Job | None = None
) -> JobMistakesError:
    """All faults as mistakes, in the file's order, settings last, without secrets and without repetitions."""
    mistakes = [_mistake(path, fault, reading, given) for fault in faults]
    ordered = sorted(mistakes, key=lambda mistake: (mistake.file != path, mistake.line or 0))
    return JobMistakesError(tuple(dict.fromkeys(ordered)), partial=partial)


def _mistake(path: str, fault: Fault, reading: Reading, given: set[KeyPath]) -> Mistake:
    set_here = fault.path[:1] == (settings.OPTION,) or bool(
        given and any(fault.path[: len(key)] == key for key in given)
    )
    key_path = () if fault.path[:1] == (settings.OPTION,) else fault.path
    return Mistake(
        problem=hidden(fault.problem),
        file=settings.OPTION if set_here else path,
        line=None if set_here else fault.line or _line(reading, fault.path),
        key=hidden(dotted(key_path)) or None,
        expected=fault.expected and hidden(fault.expected),
        hint=fault.hint and hidden(fault.hint),
    )


def _line(reading: Reading, path: KeyPath) -> int | None:
    """The line of the path, or of the nearest thing around it that stands in the file."""
    while path and path not in reading.lines:
        path = path[:-1]
    return reading.lines.get(path) if path else None
