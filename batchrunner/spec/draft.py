"""A job file half way: its types checked, what was wrong left out, so that the other rules still speak.

That is how one reading finds every mistake: a misspelt key in `limits` does not hide that two prompts share an id.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import PurePath

from pydantic import TypeAdapter, ValidationError

from batchrunner.core.job import Json, Kind
from batchrunner.spec.models import JobSpec, PromptSpec
from batchrunner.spec.places import Fault, KeyPath
from batchrunner.spec.reader import Reading
from batchrunner.spec.translate import faults_of, path_of

_STAND_INS: dict[str, Json] = {"prompts": {"prompt": "-"}, "messages": {"role": "user", "content": "-"}}
"""What stands in for a broken entry of a list, so that the places of the others stay."""
_ROUNDS = 4
_ENTRIES = TypeAdapter(list[PromptSpec])


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What can be said of a job so far. `left_out` tells which keys are broken and therefore unknown."""

    spec: JobSpec
    reading: Reading
    left_out: frozenset[KeyPath]
    file: str
    folder: PurePath
    simulate: bool
    faults: tuple[Fault, ...] = field(default=())
    entries: tuple[PromptSpec, ...] = field(init=False)
    """The listed prompts; none for a source."""

    def __post_init__(self) -> None:
        listed = self.spec.prompts if isinstance(self.spec.prompts, list) else ()
        # Every rule goes through them: 100,000 are made once, and those that `spec` has already are not checked again.
        texts = iter(_ENTRIES.validate_python([{"prompt": entry} for entry in listed if isinstance(entry, str)]))
        made = tuple(next(texts) if isinstance(entry, str) else entry for entry in listed)
        object.__setattr__(self, "entries", made)

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
        return tuple(self.spec.models or ()) or ((self.spec.model,) if self.spec.model else ())


def drafted(reading: Reading, *, file: str, folder: PurePath, simulate: bool, known: Sequence[Fault] = ()) -> Draft:
    """The draft of a mapping, with the faults of its types. `known` are faults whose paths need no second word."""
    tree = _copied_mapping(reading.tree) if isinstance(reading.tree, dict) else {}
    spoken = {fault.path for fault in known}
    faults: list[Fault] = []
    left_out: set[KeyPath] = {fault.path for fault in known if fault.path}
    spec = JobSpec()
    for turn in range(_ROUNDS):
        try:
            spec = JobSpec.model_validate(tree)
            break
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
        if turn == 0:
            faults = [fault for fault in faults_of(details, reading.written) if fault.path not in spoken]
        for detail in details:
            missing = detail["type"] == "missing"
            left_out.add(_leave_out(tree, path_of(detail)[:-1] if missing else path_of(detail)))
    else:
        left_out.update((key,) for key in tree)
    return Draft(
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
