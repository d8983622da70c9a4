"""Keys that do not show themselves: cleaned of what pasting adds, masked in any text.

Threats 2 and 15: see
docs/reliability.md#threats.
"""

import base64
import json
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import Job, Provider
from batchrunner.core.text import MASK
from batchrunner.core.values import field_names, replace

if TYPE_CHECKING:
    from batchrunner.core.outcome import Answer
    from batchrunner.core.ports import Items

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


def read_proxy_auth(name: str, environ: Mapping[str, str]) -> Secret:
    """The proxy's `user:password` in this environment variable.

    Raises:
        JobMistakesError: it is not set, or is no user and password.
    """
    text = environ.get(name, "").strip()
    user, colon, _ = text.partition(":")
    if user and colon and text.isprintable():
        return Secret(text)
    problem = f"{name} is not set" if name not in environ else f"{name} is not of the form USER:PASSWORD"
    hint = f"export {name}=USER:PASSWORD"
    mistake = Mistake(problem=problem, key="provider.proxy_auth_env", expected="USER:PASSWORD", hint=hint)
    raise JobMistakesError((mistake,))


def hidden_of(proxy_auth: Secret | None) -> tuple[Secret, ...]:
    """What must not show of it: the whole, and the password by itself."""
    if proxy_auth is None:
        return ()
    return (proxy_auth, Secret(proxy_auth.reveal().partition(":")[2]))


def hidden_from_files(provider: Provider, keys: Iterable[Secret], environ: Mapping[str, str]) -> tuple[Secret, ...]:
    """All that must not show in a run's files: the keys, and what the proxy asks for, as far as it is set."""
    name = provider.proxy_auth_env
    given = environ.get(name, "").strip() if name else ""
    return (*keys, *hidden_of(Secret(given) if given else None))


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
    """What of its base64 is the same whatever comes before and after it, and its hex digits."""
    data = text.encode("utf-8", "replace")
    forms: dict[str, None] = {data.hex(): None, data.hex().upper(): None}
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data).decode()
        first = (0, 2, 3)[before]  # the characters that the bytes before have a part in
        last = (before + len(data)) * 8 // 6
        for form in (coded[first:last], coded[first:last].replace("+", "-").replace("/", "_")):
            forms[form] = None
    return tuple(forms)


def fits_header(text: str) -> bool:
    """Whether it is one word of printable ASCII."""
    return text.isascii() and text.isprintable() and " " not in text


# Known keys taken out of whatever comes in, before anybody can write it down.
#
# A server has the key that it was sent, and may repeat it: in an error, in an answer, in a URL or in a picture.
# Values are frozen, so a masked one is a copy. Refuses prompts that hold a key: they would be kept and shown with it.
# Threat 2: see docs/reliability.md#threats.

T = TypeVar("T")

_SHORTEST_REFUSED: Final = 12
"""Shorter ones may be words, such as the placeholders that local servers take: a prompt may hold those."""
_LONG: Final = 64 * 1024
_DEEPEST: Final = 100
"""Of a masked value; what nests deeper becomes the mask as a whole."""


def masked(value: T, secrets: Iterable[Secret]) -> T:
    """The same value, of the same type, with every known key inside replaced. Bytes keep their length."""
    known = [secret for secret in secrets if len(secret.reveal()) >= SHORTEST_MASKED]
    if not known or not _holds(value, known):
        return value
    clean: T = _masked(value, known, _DEEPEST)
    return clean


