"""pydantic's errors in plain words. None of pydantic's own wording is shown."""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

from pydantic_core import ErrorDetails

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.models import PARTS, keys_of

_DURATIONS = ("models.after", "batch.max_wait", "batch.look_every", "batch.give_up")
_EXPECTED = {
    "name": "a short text that can be the name of a folder",
    "limits.concurrency": "`auto` or a whole number of at least 1",
    "model": "the id of a model, without spaces",
    "models[]": "the id of a model, without spaces",
    "headers": "a mapping of header names to text",
    "prompts": "at least one prompt",
    "models": "a list of at least one model",
    "messages": "a list of at least one message",
    **dict.fromkeys(_DURATIONS, "a duration like 10m, 2h or 30s"),
}
"""For paths where the general words would say less."""
_NO_UNIT = "write the unit, too: s, m or h"

_ELSEWHERE = {
    "api_key": "keys must not be in a job file: name the environment variable in `provider.api_key_env`",
    "key": "keys must not be in a job file: name the environment variable in `provider.api_key_env`",
    "token": "keys must not be in a job file: name the environment variable in `provider.api_key_env`",
    "prompt": "write `prompts:` with a list",
    **dict.fromkeys(
        ("temperature", "max_tokens", "top_p", "seed", "size", "steps", "guidance", "negative_prompt", "loras", "n"),
        "it belongs under `params`",
    ),
}
"""Keys that people write where they are not known, and where to go instead."""


_OF_ANY_NAME = (("budget", "prices"), ("prompts", "draw"))
"""Mappings whose names are the person's own."""
_MODEL_DEPTH = 2
"""Where such a name stands, as in `budget.prices.NAME`."""


@dataclass(frozen=True, slots=True)
class _Words:
    """A fault's problem and expectation for one type of error."""

    problem: str
    expected: str | Callable[[Mapping[str, object]], str] | None = None


def _bound(words: str, name: str) -> Callable[[Mapping[str, object]], str]:
    def expected(context: Mapping[str, object]) -> str:
        bound = context.get(name)
        return f"{words} {bound:g}" if isinstance(bound, int | float) else words

    return expected


def _choices(context: Mapping[str, object]) -> str:
    names = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    return ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else "".join(names)


_WORDS: dict[str, _Words] = {
    "missing": _Words("is missing"),
    "extra_forbidden": _Words("is not a known key"),
    "string_type": _Words("is {value}, which is not text", "text"),
    "string_too_short": _Words("is empty", "text"),
    "string_too_long": _Words("is too long", _bound("at most this many characters:", "max_length")),
    "string_pattern_mismatch": _Words("is {value}", "text without spaces"),
    "int_type": _Words("is {value}", "a whole number"),
    "int_from_float": _Words("is {value}", "a whole number"),
    "float_type": _Words("is {value}", "a number"),
    "finite_number": _Words("is {value}", "a finite number"),
    "bool_type": _Words("is {value}", "true or false"),
    "list_type": _Words("is {value}", "a list"),
    "dict_type": _Words("is {value}", "a mapping"),
    "model_type": _Words("is {value}", "a mapping"),
    "too_short": _Words("is empty", "at least one entry"),
    "greater_than": _Words("is {value}", _bound("more than", "gt")),
    "greater_than_equal": _Words("is {value}", _bound("at least", "ge")),
    "less_than_equal": _Words("is {value}", _bound("at most", "le")),
    "literal_error": _Words("is {value}", _choices),
    "shape": _Words("is {value}"),
}


_MOST_GUESSES = 100
"""Different unknown keys for which a similar one is looked for: guesses are slow, a list may have 100,000."""


def faults_of(errors: Iterable[ErrorDetails], written: Mapping[KeyPath, str]) -> list[SpecError]:
    """One fault for each of pydantic's errors. `written` has unquoted values as YAML found them."""
    hints: dict[tuple[str, ...], str | None] = {}
    return [_fault(error, written, hints) for error in errors]


def path_of(error: ErrorDetails) -> KeyPath:
    """The error's path in the job file, without the tags of unions."""
    loc = error["loc"]
    return loc if _TAGS.isdisjoint(loc) else tuple(step for step in loc if step not in _TAGS)


