"""Keys that do not show themselves: taken from the environment, cleaned of what pasting adds, masked in any text.

Refuses keys that cannot stand in a header. Threats 2 and 15: see
docs/reliability.md#threats.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake

MASK: Final = "***"

# Shorter ones are placeholders like `EMPTY` or `none`: masking them would riddle innocent text.
SHORTEST_MASKED: Final = 8
_QUOTES = "\"'`“”‘’"
_SCHEME = re.compile(r"\A(?:authorization\s*:\s*)?bearer\s+", re.IGNORECASE)


class Secret:
    """A key. Shows itself only through `reveal()`; `repr`, `str` and formatting give a mask."""

    __slots__ = ("_pattern", "_text", "coded", "packed")

    def __init__(self, text: str) -> None:
        self._text = text
        self._pattern: re.Pattern[str] | None = None
        self.packed = _packed(text) if len(text) >= SHORTEST_MASKED else ()
        """Its base64, at whatever place among other bytes, and its hex digits."""
        self.coded = tuple(form.encode("utf-8", "replace") for form in (text, *self.packed))
        """The key and its `packed` forms as bytes hold them."""

    def reveal(self) -> str:
        """The key itself, for a header and for nothing else."""
        return self._text

    def escaped(self) -> re.Pattern[str]:
        """Finds it with any of its characters written as URLs, JSON and HTML may write them."""
        if self._pattern is None:
            self._pattern = re.compile("".join(_spellings(char) for char in self._text))
        return self._pattern

    def is_in(self, text: str) -> bool:
        """Whether it stands in a text, as it is or encoded."""
        if self._text in text or any(form in text for form in self.packed):
            return True
        return bool(self.packed) and may_be_escaped(text) and self.escaped().search(text) is not None

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


def read_proxy_auth(name: str, environ: Mapping[str, str]) -> Secret:
    """The proxy's `user:password` in this environment variable.

    Raises:
        JobMistakesError: it is not set, or is no user and password.
    """
    text = environ.get(name, "").strip()
    user, colon, _ = text.partition(":")
    if user and colon and text.isprintable():
        return Secret(text)
    problem = f"{name} is not set" if name not in environ else f"{name} does not hold a user and a password"
    hint = f"export {name}=USER:PASSWORD"
    mistake = Mistake(problem=problem, key="provider.proxy_auth_env", expected="USER:PASSWORD", hint=hint)
    raise JobMistakesError((mistake,))


def hidden_of(proxy_auth: Secret | None) -> tuple[Secret, ...]:
    """What must not show of it: the whole, and the password by itself."""
    if proxy_auth is None:
        return ()
    return (proxy_auth, Secret(proxy_auth.reveal().partition(":")[2]))


def mask(text: str, secrets: Iterable[Secret]) -> str:
    """The text with every known key replaced by `***`, the longest first, and however it is encoded."""
    known = sorted((secret for secret in secrets if secret.packed), key=lambda secret: -len(secret.reveal()))
    for secret in known:
        if not secret.is_in(text):
            continue
        for form in (secret.reveal(), *secret.packed):
            text = text.replace(form, MASK)
        text = secret.escaped().sub(MASK, text)
    return text


def may_be_escaped(text: str) -> bool:
    """Whether a text has any sign of an encoding; most have none."""
    return "%" in text or "\\" in text or "&" in text


def _spellings(char: str) -> str:
    """A pattern for one character: itself, percent, a backslash with it or its number, HTML's numbers and names.

    Every alternative begins with a literal, so that a search skips what can begin none; every repetition is bounded,
    so that a text of nothing but backslashes is no work of hours.
    """
    code = ord(char)
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{code:02x}")
    named = "".join(f"|&{name};" for name in _NAMES.get(char, ()))
    plain = re.escape(char)
    escapes = rf"\\\\{{0,{_NESTED}}}(?:{plain}|u00{digits}|x{digits})"
    numbers = rf"&(?:amp;){{0,{_NESTED}}}#(?:0{{0,{_NESTED}}}{code}|[xX]0{{0,{_NESTED}}}{digits});"
    return rf"(?:{plain}|%(?:25){{0,{_NESTED}}}{digits}|{escapes}|{numbers}{named})"


_NESTED: Final = 16
"""Escapes within escapes that are looked through: four rounds of JSON in JSON double their backslashes to fifteen."""
_NAMES: Final = {
    "/": ("sol",),
    "+": ("plus",),
    "=": ("equals",),
    "_": ("lowbar", "UnderBar"),
    "-": ("hyphen", "dash"),
    ".": ("period",),
    ":": ("colon",),
    "&": ("amp",),
    "<": ("lt",),
    ">": ("gt",),
    '"': ("quot",),
    "'": ("apos", "#39"),
}


def _packed(text: str) -> tuple[str, ...]:
    """What of its base64 is the same whatever stands before and behind it, and its hex digits."""
    data = text.encode("utf-8", "replace")
    forms: dict[str, None] = {data.hex(): None, data.hex().upper(): None}
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data).decode()
        first = (0, 2, 3)[before]  # the characters that the bytes before have a part in
        last = (before + len(data)) * 8 // 6
        for form in (coded[first:last], coded[first:last].replace("+", "-").replace("/", "_")):
            forms[form] = None
    return tuple(forms)


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
