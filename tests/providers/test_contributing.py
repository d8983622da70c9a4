"""The recipes of CONTRIBUTING.md are code that works, as it stands there."""

import json
import re
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

from batchrunner.core.exports import ExportRow
from batchrunner.core.job import Turn
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision
from batchrunner.prompts.sources.base import BadRow, SourceRow
from tests.providers.reading import head, item, provider, read_every_way

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def dialect() -> Any:
    """What the recipe makes."""
    section = PAGE.read_text("utf-8").partition("\n## To add a provider\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    room: dict[str, Any] = {}
    exec(compile(dedent("   " + code.lstrip()), str(PAGE), "exec"), room)
    return room["OpenAiCompletions"](provider("openai"))


def test_the_recipes_dialect_asks_and_reads_however_the_reply_is_cut() -> None:
    made = dialect()
    asked = item(turns=(Turn(role="system", content="Be brief."), Turn(role="user", content="Go.")), params={"n": 1})
    request = made.encode(asked, Revision())
    assert request.url == "http://127.0.0.1:8000/v1/completions"
    assert json.loads(request.body) == {"model": "Qwen/Qwen3-8B", "prompt": "Be brief.\n\nGo.", "n": 1}
    reply = json.dumps({"choices": [{"text": "Gone."}]}).encode()
    assert read_every_way(lambda: made.decoder(asked), head(), reply) == Answer(text="Gone.")
    nothing = read_every_way(lambda: made.decoder(asked), head(), b'{"choices": []}')
    refused = read_every_way(lambda: made.decoder(asked), head(429), b"{}")
    assert isinstance(nothing, Problem)
    assert isinstance(refused, Problem)
    assert (nothing.kind, refused.kind) == (ProblemKind.EMPTY_RESPONSE, ProblemKind.THROTTLE)


def example(heading: str, name: str) -> Any:
    """A name of the code below a heading of CONTRIBUTING.md."""
    text = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    room: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), room)
    return room[name]


def test_the_example_source_reads_lines_and_states_what_is_wrong_with_one(tmp_path: Path) -> None:
    (tmp_path / "a.named").write_text("tides: Explain tides.\n\nno colon\n", encoding="utf-8")

    read_named_lines = example("To add a source", "read_named_lines")
    good, bad = (row for rows in read_named_lines(str(tmp_path / "a.named")) for row in rows)
    assert isinstance(good, SourceRow)
    assert good.values == {"name": "tides", "prompt": "Explain tides."}
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.problem) == (3, "the line has no colon")


def test_the_recipes_exporter_writes_a_line_for_each_row() -> None:
    rows = [ExportRow(line=b'{"id": "a"}', fields={"id": "a"}, outcome="done")] * 2
    run = SimpleNamespace(rows=lambda: iter(rows))
    assert b"".join(example("To add an exporter", "ids")(run)) == b"a\na\n"
