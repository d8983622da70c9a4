"""Conditions over the rows of a run, `{{ not pass and model == "x" }}`: which names a row has, and whether it fits.

A row's own names come before the columns of its source, so that `text` is the answer even where a column is called
that; the columns are in `vars`, too.
"""

from collections.abc import Mapping
from typing import Final

from batchrunner.core.job import Json
from batchrunner.prompts.render import Templates

OF_SCORES: Final = frozenset({"pass", "score", "verdict"})
_NO_WORDS: Final = frozenset({"", "0", "false", "no", "none"})
_OF_THE_ANSWER: Final = ("text", "reasoning", "parsed", "tool_calls", "finish_reason", "truncated")


ROW_NAMES: Final = frozenset(
    {
        "id",
        "prompt_id",
        "index",
        "model",
        "prompt",
        "system",
        "vars",
        "params",
        "output",
        "task_id",
        "usage",
        "attempts",
    }
    | {"ambiguous", "recovered", "started_at", "seconds", "key", "messages", "schema_sha256", "replica", "shared_with"}
    | {"from", "image", "images", "files", *_OF_THE_ANSWER, *OF_SCORES}
)
"""What `row_values` has beside the columns of the row's own source."""


def row_values(
    row: Mapping[str, Json], score: Mapping[str, Json] | None = None, *, pictures_in: str = ""
) -> dict[str, Json]:
    """The names of a row of `results.jsonl` or `failures.jsonl`, with its line of `scores.jsonl` where it has one.

    Beside the row's fields: `text`, `reasoning`, `parsed`, `tool_calls`, `finish_reason`, `truncated`; `images`, the
    paths of its pictures in the run's directory, and `image`, the first; of the scores `pass` (true, false, or none
    without a verdict), `score` and `verdict`, each by the name of the check. `pictures_in` comes before the paths.
    """
    given, output = row.get("vars"), row.get("output")
    columns = given if isinstance(given, dict) else {}
    answer = output if isinstance(output, dict) else {}
    values: dict[str, Json] = {**columns, **row}
    values.update({name: answer.get(name) for name in _OF_THE_ANSWER})
    pictures = answer.get("images")
    paths = [one.get("path") for one in pictures if isinstance(one, dict)] if isinstance(pictures, list) else []
    whole: list[Json] = [f"{pictures_in}{path}" for path in paths if isinstance(path, str)]
    values["images"], values["image"] = whole, whole[0] if whole else None
    scores = score.get("scores") if score is not None else None
    found = {name: one for name, one in scores.items() if isinstance(one, dict)} if isinstance(scores, dict) else {}
    values["pass"] = score.get("pass") if score is not None else None
    values["score"] = {name: one.get("value") for name, one in found.items()}
    values["verdict"] = {name: one.get("verdict") for name, one in found.items()}
    return values


class RowCondition:
    """A condition: a template that comes to true or false, or only what would stand between its braces."""

    def __init__(self, text: str, templates: Templates | None = None) -> None:
        """Compile it.

        Raises:
            TemplateFault: it is no template.
        """
        whole = text if "{{" in text or "{%" in text else f"{{{{ {text} }}}}"
        self._expression = (templates or Templates()).expression(whole)
        self.needs_scores = not OF_SCORES.isdisjoint(self._expression.names)
        """Whether it says nothing about rows that have no line in `scores.jsonl`."""

    def __repr__(self) -> str:
        return f"<RowCondition {self._expression!r}>"

    def holds(self, values: Mapping[str, Json]) -> bool:
        """Whether it is true of a row with these values, see `row_values`.

        Raises:
            TemplateFault: it uses a name that the row does not have, or breaks.
        """
        return is_true(self._expression.value(values))


def is_true(value: Json) -> bool:
    """Whether a value that a template came to means yes."""
    return value.strip().lower() not in _NO_WORDS if isinstance(value, str) else bool(value)
