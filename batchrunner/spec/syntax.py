"""What the YAML parser and the UTF-8 decoder complain of, in people's words and with a line."""

import codecs
import re
from dataclasses import dataclass

import yaml
from yaml.reader import ReaderError

from batchrunner.spec.places import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wording:
    """`needle` as PyYAML says it, or as PyYAML and libyaml say it; `problem` and `hint` as a person should read it."""

    needle: str | tuple[str, ...]
    problem: str
    hint: str | None = None

    def is_said(self, said: str) -> bool:
        """True when the parser means this."""
        needles = (self.needle,) if isinstance(self.needle, str) else self.needle
        return any(needle in said for needle in needles)


_WORDINGS = (
    _Wording(
        needle=r"character '\t' that cannot start",
        problem="a tab stands where YAML allows spaces only",
        hint="indent with spaces",
    ),
    _Wording(
        needle="that cannot start any token",
        problem="a text begins with a character that means something to YAML",
        hint="put the text in quotes",
    ),
    _Wording(
        needle="mapping values are not allowed",
        problem="a colon stands where no key may be",
        hint="look at the indentation, and put text with `: ` in it in quotes",
    ),
    _Wording(needle="could not find expected ':'", problem="a key without its colon", hint="write `key: value`"),
    _Wording(
        needle=("expected <block end>", "did not find expected key", "did not find expected '-' indicator"),
        problem="what stands here does not continue what stands above",
        hint="look at the indentation and at the quotes",
    ),
    _Wording(
        needle="undefined alias",
        problem="a text begins with * and names no anchor",
        hint="put the text in quotes",
    ),
    _Wording(
        needle="scanning an alias",
        problem="a text begins with * and names no anchor",
        hint="put the text in quotes",
    ),
    _Wording(
        needle=("expected the node content", "did not find expected node content"),
        problem="a list [ ] or mapping { } is not closed or lacks a value",
    ),
    _Wording(
        needle="unexpected end of stream", problem="a quoted text is not closed", hint="look for the missing quote"
    ),
    _Wording(needle="expected ',' or", problem="a list [ ] or mapping { } is not closed or lacks a comma"),
    _Wording(
        needle="but found another document",
        problem="a second document begins with ---",
        hint="one job in a file",
    ),
    _Wording(needle="unknown escape character", problem="a backslash in double quotes means nothing", hint=r"write \\"),
)


_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|(?:^|\s)#.*", re.MULTILINE)
"""Texts in quotes and comments: braces in them mean nothing to YAML."""


def syntax_fault(error: Exception, *, text: str, line: int | None) -> Fault:
    """The parser's error as a fault; `line` is where the parser stood, for errors that do not say."""
    if isinstance(error, ReaderError):
        # libyaml counts the bytes of UTF-8, PyYAML the characters.
        read = text.encode()[: error.position] if error.encoding == "?" else text[: error.position].encode()
        line = read.count(b"\n") + 1
        return Fault(path=(), problem="a control character that YAML does not allow", hint="remove it", line=line)
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(path=(), problem="an escape or a number that means nothing", hint="put it in quotes", line=line)
    mark = error.problem_mark or error.context_mark
    if mark is not None:
        line = mark.line + 1
    said = f"{error.context or ''} {error.problem or ''}".strip()
    if mark is not None and "cannot start any token" in said and _is_tab(text, mark):
        said = "character '\\t' that cannot start any token"
    wording = next((known for known in _WORDINGS if known.is_said(said)), None)
    problem = wording.problem if wording else f"is not valid YAML: {said}"
    hint = wording.hint if wording else None
    if line is not None and _bare_template(text, line):
        hint = "a template that begins with {{ must stand in quotes"
    elif line is not None and _template_in_flow(text, line, error.context_mark or mark):
        hint = 'a text with a template {{ }} or {% %} must stand in quotes here, like "Say {{ name }}"'
    return Fault(path=(), problem=problem, hint=hint, line=line)


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


def decoded(raw: bytes) -> str | Fault:
    """The text of a job file: UTF-8, or UTF-16 that says so with its first bytes."""
    coding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return raw.decode(coding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Fault(path=(), problem=f"byte {error.start} is not UTF-8", hint="save the file as UTF-8", line=line)
