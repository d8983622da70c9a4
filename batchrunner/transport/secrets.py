"""Keys that do not show themselves: taken from the environment, cleaned of what pasting adds, masked in any text.

Refuses keys that cannot stand in a header. Source: PROTOCOL 2.2 (token hygiene), RELIABILITY threats 2 and 15.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from batchrunner.core.errors import Mistake

MASK: Final = "***"

# Shorter ones are placeholders like `EMPTY` or `none`: masking them would riddle innocent text.
SHORTEST_MASKED: Final = 8
_QUOTES = "\"'`“”‘’"
_SCHEME = re.compile(r"\A(?:authorization\s*:\s*)?bearer\s+", re.IGNORECASE)


class Secret:
    """A key. Shows itself only through `reveal()`; `repr`, `str` and formatting give a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The key itself, for a header and for nothing else."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


def clean_key(text: str) -> str:
    """The key without the white space, quotes and `Bearer ` prefix that come along when it is pasted."""
    seen = None
    while text != seen:
        seen = text
        text = _SCHEME.sub("", text.strip().strip(_QUOTES).strip(), count=1) if text else text
    return text


def read_keys(names: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, Secret], tuple[Mistake, ...]]:
    """The keys in these environment variables by name, and one mistake for each that is missing or cannot be a key."""
    keys: dict[str, Secret] = {}
    mistakes: list[Mistake] = []
    for name in names:
        text = clean_key(environ.get(name, ""))
        if not text:
            mistakes.append(
                Mistake(
                    problem=f"the environment variable {name} is empty" if name in environ else f"{name} is not set",
                    key="provider.api_key_env",
                    expected="an environment variable that holds the key",
                    hint=f"export {name}=YOUR_KEY",
                )
            )
        elif not _fits_header(text):
            mistakes.append(
                Mistake(
                    problem=f"the key in {name} has white space, control or non-ASCII characters inside",
                    key="provider.api_key_env",
                    expected="one word of printable ASCII",
                    hint="copy it again from the provider's page",
                )
            )
        else:
            keys[name] = Secret(text)
    return keys, tuple(mistakes)


def mask(text: str, secrets: Iterable[Secret]) -> str:
    """The text with every known key replaced by `***`, the longest first."""
    tokens = {token for secret in secrets if len(token := secret.reveal()) >= SHORTEST_MASKED}
    for token in sorted(tokens, key=len, reverse=True):
        text = text.replace(token, MASK)
    return text


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
