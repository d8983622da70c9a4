"""The keys of `checks:` as types, what they must be to each other, and the checks that they come to."""

import re
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, JsonValue, Tag

from batchrunner.core.job import CHECK_KINDS, Check, CheckKind, Json
from batchrunner.core.json_schema import SchemaFault, prepare
from batchrunner.evaluation.check_kinds import is_path
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.parts import Count, Params, Part, Rate, Text, one_of

Texts: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[Text], Field(min_length=1), Tag("<list>")],
    one_of("a text, or a list of texts"),
]
Limits: TypeAlias = Annotated[list[Annotated[float, Field(ge=0)] | None], Field(min_length=2, max_length=2)]


class JsonCheckSpec(Part):
    """What a JSON answer must have."""

    path: Text = Field(default="$", description="Where to look, for example `$.items[0].price`. Default: the whole.")
    equals: JsonValue | None = Field(default=None, description="What must stand there; a text may be a template.")
    fits: Params | None = Field(default=None, alias="schema", description="JSON Schema that it must fit.")
    present: bool = Field(default=True, description="Whether there must be something, or (false) nothing.")


class LengthSpec(Part):
    """How long an answer may be: [least, most] of one unit; null for no limit."""

    chars: Limits | None = Field(default=None, description="Characters.")
    words: Limits | None = Field(default=None, description="Words, separated by spaces.")
    tokens: Limits | None = Field(default=None, description="Output tokens, as the server counted them.")


class WithinSpec(Part):
    """What an answer may take at most."""

    seconds: Rate | None = Field(default=None, description="Seconds from the first request to the answer.")
    output_tokens: Count | None = Field(default=None, description="Output tokens.")
    input_tokens: Count | None = Field(default=None, description="Input tokens.")


class PictureCheckSpec(Part):
    """What must be true of the pictures."""

    blank: bool | None = Field(default=None, description="false: no picture may be of one colour all over.")
    aspect: bool | None = Field(default=None, description="true: pictures must have the size that was asked for.")
    duplicate: bool | None = Field(
        default=None, description="false: no picture may be like an earlier one of the same prompt."
    )
    duplicate_in_run: bool | None = Field(
        default=None, description="false: no picture may be like an earlier one of the run, of whatever prompt."
    )


class JudgeSpec(Part):
    """A job that asks a model about every answer, after the items of the run."""

    use: Text = Field(description="The judge's job file, from this file's folder. Its answers have a `score`, 0 to 1.")
    pair: Annotated[list[Text], Field(min_length=2, max_length=2)] | None = Field(
        default=None,
        description="Two models of the job, whose answers to the same prompt are compared, in both orders. The judge "
        "answers with a `winner`: first, second or tie.",
    )
    at_least: Annotated[float, Field(ge=0, le=1)] = Field(default=0.5, description="The least score that passes.")


class KindSpec(Part):
    """The kinds of checks, of which an entry has one, and what they take besides."""

    equals: JsonValue | None = Field(
        default=None, description="The answer must be this text; a template. With `regex`: what group 1 must be."
    )
    contains: Texts | None = Field(default=None, description="Texts that must all be in the answer.")
    any: Texts | None = Field(default=None, description="Texts of which one must be in the answer.")
    regex: Text | None = Field(default=None, description="Python regular expression that must be found in the answer.")
    number: (
        Annotated[Annotated[Text, Tag("<text>")] | Annotated[float, Tag("<number>")], one_of("a number or a template")]
        | None
    ) = Field(
        default=None,
        description="The number that the answer must end with, or a template of a text with that number in it, "
        "for example \"{{ answer.split('####')[1] }}\".",
    )
    json_: (
        Annotated[Annotated[Text, Tag("<text>")] | Annotated[JsonCheckSpec, Tag("<mapping>")], one_of("a path or more")]
        | None
    ) = Field(default=None, alias="json", description="A path that a JSON answer must have, or a mapping with more.")
    length: LengthSpec | None = Field(default=None, description="How long the answer may be.")
    within: (
        Annotated[
            Annotated[Text, Tag("<text>")]
            | Annotated[float, Tag("<number>")]
            | Annotated[WithinSpec, Tag("<mapping>")],
            one_of("a mapping of limits or, beside `number`, a tolerance"),
        ]
        | None
    ) = Field(
        default=None,
        description='What the answer may take at most. Beside `number`: how far off it may be, as 0.5 or "1%".',
    )
    python: Text | None = Field(
        default=None,
        description='Your own function, as "FILE.py:NAME"; it gets the row and gives true, false, a number or a '
        "mapping with `pass`, `score` and `reason`. It runs in a process of its own, at most 10 s for an answer.",
    )
    picture: PictureCheckSpec | None = Field(default=None, description="What must be true of the pictures.")
    ignore_case: bool = Field(default=False, description="Compare texts without regard to case.")
    take: Literal["last", "first", "only"] = Field(
        default="last", description="Which number of the answer `number` takes; `only`: it must have just one."
    )
    decimal: Literal["point", "comma"] = Field(
        default="point", description="What stands before the decimals of numbers."
    )


