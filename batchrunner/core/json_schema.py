"""JSON Schema, validated by jsonschema-rs: makes a schema ready, and says why a value does not fit it.

Nothing is fetched, from the network or from files. Validation holds the interpreter's lock, so no thread and no timer
could end it: every pattern is therefore matched under a bound of its own. Patterns without look-around and
back-references run in time linear in the text; the others may backtrack a fixed number of times, in texts of a bounded
size. `format`, `contentEncoding` and `contentMediaType` are notes and refuse nothing.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from batchrunner.core.job import Json
from batchrunner.core.text import repaired
from batchrunner.core.values import dataclass

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

KeyPath: TypeAlias = tuple[str | int, ...]

BACKTRACKS_MAX: Final = 50_000
"""Steps back that one pattern with look-around or back-references may take in one text: about ten milliseconds."""
BACKTRACKING_CHARS_MAX: Final = 65_536
"""The longest answer that is checked against such patterns."""
DEPTH_MAX: Final = 512
"""Levels of a value; deeper ones are not followed."""
SCHEMA_DEPTH_MAX: Final = 200
_FRAMES_MAX: Final = 15_000
"""Levels of the value times levels of the schema: what the validator's stack surely has room for."""
_ERRORS_MAX: Final = 100
_PATTERN_BYTES_MAX: Final = 50_000_000
"""Memory of one pattern, made ready; counted repetitions of `\\p{L}` exceed the library's own ten million."""
_MESSAGE_CHARS: Final = 400
_PANICS: Final = "pyo3_runtime"
"""Where the exception of a broken-off call into Rust stands: no Exception by its class, and no reason to end a run."""
_DIALECT_2020: Final = "https://json-schema.org/draft/2020-12/schema"
_DIALECTS: Final = frozenset(
    {
        "http://json-schema.org/draft-04/schema",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft/2019-09/schema",
        _DIALECT_2020,
    }
)
_REFUSED_DIALECTS: Final = (
    "http://json-schema.org/draft-01",
    "http://json-schema.org/draft-02",
    "http://json-schema.org/draft-03",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFault:
    """Why a schema cannot be used, and where in it."""

    path: KeyPath
    problem: str


class JsonSchema:
    """A schema, ready for use; `prepare` makes it."""

    __slots__ = ("_backtracks", "_depth_max", "_validator")

    def __init__(self, validator: "Validator", *, backtracks: bool, schema_depth: int) -> None:
        self._validator = validator
        self._backtracks = backtracks
        self._depth_max = min(DEPTH_MAX, _FRAMES_MAX // max(1, schema_depth))

    def __repr__(self) -> str:
        """How its patterns are matched."""
        return f"<JsonSchema {'with bounded backtracking' if self._backtracks else 'in linear time'}>"

    def miss(self, value: Json, *, chars: int) -> str | None:
        """Why the value does not fit, in one line; None when it does. `chars` is the length of the text it came from.

        Never raises: a value that cannot be validated does not fit, and the line says why.
        """
        levels, finite = _shape(value, limit=self._depth_max)
        if levels > self._depth_max:
            return f"the answer nests deeper than {self._depth_max} levels"
        if not finite:
            return "the answer contains NaN, Infinity or a number out of range, which JSON does not allow"
        if self._backtracks and chars > BACKTRACKING_CHARS_MAX:
            return (
                f"the answer has {chars} characters; the limit for a schema whose patterns use lookaround or "
                f"backreferences is {BACKTRACKING_CHARS_MAX}"
            )
        try:
            return self._miss(value)
        except UnicodeError:
            return self._miss(repaired(value))
        except (ValueError, RecursionError) as error:
            return f"the answer cannot be validated: {error}"
        except BaseException as error:
            if type(error).__module__ != _PANICS:
                raise
            return f"the answer cannot be validated: {_one_line(str(error))}"

    def _miss(self, value: Json) -> str | None:
        if self._validator.is_valid(value):
            return None
        errors: list[ValidationError] = []
        for error in self._validator.iter_errors(value):
            errors.append(error)
            if len(errors) >= _ERRORS_MAX or self._backtracks:
                break  # where patterns backtrack, each further error costs as much time as the first
        best = _most_relevant(errors)
        return f"{_shown(best.instance_path)}: {_message_of(best)}"


def prepare(schema: dict[str, Json]) -> "JsonSchema | SchemaFault":
    """The schema, ready for use, or what is wrong with it. An unknown `$schema` counts as 2020-12.

    Never raises, and retrieves nothing.
    """
    if (levels := _shape(schema, limit=SCHEMA_DEPTH_MAX)[0]) > SCHEMA_DEPTH_MAX:
        return SchemaFault(path=(), problem=f"nests deeper than {SCHEMA_DEPTH_MAX} levels")
    named = schema.get("$schema", _DIALECT_2020)
    if isinstance(named, str) and named.startswith(_REFUSED_DIALECTS):
        return SchemaFault(
            path=("$schema",), problem="is an unsupported draft; expected draft 4, 6, 7, 2019-09 or 2020-12"
        )
    dialect = named if isinstance(named, str) and named.rstrip("#") in _DIALECTS else _DIALECT_2020
    return _invalid_by_meta_schema(schema, dialect) or _compiled(schema, dialect, levels)


def _shape(value: Json, *, limit: int) -> tuple[int, bool]:
    """Levels of mappings and lists in a value, counted to one beyond `limit`, and whether its numbers are finite."""
    level: list[Json] = [value]
    levels, finite = 0, True
    while level:
        inner: list[Json] = []
        nests = False
        for entry in level:
            if isinstance(entry, dict):
                nests = True
                inner.extend(entry.values())
            elif isinstance(entry, list):
                nests = True
                inner.extend(entry)
            elif isinstance(entry, float):
                finite = finite and math.isfinite(entry)
        levels += nests
        if levels > limit:
            break
        level = inner
    return levels, finite


def _invalid_by_meta_schema(schema: dict[str, Json], dialect: str) -> SchemaFault | None:
    from jsonschema_rs import validator_for  # noqa: PLC0415 - costs time to load, and most jobs have no schema

    meta = validator_for({"$schema": dialect, "$ref": dialect}, offline=True, validate_formats=False)
    try:
        errors = list(meta.iter_errors(schema))
    except (ValueError, RecursionError) as error:
        return SchemaFault(path=(), problem=f"is not valid JSON Schema: {_one_line(str(error))}")
    if not errors:
        return None
    best = _most_relevant(errors)
    return SchemaFault(path=tuple(best.instance_path), problem=f"is not valid JSON Schema: {_message_of(best)}")


def _compiled(schema: dict[str, Json], dialect: str, levels: int) -> JsonSchema | SchemaFault:
    import jsonschema_rs  # noqa: PLC0415 - as above

    made = jsonschema_rs.validator_cls_for({"$schema": dialect})
    bounds = (
        jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES_MAX),
        jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS_MAX, size_limit=_PATTERN_BYTES_MAX),
    )
    fault: SchemaFault | None = None
    for options in bounds:
        try:
            validator = made(
                schema,
                validate_formats=False,
                pattern_options=options,
                offline=True,
                keywords={"contentEncoding": _Note, "contentMediaType": _Note},
            )
        except jsonschema_rs.ValidationError as error:
            fault = SchemaFault(path=tuple(error.instance_path), problem=_why_unusable(error))
        except (ValueError, RecursionError, OverflowError) as error:
            return SchemaFault(path=(), problem=f"cannot be used: {_one_line(str(error))}")
        else:
            return JsonSchema(validator, backtracks=fault is not None, schema_depth=levels)
    assert fault is not None, "both ways of matching were tried"
    return fault