class Masker:
    """`masked` for the keys of a run: one look at the words of an ordinary answer shows that none of them is there."""

    __slots__ = ("_answer", "_known", "_signs")

    def __init__(self, secrets: Iterable[Secret]) -> None:
        from batchrunner.core.outcome import Answer  # noqa: PLC0415 - `check` reads keys and needs no kind of reply

        self._answer = Answer
        self._known = [secret for secret in secrets if len(secret.reveal()) >= SHORTEST_MASKED]
        self._signs = tuple(
            dict.fromkeys(sign for secret in self._known for sign in (_begun(secret.reveal()), *secret.packed))
        )
        """A text that holds a key, or its beginning, has one of these, or a sign of an escape."""

    def __repr__(self) -> str:
        return f"<Masker of {len(self._known)} keys>"

    def masked(self, value: T) -> T:
        """As of the function."""
        if not self._known or (isinstance(value, self._answer) and self._is_clean(value)):
            return value
        return masked(value, self._known)

    def _is_clean(self, answer: "Answer") -> bool:
        """Whether an answer has nothing but words, and no key can be in them. False: it has to be looked through."""
        if (
            answer.tool_calls
            or answer.parsed is not None
            or answer.pictures
            or answer.sounds
            or answer.choices
            or answer.extras
            or len(answer.text) > _LONG  # joined with the rest it would be in memory twice
        ):
            return False
        words = f"{answer.text}\n{answer.reasoning}\n{answer.finish_reason}"  # no key has a line's end in it
        if answer.flags:
            words += "\n".join(answer.flags)
        for sign in self._signs:
            if sign in words:
                return False
        return not may_be_escaped(words) or all(secret.escaped().search(words) is None for secret in self._known)

    def masked_lines(self, lines: bytes) -> bytes:
        """Whole lines of JSON, as JSON again: `masked` of each that holds a key, any other one byte for byte."""
        if not self._known or not _may_hold([lines.decode("utf-8", "replace")], self._known):
            return lines
        return b"\n".join(self._masked_line(line) for line in lines.split(b"\n"))

    def _masked_line(self, line: bytes) -> bytes:
        text = line.decode("utf-8", "surrogateescape")
        if not _holds(text, self._known):
            return line
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return _masked_text(text, self._known).encode("utf-8", "surrogateescape")
        # as JSON, not as text: a key's spelling may begin within an escape, and what is left has to be JSON still
        return json.dumps(_masked(value, self._known, _DEEPEST)).encode()


def refuse_keys_in_job(job: Job, keys: Mapping[str, Secret]) -> None:
    """A job is written down as resolved: raises JobMistakesError when a key's own text stands in it."""
    for name, secret in keys.items():
        if len(secret.reveal()) >= _SHORTEST_REFUSED and _holds(job, [secret]):
            raise JobMistakesError((_mistake(f"the key of {name} is in the job itself", file=job.file),))


class KeylessItems:
    """The `core.ports.Items` of a job, refused at the first item that holds a key."""

    def __init__(self, items: "Items", keys: Mapping[str, Secret]) -> None:
        self._items = items
        self._keys = {name: key for name, key in keys.items() if len(key.reveal()) >= _SHORTEST_REFUSED}

    def __repr__(self) -> str:
        return f"<KeylessItems of {self._items!r}>"

    @property
    def of_job(self) -> int:
        """As the port says."""
        return self._items.of_job

    @property
    def skipped_rows(self) -> int:
        """As the port says."""
        return self._items.skipped_rows

    async def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
        """As the port says; raises JobMistakesError for an item that holds a key."""
        async with aclosing(self._items.batches(models)) as batches:
            async for batch in batches:
                if self._keys and _may_hold(_texts_of(batch), self._keys.values()):
                    self._refuse_keys(batch)
                yield batch

    def _refuse_keys(self, batch: Sequence[Item]) -> None:
        for item in batch:
            for name, key in self._keys.items():
                if _holds(item, [key]):
                    mistake = _mistake(f"item {item.index} contains the key of {name}", file=None)
                    raise JobMistakesError((mistake,))


def _texts_of(batch: Sequence[Item]) -> list[str]:
    """Every text of these items. What they share is taken once."""
    texts: list[str] = []
    roles: set[str] = set()
    shared: set[int] = set()
    others: list[object] = []
    if isinstance(batch, AlikeItems):
        texts += (*batch.ids, *batch.texts)
        for columns in batch.values:
            texts += columns
            others += columns.values()
        batch = (batch.like,)
    for item in batch:
        name, prompt, values = item.id, item.prompt, item.vars
        texts += (name, prompt)
        texts += values
        others += values.values()
        if item.prompt_id is not name or item.stem is not name:
            texts += (item.prompt_id, item.stem)
        for turn in item.turns:
            if turn.content is not prompt or turn.raw is not None:
                if id(turn) in shared:
                    continue
                shared.add(id(turn))
                texts.append(turn.content)
                others.append(turn.raw)
            roles.add(turn.role)
        for part in (item.params, item.schema, item.pictures, item.files):
            if part and id(part) not in shared:
                shared.add(id(part))
                others.append(part)
    texts += {item.model for item in batch}
    texts += roles
    texts += [value for value in others if type(value) is str]
    texts += _strings_in([value for value in others if type(value) is not str])
    return texts


