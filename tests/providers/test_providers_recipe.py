"""The recipe of CONTRIBUTING.md for a new dialect is code that works, as it stands there."""

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from providers_reading import head, item, provider, read_every_way

from batchrunner.core.job import Turn
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def dialect() -> Any:
    """What the recipe makes."""
    recipe = PAGE.read_text("utf-8").partition("\n## To add a provider\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
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
