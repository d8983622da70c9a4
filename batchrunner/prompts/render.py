"""Templates: the only file that knows Jinja2.

A template comes from the job file and is half trusted; what it is filled with is hostile and is never compiled.
Refused: unknown names, null values, anything that reaches into Python, anything that gives another text the next time
(`random`, `lipsum`), blocks that a prompt does not need (macros, includes, inheritance), and whatever grows without
measure: the output, a repetition, a padding, a power, loops.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, filters, meta, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchrunner.core.job import Json
from batchrunner.prompts.growth import (
    BINOP_GUARDS,
    OUTPUT_LIMIT_CHARS,
    TooMuchError,
    format_text,
    join,
    join_by,
    narrow,
    replace,
    require_length,
    to_json,
)

ROW = "row"
"""The variable with the row's number."""
_RESULT = "result_of_the_expression"
STEP_LIMIT = 100_000
"""Steps of all loops of one rendering."""

_REFUSED_BLOCKS: dict[type[nodes.Node], str] = {
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter",
    nodes.AssignBlock: "set … %}…{% endset",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from",
    nodes.Extends: "extends",
    nodes.Block: "block",
}
_GROWING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "translate", "format", "format_map"})
_REFUSED_ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (str, _GROWING_METHODS | {"encode", "maketrans"}),
    (bytes, _GROWING_METHODS | {"join", "replace"}),
    (int, frozenset({"to_bytes", "from_bytes"})),
)


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

    __slots__ = ("_compiled", "_environment", "_fixed", "_get", "_pattern", "_places", "_text", "names")

    def __init__(
        self,
        text: str,
        *,
        environment: "_Sandbox",
        compiled: JinjaTemplate | None,
        names: frozenset[str],
        pieces: "tuple[tuple[bool, str], ...] | None" = None,
    ) -> None:
        self._text = text
        self._environment = environment
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

    def render(self, values: Mapping[str, Json]) -> str:
        """The filled text, at most 4 Mi characters.

        Raises:
            TemplateFault: an unknown name, a null, a type error, or more than a prompt may need.
        """
        if (text := self.joined(values, None)) is not None:
            return text
        self._environment.steps_left = STEP_LIMIT
        try:
            if self._compiled is None:
                self._compiled = self._environment.from_string(self._text)
            # `shared`: Jinja takes the mapping as it is. Left to itself it copies its globals anew for every row.
            context = self._compiled.new_context({**self._environment.globals, **values}, shared=True)
            return _capped(self._compiled.root_render_func(context))
        except Exception as error:  # a template can raise whatever its expressions can
            raise self._fault(error, values) from error

    def result(self, values: Mapping[str, Json]) -> Json:
        """The value that the template gives to `result`. Raises TemplateFault."""
        assert self._compiled is not None, "an expression is compiled"
        self._environment.steps_left = STEP_LIMIT
        try:
            context = self._compiled.new_context({**self._environment.globals, **values}, shared=True)
            for _ in self._compiled.root_render_func(context):
                pass
            found = context.vars[_RESULT]
            if isinstance(found, StrictUndefined):
                str(found)  # raises what it has to say
            written = json.dumps(found, allow_nan=False)
            require_length(len(written))
        except Exception as error:  # a template can raise whatever its expressions can
            raise self._fault(error, values) from error
        value: Json = json.loads(written)  # a tuple is a list, and a row's own value is not shared
        return value

    def _fault(self, error: Exception, values: Mapping[str, Json]) -> TemplateFault:
        if isinstance(error, UndefinedError):
            for name in self.names - values.keys():
                if error.message == f"{name!r} is undefined":
                    return TemplateFault(f"the template uses `{name}`, which is unknown", unknown=name)
        match error:
            case RecursionError() | MemoryError():
                problem = "it needs too much memory"
            case TooMuchError():
                problem = str(error)
            case TemplateError():
                problem = error.message or type(error).__name__
            case _:
                problem = f"{type(error).__name__}: {error}"
        return TemplateFault(f"the template cannot be filled: {problem}")


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
            TemplateFault: as of `Template.render`, or the value is of no type that JSON knows.
        """
        return self._template.result(values) if self._is_typed else self._template.render(values)


class Templates:
    """Compiles templates; each is compiled once and used for every row. Not for several threads at a time."""

    def __init__(self) -> None:
        self._strict = _Sandbox(finalize=_not_null)
        self._lenient = _Sandbox(finalize=_null_is_empty)

    def strict(self, text: str) -> Template:
        """A template in which a null is a mistake.

        Raises:
            TemplateFault: it is no template, or uses what is refused.
        """
        return _compiled(text, self._strict)

    def expression(self, text: str) -> Expression:
        """A template that may be one expression, whose value keeps its type.

        Raises:
            TemplateFault: as of `strict`.
        """
        try:
            body = self._strict.parse(text.strip()).body
        except TemplateSyntaxError:
            body = []
        inner = body[0].nodes if len(body) == 1 and isinstance(body[0], nodes.Output) else []
        if len(inner) != 1 or isinstance(inner[0], nodes.TemplateData):
            return Expression(self.strict(text), is_typed=False)
        inside = text.strip()[2:-2].strip("-+ ")
        template = _compiled(f"{{% set {_RESULT} = ({inside}\n) %}}", self._strict)
        column = inside if isinstance(inner[0], nodes.Name) and inside in template.names and inside != ROW else None
        return Expression(template, is_typed=True, column=column)

    def lenient(self, text: str) -> Template:
        """A template in which a null is nothing: for what a row may leave out."""
        return _compiled(text, self._lenient)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with the doors to unbounded work and to chance shut as well."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, finalize: Callable[[Any], Any]) -> None:
        # Unoptimised: nothing of a template is evaluated while it is compiled.
        super().__init__(undefined=StrictUndefined, autoescape=False, optimized=False, cache_size=0, finalize=finalize)
        self.steps_left = 0
        del self.globals["lipsum"]
        del self.filters["random"]
        self.filters.update(_GUARDED_FILTERS)
        self.filters["paced"] = self.paced

    def paced(self, values: Iterable[Any]) -> Iterator[Any]:
        """What every loop runs over."""
        for value in values:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise SecurityError(f"its loops take more than {STEP_LIMIT:,} steps")
            yield value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        refused = any(attr in names for kind, names in _REFUSED_ATTRIBUTES if isinstance(obj, kind))
        return not refused and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No stand-in for `str.format`: it would be taken before `is_safe_attribute` is asked, and pads without end."""
        del value

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls, with the two methods of text that grow and are worth having measured like their filters."""
        text = getattr(obj, "__self__", None)
        if isinstance(text, str) and obj.__name__ in _MEASURED_METHODS:
            return _MEASURED_METHODS[obj.__name__](text, *args, **kwargs)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        BINOP_GUARDS[operator](left, right)
        return super().call_binop(context, operator, left, right)


def _capped(parts: Iterable[str]) -> str:
    found: list[str] = []
    length = 0
    for part in parts:
        length += len(part)
        require_length(length)
        found.append(part)
    return "".join(found)


def _compiled(text: str, environment: _Sandbox) -> Template:
    if "{" not in text:
        return Template(text, environment=environment, compiled=None, names=frozenset())
    if (simple := _simple_pieces(text)) is not None:
        used = frozenset(piece for is_name, piece in simple if is_name) - environment.globals.keys()
        return Template(text, environment=environment, compiled=None, names=used, pieces=simple)
    try:
        tree = environment.parse(text)
        _refuse_blocks(tree)
        names = frozenset(meta.find_undeclared_variables(tree)) - environment.globals.keys()
        if (pieces := _pieces(tree)) is not None:
            return Template(text, environment=environment, compiled=None, names=names, pieces=pieces)
        measured = _measured(tree)
        measured.set_environment(environment)
        compiled = environment.from_string(measured)
    except TemplateSyntaxError as error:
        raise TemplateFault(f"no valid template: {error.message}", line=error.lineno) from error
    except SyntaxError as error:  # Jinja2 writes Python, which nests no deeper than Python's parser lets it
        raise TemplateFault(f"no valid template: {error.msg}") from error
    except (TemplateError, RecursionError, MemoryError, ValueError) as error:
        raise TemplateFault(f"no valid template: {str(error) or 'it is nested too deep'}") from error
    return Template(text, environment=environment, compiled=compiled, names=names)


def _simple_pieces(text: str) -> tuple[tuple[bool, str], ...] | None:
    """As `_pieces`, without Jinja2's parser, where a look at the text tells: a list may have 100,000 templates."""
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


