"""YAML as plain values with the line of every key. Rejects what YAML would turn into something unintended.

A subclass of PyYAML's SafeLoader (on libyaml, for large texts) composes the nodes; this module walks them itself,
because only nodes know lines, twice given keys and what a value looked like before YAML 1.1 made `no` false, `0123`
eighty-three and `16:9` nine hundred.
"""

import math
import re
from collections.abc import Callable
from contextlib import suppress

import yaml

from batchrunner.core.job import Json
from batchrunner.core.text import without_lone_surrogates
from batchrunner.core.values import dataclass, field
from batchrunner.spec.job_errors import KeyPath, SpecError, syntax_fault

MAX_DEPTH = 60
MAX_REPEATED_NODES = 100_000
"""How much aliases may add to what is written: a few hundred bytes can otherwise expand to gigabytes."""
_TOO_DEEP = SpecError(path=(), problem="is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
_INT_LIMIT = 2**63

_QUOTE = "put it in quotes if it is text"


_LARGE_CHARS = 1 << 16
"""From here on libyaml reads, where it is there: ten times as fast, with shorter words for what it does not like."""
_MANY_BRACKETS = 400
"""So, too: PyYAML looks at every open bracket again for each character that follows it."""
_BOUNDS_DEPTH = (0, 2, 5)
"""The first libyaml that refuses a text which nests so deep that composing it would overflow the C stack."""


_ON: frozenset[KeyPath] = frozenset({("notify", "on"), ("models", "on")})
"""Keys of the job file that YAML takes for `true`."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that also knows `1e-4` as a number, as YAML 1.2 and JSON do."""


def _c_loader() -> "type[yaml.CSafeLoader] | None":
    """The same on libyaml's scanner and parser; None where PyYAML was built without it, or with one too old."""
    if not yaml.__with_libyaml__:
        return None
    from yaml import _yaml  # noqa: PLC0415 - it is not there on every machine

    if _yaml.get_version() < _BOUNDS_DEPTH:
        return None

    class CLoader(yaml.CSafeLoader):
        def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
            """As PyYAML's, with the answer at once for what begins as no number, truth or date does."""
            if kind is yaml.ScalarNode and value and value[0] not in self.yaml_implicit_resolvers:
                return _TEXT_TAG
            tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # the stubs leave it out
            return tag

    _know_exponents(CLoader)
    return CLoader


def _know_exponents(kind: "type[_Loader | yaml.CSafeLoader]") -> None:
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")
    kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))


_know_exponents(_Loader)
_C_LOADER = _c_loader()


@dataclass(slots=True, kw_only=True)
class Reading:
    """What a YAML text says. `tree` is None after a syntax fault."""

    tree: Json = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """1-based; of the key in a mapping, of the entry in a list."""
    written: dict[KeyPath, str] = field(default_factory=dict)
    """How unquoted values that YAML takes for something else than text were written."""
    faults: list[SpecError] = field(default_factory=list)


class _SurpriseError(Exception):
    """A scalar of which YAML makes something unintended or unusable."""

    def __init__(self, problem: str, *, hint: str = _QUOTE) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class _RefusedEscapeError(Exception):
    r"""libyaml takes no `\ud83d\ude00`, as JSON writes what lies beyond 16 bits; PyYAML does."""


class _ExplodesError(Exception):
    """Aliases add more nodes than any job needs."""


def read_yaml(text: str) -> Reading:
    """The text's one document. Never raises: whatever is wrong stands in `faults`."""
    if _C_LOADER is not None and (len(text) >= _LARGE_CHARS or text.count("[") + text.count("{") >= _MANY_BRACKETS):
        with suppress(_RefusedEscapeError):
            return _read(text, _C_LOADER)
    return _read(text, _Loader)


def _read(text: str, kind: "type[_Loader | yaml.CSafeLoader]") -> Reading:
    reading = Reading()
    try:
        loader = kind(text)
    except yaml.YAMLError as error:
        reading.faults.append(syntax_fault(error, text=text, line=None))
        return reading
    try:
        node = loader.get_single_node()
        if node is not None:
            reading.tree = _Walk(reading).value(node, ())
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if "invalid Unicode character escape" in str(error):
            raise _RefusedEscapeError from error
        reading.tree = None
        is_too_deep = "maximum nesting depth" in str(error)
        line = getattr(loader, "line", 0) + 1
        reading.faults.append(_TOO_DEEP if is_too_deep else syntax_fault(error, text=text, line=line))
    except RecursionError:
        reading.faults.append(_TOO_DEEP)
    except _ExplodesError:
        reading.tree = None
        reading.faults.append(
            SpecError(
                path=(), problem="its aliases (*name) expand to far more than is written", hint="write the values out"
            )
        )
    finally:
        loader.dispose()
    return reading