def _strings_in(values: list[object]) -> Iterator[str]:
    """Every text in these values, without recursion. Empties the list."""
    while values:
        here = values.pop()
        if isinstance(here, str):
            yield here
        elif here is not None:
            values.extend(_inside(here))


def _may_hold(texts: list[str], secrets: Iterable[Secret]) -> bool:
    """False: none of these texts holds a key, or the beginning of one, in whatever form. One look for all of them."""
    joined = "\n".join(texts)  # which stands in no key
    escaped = "\n".join([text for text in texts if may_be_escaped(text)]) if may_be_escaped(joined) else ""
    for secret in secrets:
        if _begun(secret.reveal()) in joined or any(form in joined for form in secret.packed):
            return True
        if escaped and secret.escaped().search(escaped) is not None:
            return True
    return False


def _mistake(problem: str, *, file: str | None) -> Mistake:
    hint = "remove it: everything that is sent is also written to the results"
    return Mistake(problem=problem, file=file, expected="the name of an environment variable", hint=hint)


def _holds(value: object, secrets: list[Secret]) -> bool:
    """Without recursion: values of servers nest as deep as they like."""
    tokens = [secret.reveal() for secret in secrets]
    left: list[object] = [value]
    while left:
        here = left.pop()
        if isinstance(here, str):
            if any(secret.is_in(here) for secret in secrets) or any(_cut_off(here, token) for token in tokens):
                return True
        elif isinstance(here, bytes):
            if any(form in here for secret in secrets for form in secret.coded):
                return True
        else:
            left.extend(_inside(here))
    return False


_names: Final = cache(field_names)
"""Looked up once: every reply is walked through."""


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | frozenset):
        yield from value
    else:
        kind: type = type(value)
        yield from (getattr(value, name) for name in _names(kind))


def _masked(value: T, secrets: list[Secret], depth: int) -> T:
    clean: object = value
    match value:
        case str():
            clean = type(value)(_masked_text(value, secrets)) if _holds(value, secrets) else value
        case bytes():
            clean = value
            for form in (form for secret in secrets for form in secret.coded):
                clean = clean.replace(form, b"*" * len(form))
        case Mapping() | list() | tuple() if depth == 0:
            clean = MASK
        case Mapping():
            clean = {_masked(key, secrets, 0): _masked(inner, secrets, depth - 1) for key, inner in value.items()}
        case list():
            clean = [_masked(inner, secrets, depth - 1) for inner in value]
        case tuple():
            make = getattr(type(value), "_make", tuple)  # a named tuple stays one
            clean = make([_masked(inner, secrets, depth - 1) for inner in value])
        case _:
            clean = _masked_fields(value, secrets, depth - 1)
    return clean  # type: ignore[return-value]  # each branch keeps the type, which no checker can follow


def _masked_fields(value: Any, secrets: list[Secret], depth: int) -> object:
    kind: type = type(value)
    names = _names(kind)
    if not names:
        return value
    found = {name: getattr(value, name) for name in names}
    return replace(value, **{name: _masked(inner, secrets, depth) for name, inner in found.items()})


def _masked_text(text: str, secrets: list[Secret]) -> str:
    text = mask(text, secrets)
    for secret in secrets:
        if cut := _cut_off(text, secret.reveal()):
            text = text[: -len(cut)] + MASK
    return text


def _begun(token: str) -> str:
    """As much of a key as identifies it: whatever holds the key, or its beginning, has this."""
    return token[: max(SHORTEST_MASKED, len(token) // 2)]


def _cut_off(text: str, token: str) -> str:
    """The end of a text that was shortened within a key, when half of the key still shows; else nothing."""
    start = text.rfind(_begun(token))
    rest = text[start:] if start >= 0 else ""
    return rest if rest and token.startswith(rest.rstrip("…")) else ""
