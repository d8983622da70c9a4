"""Text that is not UTF-8: brought to UTF-8 piece by piece, so that everybody behind knows one encoding; and guesses.

A byte that the encoding does not know reaches its row as it is, where it is a bad row with its line. What the bytes
look like is said to people, who then write `encoding:`; nothing is read by a guess. Only a byte order mark is believed.
"""

import codecs
import re
from collections.abc import Callable

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 4096
_HALF_WIDTH = range(0x20, 0x7F)


def encoding_of(beginning: bytes, given: str | None) -> str | None:
    """What a file is to be decoded from; None when it is UTF-8 already. `given` is what the job says."""
    if given is not None:
        return None if codecs.lookup(given).name in {"utf-8", "utf-8-sig", "ascii"} else given
    return next((name for mark, name in _MARKS if beginning.startswith(mark)), None)


def to_utf8(encoding: str) -> Callable[[bytes, bool], bytes]:
    """A function that brings pieces to UTF-8; its second argument says that the piece is the last one.

    It raises UnicodeDecodeError for bytes that cannot be passed on as they are, as of an odd number in UTF-16.
    """
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")

    def converted(piece: bytes, last: bool) -> bytes:  # noqa: FBT001 - as of codecs, whose function it wraps
        return decoder.decode(piece, last).encode("utf-8", "surrogateescape")

    return converted


def hint_of(raw: bytes) -> str:
    """What to do about bytes that are not UTF-8, with what they look like."""
    likely = looks_like(raw[:_SAMPLE_BYTES])
    if likely is None:
        return "save the file as UTF-8, or write its `encoding:` under `prompts`"
    name, code = likely
    return f"it looks like {name}: write `encoding: {code}` under `prompts`, or save the file as UTF-8"


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
