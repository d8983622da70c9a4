"""What each kind of check says of an answer: a function for each kind, and a table of them.

Rows come from a file that people may have edited: types are looked at, never assumed.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, Protocol, TypeAlias, cast

from batchrunner.core.checks import Score
from batchrunner.core.job import Check, CheckKind, Json
from batchrunner.core.json_schema import SchemaFault, prepare
from batchrunner.core.text import late_pattern
from batchrunner.core.values import dataclass, replace

_SHOWN_CHARS: Final = 200
_STEP: Final = re.compile(r"\.([^.\[\]'\"]+)|\[(\d+)\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")
_ABSENT: Final = object()


class Outside(Protocol):
    """What checks need besides the row; implemented where files and processes may be touched."""

    def python(self, place: str, row: Mapping[str, Json]) -> Json:
        """What the person's function gives for the row. Raises `CheckBrokenError`."""
        ...

    def search(self, pattern: str, text: str) -> list[str | None] | None:
        """The match and its groups, found within a limit of time; None without one. Raises `CheckBrokenError`."""
        ...

    def json_in(self, text: str) -> tuple[bool, Json]:
        """Whether the text holds JSON, also in a fence or between words, and its value."""
        ...

    def picture(self, name: str, row: Mapping[str, Json]) -> Score:
        """Whether the row's pictures are `blank`, of the `aspect` asked for, a `duplicate` or `duplicate_in_run`."""
        ...


class CheckBrokenError(Exception):
    """The check could not be made; says why, for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRow:
    """One row as a check sees it."""

    row: Mapping[str, Json]
    part: Json
    """Of the answer: the text, or what `of` names; None where the answer has none."""
    expected: Json
    """The check's own, its templates filled."""
    options: Mapping[str, Json]
    outside: Outside


def score_of(
    check: Check, row: Mapping[str, Json], *, expected: Json, options: Mapping[str, Json], outside: Outside
) -> Score:
    """What the check says of a row; `expected` and `options` are the check's own with their templates filled."""
    part = part_of(row, check.of)
    if part is None and check.kind not in _WITHOUT_ANSWER:
        return Score(verdict="none", reason=f"the answer has no {check.of}")
    checked = CheckedRow(row=row, part=part, expected=expected, options=options, outside=outside)
    try:
        score = _KINDS[check.kind](checked)
    except CheckBrokenError as error:
        return Score(verdict="error", reason=str(error))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:  # of a row that was edited
        return Score(verdict="error", reason=f"the row cannot be checked: {error}"[:_SHOWN_CHARS])
    return _negated(score) if check.negated else score


def part_of(row: Mapping[str, Json], part: str) -> Json:
    """What stands in the row's `output` under this name; nothing where it is null."""
    output = row.get("output")
    return output.get(part) if isinstance(output, dict) else None


def _negated(score: Score) -> Score:
    if score.verdict == "pass":
        return replace(score, verdict="fail", value=_turned(score.value), reason="a value is there that must be absent")
    if score.verdict == "fail":
        return replace(score, verdict="pass", value=_turned(score.value), reason=None)
    return score


def _turned(value: float | None) -> float | None:
    return 1 - value if value in (0.0, 1.0) else value


def _truth(holds: bool, reason: str, *, expected: Json = None) -> Score:  # noqa: FBT001 - the one thing it is about
    return Score(
        verdict="pass" if holds else "fail",
        value=float(holds),
        expected=expected,
        reason=None if holds else reason[:_SHOWN_CHARS],
    )


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _folded(text: str, options: Mapping[str, Json]) -> str:
    plain = text if text.isascii() else unicodedata.normalize("NFC", text)
    return plain.casefold() if options.get("ignore_case") else plain


def _equals(checked: CheckedRow) -> Score:
    expected = _folded(_reference(checked.expected), checked.options)
    holds = _folded(_text(checked.part).strip(), checked.options) == expected
    return _truth(holds, "the answer is another text", expected=checked.expected)


def _reference(value: Json) -> str:
    """What an answer is held against; without it nothing can be said about the answer. Raises CheckBrokenError."""
    if value is None:
        raise CheckBrokenError("there is no reference: its template comes to nothing for this row")
    return _text(value).strip()


def _contains(checked: CheckedRow) -> Score:
    answer = _folded(_text(checked.part), checked.options)
    missing = [wanted for wanted in _texts(checked.expected) if _folded(wanted, checked.options) not in answer]
    return _truth(not missing, f"missing: {', '.join(map(repr, missing))}")


