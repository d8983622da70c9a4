r"""`markdown`: prompts, answers and pictures to read, one after the other.

Whatever a prompt or a model says is shown and never obeyed: it stands in a fence that is longer than any run of its own
backticks, or in a code span. There is no HTML, no link but to the run's own pictures, and control and bidirectional
characters are shown as escapes like `\x1b` (threat 13).
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from batchrunner.core.job import Json
from batchrunner.core.status import ExportRow, Shapable
from batchrunner.exporters.values import json_text, mapping, mappings, text

_BACKTICKS: Final = re.compile("`+")
_LEAST_FENCE: Final = 3


def markdown(run: Shapable) -> Iterator[bytes]:
    """A heading, then a section for each row."""
    yield f"# {_span(run, run.name)}\n".encode()
    for number, row in enumerate(run.rows(), 1):
        yield "".join(f"\n{block}\n" for block in _blocks(run, row, number)).encode()


def _blocks(run: Shapable, row: ExportRow, number: int) -> Iterator[str]:
    fields = row.fields
    yield f"## {number}. {_span(run, text(fields.get('id')))}"
    yield "\n".join(f"- {name}: {_span(run, said)}" for name, said in _facts(fields))
    yield from _asked(run, fields)
    if row.outcome == "failed":
        error = mapping(fields.get("error"))
        yield f"**Failed**: {_span(run, text(error.get('class')))}"
        yield _fence(run, text(error.get("message")))
        return
    output = mapping(fields.get("output"))
    if output.get("reasoning") is not None:
        yield from ("**Reasoning**", _fence(run, text(output["reasoning"])))
    if "text" in output:
        yield from ("**Answer**", _fence(run, text(output["text"])))
    if output.get("tool_calls"):
        yield from ("**Tool calls**", _fence(run, json_text(output["tool_calls"])))
    for picture in mappings(output.get("images")):
        yield f"![picture]({quote(run.link(text(picture.get('path'))), safe='/')})"


def _facts(fields: dict[str, Json]) -> Iterator[tuple[str, str]]:
    yield "model", text(fields.get("model"))
    if params := mapping(fields.get("params")):
        yield "params", json_text(params)
    for given in mappings(fields.get("images")):
        yield "shown to the model", text(given.get("name"))
    if mapping(fields.get("output")).get("truncated") is True:
        yield "finish reason", f"{text(mapping(fields.get('output')).get('finish_reason'))} (cut off)"


def _asked(run: Shapable, fields: dict[str, Json]) -> Iterator[str]:
    turns = mappings(fields.get("messages"))
    if not turns and fields.get("system") is not None:
        yield from ("**System**", _fence(run, text(fields["system"])))
    if not turns:
        yield from ("**Prompt**", _fence(run, text(fields.get("prompt"))))
    for turn in turns:
        yield f"**Prompt**, {_span(run, text(turn.get('role')))}"
        yield _fence(run, text(turn.get("content")))


def _fence(run: Shapable, said: str) -> str:
    """A block in which nothing is interpreted and which the text cannot end."""
    marks = "`" * max(_LEAST_FENCE, 1 + _longest_run(said))
    lines = said.replace("\r\n", "\n").split("\n")
    return "\n".join([f"{marks}text", *("\t".join(map(run.printable, line.split("\t"))) for line in lines), marks])


def _span(run: Shapable, said: str) -> str:
    """The same on one line."""
    line = run.printable(" ".join(said.split()))
    if not line:
        return "(empty)"
    marks = "`" * (1 + _longest_run(line))
    return f"{marks} {line} {marks}" if len(marks) > 1 else f"{marks}{line}{marks}"


def _longest_run(said: str) -> int:
    return max((len(found) for found in _BACKTICKS.findall(said)), default=0)
