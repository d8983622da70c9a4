"""Parameters that differ from row to row: values of `params` that are templates over the columns of a source.

A value that is one expression (`"{{ temperature }}"`) keeps the column's own type, a null too; any other text is filled
as text. In jobs without a source parameters are sent as they stand, and literal braces in them are named.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from batchrunner.core.job import Job, Json, Listing
from batchrunner.prompts.render import Expression, TemplateFault, Templates

_MARKS = ("{{", "{%")
_PLAIN = frozenset({str, int, bool, type(None)})
"""Types of values that a parameter takes from a column just as they are."""
_LONG_CHARS = 100_000
"""A longer text is left to the template, which knows what is too long."""

Filling: TypeAlias = "Json | Slot | list[Filling] | dict[str, Filling]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A value to be filled, and the key under which it stands."""

    key: str
    expression: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class RowParams:
    """A job's `params` with the templates in them."""

    filling: "dict[str, Filling]"
    slots: tuple[Slot, ...]
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


class SlotFault(Exception):  # noqa: N818 -- as `TemplateFault`
    """The template of a parameter is at fault."""

    def __init__(self, slot_key: str, fault: TemplateFault) -> None:
        super().__init__(fault.problem)
        self.key = slot_key
        self.fault = fault


def row_params(job: Job, templates: Templates) -> tuple[RowParams | None, list[SlotFault]]:
    """The templates in the job's `params` and what is wrong with them; None where there are none."""
    if isinstance(job.prompts, Listing) or not any(True for _ in _templates(job.params, "params")):
        return None, []
    slots: list[Slot] = []
    faults: list[SlotFault] = []

    def compiled(value: Json, key: str) -> Filling:
        match value:
            case str() if _is_template(value):
                try:
                    slots.append(Slot(key=key, expression=templates.expression(value)))
                except TemplateFault as fault:
                    faults.append(SlotFault(key, fault))
                    return value
                return slots[-1]
            case list():
                return [compiled(part, f"{key}[{place}]") for place, part in enumerate(value)]
            case dict():
                return {name: compiled(part, f"{key}.{name}") for name, part in value.items()}
            case _:
                return value

    filling = {name: compiled(value, f"params.{name}") for name, value in job.params.items()}
    return RowParams(filling=filling, slots=tuple(slots), columns=_columns(filling, slots)), faults


def _columns(filling: "dict[str, Filling]", slots: list[Slot]) -> tuple[tuple[str, str | None], ...]:
    own = {name: value.expression.column for name, value in filling.items() if isinstance(value, Slot)}
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
    return (f"{keys[0]}{more}: the braces are sent as they stand; only `params` of a job over a source are templates",)


def _filled(value: Filling, values: dict[str, Json]) -> Json:
    match value:
        case Slot():
            try:
                return value.expression.value(values)
            except TemplateFault as fault:
                raise SlotFault(value.key, fault) from fault
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
