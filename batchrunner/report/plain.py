"""The render boundary for plain text: whatever a prompt, a server or a file name says, it stays one visible line.

Refuses nothing and alters nothing that a person can see; control and bidirectional characters become escapes, so that
they can neither steer a terminal nor forge a line of ours (threat 13).
"""

import unicodedata

_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Persian and emoji are spelt with them, and they reorder nothing."""


def printable(text: str, *, most: int | None = None) -> str:
    r"""`text` with control, bidi, surrogate and line-breaking characters as `\x1b`, `\u202e` and the like.

    Args:
        text: anything at all.
        most: cut to this many characters, the last of them `…`.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")