def _any(checked: CheckedRow) -> Score:
    answer = _folded(_text(checked.part), checked.options)
    wanted = _texts(checked.expected)
    holds = any(_folded(text, checked.options) in answer for text in wanted)
    return _truth(holds, f"none of: {', '.join(map(repr, wanted))}")


def _texts(value: Json) -> list[str]:
    return [_text(entry) for entry in value] if isinstance(value, list) else [_text(value)]


def _regex(checked: CheckedRow) -> Score:
    pattern = f"(?i){_text(checked.expected)}" if checked.options.get("ignore_case") else _text(checked.expected)
    found = checked.outside.search(pattern, _text(checked.part))
    wanted = checked.options.get("equals")
    reference = _folded(_reference(wanted), checked.options) if "equals" in checked.options else None
    if found is None or reference is None:
        return _truth(found is not None, "the pattern is not found", expected=wanted)
    got = found[1] if len(found) > 1 else found[0]
    holds = got is not None and _folded(got.strip(), checked.options) == reference
    return _truth(holds, f"found {got!r}", expected=wanted)


def _number(checked: CheckedRow) -> Score:
    decimals = cast("Decimals", checked.options.get("decimal", "point"))
    take = cast("Taken", checked.options.get("take", "last"))
    try:
        reference = number_in(_reference(checked.expected), decimals=decimals)
    except (NoNumberError, AmbiguousNumberError) as error:
        raise CheckBrokenError(f"the reference {_text(checked.expected)[:_SHOWN_CHARS]!r}: {error}") from error
    shown = float(reference)
    try:
        found = number_in(_text(checked.part), take=take, decimals=decimals)
    except NoNumberError as error:
        return Score(verdict="fail", expected=shown, reason=f"the answer has {error}")
    except AmbiguousNumberError as error:
        return Score(verdict="error", expected=shown, reason=f"the answer: {error}")
    holds = abs(found - reference) <= _tolerance(checked.options.get("within", 0), reference)
    reason = None if holds else f"{found} instead of {reference}"
    return Score(verdict="pass" if holds else "fail", value=float(found), expected=shown, reason=reason)


def _tolerance(within: Json, reference: Decimal) -> Decimal:
    if isinstance(within, str):
        return abs(reference) * Decimal(within.strip().removesuffix("%")) / 100
    return Decimal(str(within))


def _json(checked: CheckedRow) -> Score:
    value = part_of(checked.row, "parsed")
    if value is None:
        is_json, value = checked.outside.json_in(_text(checked.part))
        if not is_json:
            return Score(verdict="fail", value=0.0, reason="the answer is not JSON")
    path = _text(checked.expected)
    found = _at(value, path)
    if "schema" in checked.options:
        return _fits(checked.options["schema"], found, path)
    if "equals" in checked.options:
        wanted = checked.options["equals"]
        holds = found is not _ABSENT and _same(cast("Json", found), wanted)
        shown = "absent" if found is _ABSENT else _text(cast("Json", found))
        return _truth(holds, f"{path} is {shown}", expected=wanted)
    present = checked.options.get("present", True) is not False
    return _truth((found is not _ABSENT) == present, f"{path} is {'absent' if present else 'there'}")


def _at(value: Json, path: str) -> object:
    here: object = value
    for name, place, single, double in _STEP.findall(path.removeprefix("$")):
        if place:
            here = here[int(place)] if isinstance(here, list) and int(place) < len(here) else _ABSENT
        else:
            key = name or single or double
            here = here.get(key, _ABSENT) if isinstance(here, dict) else _ABSENT
    return here


def is_path(text: str) -> bool:
    """Whether it is a path that `json` checks understand: `$`, then names and places."""
    return text.startswith("$") and "".join(match.group() for match in _STEP.finditer(text)) == text[1:]


def _same(found: Json, wanted: Json) -> bool:
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, str):
        return _text(found) == wanted.strip()  # what a template made of a number
    return found == wanted


def _fits(schema: Json, found: object, path: str) -> Score:
    ready = prepare(cast("dict[str, Json]", schema))
    if isinstance(ready, SchemaFault):
        raise CheckBrokenError(f"the schema cannot be used: {ready.problem}")
    if found is _ABSENT:
        return _truth(False, f"{path} is absent")  # noqa: FBT003 - as `_truth`
    miss = ready.miss(cast("Json", found), chars=_SHOWN_CHARS)
    return _truth(miss is None, miss or "")


