"""`compare --junit FILE`: the answers as JUnit XML, a suite for each group and a case for each item, for CI servers.

The file keeps to the schema by which Jenkins validates (`junit-10.xsd`): properties stand at the suite, and what
differs between its cases is in their `system-out`. It replaces an earlier file of its kind and nothing else.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias
from xml.sax.saxutils import escape, quoteattr

from batchrunner.core.errors import JobMistakesError, Mistake, StoreBrokenError
from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field
from batchrunner.report.comparing import ComparedRun, CompareOptions, Row, grouping, item_of, rows_of, shown
from batchrunner.stores.files import DISK, SHARED_FILE, write_pieces
from batchrunner.stores.run_file import run_around

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IS_JUNIT: Final = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<testsuites?[\s/>]", re.DOTALL
)
_LOOKED_AT_BYTES: Final = 1 << 16

Kind: TypeAlias = Literal["passed", "failure", "error", "skipped"]


def require_place(path: Path) -> None:
    """Refuse a place where something else would be lost.

    Raises:
        JobMistakesError: it is inside a run's directory, something that is no JUnit file stands there, or its folder
            is missing.
    """
    problem, hint = "", "choose another place with --junit"
    real = path.resolve()
    if not real.parent.is_dir():
        problem, hint = "no such directory", f"create {path.parent}, or {hint}"
    elif run_around(path) is not None:
        problem = "is inside a run's directory, whose files are not to be replaced"
    elif path.is_dir():
        problem = "is a directory"
    elif real.exists() and not (real.is_file() and _is_junit(real)):
        problem, hint = "is there already and is no JUnit file; nothing is overwritten", f"{hint}, or remove it"
    if problem:
        raise JobMistakesError((Mistake(file=str(path), problem=problem, hint=hint),))


def _is_junit(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT_BYTES)
    except OSError:
        return False
    return not head or _IS_JUNIT.match(head) is not None


@dataclass(slots=True)
class _Suite:
    """One group."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    cases: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Attributes, the element of the verdict, and the properties of each case."""

    def text(self, name: str) -> Iterator[str]:
        counts = f'tests="{len(self.cases)}" failures="{self.kinds["failure"]}" errors="{self.kinds["error"]}"'
        yield f'<testsuite name={_attribute(name)} {counts} skipped="{self.kinds["skipped"]}">\n'
        first = self.cases[0][2].items()
        common = {key: value for key, value in first if all(given.get(key) == value for *_, given in self.cases)}
        listed = "".join(f"<property name={_attribute(n)} value={_attribute(v)}/>" for n, v in common.items())
        yield f"<properties>{listed}</properties>\n" if listed else ""
        for attributes, verdict, given in self.cases:
            own = "\n".join(f"{key}: {value}" for key, value in given.items() if key not in common)
            out = f"<system-out>{escape(_NOT_XML.sub(_REPLACEMENT, own))}</system-out>" if own else ""
            yield f"<testcase {attributes}>{verdict}{out}</testcase>\n"
        yield "</testsuite>\n"


_REPLACEMENT: Final = "\ufffd"


def write_junit(path: Path, runs: Sequence[ComparedRun], options: CompareOptions) -> None:
    """Write the file.

    Raises:
        JobMistakesError: see `require_place`.
        StoreBrokenError: the disk refused.
    """
    require_place(path)
    name_of = grouping(runs, options)
    suites: dict[str, _Suite] = {}
    for run in runs:
        for row, score in rows_of(run):
            suite = suites.setdefault(name_of(run, row.fields), _Suite())
            item = item_of(run, row, score, options)
            kind, words = _verdict(row, score, decided=item.verdict, is_cut=item.state == "truncated")
            suite.kinds[kind] += 1
            names = f"classname={_attribute(str(row.fields.get('model')))} name={_attribute(item.id)}"
            element = "" if kind == "passed" else f"<{kind} message={_attribute(words)}/>"
            given = {"model": row.fields.get("model"), **_mapping(row.fields.get("params"))}
            texts = {key: shown(value) for key, value in given.items()}
            suite.cases.append((f'{names} time="{item.seconds or 0:.3f}"', element, texts))
    try:
        write_pieces(DISK, path, _pieces(suites), SHARED_FILE)
    except OSError as error:
        raise StoreBrokenError(f"{path}: {error.strerror or error}; no JUnit file was written") from error


def _pieces(suites: Mapping[str, _Suite]) -> Iterator[bytes]:
    totals = sum((suite.kinds for suite in suites.values()), Counter[Kind]())
    counts = f'tests="{totals.total()}" failures="{totals["failure"]}" errors="{totals["error"]}"'
    yield f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="batchrunner" {counts}>\n'.encode()
    for name, suite in suites.items():
        for text in suite.text(name):
            yield text.encode()
    yield b"</testsuites>\n"


def _verdict(row: ExportRow, score: Row | None, *, decided: bool | None, is_cut: bool) -> tuple[Kind, str]:
    """The kind of a case and why."""
    if row.outcome == "failed":
        error = _mapping(row.fields.get("error"))
        return "error", f"not answered: {error.get('class')}: {error.get('message')}"
    if decided is True:
        return "passed", ""
    if decided is False:
        return "failure", _reasons(score, "fail") or "failed"
    if is_cut:
        return "skipped", "the answer was cut off"
    if score is None:
        return "skipped", "the answer has no scores; see `batchrunner score`"
    broke = _reasons(score, "error")
    return ("error", broke) if broke else ("skipped", "no check applies")


def _reasons(score: Row | None, verdict: str) -> str:
    """The checks that came to this verdict, with their reasons."""
    scores = _mapping(score.get("scores")) if score is not None else {}
    found = ((name, _mapping(one)) for name, one in scores.items())
    return "; ".join(f"{name}: {one.get('reason') or verdict}" for name, one in found if one.get("verdict") == verdict)


def _mapping(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub(_REPLACEMENT, text))
