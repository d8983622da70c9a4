"""What literal keys and tokens look like, and how they are made unreadable. Pure text in, text out."""

import math
import re
from collections import Counter

MASK = "•••"

_START = r"(?<![A-Za-z0-9_])"
_KNOWN = re.compile(
    "|".join(
        (
            _START + r"sk-(?:(?=[\w-]*\d)[\w-]{10,}|[A-Za-z0-9]{20,}|(?:ant|proj|or)-[\w-]{8,})",
            _START + r"ms-[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}",
            _START + r"ms-(?=[\w-]*\d)(?=[\w-]*[a-zA-Z])[A-Za-z0-9-]{20,}",
            _START + r"[Bb]earer\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{12,}",
            _START + r"(?:(?:hf|gsk|r8|ghp|gho|ghs|github_pat)_|(?:xai|pplx|nvapi)-)(?=[\w-]*\d)[\w-]{16,}",
            _START + r"(?:AIza|AKIA|LTAI)(?=[\w-]*\d)[\w-]{16,}",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        )
    )
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_OPAQUE_CHARS = 20
_OPAQUE_BITS = 3.2


def shows_secret(text: str) -> bool:
    """True when a literal key or token stands in the text."""
    return _has_mark(text) and _KNOWN.search(text) is not None


def hidden(text: str) -> str:
    """The text with every literal key or token made unreadable."""
    return _KNOWN.sub(MASK, text) if _has_mark(text) else text


def _has_mark(text: str) -> bool:
    """True when something stands there that each form of `_KNOWN` has: almost no text does, and to ask costs little."""
    return (
        ("-" in text and any(mark in text for mark in _HYPHENED))
        or ("_" in text and any(mark in text for mark in _UNDERSCORED))
        or "earer" in text
        or "AIza" in text
        or "AKIA" in text
        or "LTAI" in text
    )


_HYPHENED = ("sk-", "ms-", "xai-", "pplx-", "nvapi-", "-----BEGIN ")
_UNDERSCORED = ("hf_", "gsk_", "r8_", "ghp_", "gho_", "ghs_", "github_pat_")


def names_variable(name: str) -> bool:
    """True when this can be the name of an environment variable and does not look like a key itself."""
    return bool(_VARIABLE.fullmatch(name)) and not opaque(name) and not shows_secret(name)


def opaque(text: str) -> bool:
    """True for long runs of mixed letters and digits, as keys are and names are not."""
    return any(_random(run) for run in text.split("_"))


def _random(run: str) -> bool:
    if len(run) < _OPAQUE_CHARS:
        return False
    mixed = any(char.isdigit() for char in run) and any(char.isalpha() for char in run)
    share = [count / len(run) for count in Counter(run).values()]
    return mixed and -sum(part * math.log2(part) for part in share) > _OPAQUE_BITS
