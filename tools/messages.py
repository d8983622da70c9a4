"""Every string that a person can see: `python -m tools.messages` prints them, grouped by module.

Taken from the source: string constants and f-strings that contain a space, the labels of printed lines and the help of
commands; a field of an f-string is shown as `{…}`. Left out: docstrings, `__repr__`, assertions, regular expressions,
types, what is looked for (`"…" in text`, tables of words), marks with control characters, formats of times, lines of
HTTP, scripts for shells and the page, and modules that hold what servers say, real ones or the simulated one.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from batchrunner.cli.main import COMMANDS, command_of

PACKAGE = Path(__file__).resolve().parents[1] / "batchrunner"
_WORDS_OF_SERVERS = frozenset(
    {
        *("core/classify.py", "core/sign.py", "core/signs.py", "providers/task_replies.py"),
        *(
            f"simulator/{name}.py"
            for name in (
                *("answers", "chat_replies", "drawing", "generation", "image_replies", "messages_replies", "refusals"),
                *("simulated_tasks", "sse_shapes", "world"),
            )
        ),
    }
)
_TABLES_OF_WORDS = frozenset({"_ABOUT_WORDS", "_REFUSALS"})
_SHOW_NOTHING = frozenset(
    {"AssertionError", "cast", "frozenset", "late_pattern", "strftime", "roll", "call_exception_handler"}
)
_NOT_FOR_PEOPLE = re.compile(
    r"\0|\r\n|^\{%|HTTP/1\.1|^Bearer |^multipart/|COMPREPLY|compadd|_batchrunner|__fish|complete -c|^case \$"
    r"|^if \(\(|local -a|^default-src|use strict"
)
_WORD = re.compile(r"[^\W\d_]")


def messages() -> str:
    """The text of the golden file: a heading for each module, then its strings in the order of the source."""
    parts: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in _WORDS_OF_SERVERS:
            continue
        if found := found_in(path.read_text("utf-8")):
            parts += [f"## {name}", *map(_shown, found), ""]
    for name in COMMANDS:
        parts += [f"## help of {name}", _shown(inspect.getdoc(command_of(name)) or ""), ""]
    return "\n".join(parts)


def found_in(source: str) -> list[str]:
    """The strings of a module, each once, in their order."""
    return list(dict.fromkeys(text for _, text in sorted(_strings(ast.parse(source)))))


def _shown(text: str) -> str:
    """One line for each line of the text; what follows the first one is indented."""
    return "\n    ".join(text.replace("\b\n", "").strip().splitlines())


def _strings(tree: ast.AST) -> Iterator[tuple[tuple[int, int], str]]:
    """Position and text of each string, in no order."""
    unseen = {id(node) for node in _not_shown(tree)}
    labels = {id(node) for node in _labels(tree)}
    for node in ast.walk(tree):
        text = "" if id(node) in unseen else _text(node)
        shown = _WORD.search(text) and (" " in text.strip() or id(node) in labels) and not _NOT_FOR_PEOPLE.search(text)
        if isinstance(node, ast.expr) and shown:
            yield (node.lineno, node.col_offset), text


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
    return ""


def _not_shown(tree: ast.AST) -> Iterator[ast.AST]:
    """What nobody sees, and the parts of an f-string, which are shown as one."""
    for node in ast.walk(tree):
        yield from _types(node)
        match node:
            case ast.Expr(value=ast.Constant() as docstring):
                yield docstring
            case ast.JoinedStr(values=parts):
                yield from (part for part in parts if isinstance(part, ast.Constant))
            case ast.FormattedValue(format_spec=ast.expr() as specification):
                yield specification
            case ast.Compare(left=ast.Constant() as looked_for, ops=[ast.In() | ast.NotIn()]):
                yield looked_for
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as table) if name in _TABLES_OF_WORDS:
                yield from ast.walk(table)
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)) if name in _SHOW_NOTHING:
                yield from ast.walk(node)
            case ast.FunctionDef(name="__repr__") | ast.Assert() | ast.Call(func=ast.Attribute(value=ast.Name("re"))):
                yield from ast.walk(node)
            case _:
                pass


def _types(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.AnnAssign(annotation=ast.Name("TypeAlias"), value=ast.expr() as kind):
            yield from ast.walk(kind)
        case ast.arg(annotation=ast.expr() as kind) | ast.AnnAssign(annotation=kind):
            yield from _unless_help(kind)
        case ast.FunctionDef(returns=ast.expr() as kind) | ast.AsyncFunctionDef(returns=ast.expr() as kind):
            yield from ast.walk(kind)
        case _:
            pass


def _unless_help(annotation: ast.expr) -> Iterator[ast.AST]:
    """The strings of an annotation, but for those that typer shows (`Annotated[…, typer.Option(help=…)]`)."""
    if not any(isinstance(node, ast.Call) for node in ast.walk(annotation)):
        yield from ast.walk(annotation)


def _labels(tree: ast.AST) -> Iterator[ast.AST]:
    """What stands before a printed line: the first of a yielded pair."""
    for node in ast.walk(tree):
        match node:
            case ast.Yield(value=ast.Tuple(elts=[label, _])):
                yield label
            case _:
                pass


if __name__ == "__main__":
    sys.stdout.write(messages())
