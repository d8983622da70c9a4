"""Where a mistake is: paths of keys, and a fault before it is tied to a file."""

import json
import math
import re
from collections import Counter
from typing import TypeAlias

import yaml
from yaml.reader import ReaderError

from batchrunner.core.job import Json
from batchrunner.core.text import late_pattern, marked_encoding
from batchrunner.core.values import dataclass

# What literal keys and tokens look like, and how they are made unreadable. Pure text in, text out.

MASK = "•••"

_START = r"(?<![A-Za-z0-9_])"
_KNOWN = late_pattern(
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
_VARIABLE = late_pattern(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
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


_HEADER = late_pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = late_pattern(r"[\t\x20-\x7e]*")
_CREDENTIAL = late_pattern(
    r"auth(?!ors?$)|cookie|\btoken\b|secret|passw|credential|api-?key|^x-key$|bearer", re.IGNORECASE
)
_CREDENTIAL_VALUE = late_pattern(r"(?i:bearer|token|key)\s+\S{6}|(?i:basic)\s+(?=\S*[0-9A-Z=+/])\S{6}")
_OWN_HEADERS = {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}


def header_problem(name: str, value: str) -> str | None:
    """What keeps a header of a file from being sent; None when it may be."""
    if not _HEADER.fullmatch(name):
        return "is not a header's name"
    if not _HEADER_VALUE.fullmatch(value):
        return "has a line break or characters that a header cannot have"
    if name.lower() in _OWN_HEADERS:
        return "is a header that batchrunner sets itself"
    if _CREDENTIAL.search(name) or _CREDENTIAL_VALUE.match(value) or opaque(value):
        return "looks like a header that carries a key"
    return None


KeyPath: TypeAlias = tuple[str | int, ...]
"""From the root of a job file to a value: keys of mappings and 0-based places in lists."""

_PLAIN_KEY = late_pattern(r"[\w-]+")
_SHOWN_CHARS = 60
_DEEPEST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecError:
    """A mistake at a path; its file and line are looked up when all are known."""

    path: KeyPath
    problem: str
    expected: str | None = None
    hint: str | None = None
    line: int | None = None
    """Set where the path alone does not say it, as for the second of two equal keys."""
    file: str | None = None
    """Set where it is another file than the job's, which the job names; `line` is then of that one."""


def dotted(path: KeyPath) -> str:
    """The path as people write it: `prompts[2].params.seed`."""
    shown = ""
    for step in path:
        match step:
            case int():
                shown += f"[{step}]"
            case str() if _PLAIN_KEY.fullmatch(step):
                shown += f".{step}" if shown else step
            case str():
                shown += f"[{short(step)}]"
    return shown


def short(value: Json) -> str:
    """A value as a message shows it: JSON, without secrets, cut."""
    text = hidden(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def parsed_path(text: str) -> KeyPath | None:
    """`limits.concurrency` or `prompts[0].id` as a path; None when it is none."""
    if not re.fullmatch(r"[^.\[\]]+(\[\d{1,6}\]|\.[^.\[\]]+)*", text):
        return None
    if text.count(".") + text.count("[") > _DEEPEST:
        return None
    return tuple(int(place) if place else key for key, place in re.findall(r"([^.\[\]]+)(?=\.|\[|$)|\[(\d+)\]", text))


# Errors of the YAML parser and the UTF-8 decoder, in plain words and with a line.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wording:
    """`needle` as PyYAML says it, or as PyYAML and libyaml say it; `problem` and `hint` as a person should read it."""

    needle: str | tuple[str, ...]
    problem: str
    hint: str | None = None

    def matches(self, said: str) -> bool:
        """True when the parser means this."""
        needles = (self.needle,) if isinstance(self.needle, str) else self.needle
        return any(needle in said for needle in needles)


_WORDINGS = (
    _Wording(
        needle=r"character '\t' that cannot start",
        problem="a tab where YAML allows only spaces",
        hint="indent with spaces",
    ),
    _Wording(
        needle="that cannot start any token",
        problem="a value begins with a character that is special in YAML",
        hint="put the text in quotes",
    ),
    _Wording(
        needle="mapping values are not allowed",
        problem="a colon where no key is allowed",
        hint="look at the indentation, and put text with `: ` in it in quotes",
    ),
    _Wording(needle="could not find expected ':'", problem="a key without its colon", hint="write `key: value`"),
    _Wording(
        needle=("expected <block end>", "did not find expected key", "did not find expected '-' indicator"),
        problem="this line does not continue what is above it",
        hint="look at the indentation and at the quotes",
    ),
    _Wording(
        needle="undefined alias",
        problem="a value begins with * but there is no such anchor",
        hint="put the text in quotes",
    ),
    _Wording(
        needle="scanning an alias",
        problem="a value begins with * but there is no such anchor",
        hint="put the text in quotes",
    ),
    _Wording(
        needle=("expected the node content", "did not find expected node content"),
        problem="a list [ ] or mapping { } is not closed or lacks a value",
    ),
    _Wording(
        needle="unexpected end of stream", problem="a quoted value is not closed", hint="look for the missing quote"
    ),
    _Wording(
        needle="expected ',' or",
        problem="a list [ ] or mapping { } is not closed or lacks a comma",
        hint="a text in it with ? or : may need quotes",
    ),
    _Wording(
        needle="but found another document",
        problem="a second document begins with ---",
        hint="one job in a file",
    ),
    _Wording(needle="unknown escape character", problem="an unknown escape in double quotes", hint=r"write \\"),
)


_QUOTED = late_pattern(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|(?:^|\s)#.*", re.MULTILINE)
"""Texts in quotes and comments: braces in them mean nothing to YAML."""


def syntax_fault(error: Exception, *, text: str, line: int | None) -> SpecError:
    """The parser's error as a fault; `line` is where the parser stood, for errors that do not say."""
    if isinstance(error, ReaderError):
        # libyaml counts the bytes of UTF-8, PyYAML the characters.
        read = text.encode()[: error.position] if error.encoding == "?" else text[: error.position].encode()
        line = read.count(b"\n") + 1
        return SpecError(path=(), problem="a control character that YAML does not allow", hint="remove it", line=line)
    if not isinstance(error, yaml.MarkedYAMLError):
        return SpecError(path=(), problem="an invalid escape or number", hint="put it in quotes", line=line)
    mark = error.problem_mark or error.context_mark
    if mark is not None:
        line = mark.line + 1
    said = f"{error.context or ''} {error.problem or ''}".strip()
    if mark is not None and "cannot start any token" in said and _is_tab(text, mark):
        said = "character '\\t' that cannot start any token"
    wording = next((known for known in _WORDINGS if known.matches(said)), None)
    problem = wording.problem if wording else f"is not valid YAML: {said}"
    hint = wording.hint if wording else None
    if line is not None and _bare_template(text, line):
        hint = "a template that begins with {{ must be quoted"
    elif line is not None and _template_in_flow(text, line, error.context_mark or mark):
        hint = 'a text with a template {{ }} or {% %} must be quoted here, like "Say {{ name }}"'
    return SpecError(path=(), problem=problem, hint=hint, line=line)


def _is_tab(text: str, mark: yaml.Mark) -> bool:
    lines = text.splitlines()
    return mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t"


def _bare_template(text: str, line: int) -> bool:
    """True when the line, or the one above it, has a template right after a colon or dash."""
    lines = text.splitlines()
    return any(re.search(r"(:|-)\s+\{\{", candidate) for candidate in lines[max(0, line - 2) : line])


def _template_in_flow(text: str, line: int, begun: yaml.Mark | None) -> bool:
    """True when a template stands outside of quotes between where the parser's trouble began and where it gave up."""
    first = line if begun is None else min(line, begun.line + 1)
    bare = _QUOTED.sub("", "\n".join(text.splitlines()[first - 1 : line]))
    return re.search(r"\{[{%]", bare) is not None


def decoded(raw: bytes) -> str | SpecError:
    """The text of a job file: UTF-8, or what its byte order mark says."""
    try:
        return raw.decode(marked_encoding(raw) or "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return SpecError(path=(), problem=f"byte {error.start} is not UTF-8", hint="save the file as UTF-8", line=line)