class _Walk:
    """Turns nodes into values, once, top down."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._lines = reading.lines
        self._open: set[int] = set()
        self._seen: set[int] = set()
        self._repeated = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Json:
        """Texts end here at once: a job that lists its prompts has some for each of them, and almost nothing else."""
        if id(node) in self._seen:
            self._count_again()
        else:
            self._seen.add(id(node))
        if path not in self._lines:
            self._lines[path] = node.start_mark.line + 1
        if type(node) is yaml.ScalarNode:
            text = node.value
            return text if node.tag == _TEXT_TAG and text.isascii() else self._scalar(node, path)
        return self._collection(node, path)

    def _collection(self, node: yaml.Node, path: KeyPath) -> Json:
        if id(node) in self._open:
            self._fault(path, "contains itself through an alias (*name)")
            return None
        if len(path) > MAX_DEPTH:
            self._fault(path, "is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
            return None
        if node.tag not in _COLLECTIONS:
            self._fault(path, f"has a tag that job files do not support: {node.tag}")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(entry, (*path, place)) for place, entry in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _count_again(self) -> None:
        self._repeated += 1
        if self._repeated > MAX_REPEATED_NODES:
            raise _ExplodesError

    def _fault(self, path: KeyPath, problem: str, *, expected: str | None = None, hint: str | None = None) -> None:
        self._reading.faults.append(SpecError(path=path, problem=problem, expected=expected, hint=hint))

    def _mapping(self, node: yaml.Node, path: KeyPath) -> Json:
        first_lines: dict[str, int] = {}
        made: dict[str, Json] = {}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.extend(self._merged(value_node, path))
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            if key in first_lines:
                again = SpecError(
                    path=(*path, key), problem="is given twice", hint=f"first on line {first_lines[key]}", line=line
                )
                self._reading.faults.append(again)
                continue
            first_lines[key] = line
            place = (*path, key)
            self._lines[place] = line
            made[key] = self.value(value_node, place)
        for key_node, value_node in merged:
            key = self._key(key_node, path)
            if key is not None and key not in made:
                self._reading.lines[(*path, key)] = key_node.start_mark.line + 1
                made[key] = self.value(value_node, (*path, key))
        return made

    def _merged(self, node: yaml.Node, path: KeyPath) -> list[tuple[yaml.Node, yaml.Node]]:
        """The pairs that `<<:` brings in; an earlier mapping wins over a later one."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for source in sources:
            if id(source) in self._seen:
                self._count_again()
            self._seen.add(id(source))
            if not isinstance(source, yaml.MappingNode) or id(source) in self._open:
                self._fault((*path, "<<"), "merges something that is not a mapping", expected="an alias of a mapping")
                continue
            pairs.extend(pair for pair in source.value if pair[0].tag != "tag:yaml.org,2002:merge")
            self._open.add(id(source))
            for key_node, value_node in source.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    pairs.extend(self._merged(value_node, path))
            self._open.discard(id(source))
        return pairs

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if type(node) is yaml.ScalarNode and node.tag == _TEXT_TAG and node.value.isascii():
            key: str = node.value
            return key
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            fault = SpecError(
                path=path,
                problem="a key is a list or a mapping",
                expected="text",
                hint="a template such as {{ question }} must be quoted",
                line=line,
            )
            self._reading.faults.append(fault)
            return None
        if node.tag not in _TEXT_TAGS and (*path, node.value) not in _ON:
            fault = SpecError(
                path=(*path, node.value),
                problem="is a key that YAML does not read as text",
                hint=f'put it in quotes: "{node.value}"',
                line=line,
            )
            self._reading.faults.append(fault)
        return without_lone_surrogates(node.value)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Json:
        if node.tag not in _TEXT_TAGS and node.value:
            self._reading.written[path] = node.value
        if node.tag not in _SCALARS:
            self._fault(path, f"has a tag that job files do not support: {node.tag}")
            return None
        written: str = node.value
        try:
            return _SCALARS[node.tag](written)
        except _SurpriseError as surprise:
            self._fault(path, surprise.problem, hint=surprise.hint)
        except (ValueError, KeyError, OverflowError):
            self._fault(path, "does not fit its YAML tag, or is too long for a number", hint=_QUOTE)
        return written


def _text(written: str) -> Json:
    if written.isascii():
        return written
    whole = without_lone_surrogates(written)
    if "�" in whole and "�" not in written:
        raise _SurpriseError(
            "contains an unpaired surrogate (\\ud800 to \\udfff), which is invalid Unicode",
            hint="write the character itself",
        )
    return whole


def _number(written: str) -> Json:
    plain = written.replace("_", "")
    if ":" in plain:
        raise _base_60(written)
    if re.fullmatch(r"[-+]?0[0-9]+", plain):
        raise _SurpriseError(
            f"is read by YAML as the octal number {int(plain, 8)}", hint=f"{_QUOTE}, or write {int(plain, 8)}"
        )
    made = int(plain, 0)
    if not -_INT_LIMIT <= made < _INT_LIMIT:
        raise _SurpriseError("is read by YAML as a number of more than 64 bits")
    return made


def _fraction(written: str) -> Json:
    if ":" in written:
        raise _base_60(written)
    try:
        made = float(written.replace("_", ""))
    except ValueError:  # `.inf` and `.nan` are YAML's spelling, not Python's
        made = math.nan
    if not math.isfinite(made):
        raise _SurpriseError("is read by YAML as a number that JSON cannot carry", hint="write a finite number")
    return made


def _base_60(written: str) -> _SurpriseError:
    value = 0.0
    for part in written.replace("_", "").lstrip("+-").split(":"):
        value = value * 60 + float(part)
    read = f"{'-' if written.startswith('-') else ''}{value:g}"
    return _SurpriseError(f"is read by YAML as {read} (a base-60 number)", hint=f'put it in quotes: "{written}"')


def _date(written: str) -> Json:
    raise _SurpriseError("is read by YAML as a date", hint=f'put it in quotes: "{written}"')


def _no_value(_written: str) -> Json:
    return None


def _truth(written: str) -> Json:
    return {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}[written.lower()]


_COLLECTIONS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_TEXT_TAG = "tag:yaml.org,2002:str"
_TEXT_TAGS = {_TEXT_TAG, "tag:yaml.org,2002:value"}
_SCALARS: dict[str, Callable[[str], Json]] = {
    "tag:yaml.org,2002:str": _text,
    "tag:yaml.org,2002:value": _text,
    "tag:yaml.org,2002:null": _no_value,
    "tag:yaml.org,2002:bool": _truth,
    "tag:yaml.org,2002:int": _number,
    "tag:yaml.org,2002:float": _fraction,
    "tag:yaml.org,2002:timestamp": _date,
}