class _Note:
    """A keyword that says something to a reader and refuses nothing."""

    def __init__(self, parent_schema: dict[str, object], value: object, schema_path: list[str | int]) -> None:
        pass

    def validate(self, instance: object) -> None:
        """Every value fits."""


def _most_relevant(errors: Sequence["ValidationError"]) -> "ValidationError":
    """The error nearest to the root; of alternatives, the one that was nearly met, if there is only one such."""
    best = min(errors, key=_relevance)
    while (branches := _alternatives(best)) and (near := _nearly_met(branches, best)) is not None:
        best = near
    return best


def _relevance(error: "ValidationError") -> tuple[int, bool]:
    return len(error.instance_path), bool(_alternatives(error))


def _alternatives(error: "ValidationError") -> list[list["ValidationError"]]:
    return list(getattr(error.kind, "context", ()))


def _nearly_met(branches: Iterable[Sequence["ValidationError"]], whole: "ValidationError") -> "ValidationError | None":
    """Of alternatives that all miss, the first error of the only one whose type fits."""
    near = [branch for branch in branches if branch and not any(_is_of_another_type(e, whole) for e in branch)]
    return min(near[0], key=_relevance) if len(near) == 1 else None


def _is_of_another_type(error: "ValidationError", whole: "ValidationError") -> bool:
    return error.kind.name in {"type", "const", "enum"} and error.instance_path == whole.instance_path


def _why_unusable(error: "ValidationError") -> str:
    """The words of a schema that the validator refused to take."""
    said = _message_of(error)
    if said.endswith('is not a "regex"'):
        pattern = said.removesuffix('is not a "regex"').strip()
        return f"is not valid JSON Schema: {pattern} is not a valid ECMA 262 regular expression, or is too large"
    return f"cannot be used: {said}"


def _message_of(error: "ValidationError") -> str:
    """The validator's words on one line. It quotes the whole value first; what is wrong with it stands at the end."""
    if error.kind.name == "pattern" and "backtrack" in error.message.lower():
        return f"matching a pattern of the schema needs more than {BACKTRACKS_MAX} backtracking steps"
    return _one_line(error.message)


def _one_line(message: str) -> str:
    line = " ".join(message.split("\n\n", 1)[0].split())
    if len(line) <= _MESSAGE_CHARS:
        return line
    half = _MESSAGE_CHARS // 2
    return f"{line[:half]}…{line[-half:]}"


def _shown(path: Iterable[str | int]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
