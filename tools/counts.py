"""Counts of the code base: `python -m tools.counts` prints them, `tests/test_architecture.py` says which must be 0."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PACKAGE = HOME / "batchrunner"
TESTS = HOME / "tests"
MOST_LINES = 500
LEAST_LINES = 60
_METAPHORS = (
    "album aftermath barren befall befallen book borne breath breathed diary dice errand errands foresee foreseen "
    "foretell governor hear heard hears house indoors likeness mend mended mender mending "
    "mishap mishaps night nights orphan orphans pen platter pump purse pursue recipe roster room rooms said say "
    "says sound sounds speaks speck spoken standing standings stock stories story stranded stranger strike sweep tell "
    "telling tells told turnstile turnstiles unsaid untold vouched walls wary wishes"
)
METAPHORS = frozenset(_METAPHORS.split())
"""Words that no name of a module, class or function has; `docs/glossary.md` has those that are used."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ABSENT = re.compile(r"\b(?:DESIGN|PROTOCOL|RELIABILITY)(?:\.md| (?:section )?\d)")
_KINDS = ("ProblemKind", "K")
_WIRING = (
    "__init__",
    "__main__",
    "api",
    "cancelling",
    "coordinating",
    "running",
    "wiring",
    "working",
    "cli",
    "page",
    "report",
    "scores",
)
"""What may import `report`: the package itself, the commands, the library's functions and what builds them."""


def modules() -> dict[str, int]:
    """Every module by its path below the package, and its lines."""
    return {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def short_modules() -> dict[str, int]:
    """Modules with too few lines to stand alone; a package's `__init__` stands for the package."""
    return {
        name: lines for name, lines in modules().items() if lines < LEAST_LINES and not name.endswith("__init__.py")
    }


def long_files() -> dict[str, int]:
    """Files with too many lines, tests and benchmarks among them."""
    return {
        path.relative_to(HOME).as_posix(): lines
        for folder in ("batchrunner", "tests", "benchmarks", "tools")
        for path in sorted((HOME / folder).rglob("*.py"))
        if (lines := len(path.read_text("utf-8").splitlines())) > MOST_LINES
    }


@cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def names(folder: Path = PACKAGE) -> Iterator[tuple[str, str, str]]:
    """(kind, name, path below the folder) of every module, class and function."""
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder).as_posix()
        if path.stem not in {"__init__", "__main__"}:
            yield "module", path.stem, place
        for node in _nodes(path):
            match node:
                case ast.ClassDef():
                    yield "class", node.name, place
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield "function", node.name, place
                case _:
                    pass


def names_that_occur_twice() -> dict[str, list[str]]:
    """Modules, and classes, of the same name."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, name, place in names():
        if kind in {"module", "class"}:
            places[kind, name].append(place)
    return {f"{kind} {name}": found for (kind, name), found in places.items() if len(found) > 1}


def names_with_metaphors(folder: Path = PACKAGE, words: frozenset[str] = METAPHORS) -> list[str]:
    """Names that need a private vocabulary to be understood."""
    return [
        f"{place}: {name}" for _, name, place in names(folder) if words & {word.lower() for word in _WORD.findall(name)}
    ]


def imports_of_report_below_the_wiring() -> list[str]:
    """Modules below the wiring that know the package for people."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.with_suffix("").parts[0] in _WIRING:
            continue
        for node in _nodes(path):
            sources = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            sources += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(source.startswith("batchrunner.report") for source in sources):
                found.append(place.as_posix())
    return found


def sets_of_problem_kinds() -> list[str]:
    """Places outside the one table, `core/error_policy.py`, where kinds of problems are put together in a set."""
    return [
        f"{path.relative_to(HOME).as_posix()}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() != "core/error_policy.py"
        for node in _nodes(path)
        if isinstance(node, ast.expr | ast.pattern) and sum(map(_is_kind, _members(node))) > 1
    ]


def _members(node: ast.expr | ast.pattern) -> Sequence[ast.AST | None]:
    """What a literal, a dict's keys, alternatives of a pattern or of an `or` stand for."""
    match node:
        case ast.Set() | ast.Tuple() | ast.List():
            return node.elts
        case ast.Dict():
            return node.keys
        case ast.MatchOr():
            return [each.value for each in node.patterns if isinstance(each, ast.MatchValue)]
        case ast.BoolOp():
            return [each.comparators[0] for each in node.values if isinstance(each, ast.Compare)]
        case _:
            return ()


def _is_kind(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _KINDS


def citations_of_absent_documents() -> list[str]:
    """Lines that cite a document which is not in the repository."""
    return [
        f"{path.relative_to(HOME).as_posix()}:{number}"
        for folder in ("batchrunner", "tests", "benchmarks")
        for path in sorted((HOME / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if _ABSENT.search(line)
    ]


def main() -> None:
    """Print every count."""
    sizes = modules()
    counts = {
        "modules": len(sizes),
        "lines of the product": sum(sizes.values()),
        f"modules under {LEAST_LINES} lines": len(short_modules()),
        f"files over {MOST_LINES} lines": len(long_files()),
        "names of modules or classes that occur twice": len(names_that_occur_twice()),
        "sets of problem kinds outside the one table": len(sets_of_problem_kinds()),
        "names with a metaphor": len(names_with_metaphors()),
        "names with a metaphor in tests": len(names_with_metaphors(TESTS)),
        "imports of `report` below the wiring": len(imports_of_report_below_the_wiring()),
        "citations of absent documents": len(citations_of_absent_documents()),
    }
    for what, count in counts.items():
        print(f"{count:8,}  {what}")  # noqa: T201 - a tool that prints


if __name__ == "__main__":
    main()
