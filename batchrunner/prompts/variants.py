"""What distinguishes the items of one prompt: combinations of the matrix, models and replicas, each with its suffix."""

import json
from collections.abc import Iterable, Iterator
from itertools import product
from math import prod
from typing import TypeAlias
from unicodedata import category

from batchrunner.core.job import Job, Json, Listing
from batchrunner.core.values import dataclass
from batchrunner.prompts.ids import slug
from batchrunner.prompts.render import Expression, TemplateFault, Templates

_LABEL_CHARS = 40
_KEPT = 1_000
"""Combinations that are made once for a pass; of a larger matrix they are made anew for every row."""
_NOTHING = "item"


@dataclass(slots=True, kw_only=True)
class Combination:
    """One combination of the matrix."""

    suffix: str
    vars: dict[str, Json]
    """The values of names that a template uses."""
    params: dict[str, Json]
    """The values of all other names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A value with the suffix that it adds to ids; empty where there is nothing to distinguish."""

    suffix: str
    value: str


class Matrix:
    """The combinations of a job's matrix; one empty combination without a matrix.

    `variables` are the names that a template uses: those are no params.
    """

    def __init__(self, job: Job, variables: frozenset[str]) -> None:
        self._names = tuple(job.matrix)
        self._variables = variables
        self._axes = [tuple(zip(_suffixes(name, values), values, strict=True)) for name, values in job.matrix.items()]
        self.is_kept = prod(map(len, self._axes)) <= _KEPT
        """True when every iteration gives the same combinations, not only equal ones."""
        self._kept = tuple(self._combinations()) if self.is_kept else ()
        self._variables_kept = [combination.vars for combination in self._kept] if variables else [{}]

    def __repr__(self) -> str:
        return f"<Matrix {' × '.join(f'{len(axis)} {n}' for n, axis in zip(self._names, self._axes, strict=True))}>"

    def __iter__(self) -> Iterator[Combination]:
        """Every combination in the file's order, the last name fastest."""
        return iter(self._kept) if self.is_kept else self._combinations()

    def _combinations(self) -> Iterator[Combination]:
        for chosen in product(*self._axes):
            values = {name: value for name, (_, value) in zip(self._names, chosen, strict=True)}
            yield Combination(
                suffix="".join(suffix for suffix, _ in chosen),
                vars={name: value for name, value in values.items() if name in self._variables},
                params={name: value for name, value in values.items() if name not in self._variables},
            )

    def variables(self) -> Iterable[dict[str, Json]]:
        """The variables of every combination; a single empty set when no template uses any."""
        if self.is_kept or not self._variables:
            return self._variables_kept
        return (combination.vars for combination in self)


def models_of(job: Job) -> tuple[Labelled, ...]:
    """The job's models; several of them, and those that are asked later, are known by the part after the slash."""
    if len(job.first_models) == 1:
        return (Labelled(suffix="", value=job.models[0]), *_labelled(job)[1:])
    return _labelled(job)


def _labelled(job: Job) -> tuple[Labelled, ...]:
    suffixes = _distinct(f"-{slug(model.rpartition('/')[2])}" for model in job.models)
    return tuple(Labelled(suffix=suffix, value=model) for suffix, model in zip(suffixes, job.models, strict=True))


def replica_suffix(replica: int) -> str:
    """Nothing for the first, `-r2` for the second."""
    return f"-r{replica}" if replica > 1 else ""


def _suffixes(name: str, values: tuple[Json, ...]) -> list[str]:
    return _distinct(f"-{_readable(name)}{_readable(_written(value))}" for value in values)


