"""Text at its borders: surrogates, which UTF-8 cannot hold, byte order marks, and what bytes of no UTF-8 look like.

Only a byte order mark is believed. What bytes look like is said to people, who then write `encoding:`; nothing is read
by a guess.
"""

import codecs
import re
from collections.abc import Callable
from typing import cast

from batchrunner.core.job import Json

MASK = "***"
"""What stands where a key stood."""
BOM = codecs.BOM_UTF8
"""Of UTF-8. Editors put it before a file; it is never a part of its text."""
MARKED_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _LatePattern:
    def __init__(self, pattern: str, flags: int) -> None:
        self._compiled_from = (pattern, flags)

    def __getattr__(self, name: str) -> object:
        found = getattr(re.compile(*self._compiled_from), name)
        setattr(self, name, found)  # from now on the method is found without this one
        return found


def late_pattern(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """What `re.compile` gives, compiled when it is first used; not for the functions of `re`, which want a real one.

    For patterns that most runs have no use for: errors of servers, mistakes in a job, the audit. Compiling all of them
    took a tenth of the time in which a command starts.
    """
    return cast("re.Pattern[str]", _LatePattern(pattern, flags))


_HALF_WIDTH = range(0x20, 0x7F)


def without_lone_surrogates(text: str) -> str:
    """The same text with surrogates that stand side by side joined to one character, and lone ones made U+FFFD.

    Servers that cut a stream between UTF-16 units send one character as two escapes in two events.
    """
    if text.isascii():
        return text
    try:
        text.encode()  # far quicker than to look for surrogates, and they are all that it refuses
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def has_surrogate(text: str) -> bool:
    """True when UTF-8 cannot hold the text."""
    return without_lone_surrogates(text) is not text


def repaired(value: Json | tuple[Json, ...]) -> Json:
    """A JSON value that UTF-8 can hold: `without_lone_surrogates` for every text and name in it."""
    match value:
        case str():
            return without_lone_surrogates(value)
        case list() | tuple():
            return [repaired(inner) for inner in value]
        case dict():
            return {without_lone_surrogates(name): repaired(inner) for name, inner in value.items()}
        case None | bool() | int() | float():
            return value


def marked_encoding(beginning: bytes) -> str | None:
    """What the byte order mark at a file's beginning says; None where it is UTF-8 or there is no mark."""
    return next((name for mark, name in MARKED_ENCODINGS if beginning.startswith(mark)), None)


def looks_like(raw: bytes) -> tuple[str, str] | None:
    """(name, Python's name) of the likely encoding of some bytes with bytes that are not UTF-8; None when unknown."""
    even, odd = raw[0::2].count(0), raw[1::2].count(0)
    if even or odd:
        return ("UTF-16", "utf-16-le" if odd > even else "utf-16-be")
    if _is_western(raw):
        return "Windows-1252", "cp1252"
    for name, code, fits in _GUESSES:
        try:
            text = raw.decode(code)
        except UnicodeDecodeError as error:
            if error.end < len(raw) - 1 or error.start == 0:  # the sample may end within a character
                continue
            text = raw[: error.start].decode(code)
        if fits([ord(char) for char in text if ord(char) not in _HALF_WIDTH and not char.isspace()]):
            return name, code
    return None


def _mostly(*ranges: tuple[int, int], share: float) -> Callable[[list[int]], bool]:
    def fits(codes: list[int]) -> bool:
        inside = sum(any(low <= code <= high for low, high in ranges) for code in codes)
        return bool(codes) and inside >= share * len(codes)

    return fits


_KANA = (0x3041, 0x30FF)
_HANGUL = (0xAC00, 0xD7A3)
_HAN = (0x4E00, 0x9FFF)
_CJK_MARKS = ((0x3000, 0x303F), (0xFF00, 0xFFEF), (0x2010, 0x2026))
_LATIN = ((0xA1, 0x17F), (0x2010, 0x20AC))
_CYRILLIC = (0x401, 0x491)
_SMALL_CYRILLIC = (0x430, 0x45F)
_FEW = 3


def _is_western(raw: bytes) -> bool:
    """Accented letters, signs and curled quotes, most of them alone among ASCII or in pairs within a word ("Größe")."""
    high = [place for place, byte in enumerate(raw) if byte > _HALF_WIDTH.stop]
    runs = list(_HIGH_RUN.finditer(raw))
    alone = sum(len(run[0]) == 1 for run in runs)
    in_words = sum(len(run[0]) for run in runs if _PAIR_IN_WORD.search(raw, max(run.start() - 1, 0), run.end() + 1))
    known = sum(raw[place] >= 0xC0 or raw[place] in _SIGNS for place in high)  # noqa: PLR2004 - Windows' letters
    return known == len(high) and _FEW * (alone + in_words) >= len(high)


_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
_PAIR_IN_WORD = re.compile(rb"[a-z][\xc0-\xff]{2}[a-z]")
_SIGNS = frozenset("€„“”‘’–—•…§°£«»²³½©®µ¿¡\xa0".encode("cp1252"))


def _is_japanese(codes: list[int]) -> bool:
    return _mostly(_KANA, share=0.2)(codes) and _mostly(_KANA, _HAN, *_CJK_MARKS, share=0.95)(codes)


def _is_korean(codes: list[int]) -> bool:
    return len(codes) > _FEW and _mostly(_HANGUL, share=1.0)(codes)


def _is_common_chinese(codes: list[int]) -> bool:
    """Most characters are of the 3,755 that GB2312 holds to be common; other encodings' bytes fall anywhere."""
    if not _mostly(_HAN, *_CJK_MARKS, share=0.95)(codes):
        return False
    pairs = [chr(code).encode("gb18030") for code in codes if _HAN[0] <= code <= _HAN[1]]
    return _FEW * sum(b"\xb0" <= pair[:1] <= b"\xd7" and pair[1:] >= b"\xa1" for pair in pairs) > 2 * len(pairs)


def _is_russian(codes: list[int]) -> bool:
    return len(codes) > _FEW and _mostly(_CYRILLIC, share=0.95)(codes) and _mostly(_SMALL_CYRILLIC, share=0.5)(codes)


_GUESSES: tuple[tuple[str, str, Callable[[list[int]], bool]], ...] = (
    ("Shift-JIS", "shift_jis", _is_japanese),
    ("EUC-KR", "euc_kr", _is_korean),
    ("GB18030", "gb18030", _is_common_chinese),
    ("Windows-1251", "cp1251", _is_russian),
    ("Big5", "big5", _mostly(_HAN, *_CJK_MARKS, share=0.95)),
    ("Windows-1252", "cp1252", _mostly(*_LATIN, share=0.95)),
)
"""In the order in which they are tried: those that most bytes cannot be come first."""
