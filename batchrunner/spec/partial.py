"""A job file half way: its types checked, what was wrong left out, so that the other rules can still be checked.

That is how one reading finds every mistake: a misspelt key in `limits` does not hide that two prompts share an id.
"""

import os
import stat
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path, PurePath

from pydantic import ValidationError

from batchrunner.core.job import Json, Kind
from batchrunner.core.places import is_remote
from batchrunner.core.values import dataclass, field, set_once
from batchrunner.spec.fallback_keys import FallbackSpec, models_in
from batchrunner.spec.job_errors import KeyPath, SpecError
from batchrunner.spec.models import JobSpec, PromptSpec
from batchrunner.spec.pydantic_errors import faults_of, path_of
from batchrunner.spec.reader import Reading

# Where the files that a job names lie, and where its results go, wherever the person stands; and how one is read.
#
# A job file that is a link is the file that it leads to: the same job has the same sources and the same outputs under
# every name, so that nothing is paid for twice.

_JOBS = "jobs"
"""A folder of this name holds the job files of the project around it."""
_TWO_UP = str(PurePath("..", ".."))


def real_name(file: str) -> PurePath:
    """The job file itself: where links lead to, as it was named where there are none; in `.` when it is no file.

    Pipes (`/dev/stdin`, `<(...)`) have no folder of their own: the working directory is theirs.
    """
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):
            return PurePath(PurePath(file).name)
        real = Path(file).resolve()
        return PurePath(file) if real == Path(file).absolute() else real
    except (OSError, ValueError):
        return PurePath(file)


def first_bytes(path: Path, most: int) -> bytes:
    """At most so many bytes of a file that the job names.

    Raises:
        OSError: also for what is no regular file: to open a pipe is to wait for somebody who writes into it.
        ValueError: a name that no file can have.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a regular file")
    with path.open("rb") as file:
        return file.read(most)


def project_folder(folder: PurePath) -> str:
    """The folder of the project whose job file lies in `folder`: that one or, where it is called `jobs`, its parent."""
    project = PurePath(os.path.realpath(folder))
    return str(project.parent if project.name == _JOBS else project)


def folder_of(path: str) -> str:
    """The path itself where it is a folder, else the one in which it lies."""
    try:
        return path if Path(path).is_dir() else os.path.dirname(path) or os.curdir  # noqa: PTH120 - text in, text out
    except (OSError, ValueError):
        return path


def results_folder(folder: PurePath, name: str) -> str:
    """The path of a results folder that a job file in `folder` names; relative to the working directory where short.

    It lies below the project: `folder` itself or, where that is called `jobs`, the one around it.
    """
    try:
        place = os.path.normpath(PurePath(project_folder(folder)) / name)
        short = os.path.relpath(place)
    except (OSError, ValueError):  # the working directory is gone, or on another drive
        return os.path.normpath(Path(folder).absolute() / name)
    return place if PurePath(name).is_absolute() or short.startswith(_TWO_UP) else short


def former_folders(folder: PurePath, name: str, *, but: str) -> tuple[str, ...]:
    """Where earlier versions may have put these results, run from here or from the job file's folder."""
    taken = {os.path.realpath(but)}
    found: list[str] = []
    for place in (name, located(folder, name)):
        real = os.path.realpath(place)
        if real not in taken:
            taken.add(real)
            found.append(place)
    return tuple(found)


def located(folder: PurePath, name: str) -> str:
    """The path of a file that a job file in `folder` names: absolute, or relative to the working directory.

    An address, like `s3://bucket/questions.jsonl`, is its own.
    """
    if is_remote(name):
        return name
    return os.path.normpath(folder / name)


def is_there(path: str, *, as_file: bool = False) -> bool:
    """True when something stands there, a file if asked; a name that no file can have is not there."""
    try:
        return Path(path).is_file() if as_file else Path(path).exists()
    except (OSError, ValueError):
        return False