def _written(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _readable(text: str) -> str:
    """The text's beginning with its letters, digits, dots, underscores and hyphens; a hyphen between what was parted.

    An id may have dots, and `0.2` is not to be taken for `0-2`. Files get names of their own, made safe elsewhere.
    """
    kept = "".join(char if _stays(char) else " " for char in text[: 4 * _LABEL_CHARS])
    return "-".join(kept.split())[:_LABEL_CHARS] or _NOTHING


def _stays(char: str) -> bool:
    return char in "._-" or char.isalnum() or category(char).startswith("M")


def _distinct(suffixes: Iterable[str]) -> list[str]:
    """The same suffixes, a repeated one with `-2`, `-3`."""
    taken: set[str] = set()
    found: list[str] = []
    for suffix in suffixes:
        label, times = suffix, 1
        while label in taken:
            times += 1
            label = f"{suffix}-{times}"
        taken.add(label)
        found.append(label)
    return found


# Parameters that differ from row to row: values of `params` that are templates over the columns of a source.
#
# A value that is one expression (`"{{ temperature }}"`) keeps the column's own type, a null too; any other text is
# filled as text. In jobs without a source parameters are sent as they stand, and literal braces in them are named.

_MARKS = ("{{", "{%")
_PLAIN = frozenset({str, int, bool, type(None)})
"""Types of values that a parameter takes from a column just as they are."""
_LONG_CHARS = 100_000
"""A longer text is left to the template, which has its own limit."""

Filling: TypeAlias = "Json | ParamSlot | list[Filling] | dict[str, Filling]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSlot:
    """A value to be filled, and the key under which it stands."""

    key: str
    expression: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class RowParams:
    """A job's `params` with the templates in them."""

    filling: "dict[str, Filling]"
    slots: tuple[ParamSlot, ...]
    columns: tuple[tuple[str, str | None], ...] = ()
    """Where every value is either fixed or a column's own: each parameter with its column, None if fixed."""

    def plain(self, shown: dict[str, Json]) -> dict[str, Json] | None:
        """As `filled`, by the columns alone; None where a value needs its template."""
        if not self.columns:
            return None
        found: dict[str, Json] = {}
        for name, column in self.columns:
            if column is None:
                found[name] = self.filling[name]  # type: ignore[assignment]  # there is no slot in it
                continue
            value = shown.get(column, found)
            if type(value) not in _PLAIN or (type(value) is str and len(value) > _LONG_CHARS):
                return None
            found[name] = value
        return found

    def filled(self, values: dict[str, Json]) -> dict[str, Json]:
        """The parameters of a row.

        Raises:
            SlotFault: a template cannot be filled with these values.
        """
        return {name: _filled(value, values) for name, value in self.filling.items()}


class ParamSlotFault(Exception):  # noqa: N818 -- as `TemplateFault`
    """The template of a parameter is at fault."""

    def __init__(self, slot_key: str, fault: TemplateFault) -> None:
        super().__init__(fault.problem)
        self.key = slot_key
        self.fault = fault


def row_params(job: Job, templates: Templates) -> tuple[RowParams | None, list[ParamSlotFault]]:
    """The templates in the job's `params` and what is wrong with them; None where there are none."""
    if isinstance(job.prompts, Listing) or not any(True for _ in _templates(job.params, "params")):
        return None, []
    found, slots, faults = _compiled(job.params, "params", templates)
    return RowParams(filling=found, slots=slots, columns=_columns(found, slots)), faults


def body_filling(job: Job, templates: Templates) -> tuple[RowParams | None, list[ParamSlotFault]]:
    """The templates in the job's body and what is wrong with them; None where it has no body."""
    if job.body is None:
        return None, []
    filling, slots, faults = _compiled(job.body, "", templates)
    return RowParams(filling=filling, slots=slots), faults


def _compiled(
    tree: dict[str, Json], at: str, templates: Templates
) -> "tuple[dict[str, Filling], tuple[ParamSlot, ...], list[ParamSlotFault]]":
    slots: list[ParamSlot] = []
    faults: list[ParamSlotFault] = []

    def compiled(value: Json, key: str) -> Filling:
        match value:
            case str() if _is_template(value):
                try:
                    slots.append(ParamSlot(key=key, expression=templates.expression(value)))
                except TemplateFault as fault:
                    faults.append(ParamSlotFault(key, fault))
                    return value
                return slots[-1]
            case list():
                return [compiled(part, f"{key}[{place}]") for place, part in enumerate(value)]
            case dict():
                return {name: compiled(part, f"{key}.{name}") for name, part in value.items()}
            case _:
                return value

    filling = {name: compiled(value, f"{at}.{name}" if at else name) for name, value in tree.items()}
    return filling, tuple(slots), faults


def _columns(filling: "dict[str, Filling]", slots: tuple[ParamSlot, ...]) -> tuple[tuple[str, str | None], ...]:
    own = {name: value.expression.column for name, value in filling.items() if isinstance(value, ParamSlot)}
    if len(own) != len(slots) or None in own.values():
        return ()
    return tuple((name, own.get(name)) for name in filling)


def literal_braces(job: Job) -> tuple[str, ...]:
    """Notes about parameters that look like templates and are sent as they stand."""
    places: list[Iterable[str]] = [_templates(list(values), f"matrix.{name}") for name, values in job.matrix.items()]
    if isinstance(job.prompts, Listing):
        places.append(_templates(job.params, "params"))
        places += [_templates(entry.params, f"prompts[{n}].params") for n, entry in enumerate(job.prompts.entries)]
    keys = [key for found in places for key in found]
    if not keys:
        return ()
    more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
    return (f"{keys[0]}{more}: the braces are sent literally; `params` are templates only in a job with a source",)


def _filled(value: Filling, values: dict[str, Json]) -> Json:
    match value:
        case ParamSlot():
            try:
                return value.expression.value(values)
            except TemplateFault as fault:
                raise ParamSlotFault(value.key, fault) from fault
        case list():
            return [_filled(part, values) for part in value]
        case dict():
            return {name: _filled(part, values) for name, part in value.items()}
        case _:
            return value


def _templates(value: Json, key: str) -> Iterator[str]:
    """The keys of the values that look like templates."""
    match value:
        case str() if _is_template(value):
            yield key
        case list():
            for place, part in enumerate(value):
                yield from _templates(part, f"{key}[{place}]")
        case dict():
            for name, part in value.items():
                yield from _templates(part, f"{key}.{name}")
        case _:
            return


def _is_template(text: str) -> bool:
    return any(mark in text for mark in _MARKS)
