"""Answers as conversations, for training: `messages`, `sharegpt`, `alpaca`, `preference`; a JSON object a line.

A row is left out, and counted, where the format has no place for it: a failed item, an empty answer, pictures alone.
Nothing is judged: an answer that was cut off is exported like the others, unless `where` leaves it out.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from typing import Final

from batchrunner.core.exports import ExportRow, Shapable
from batchrunner.core.job import Json
from batchrunner.exporters.columns import json_text, mapping, mappings, text

_NO_ANSWER: Final = "without a text or a tool call"
_FAILED: Final = "failed items, which have no answer"
_NOT_IN_PAIRS: Final = "conversations that are not questions and answers in turn, which alpaca cannot hold"
_SHAREGPT_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
}


def conversation(fields: dict[str, Json]) -> list[dict[str, Json]]:
    """What the model was sent: messages with a role and a content."""
    if turns := mappings(fields.get("messages")):
        return [{"role": text(turn.get("role")), "content": text(turn.get("content"))} for turn in turns]
    system = fields.get("system")
    head: list[dict[str, Json]] = [] if system is None else [{"role": "system", "content": text(system)}]
    return [*head, {"role": "user", "content": text(fields.get("prompt"))}]


def answer(row: ExportRow, *, reasoning: bool) -> dict[str, Json] | None:
    """The model's message; None where it said nothing that could be learnt."""
    output = mapping(row.fields.get("output"))
    said = output.get("text")
    calls = mappings(output.get("tool_calls"))
    if not calls and not (isinstance(said, str) and said.strip()):
        return None
    message: dict[str, Json] = {"role": "assistant", "content": text(said)}
    if reasoning and isinstance(output.get("reasoning"), str):
        message["reasoning_content"] = output["reasoning"]
    if calls:
        message["tool_calls"] = [tool_call(call) for call in calls]
    return message


def tool_call(call: dict[str, Json]) -> dict[str, Json]:
    """A tool call as OpenAI's API has it."""
    function: dict[str, Json] = {"name": text(call.get("name")), "arguments": text(call.get("arguments"))}
    return {"id": text(call.get("id")), "type": "function", "function": function}


_Shape = Callable[[dict[str, Json], list[dict[str, Json]], dict[str, Json]], dict[str, Json] | str]
"""(row, what was sent, the answer) -> a line's object, or why there is none."""


def messages(run: Shapable) -> Iterator[bytes]:
    """`{"messages": […]}`, as OpenAI's API and most libraries take it; `tools`, `images`, `files` beside it."""
    return _lines(run, _messages, ("tools", "images", "files"))


def sharegpt(run: Shapable) -> Iterator[bytes]:
    """`{"conversations": [{"from": …, "value": …}]}`; `tools`, as JSON text, `images` and `files` beside it."""
    return _lines(run, _sharegpt, ("tools", "images", "files"))


def alpaca(run: Shapable) -> Iterator[bytes]:
    """`instruction`, `input` (empty) and `output`; `system` and `history` where a row of the export has them."""
    return _lines(run, _alpaca, ("system", "history"))


def _lines(run: Shapable, shape: _Shape, optional: tuple[str, ...]) -> Iterator[bytes]:
    """A line for each row, all with the same keys: readers take the columns from the first lines."""
    has: set[str] = set()
    for row in run.all_rows():
        made = _object(run, row, shape)
        if isinstance(made, dict):
            has.update(name for name in optional if name in made)
        if len(has) == len(optional):
            break
    for row in run.rows():
        made = _object(run, row, shape)
        if isinstance(made, str):
            run.leave_out(made)
        else:
            beside = {name: made.pop(name, _EMPTY[name]) for name in optional if name in has}
            yield json_text(made | beside).encode()
            yield b"\n"
            run.wrote()


_EMPTY: Final[dict[str, Json]] = {"tools": None, "images": [], "files": [], "system": "", "history": []}


def _object(run: Shapable, row: ExportRow, shape: _Shape) -> dict[str, Json] | str:
    if row.outcome == "failed":
        return _FAILED
    said = answer(row, reasoning=run.options.reasoning)
    return _NO_ANSWER if said is None else shape(row.fields, conversation(row.fields), said)


def _messages(fields: dict[str, Json], sent: list[dict[str, Json]], said: dict[str, Json]) -> dict[str, Json]:
    return {"messages": [*sent, said], **_shown_with(fields)}


def _shown_with(fields: dict[str, Json]) -> dict[str, Json]:
    """Tools that the model had, and the names of pictures and files that it was shown."""
    beside: dict[str, Json] = {}
    if tools := mappings(mapping(fields.get("params")).get("tools")):
        beside["tools"] = list(tools)
    for name in ("images", "files"):
        if given := mappings(fields.get(name)):
            beside[name] = [text(one.get("name")) for one in given]
    return beside