def _pieces(tree: nodes.Template) -> tuple[tuple[bool, str], ...] | None:
    """Words and names (True) in order, of a template that has nothing else; None of any other."""
    found: list[tuple[bool, str]] = []
    for node in tree.body:
        if not isinstance(node, nodes.Output):
            return None
        for piece in node.nodes:
            if isinstance(piece, nodes.TemplateData):
                found.append((False, piece.data))
            elif isinstance(piece, nodes.Name) and piece.name != "self":  # which Jinja2 gives a meaning
                found.append((True, piece.name))
            else:
                return None
    return tuple(found)


def _refuse_blocks(tree: nodes.Template) -> None:
    for kind, word in _REFUSED_BLOCKS.items():
        if found := tree.find(kind):
            raise TemplateFault(f"`{{% {word} %}}` cannot be used in a prompt", line=found.lineno)
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            raise TemplateFault("a `recursive` loop cannot be used in a prompt", line=loop.lineno)


def _measured(tree: nodes.Template) -> nodes.Template:
    """The same template with its loops counted and its `~` chains measured before they are joined."""
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = nodes.Filter(loop.iter, "paced", [], [], None, None, lineno=loop.lineno)
    _replace_chains(tree)
    return tree


def _replace_chains(node: nodes.Node) -> None:
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            setattr(node, name, _chain(value))
        elif isinstance(value, list):
            setattr(node, name, [_chain(entry) if isinstance(entry, nodes.Node) else entry for entry in value])


def _chain(node: nodes.Node) -> nodes.Node:
    _replace_chains(node)
    if not isinstance(node, nodes.Concat):
        return node
    parts = nodes.List(node.nodes, lineno=node.lineno)
    return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)


def _not_null(value: Any) -> Any:
    if value is None:
        raise SecurityError("a value that it uses is null")
    return value


def _null_is_empty(value: Any) -> Any:
    return "" if value is None else value


_MEASURED_METHODS: dict[str, Callable[..., str]] = {"replace": replace, "join": join_by}

_GUARDED_FILTERS: dict[str, Callable[..., Any]] = {
    "center": narrow(filters.do_center),
    "indent": narrow(filters.do_indent),
    "wordwrap": narrow(filters.do_wordwrap),
    "batch": narrow(filters.do_batch),
    "slice": narrow(filters.do_slice),
    "round": narrow(filters.do_round),
    "replace": replace,
    "join": join,
    "format": format_text,
    "tojson": to_json,
}
