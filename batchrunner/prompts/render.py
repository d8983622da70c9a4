"""Templates, as rows fill them. Those that only put columns between words are filled here; the others by `sandbox`.

A template comes from the job file and is half trusted; what it is filled with is hostile and is never compiled.
Jinja2 is loaded when a template first needs it: most jobs have none that does.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from batchrunner.core.job import Json

# Operations of templates that can grow without measure, measured before they are done.
#
# Independent of the template language: plain functions over values, which raise `TooMuchError`.

OUTPUT_LIMIT_CHARS = 4 * 1024 * 1024
_WIDTH_LIMIT = 1_000
_DIGITS_LIMIT = 1_000
_LIST_LIMIT = 100_000
_WIDE = re.compile(r"%(?:\([^()]*\))?[^%a-zA-Z(]*(?:\d{4}|\*)|%\([^()]*\(")
"""A field of four digits or of a width from the arguments; or a key with parentheses, which could hide one."""


class TooMuchError(Exception):
    """A template asks for more than a prompt can need."""


def _guard_add(left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        require_length(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        _require_few(len(left) + len(right))


def _guard_multiply(left: Any, right: Any) -> None:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(sequence, str):
            require_length(len(sequence) * times)
        elif isinstance(times, int) and isinstance(sequence, list | tuple):
            raise TooMuchError("a list cannot be repeated")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 3 * _DIGITS_LIMIT:
        raise TooMuchError(f"a number has more than {_DIGITS_LIMIT:,} digits")


def _guard_power(left: Any, right: Any) -> None:
    raise TooMuchError(f"`**` is not allowed ({type(left).__name__} ** {type(right).__name__})")


def _guard_percent(left: Any, right: Any) -> None:
    del right
    if isinstance(left, str):
        _require_narrow(left)


BINOP_GUARDS: dict[str, Callable[[Any, Any], None]] = {
    "+": _guard_add,
    "*": _guard_multiply,
    "**": _guard_power,
    "%": _guard_percent,
}
"""What is asked before an operator is applied to its two sides."""


def require_length(chars: int) -> None:
    """Refuse a text of more than 4 Mi characters."""
    if chars > OUTPUT_LIMIT_CHARS:
        raise TooMuchError(f"a text is longer than {OUTPUT_LIMIT_CHARS:,} characters")


def _require_few(entries: int) -> None:
    if entries > _LIST_LIMIT:
        raise TooMuchError(f"a list has more than {_LIST_LIMIT:,} entries")


def _require_narrow(pattern: str) -> None:
    if _WIDE.search(pattern.replace("%%", "")):
        raise TooMuchError("a field of a `%` format is too wide")


def narrow(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing widths and paddings beyond the limit."""

    @wraps(filter_)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        first = 2 if hasattr(filter_, "jinja_pass_arg") else 1
        for option in (*args[first:], *kwargs.values()):
            size = option if isinstance(option, int) else len(option) if isinstance(option, str) else 0
            if abs(size) > _WIDTH_LIMIT:
                raise TooMuchError(f"an option of `{filter_.__name__.removeprefix('do_')}` is beyond {_WIDTH_LIMIT:,}")
        return filter_(*args, **kwargs)

    return guarded


def replace(value: object, old: object, new: object, count: int | None = None) -> str:
    """`str.replace`, refused if the result would be too long."""
    text, before, after = str(value), str(old), str(new)
    times = text.count(before) if count is None or count < 0 else min(count, text.count(before))
    require_length(len(text) + times * (len(after) - len(before)))
    return text.replace(before, after, -1 if count is None else count)


def join(values: Iterable[Any], separator: object = "", attribute: str | None = None) -> str:
    """The values as text, one after the other; refused as soon as that is too long."""
    glue = str(separator)
    parts: list[str] = []
    length = 0
    for value in values:
        part = str(value if attribute is None else value[attribute])
        length += len(part) + len(glue)
        require_length(length - len(glue))
        parts.append(part)
    return glue.join(parts)


def format_text(pattern: object, *args: Any, **kwargs: Any) -> str:
    """`%` formatting, refused if a field is wide."""
    text = str(pattern)
    _require_narrow(text)
    return text % (kwargs or args)