_STAND_INS: dict[str, Json] = {"prompts": {"prompt": "-"}, "messages": {"role": "user", "content": "-"}}
"""What stands in for a broken entry of a list, so that the places of the others stay."""
_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSpec:
    """What is known of a job so far. `left_out` has the keys that are broken and therefore unknown."""

    spec: JobSpec
    reading: Reading
    left_out: frozenset[KeyPath]
    file: str
    folder: PurePath
    simulate: bool
    faults: tuple[SpecError, ...] = field(default=())
    entries: tuple[PromptSpec, ...] = field(init=False)
    """The listed prompts; none for a source."""

    def __post_init__(self) -> None:
        listed = self.spec.prompts if isinstance(self.spec.prompts, list) else ()
        # Every rule goes through them: 100,000 are made once, and those that `spec` has already are not checked again.
        made = tuple(PromptSpec(prompt=entry) if isinstance(entry, str) else entry for entry in listed)
        set_once(self, "entries", made)

    def given(self, *path: str | int) -> bool:
        """True when the file has this key, be its value right or wrong."""
        here: Json = self.reading.tree
        for step in path:
            match here, step:
                case dict(), str() if here.get(step) is not None:
                    here = here[step]
                case list(), int() if step < len(here):
                    here = here[step]
                case _:
                    return False
        return True

    def knows(self, *path: str) -> bool:
        """False when this key, or what holds it, was wrong and left out."""
        return not any(path[:depth] in self.left_out for depth in range(len(path) + 1))

    @property
    def kind(self) -> Kind:
        """Chat or image."""
        return self.spec.kind

    @property
    def models(self) -> tuple[str, ...]:
        """The models, however they were given."""
        return models_in(self.spec.models) or ((self.spec.model,) if self.spec.model else ())

    @property
    def first_models(self) -> tuple[str, ...]:
        """Those that every prompt goes to."""
        return self.models[:1] if isinstance(self.spec.models, FallbackSpec) else self.models


def drafted(
    reading: Reading, *, file: str, folder: PurePath, simulate: bool, known: Sequence[SpecError] = ()
) -> PartialSpec:
    """The draft of a mapping, with the faults of its types. `known` are faults whose paths need no second word."""
    tree = _copied_mapping(reading.tree) if isinstance(reading.tree, dict) else {}
    reported = {fault.path for fault in known}
    faults: list[SpecError] = []
    left_out: set[KeyPath] = {fault.path for fault in known if fault.path}
    spec = JobSpec()
    for turn in range(_ROUNDS):
        try:
            spec = JobSpec.model_validate(tree)
            break
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
        if turn == 0:
            faults = [fault for fault in faults_of(details, reading.written) if fault.path not in reported]
        for detail in details:
            missing = detail["type"] == "missing"
            left_out.add(_leave_out(tree, path_of(detail)[:-1] if missing else path_of(detail)))
    else:
        left_out.update((key,) for key in tree)
    return PartialSpec(
        spec=spec,
        reading=reading,
        left_out=frozenset(left_out),
        file=file,
        folder=folder,
        simulate=simulate,
        faults=tuple(faults),
    )


def _copied_mapping(tree: dict[str, Json]) -> dict[str, Json]:
    return {key: value if isinstance(value, str) else _copied(value) for key, value in tree.items()}


def _copied(tree: Json) -> Json:
    """What a reading's tree needs to be copied: mappings and lists, in which nothing stands twice."""
    match tree:
        case dict():
            return _copied_mapping(tree)
        case list():
            return [entry if isinstance(entry, str) else _copied(entry) for entry in tree]
        case _:
            return tree


def _leave_out(tree: dict[str, Json], path: KeyPath) -> KeyPath:
    """Take the value at the path away, and say which path is gone: a list goes whole unless it has a stand-in."""
    if not path:
        return path
    holder: Json = tree
    for step in path[:-1]:
        match holder, step:
            case dict(), str() if step in holder:
                holder = holder[step]
            case list(), int() if step < len(holder):
                holder = holder[step]
            case _:
                return _leave_out(tree, path[:-1])
    match holder, path[-1]:
        case dict(), str() as key:
            holder.pop(key, None)
            return path
        case list(), int() as place if path[0] in _STAND_INS and place < len(holder) and len(path) == len(path[:2]):
            holder[place] = deepcopy(_STAND_INS[str(path[0])])
            return path
        case _:
            return _leave_out(tree, path[:-1])