class CheckSpec(KindSpec):
    """One check on every answer."""

    judge: JudgeSpec | None = Field(default=None, description="A job that asks a model about every answer.")
    not_: KindSpec | None = Field(default=None, alias="not", description="A check that must fail, for example a regex.")
    name: Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[\w-]+$")] | None = Field(
        default=None, description="The check's name in scores and tables. Default: its kind."
    )
    when: Text | None = Field(
        default=None, description="Template over the row; the check applies where it comes to true."
    )
    of: Literal["text", "reasoning", "parsed", "tool_calls"] = Field(
        default="text", description="The part of the answer that is looked at."
    )
    counts: bool = Field(default=True, description="Whether it decides on the item's `pass`; false: it is only shown.")


_OPTIONS: Final[dict[CheckKind, tuple[str, ...]]] = {
    "equals": ("ignore_case",),
    "contains": ("ignore_case",),
    "any": ("ignore_case",),
    "regex": ("equals", "ignore_case"),
    "number": ("within", "take", "decimal"),
}
"""What each kind takes besides."""
_TOLERANCE: Final = re.compile(r"\s*\d+(\.\d+)?\s*%?\s*")
_STEM: Final = re.compile(r"[^\w-]+")
_LONGEST_NAME: Final = 50
_PLACE: Final = re.compile(r".+\.py:[A-Za-z_]\w*")


def check_faults(specs: list[CheckSpec]) -> Iterator[SpecError]:
    """What is wrong with a list of checks whose types are right."""
    names: dict[str, int] = {}
    for place, spec in enumerate(specs):
        path: KeyPath = ("checks", place)
        if spec.name is not None and spec.name in names:
            yield SpecError(path=(*path, "name"), problem=f"is {short(spec.name)} again; names are unique")
        names.setdefault(spec.name or "", place)
        if spec.not_ is not None and _kind(spec) is None:
            yield from _kind_faults(spec.not_, (*path, "not"))
        elif spec.not_ is not None:
            yield SpecError(path=path, problem=f"has both `not` and `{_kind(spec)}`", expected="one of them")
        else:
            yield from _kind_faults(spec, path)


def checks_of(specs: list[CheckSpec]) -> tuple[Check, ...]:
    """The checks of a list without faults. A name that is not given is the kind, with a number from the second on."""
    taken = {spec.name for spec in specs if spec.name}
    made: list[Check] = []
    for spec in specs:
        held = spec.not_ or spec
        kind = _kind(held)
        assert kind is not None, "the list is without faults"
        named = _STEM.sub("-", PurePath(spec.judge.use).stem)[:_LONGEST_NAME] if spec.judge else kind
        name = spec.name or _free_name(f"not-{kind}" if spec.not_ else named, taken)
        taken.add(name)
        expected, options = _value(held, kind)
        made.append(
            Check(
                name=name,
                kind=kind,
                expected=expected,
                options=options,
                of=spec.of,
                when=spec.when,
                counts=spec.counts,
                negated=spec.not_ is not None,
            )
        )
    return tuple(made)


