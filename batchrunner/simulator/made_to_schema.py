"""Values that satisfy a simple JSON Schema: for structured answers and for the arguments of tool calls.

Knows types, enum, const, properties, items, anyOf/oneOf/allOf, local references and the common bounds. A schema beyond
that gets a value of its type, which may miss a rule that is not read here (`pattern`, `format`, `not`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from batchrunner.core.job import Json
from batchrunner.simulator.dice import digest_of
from batchrunner.simulator.script import as_list, as_object, as_text

_DEEPEST = 12
"""References may go round in circles; below this only null is given."""
_MOST_PARTS = 2000
_LARGEST = 1e12
_MOST_ITEMS = 100.0
_LONGEST = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in the value the maker stands."""

    root: Mapping[str, Json]
    path: str
    grain: int
    text: str
    """What strings are cut from."""
    budget: Iterator[int]
    """One for each part of the value; shared by all places."""
    depth: int = 0

    def below(self, name: str) -> "_Place":
        return replace(self, path=f"{self.path}/{name}", depth=self.depth + 1)

    def choice(self, count: int) -> int:
        return digest_of(f"{self.grain}{self.path}") % max(1, count)


def value_for(schema: Mapping[str, Json], *, grain: int, text: str) -> Json:
    """A value that satisfies the schema; the same for the same `grain` and `text`."""
    return _make(schema, _Place(root=schema, path="", grain=grain, text=text, budget=iter(range(_MOST_PARTS))))


def _make(schema: Mapping[str, Json], place: _Place) -> Json:
    if place.depth > _DEEPEST or next(place.budget, None) is None:
        return None
    reference = as_text(schema.get("$ref"))
    if reference:
        return _make(_resolve(reference, place.root), place.below("$ref"))
    if "const" in schema:
        return schema["const"]
    if options := as_list(schema.get("enum")):
        return options[place.choice(len(options))]
    for word in ("anyOf", "oneOf"):
        if branches := as_list(schema.get(word)):
            return _make(as_object(branches[place.choice(len(branches))]), place.below(word))
    if parts := as_list(schema.get("allOf")):
        return _make(_joined(schema, parts, place.root), place.below("allOf"))
    return _MAKERS.get(_type(schema), _null)(schema, place)


def _resolve(reference: str, root: Mapping[str, Json]) -> Mapping[str, Json]:
    found: Json = dict(root)
    for step in reference.removeprefix("#").split("/"):
        if step:
            found = as_object(found).get(step.replace("~1", "/").replace("~0", "~"))
    return as_object(found)


def _joined(schema: Mapping[str, Json], parts: list[Json], root: Mapping[str, Json]) -> dict[str, Json]:
    joined = {name: value for name, value in schema.items() if name != "allOf"}
    for part in map(as_object, parts):
        whole = _resolve(as_text(part.get("$ref")), root) if "$ref" in part else part
        properties = {**as_object(joined.get("properties")), **as_object(whole.get("properties"))}
        required = [*as_list(joined.get("required")), *as_list(whole.get("required"))]
        joined = {**joined, **whole, "properties": properties, "required": required}
    return joined


def _type(schema: Mapping[str, Json]) -> str:
    said = schema.get("type")
    if isinstance(said, list):
        said = next((name for name in said if name != "null"), "null")
    if isinstance(said, str):
        return said
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _object(schema: Mapping[str, Json], place: _Place) -> Json:
    properties = as_object(schema.get("properties"))
    names = list(dict.fromkeys([*properties, *map(as_text, as_list(schema.get("required")))]))
    return {name: _make(as_object(properties.get(name)), place.below(name)) for name in names}


def _array(schema: Mapping[str, Json], place: _Place) -> Json:
    least, most = (
        int(min(_MOST_ITEMS, _bound(schema, name, end))) for name, end in (("minItems", 0), ("maxItems", 1e6))
    )
    count = min(most, max(least, 1 + place.choice(2)))
    return [_make(as_object(schema.get("items")), place.below(str(at))) for at in range(count)]


def _string(schema: Mapping[str, Json], place: _Place) -> Json:
    words = place.text.split() or ["nothing"]
    at = place.choice(len(words))
    text = " ".join(words[at : at + 4])
    least, most = (
        int(min(_LONGEST, _bound(schema, name, end))) for name, end in (("minLength", 0), ("maxLength", 1e6))
    )
    return text.ljust(least, "x")[: max(0, most)]


def _integer(schema: Mapping[str, Json], place: _Place) -> Json:
    low = int(_bound(schema, "minimum", _bound(schema, "exclusiveMinimum", -1) + 1))
    high = int(_bound(schema, "maximum", _bound(schema, "exclusiveMaximum", low + 100) - 1))
    step = max(1, int(_bound(schema, "multipleOf", 1)))
    first = -(-low // step) * step
    return first + step * place.choice(1 + max(0, high - first) // step)


def _number(schema: Mapping[str, Json], place: _Place) -> Json:
    low = _bound(schema, "minimum", _bound(schema, "exclusiveMinimum", 0.0))
    high = _bound(schema, "maximum", _bound(schema, "exclusiveMaximum", low + 1.0))
    return low + (high - low) * (1 + place.choice(7)) / 8


def _boolean(_schema: Mapping[str, Json], place: _Place) -> Json:
    return bool(place.choice(2))


def _null(_schema: Mapping[str, Json], _place: _Place) -> Json:
    return None


def _bound(schema: Mapping[str, Json], name: str, otherwise: float) -> float:
    said = schema.get(name)
    if not isinstance(said, int | float) or isinstance(said, bool) or (isinstance(said, float) and math.isnan(said)):
        return otherwise
    return float(max(-_LARGEST, min(_LARGEST, said)))


_MAKERS: dict[str, Callable[[Mapping[str, Json], _Place], Json]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "null": _null,
}
