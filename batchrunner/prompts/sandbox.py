"""Jinja2's sandbox: the only file that imports it.

Refused: unknown names, null values, anything that reaches into Python, anything that gives another text the next time
(`random`, `lipsum`), blocks that a prompt does not need (macros, includes, inheritance), and whatever grows without
measure: the output, a repetition, a padding, a power, loops.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, filters, meta, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchrunner.core.job import Json
from batchrunner.prompts.render import (
    BINOP_GUARDS,
    RESULT,
    TemplateFault,
    TooMuchError,
    format_text,
    join,
    join_by,
    narrow,
    replace,
    require_length,
    to_json,
)

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


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses unbounded work and randomness."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, null_is_empty: bool) -> None:
        finalize = _null_is_empty if null_is_empty else _not_null
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

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja2's, but `parsed.items` is what a row has under that name, and a method of mappings only else."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As Jinja2's, and no method that grows without measure."""
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
        """As Jinja2's, measured first."""
        BINOP_GUARDS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def read(self, text: str) -> tuple[JinjaTemplate | None, frozenset[str], tuple[tuple[bool, str], ...] | None]:
        """The compiled template, or pieces that say it all; and the names that it uses and does not set itself.

        Raises:
            TemplateFault: it is no template, or uses what is refused.
        """
        try:
            tree = self.parse(text)
            _refuse_blocks(tree)
            names = frozenset(meta.find_undeclared_variables(tree)) - self.globals.keys()
            if (pieces := _pieces(tree)) is not None:
                return None, names, pieces
            measured = _measured(tree)
            measured.set_environment(self)
            compiled = self.from_string(measured)
        except TemplateSyntaxError as error:
            raise TemplateFault(f"not a valid template: {error.message}", line=error.lineno) from error
        except SyntaxError as error:  # Jinja2 writes Python, which nests no deeper than Python's parser lets it
            raise TemplateFault(f"not a valid template: {error.msg}") from error
        except (TemplateError, RecursionError, MemoryError, ValueError) as error:
            raise TemplateFault(f"not a valid template: {str(error) or 'it is nested too deep'}") from error
        return compiled, names, None

    def compiled(self, text: str) -> JinjaTemplate:
        """The template of a text of which `read` has nothing to say but its pieces."""
        return self.from_string(text)

    def text_of(self, compiled: JinjaTemplate, values: Mapping[str, Json], names: frozenset[str]) -> str:
        """As `Template.render`."""
        self.steps_left = STEP_LIMIT
        try:
            # `shared`: Jinja takes the mapping as it is. Left to itself it copies its globals anew for every row.
            context = compiled.new_context({**self.globals, **values}, shared=True)
            return _capped(compiled.root_render_func(context))
        except Exception as error:  # a template can raise whatever its expressions can
            raise _fault(error, values, names) from error

    def result_of(self, compiled: JinjaTemplate, values: Mapping[str, Json], names: frozenset[str]) -> Json:
        """As `Template.result`."""
        self.steps_left = STEP_LIMIT
        try:
            context = compiled.new_context({**self.globals, **values}, shared=True)
            for _ in compiled.root_render_func(context):
                pass
            found = context.vars[RESULT]
            if isinstance(found, StrictUndefined):
                str(found)  # raises what it has to say
            written = json.dumps(found, allow_nan=False)
            require_length(len(written))
        except Exception as error:  # a template can raise whatever its expressions can
            raise _fault(error, values, names) from error
        value: Json = json.loads(written)  # a tuple is a list, and a row's own value is not shared
        return value

    def expression_in(self, text: str) -> tuple[str | None, bool]:
        """What stands between the brackets of a text that is one expression, and whether that is a mere name."""
        try:
            body = self.parse(text.strip()).body
        except TemplateSyntaxError:
            body = []
        inner = body[0].nodes if len(body) == 1 and isinstance(body[0], nodes.Output) else []
        if len(inner) != 1 or isinstance(inner[0], nodes.TemplateData):
            return None, False
        return text.strip()[2:-2].strip("-+ "), isinstance(inner[0], nodes.Name)


def _fault(error: Exception, values: Mapping[str, Json], names: frozenset[str]) -> TemplateFault:
    if isinstance(error, UndefinedError):
        for name in names - values.keys():
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


def _capped(parts: Iterable[str]) -> str:
    found: list[str] = []
    length = 0
    for part in parts:
        length += len(part)
        require_length(length)
        found.append(part)
    return "".join(found)


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
    for chain in list(tree.find_all(nodes.Concat)):
        parts = nodes.List(chain.nodes, lineno=chain.lineno)
        chain.nodes = [nodes.Filter(parts, "join", [], [], None, None, lineno=chain.lineno)]
    return tree


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