def _length(checked: CheckedRow) -> Score:
    unit = next(iter(checked.options))
    if unit == "tokens":
        return _between(_tokens(checked.row, "output_tokens"), checked.options[unit], unit)
    text = _text(checked.part)
    return _between(len(text) if unit == "chars" else len(text.split()), checked.options[unit], unit)


def _between(found: float | None, limits: Json, unit: str) -> Score:
    least, most = limits if isinstance(limits, list) else (None, limits)
    if found is None:
        return Score(verdict="none", reason=f"the row says no {unit}")
    low = -1.0 if least is None else float(cast("float", least))
    high = float("inf") if most is None else float(cast("float", most))
    holds = low <= found <= high
    reason = None if holds else f"{found:g} {unit}"
    return Score(verdict="pass" if holds else "fail", value=float(found), expected=[least, most], reason=reason)


def _tokens(row: Mapping[str, Json], name: str) -> float | None:
    usage = row.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int | float) else None


def _within(checked: CheckedRow) -> Score:
    score = Score(verdict="none", reason="the row has no time and no token count")
    for name, most in checked.options.items():
        seconds = checked.row.get("seconds")
        found = (
            (seconds if isinstance(seconds, int | float) else None) if name == "seconds" else _tokens(checked.row, name)
        )
        one = _between(found, most, name)
        if one.verdict == "fail":
            return one
        score = one if one.verdict == "pass" else score
    return score


def _python(checked: CheckedRow) -> Score:
    said = checked.outside.python(_text(checked.expected), checked.row)
    if isinstance(said, dict):
        verdict, value, reason = said.get("pass"), said.get("score"), said.get("reason")
        holds = verdict if isinstance(verdict, bool) else None
        number = _finite(value) if isinstance(value, int | float) else None
        if holds is None and number is None:
            raise CheckBrokenError("the function gave a mapping without `pass` (true or false) or `score` (a number)")
        passed = holds if holds is not None else bool(number and number >= 1)
        return Score(
            verdict="pass" if passed else "fail",
            value=number if number is not None else float(passed),
            reason=reason if isinstance(reason, str) else None,
        )
    if isinstance(said, bool):
        return _truth(said, "the function said no")
    if isinstance(said, int | float):
        return Score(verdict="pass" if said >= 1 else "fail", value=_finite(said))
    if said is None:
        return Score(verdict="none", reason="the function said that it does not apply")
    raise CheckBrokenError(f"the function gave {_text(said)[:_SHOWN_CHARS]}, not true, false, a number or a mapping")


def _finite(value: float) -> float:
    """The number as a row can hold it: JSON has no NaN."""
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise CheckBrokenError("the function returned NaN, infinity or too large a number")
    return number


def _picture(checked: CheckedRow) -> Score:
    score = Score(verdict="none", reason="the row has no pictures")
    for name, wanted in checked.options.items():
        one = checked.outside.picture(name, checked.row)
        if one.verdict == "error":
            return one
        if one.verdict != "none" and (one.verdict == "pass") != wanted:
            return replace(one, verdict="fail", value=0.0)
        score = score if one.verdict == "none" else Score(verdict="pass", value=1.0)
    return score


_KINDS: Final[dict[CheckKind, Callable[[CheckedRow], Score]]] = {
    "equals": _equals,
    "contains": _contains,
    "any": _any,
    "regex": _regex,
    "number": _number,
    "json": _json,
    "length": _length,
    "within": _within,
    "python": _python,
    "picture": _picture,
}
_WITHOUT_ANSWER: Final = frozenset({"within", "python", "picture"})
"""Kinds that look at the row, not at a part of its answer."""


# Finds the number that an answer ends with, as people and models write numbers. Refuses to guess.
#
# `1,234.50`, `$18.50.`, `**42**`, `\boxed{12}`, full-width digits and groups set apart by narrow spaces are read.
# A plain space or a second kind of separator between digits could mean two things: that is an error, never a guess.

Decimals: TypeAlias = Literal["point", "comma"]
Taken: TypeAlias = Literal["last", "first", "only"]