def general(path: KeyPath) -> tuple[str, ...]:
    """The path with every place in a list as `[]`, and every name that is the person's own as `{}`."""
    if len(path) == 1 and isinstance(path[0], str):
        return (path[0],)
    named = path[:2] in _OF_ANY_NAME
    return tuple(
        "[]" if isinstance(step, int) else "{}" if named and depth == _MODEL_DEPTH else step
        for depth, step in enumerate(path)
    )


def _fault(error: ErrorDetails, written: Mapping[KeyPath, str], hints: dict[tuple[str, ...], str | None]) -> SpecError:
    path, kind = path_of(error), error["type"]
    if kind == "extra_forbidden":
        return SpecError(path=path, problem=_WORDS[kind].problem, hint=_hint_of_unknown(path, hints))
    context = error.get("ctx") or {}
    value: Json = error["input"]
    shown = "not valid" if path[:1] == ("provider",) and path[1:2] in _NEVER_SHOWN else short(value)
    words = _WORDS.get(kind, _Words("is {value}"))
    expected = words.expected(context) if callable(words.expected) else words.expected
    if kind == "shape":
        expected = error["msg"]
    expected = _EXPECTED.get(".".join(general(path)).replace(".[]", "[]"), expected)
    if kind == "missing":
        return SpecError(path=path, problem=words.problem)
    if path in written and "not what" not in shown and kind in _WANTS_TEXT:
        as_read = f"is read by YAML as {shown}, which is not text"
        if ".".join(general(path)) in _DURATIONS and not isinstance(value, bool):  # quotes would not help
            return SpecError(path=path, problem=f"is {shown}", expected=expected, hint=_NO_UNIT)
        as_text = f': "{written[path]}"' if shown == short(value) else ""
        return SpecError(path=path, problem=as_read, expected=expected, hint=f"put it in quotes{as_text}")
    hint = None
    if kind == "literal_error" and isinstance(value, str):
        hint = meant(value, re.findall(r"'([^']*)'", str(context.get("expected", ""))))
    return SpecError(path=path, problem=words.problem.format(value=shown), expected=expected, hint=hint)


def meant(given: str, known: Iterable[str]) -> str | None:
    """`did you mean …?` when something known looks like it."""
    names = list(known)
    exact = [name for name in names if name.casefold() == given.casefold()]
    close = exact or get_close_matches(given.lower().replace("-", "_"), names, n=1, cutoff=0.7)
    close = close or get_close_matches(given.lower(), names, n=1, cutoff=0.7)
    return suggestion(close[0]) if close else None


def suggestion(key: str) -> str:
    """The hint that names what was probably meant."""
    return f"did you mean `{key}`?"


def _hint_of_unknown(path: KeyPath, hints: dict[tuple[str, ...], str | None]) -> str | None:
    """As `_where_it_belongs`, once for a key that many entries have; `hints` are those that were found so far."""
    place = general(path)
    if place not in hints:
        if len(hints) >= _MOST_GUESSES:
            return None
        hints[place] = _where_it_belongs(path)
    return hints[place]


def _where_it_belongs(path: KeyPath) -> str | None:
    """What to write instead of an unknown key: a similar key here, or the same key where it is known."""
    if not path:
        return None  # the key is spelt like a tag
    key = str(path[-1])
    here = keys_of(PARTS[general(path[:-1])]) if general(path[:-1]) in PARTS else ()
    similar = meant(key, here)
    if similar is not None:
        return similar
    if key in _ELSEWHERE:
        return _ELSEWHERE[key]
    homes = [part for part, model in PARTS.items() if key in keys_of(model) and part not in _AMBIGUOUS_HOMES]
    if not homes:
        return None
    return f"it belongs under `{homes[0][0]}`" if homes[0] else "it belongs at the top of the file"


_WANTS_TEXT = {"string_type", "shape", "literal_error"}
"""Errors that an unquoted `no` or `0123` makes."""

_NEVER_SHOWN: set[tuple[str | int, ...]] = {
    *((key,) for key in ("api_key_env", "api_key_file", "api_key_cmd", "headers", "proxy", "proxy_auth_env"))
}
"""Keys of a provider whose wrong values may be secrets."""

_TAGS = {"<text>", "<list>", "<mapping>", "<number>"}
"""What distinguishes the branches of a union in `models`; no key of a job file."""

_AMBIGUOUS_HOMES = {("prompts",), ("prompts", "[]"), ("messages", "[]"), ("budget", "prices", "{}")}
"""Parts whose keys are so common that pointing at them would mislead."""