def to_json(value: Any, indent: int | None = None) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML, which a prompt is not."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def join_by(separator: str, values: Iterable[Any]) -> str:
    """`str.join`, as `join`."""
    return join(values, separator)


if TYPE_CHECKING:
    from jinja2 import Template as JinjaTemplate

    from batchrunner.prompts.sandbox import Sandbox

ROW = "row"
"""The variable with the row's number."""
GLOBALS = frozenset({"cycler", "dict", "joiner", "namespace", "range"})
"""Names that every template has from Jinja2: no variables of a row."""


class TemplateFault(Exception):  # noqa: N818 -- named by what it is: a fault of a template, found at either time
    """A template cannot be compiled, or not be filled with these values."""

    def __init__(self, problem: str, *, line: int | None = None, unknown: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        """1-based line within the template."""
        self.unknown = unknown
        """The name that the values do not have, if that is what is wrong."""


class Template:
    """A compiled template. Text without any mark of a template is passed on as it is."""

    __slots__ = ("_compiled", "_fixed", "_get", "_pattern", "_places", "_sandbox", "_text", "names")

    def __init__(
        self,
        text: str,
        *,
        sandbox: "Callable[[], Sandbox]",
        compiled: "JinjaTemplate | None",
        names: frozenset[str],
        pieces: "tuple[tuple[bool, str], ...] | None" = None,
    ) -> None:
        self._text = text
        self._sandbox = sandbox
        self._compiled = compiled
        """None for a fixed text; and, until a row needs it, where `pieces` say it all."""
        self._fixed = text if compiled is None and pieces is None else None
        self._places = tuple(piece for is_name, piece in pieces or () if is_name)
        self._get = itemgetter(*self._places) if self._places else None
        self._pattern = "".join("%s" if is_name else piece.replace("%", "%%") for is_name, piece in pieces or ())
        self.names = names
        """The variables that it uses and does not set itself."""

    def __repr__(self) -> str:
        return f"<Template {self._text[:40]!r} of {', '.join(sorted(self.names)) or 'no names'}>"

    @property
    def is_fixed(self) -> bool:
        """True when it is the same text whatever the values are."""
        return self._fixed is not None

    def joined(self, columns: Mapping[str, Json], row: int | None) -> str | None:
        """The text of a template that only puts columns between its own words, without Jinja's machinery.

        None for whatever needs a second look with all of a row's names: a template that does more, a column that is
        missing, null or known by another name only, too much text.
        """
        if self._get is None:
            return self._fixed
        try:
            found = self._get({ROW: row, **columns} if ROW in self._places else columns)
            if len(self._places) == 1:
                text = found if type(found) is str and self._pattern == "%s" else self._pattern % (found,)
                is_whole = found is not None
            else:
                text = self._pattern % found
                is_whole = None not in found
        except (KeyError, ValueError):
            return None
        return text if is_whole and len(text) <= OUTPUT_LIMIT_CHARS else None

    def joined_all(self, rows: Sequence[Mapping[str, Json]]) -> list[str] | None:
        """As `joined` of each row, without a look at how long they are; None where one of them needs a second look."""
        if self._get is None:
            return None if self._fixed is None else [self._fixed] * len(rows)
        if ROW in self._places:
            return None
        pattern = self._pattern
        try:
            found = list(map(self._get, rows))
            if len(self._places) == 1:
                if pattern == "%s" and set(map(type, found)) == {str}:
                    return found
                return None if None in found else [pattern % (value,) for value in found]
            return None if any(None in values for values in found) else [pattern % values for values in found]
        except (KeyError, ValueError):
            return None

    def render(self, values: Mapping[str, Json]) -> str:
        """The filled text, at most 4 Mi characters.

        Raises:
            TemplateFault: an unknown name, a null, a type error, or more than a prompt may need.
        """
        if (text := self.joined(values, None)) is not None:
            return text
        if self._compiled is None:
            self._compiled = self._sandbox().compiled(self._text)
        return self._sandbox().text_of(self._compiled, values, self.names)

    def result(self, values: Mapping[str, Json]) -> Json:
        """The value that the template gives to `RESULT`. Raises TemplateFault."""
        assert self._compiled is not None, "an expression is compiled"
        return self._sandbox().result_of(self._compiled, values, self.names)


class Expression:
    """A template whose value keeps its type where it is one expression; otherwise its text."""

    __slots__ = ("_is_typed", "_template", "column")

    def __init__(self, template: Template, *, is_typed: bool, column: str | None = None) -> None:
        self._template = template
        self._is_typed = is_typed
        self.column = column
        """The name that it is, where it is nothing but a name."""

    def __repr__(self) -> str:
        return f"<Expression {self._template!r}>"

    @property
    def names(self) -> frozenset[str]:
        """The variables that it uses."""
        return self._template.names

    def value(self, values: Mapping[str, Json]) -> Json:
        """The value, of JSON's types; nothing larger than a text may be.

        Raises:
            TemplateFault: as of `Template.render`, or the value is of a type that JSON does not have.
        """
        return self._template.result(values) if self._is_typed else self._template.render(values)


class Templates:
    """Compiles templates; each is compiled once and used for every row. Not for several threads at a time."""

    def __init__(self) -> None:
        self._strict = _Later(null_is_empty=False)
        self._lenient = _Later(null_is_empty=True)

    def strict(self, text: str) -> Template:
        """A template in which a null is a mistake.

        Raises:
            TemplateFault: it is no template, or uses what is refused.
        """
        return _template(text, self._strict)

    def expression(self, text: str) -> Expression:
        """A template that may be one expression, whose value keeps its type.

        Raises:
            TemplateFault: as of `strict`.
        """
        inside, is_name = self._strict().expression_in(text)
        if inside is None:
            return Expression(self.strict(text), is_typed=False)
        template = _template(f"{{% set {RESULT} = ({inside}\n) %}}", self._strict)
        column = inside if is_name and inside in template.names and inside != ROW else None
        return Expression(template, is_typed=True, column=column)

    def lenient(self, text: str) -> Template:
        """A template in which a null is nothing: for what a row may leave out."""
        return _template(text, self._lenient)


RESULT = "result_of_the_expression"
"""The variable that holds the value of an expression."""


class _Later:
    """A sandbox that is made, and Jinja2 loaded, when a template first needs it."""

    def __init__(self, *, null_is_empty: bool) -> None:
        self._null_is_empty = null_is_empty
        self._made: Sandbox | None = None

    def __call__(self) -> "Sandbox":
        if self._made is None:
            from batchrunner.prompts.sandbox import Sandbox  # noqa: PLC0415 - Jinja2, for few jobs

            self._made = Sandbox(null_is_empty=self._null_is_empty)
        return self._made


def _template(text: str, sandbox: _Later) -> Template:
    if "{" not in text:
        return Template(text, sandbox=sandbox, compiled=None, names=frozenset())
    if (simple := _simple_pieces(text)) is not None:
        used = frozenset(piece for is_name, piece in simple if is_name) - GLOBALS
        return Template(text, sandbox=sandbox, compiled=None, names=used, pieces=simple)
    compiled, names, pieces = sandbox().read(text)
    return Template(text, sandbox=sandbox, compiled=compiled, names=names, pieces=pieces)


def _simple_pieces(text: str) -> tuple[tuple[bool, str], ...] | None:
    """A template's pieces, without Jinja2's parser, if its text is simple enough: a list may have 100,000."""
    if "\r" in text:
        return None
    words = _SIMPLE.split(text.removesuffix("\n"))
    if len(words) == 1 or not _NOT_SIMPLE.isdisjoint(words[1::2]) or any(_BEGINS.search(word) for word in words[::2]):
        return None
    if any(word.endswith("{") for word in words[:-1:2]):  # three brackets begin something else
        return None
    return tuple((place % 2 == 1, word) for place, word in enumerate(words) if word)


_SIMPLE = re.compile(r"\{\{ ?([A-Za-z_][A-Za-z0-9_]*) ?\}\}")
_BEGINS = re.compile(r"\{[{%#]")
_NOT_SIMPLE = frozenset(
    {"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else", "self", "loop"}
    | {"super", "caller", "varargs", "kwargs"}
)
"""Names that mean something to Jinja2, or may."""