def _free_name(name: str, taken: set[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _given(spec: KindSpec) -> list[CheckKind]:
    return [kind for kind in CHECK_KINDS if getattr(spec, "json_" if kind == "json" else kind, None) is not None]


def _kind(spec: KindSpec) -> CheckKind | None:
    """The one kind of an entry; None where it has none, or more than one."""
    given = _given(spec)
    main = [kind for kind in given if not any(kind in _OPTIONS.get(other, ()) for other in given)]
    return main[0] if len(main) == 1 else None


def _kind_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    given, kind = _given(spec), _kind(spec)
    if kind is None:
        found = f"has several kinds: {', '.join(given)}" if given else "has no kind of check"
        yield SpecError(path=path, problem=found, expected=f"one of {', '.join(CHECK_KINDS)}, or `not`")
        return
    options = {"ignore_case", "take", "decimal"} & spec.model_fields_set
    for option in sorted(options - set(_OPTIONS.get(kind, ()))):
        yield SpecError(path=(*path, option), problem=f"does nothing beside `{kind}`")
    if kind in _FAULTS:
        yield from _FAULTS[kind](spec, (*path, kind))


def _regex_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    try:
        re.compile(spec.regex or "")
    except (re.error, RecursionError) as error:
        yield SpecError(path=path, problem=f"is not a regular expression: {error}")


def _number_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    within = (*path[:-1], "within")
    if isinstance(spec.within, WithinSpec):
        yield SpecError(path=within, problem="is a mapping", expected='a tolerance, as 0.5 or "1%"')
    elif isinstance(spec.within, str) and not _TOLERANCE.fullmatch(spec.within):
        problem = f"{short(spec.within)} is not a tolerance"
        yield SpecError(path=within, problem=problem, expected='a number, or a share like "1%"')


def _within_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    if not isinstance(spec.within, WithinSpec) or not spec.within.model_fields_set:
        expected = "a mapping with seconds, output_tokens or input_tokens"
        yield SpecError(path=path, problem="says no limit", expected=expected)


def _length_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    if spec.length is None or len(spec.length.model_fields_set) != 1:
        yield SpecError(path=path, problem="needs one unit", expected="chars, words or tokens")


def _picture_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    if spec.picture is None or not spec.picture.model_fields_set:
        yield SpecError(path=path, problem="is empty", expected="blank, aspect, duplicate or duplicate_in_run")


def _judge_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    judge = spec.judge if isinstance(spec, CheckSpec) else None
    if judge is None or judge.pair is None:
        return
    if judge.pair[0] == judge.pair[1]:
        yield SpecError(path=(*path, "pair"), problem="names one model twice", expected="two models of the job")
    if "at_least" in judge.model_fields_set:
        yield SpecError(path=(*path, "at_least"), problem="does nothing beside `pair`: an answer wins, loses or ties")


def _python_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    if not _PLACE.fullmatch(spec.python or ""):
        problem = f"{short(spec.python)} is not the place of a function"
        yield SpecError(path=path, problem=problem, expected='"FILE.py:NAME"')


def _json_faults(spec: KindSpec, path: KeyPath) -> Iterator[SpecError]:
    given = spec.json_
    where = given.path if isinstance(given, JsonCheckSpec) else given or ""
    if not is_path(where):
        expected = "like $.items[0].price or $['a b']"
        yield SpecError(path=path, problem=f"{short(where)} is not a path", expected=expected)
    if isinstance(given, JsonCheckSpec) and given.fits is not None:
        schema: dict[str, Json] = dict(given.fits)
        ready = prepare(schema)
        if isinstance(ready, SchemaFault):
            yield SpecError(path=(*path, "schema", *ready.path), problem=ready.problem)


_FAULTS: Final[dict[CheckKind, Callable[[KindSpec, KeyPath], Iterator[SpecError]]]] = {
    "regex": _regex_faults,
    "number": _number_faults,
    "within": _within_faults,
    "length": _length_faults,
    "picture": _picture_faults,
    "judge": _judge_faults,
    "python": _python_faults,
    "json": _json_faults,
}
"""Of kinds whose values have rules beyond their types."""


def _value(spec: KindSpec, kind: CheckKind) -> tuple[Json, dict[str, Json]]:
    """What the check compares with, and what else it takes."""
    options: dict[str, Json] = {}
    for name in _OPTIONS.get(kind, ()):
        if name in spec.model_fields_set:
            options[name] = getattr(spec, name)
    match kind:
        case "contains" | "any":
            given = spec.contains if kind == "contains" else spec.any
            return ([given] if isinstance(given, str) else list(given or ())), options
        case "json":
            if isinstance(spec.json_, JsonCheckSpec):
                return spec.json_.path, spec.json_.model_dump(by_alias=True, exclude={"path"}, exclude_unset=True)
            return spec.json_, options
        case "length" | "within" | "picture":
            part: Part | None = getattr(spec, kind)
            return None, part.model_dump(exclude_unset=True) if part else {}
        case "judge":
            assert isinstance(spec, CheckSpec), "`not` has no judge"
            assert spec.judge is not None, "that is its kind"
            if spec.judge.pair is not None:
                return spec.judge.use, {"pair": list(spec.judge.pair)}
            return spec.judge.use, {"at_least": spec.judge.at_least}
        case _:
            value: Json = getattr(spec, kind)
            return value, options