def _sharegpt(fields: dict[str, Json], sent: list[dict[str, Json]], said: dict[str, Json]) -> dict[str, Json]:
    turns = [_turn(_SHAREGPT_ROLES.get(text(turn["role"]), text(turn["role"])), text(turn["content"])) for turn in sent]
    if said.get("reasoning_content") is not None:
        said = {**said, "content": f"<think>\n{text(said['reasoning_content'])}\n</think>\n\n{text(said['content'])}"}
    if text(said["content"]):
        turns.append(_turn("gpt", text(said["content"])))
    if calls := mappings(said.get("tool_calls")):
        functions = [_function(mapping(call["function"])) for call in calls]
        turns.append(_turn("function_call", json_text(functions[0] if len(functions) == 1 else list(functions))))
    beside = _shown_with(fields)
    if "tools" in beside:
        beside["tools"] = json_text(beside["tools"])
    return {"conversations": list(turns), **beside}


def _turn(role: str, value: str) -> dict[str, Json]:
    return {"from": role, "value": value}


def _function(function: dict[str, Json]) -> dict[str, Json]:
    """With its arguments as they are meant, or as their text where that is no JSON."""
    try:
        arguments: Json = json.loads(text(function["arguments"]))
    except (ValueError, RecursionError):
        arguments = function["arguments"]
    return {"name": function["name"], "arguments": arguments}


def _alpaca(fields: dict[str, Json], sent: list[dict[str, Json]], said: dict[str, Json]) -> dict[str, Json] | str:
    del fields
    if said.get("tool_calls"):
        return "answers with tool calls, which alpaca cannot hold"
    system = "\n\n".join(text(turn["content"]) for turn in sent if turn["role"] in ("system", "developer"))
    turns = [turn for turn in sent if turn["role"] not in ("system", "developer")]
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        return _NOT_IN_PAIRS
    output = text(said["content"])
    if said.get("reasoning_content") is not None:
        output = f"<think>\n{text(said['reasoning_content'])}\n</think>\n\n{output}"
    made: dict[str, Json] = {"instruction": turns[-1]["content"], "input": "", "output": output}
    if system:
        made["system"] = system
    if turns[:-1]:
        made["history"] = [
            [asked["content"], told["content"]] for asked, told in zip(turns[:-1:2], turns[1::2], strict=True)
        ]
    return made


# `preference`: pairs of answers to one prompt, the better one and the worse one.

_NO_VERDICT: Final = "answers without a verdict; see `batchrunner score`"
_NO_PARTNER: Final = "answers without a counterpart with the other verdict"
_SAME_TEXT: Final = "pairs that say the same"


def preference(run: Shapable) -> Iterator[bytes]:
    """`prompt`, `chosen` and `rejected`, each a list of messages: an answer that passed, and one that failed.

    The first that passed is paired with the first that failed, and so on: no answer is in two pairs. The prompt is the
    whole conversation, so answers to different system prompts are never paired.
    """
    sides: dict[bytes, tuple[array[int], array[int]]] = {}
    for number, row in enumerate(run.rows()):
        verdict = row.fields.get("pass")
        if answer(row, reasoning=False) is None:
            run.leave_out(_FAILED if row.outcome == "failed" else _NO_ANSWER)
        elif not isinstance(verdict, bool):
            run.leave_out(_NO_VERDICT)
        else:
            sent = json_text([row.fields.get("prompt_id"), *conversation(row.fields)])
            prompt = hashlib.blake2b(sent.encode(), digest_size=16).digest()
            passed_and_failed = sides.setdefault(prompt, (array("Q"), array("Q")))
            passed_and_failed[not verdict].append(number)
    for passed, failed in sides.values():
        for better, worse in zip(passed, failed, strict=False):
            yield from _pair(run, run.row(better), run.row(worse))
        for _ in range(abs(len(passed) - len(failed))):
            run.leave_out(_NO_PARTNER)


def _pair(run: Shapable, better: ExportRow, worse: ExportRow) -> Iterator[bytes]:
    chosen, rejected = (answer(row, reasoning=run.options.reasoning) for row in (better, worse))
    if chosen == rejected:
        run.leave_out(_SAME_TEXT)
        return
    pair: dict[str, Json] = {
        "prompt": list(conversation(better.fields)),
        "chosen": [chosen],
        "rejected": [rejected],
        "prompt_id": text(better.fields.get("prompt_id")),
    }
    for side, row in (("chosen", better), ("rejected", worse)):
        pair |= {f"{side}_id": text(row.fields.get("id")), f"{side}_model": text(row.fields.get("model"))}
    yield json_text(pair).encode() + b"\n"
    run.wrote()
