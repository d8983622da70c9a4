"""What `batchrunner explain KEY` says, from the JSON Schema of the job file: a sentence, type, default, example."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

from batchrunner.core.control import SETTABLE
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.values import dataclass
from batchrunner.spec.models import PARTS, keys_of
from batchrunner.spec.schema import DEFAULTS, EXAMPLES, NOTES, job_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHelp:
    """One key of the job file."""

    key: str
    description: str
    type: str
    default: str
    example: str
    """A line of a job file, from its first key on."""
    settable: bool
    """`batchrunner set` takes it while a run works."""
    keys: tuple[str, ...] = ()
    """The keys below it."""


def key_help(key: str) -> KeyHelp:
    """Everything about a key, written like `limits.concurrency` or `prompts[].id`.

    Raises:
        JobMistakesError: there is no such key; the hint names one that is alike.
    """
    path = key.replace("[]", ".[]").replace("..", ".").strip(".")
    path = path.replace(".MODEL", ".{}").replace(".NAME", ".{}")
    known = {".".join((*part, name)): (part, name) for part, model in PARTS.items() for name in keys_of(model)}
    if path not in known:
        close = get_close_matches(path, known, n=1, cutoff=0.6)
        ends = [each for each in known if each.rpartition(".")[2] == path]
        hint = f"did you mean `{_shown((ends or close)[0])}`?" if ends or close else "`batchrunner explain` lists them"
        raise JobMistakesError((Mistake(problem=f"no key of the job file is called {key!r}", hint=hint),))
    part, name = known[path]
    whole: Any = job_schema()
    schema = whole["$defs"][PARTS[part].__name__] if part else whole
    value: dict[str, Any] = schema["properties"][name]
    return KeyHelp(
        key=_shown(path),
        description=" ".join(filter(None, (value["description"], NOTES.get(path)))),
        type=type_words(value, lambda name: "any value" if name == "JsonValue" else "mapping").replace("`", ""),
        default=default_words(path, value, required=bool(part) and name in schema.get("required", ())).replace("`", ""),
        example=_nested(part, EXAMPLES[path]),
        settable=path in SETTABLE,
        keys=tuple(_shown(each) for each in known if each.startswith(f"{path}.") and each != path),
    )


def top_keys() -> tuple[tuple[str, str], ...]:
    """(key, its sentence) of the whole job."""
    schema: Any = job_schema()
    return tuple((name, value["description"]) for name, value in schema["properties"].items())


def _shown(path: str) -> str:
    return path.replace(".[]", "[]").replace("prices.{}", "prices.MODEL").replace(".{}", ".NAME")


def _nested(part: tuple[str, ...], example: str) -> str:
    """The example at its place in a job file, on one line."""
    own = "MODEL" if "prices" in part else "NAME"
    for name in reversed(part):
        example = (
            f"[{{{example}}}]" if name == "[]" else f"{own}: {{{example}}}" if name == "{}" else _below(name, example)
        )
    return example


def _below(name: str, example: str) -> str:
    return f"{name}: {example}" if example.startswith("[") else f"{name}: {{{example}}}"


# Types and defaults in words.


def default_words(path: str, value: dict[str, Any], *, required: bool = False) -> str:
    """The default of a key in words; `value` is its part of the schema."""
    default = value.get("default")
    if path in DEFAULTS or required:
        return DEFAULTS.get(path, "required")
    if value.get("$ref", "").endswith("Spec"):
        return "see below"
    if default is None or default == "":
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


_NAMED: Final = {"JsonValue": "any value", "KindSpec": "a check"}
"""Types of the schema that have no section of their own."""


def type_words(value: dict[str, Any], link: Callable[[str], str]) -> str:
    """The type in words; `link` makes words of a part's name."""
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(type_words(one, link) for one in value[several] if one.get("type") != "null")
    if "$ref" in value:
        part = value["$ref"].rpartition("/")[2]
        return _NAMED.get(part) or link(part)
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = str(value["type"])
    if kind == "array":
        inner = type_words(value["items"], link)
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if kind == "object":
        return _mapping(value, link)
    return {"string": "text", "boolean": "`true`, `false`"}.get(kind) or _number(value, kind)


def _number(value: dict[str, Any], kind: str) -> str:
    name = {"integer": "whole number", "number": "number"}[kind]
    least, above, most = (value.get(bound) for bound in ("minimum", "exclusiveMinimum", "maximum"))
    bounds = [
        f"≥ {least:g}" if least is not None else "",
        f"> {above:g}" if above is not None else "",
        f"≤ {most:,.0f}" if most is not None else "",
    ]
    return f"{name} {', '.join(filter(None, bounds))}"


def _mapping(value: dict[str, Any], link: Callable[[str], str]) -> str:
    inner = value.get("additionalProperties")
    if not isinstance(inner, dict) or inner.get("$ref", "").endswith("/JsonValue"):
        return "mapping"
    return f"mapping to {type_words(inner, link)}"