_GROUP_SPACE: Final = late_pattern("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
_OTHER_DIGIT: Final = late_pattern(r"(?![0-9])\d")
_RAISED: Final = late_pattern("[\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089]+")
_MINUSES: Final = ("\u2212", "\u2013", "\ufe63", "\uff0d")
_DIGITS: Final = late_pattern(
    r"((?<![\w)\]])[-+])?[$\u20ac\u00a3\u00a5]?((?:\d+|(?<![\w.,])[.,]\d+)(?:[.,]\d+)*(?:[eE][-+]?\d+)?)"
)
"""A sign and digits with whatever separators are between them, so that a text is walked through once."""
_SHAPE: Final = {
    "point": late_pattern(r"(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?"),
    "comma": late_pattern(r"(?:\d{1,3}(?:\.\d{3})+|\d*)(?:,\d+)?(?:[eE][-+]?\d+)?"),
}
_AMBIGUOUS_AFTER: Final = late_pattern(r"['_^\u2019\u2044]\d| \d{3}(?!\d)")
_AMBIGUOUS_BEFORE: Final = late_pattern(r"(?:\d(?:['_\u2019\u2044]|\^\{?-?)|(?<!\d)\d{1,3} )\Z")
_MOST_EXPONENT: Final = 308
"""Beyond it a number has no place in a row; `1e9999999` is rather a part of an identifier."""
_LOOK_BACK_CHARS: Final = 8
_LAST_CHARS: Final = 32


class NoNumberError(ValueError):
    """There is no number, or (for `only`) there are several."""


class AmbiguousNumberError(ValueError):
    """The number could be read in two ways."""


def number_in(text: str, *, take: Taken = "last", decimals: Decimals = "point") -> Decimal:
    """The number of a text.

    Args:
        text: an answer, or a reference.
        take: which one; `only` wants exactly one.
        decimals: what stands before the decimals; the other one sets groups of three digits apart.

    Raises:
        NoNumberError, AmbiguousNumberError.
    """
    plain = _plain(text, group="," if decimals == "point" else ".")
    found = list(_DIGITS.finditer(plain, _place_before_last(plain) if take == "last" else 0))
    if not found:
        raise NoNumberError("no number")
    if take == "only" and len(found) > 1:
        raise NoNumberError(f"{len(found)} numbers where only one was expected")
    chosen = found[0 if take == "first" else -1]
    _refuse_ambiguous(plain, chosen, decimals)
    digits = chosen[2].replace("," if decimals == "point" else ".", "").replace(",", ".")
    try:
        number = Decimal(f"{chosen[1] or ''}{digits}")
    except InvalidOperation:  # an exponent beyond what a decimal holds
        number = None
    if number is None or abs(number.adjusted()) > _MOST_EXPONENT:
        raise NoNumberError(f"no number of a usual size: {digits[:40]}")
    return number


def _place_before_last(plain: str) -> int:
    """Where to begin to look for the last number: no digit, space or mark of it stands before. Saves most of a walk."""
    last = max(map(plain.rfind, "0123456789"))
    return max(0, plain.rfind(" ", 0, max(0, last - _LAST_CHARS)), plain.rfind("\n", 0, max(0, last - _LAST_CHARS)))


def _plain(text: str, *, group: str) -> str:
    """ASCII digits, one kind of minus, and the separator between groups that narrow spaces set apart."""
    if not text.isascii():
        text = _GROUP_SPACE.sub(group, text)
        text = _RAISED.sub(_as_power, text)
        for minus in _MINUSES:
            text = text.replace(minus, "-")
        text = unicodedata.normalize("NFKC", text)
        text = _OTHER_DIGIT.sub(_as_ascii_digit, text)
    return text


def _as_ascii_digit(digit: re.Match[str]) -> str:
    return str(unicodedata.decimal(digit.group()))


def _as_power(raised: re.Match[str]) -> str:
    """`10\u00b3` is no 103, and the last number of `12 m\u00b2` is 12."""
    after_digit = raised.string[max(0, raised.start() - 1) : raised.start()].isdecimal()
    return f"^{unicodedata.normalize('NFKC', raised.group())}" if after_digit else ""


def _refuse_ambiguous(text: str, chosen: re.Match[str], decimals: Decimals) -> None:
    before = text[max(0, chosen.start() - _LOOK_BACK_CHARS) : chosen.start()]
    after = _AMBIGUOUS_AFTER.match(text, chosen.end())
    three = re.match(r"\d*", chosen[2])
    earlier = _AMBIGUOUS_BEFORE.search(before)
    if earlier and earlier.group().endswith(" ") and not (three and len(three.group()) == len("000")):
        earlier = None
    if after or earlier or not _SHAPE[decimals].fullmatch(chosen[2]):
        shown = text[max(0, chosen.start() - _LOOK_BACK_CHARS) : chosen.end() + _LOOK_BACK_CHARS].strip()
        raise AmbiguousNumberError(f"{shown!r} can be read as one number or as two; see `decimal` and `take`")
