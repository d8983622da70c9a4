r"""Finds the number that an answer ends with, as people and models write numbers. Refuses to guess.

`1,234.50`, `$18.50.`, `**42**`, `\boxed{12}`, full-width digits and groups set apart by narrow spaces are read.
A plain space or a second kind of separator between digits could mean two things: that is an error, never a guess.
"""

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, TypeAlias

from batchrunner.core.text import late_pattern

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
