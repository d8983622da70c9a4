"""`openai-batch`: the output file of OpenAI's Batch API, so that what reads one reads a run.

`custom_id` is the item's id. Failures, where asked for, are among the answers in the job's order, as in vLLM's
`run_batch` does it; a success is `status_code` 200 and no `error`. A picture's `url` is its path in the run's
directory.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final
from urllib.parse import quote

from batchrunner.core.exports import ExportRow, Shapable
from batchrunner.core.job import Json
from batchrunner.exporters.columns import json_text, mapping, mappings, text

_FINISH: Final = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "function_call",
    "content_filter": "content_filter",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "max_output_tokens": "length",
    "refusal": "content_filter",
}
"""Finish reasons of OpenAI, its Responses (whose `completed` says nothing of calls) and Anthropic -> OpenAI's."""
_HTTP_ERRORS: Final = range(400, 600)
_OK: Final = 200


def openai_batch(run: Shapable) -> Iterator[bytes]:
    """A line for each row."""
    for row in run.rows():
        yield json_text(_line(row)).encode() + b"\n"


def _line(row: ExportRow) -> dict[str, Json]:
    fields = row.fields
    head: dict[str, Json] = {"id": f"batch_req_{text(fields.get('key'))}", "custom_id": text(fields.get("id"))}
    if row.outcome == "failed":
        return head | _failure(mapping(fields.get("error")))
    output = mapping(fields.get("output"))
    if "embedding" in output:
        return head | _response(_OK, None, _embedded(fields, output["embedding"]))
    body = _pictures(fields) if "text" not in output else _completion(fields)
    return head | _response(_OK, None, body)


def _failure(error: dict[str, Json]) -> dict[str, Json]:
    """A refusal over HTTP is a response; anything else is an error of the batch itself."""
    status = error.get("status")
    kind, message = text(error.get("class")), text(error.get("message"))
    if not isinstance(status, int) or status not in _HTTP_ERRORS:
        return {"response": None, "error": {"code": kind, "message": message}}
    inner: dict[str, Json] = {"message": message, "type": kind, "param": None, "code": error.get("code")}
    return _response(status, error.get("request_id"), {"error": inner})


def _response(status: int, request_id: Json, body: dict[str, Json]) -> dict[str, Json]:
    return {"response": {"status_code": status, "request_id": request_id, "body": body}, "error": None}


def _completion(fields: dict[str, Json]) -> dict[str, Json]:
    output = mapping(fields.get("output"))
    message: dict[str, Json] = {"role": "assistant", "content": text(output.get("text")), "refusal": None}
    if output.get("reasoning") is not None:
        message["reasoning_content"] = output["reasoning"]
    if calls := mappings(output.get("tool_calls")):
        message["tool_calls"] = [_call(call) for call in calls]
    choice: dict[str, Json] = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish_reason(output, calls=bool(calls)),
    }
    return {
        "id": f"chatcmpl-{text(fields.get('key'))}",
        "object": "chat.completion",
        "created": _seconds(fields.get("started_at")),
        "model": text(fields.get("model")),
        "choices": [choice],
        "usage": _usage(mapping(fields.get("usage"))),
    }


def _call(call: dict[str, Json]) -> dict[str, Json]:
    function: dict[str, Json] = {"name": text(call.get("name")), "arguments": text(call.get("arguments"))}
    return {"id": text(call.get("id")), "type": "function", "function": function}


def _finish_reason(output: dict[str, Json], *, calls: bool) -> str:
    if output.get("truncated") is True:
        return "length"
    return _FINISH.get(text(output.get("finish_reason")), "tool_calls" if calls else "stop")


def _usage(usage: dict[str, Json]) -> Json:
    """None unless both counts are known: a total of one half would be a lie."""
    given, got = usage.get("input_tokens"), usage.get("output_tokens")
    if not isinstance(given, int) or not isinstance(got, int):
        return None
    return {"prompt_tokens": given, "completion_tokens": got, "total_tokens": given + got}


def _embedded(fields: dict[str, Json], vector: Json) -> dict[str, Json]:
    used = mapping(fields.get("usage")).get("input_tokens")
    return {
        "object": "list",
        "model": text(fields.get("model")),
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "usage": {"prompt_tokens": used, "total_tokens": used} if isinstance(used, int) else None,
    }


def _pictures(fields: dict[str, Json]) -> dict[str, Json]:
    images = mappings(mapping(fields.get("output")).get("images"))
    return {
        "created": _seconds(fields.get("started_at")),
        "data": [{"url": text(picture.get("path"))} for picture in images],
    }


def _seconds(rfc3339: Json) -> int:
    """Since 1970; 0 when it is no instant."""
    try:
        return int(datetime.fromisoformat(text(rfc3339)).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0


# `markdown`: prompts, answers and pictures to read, one after the other.
#
# Whatever a prompt or a model says is shown and never obeyed: it stands in a fence that is longer than any run of its
# own
# backticks, or in a code span. There is no HTML, no link but to the run's own pictures, and control and bidirectional
# characters are shown as escapes like `\x1b` (threat 13).

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
    for given in (*mappings(fields.get("images")), *mappings(fields.get("files"))):
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


# `jsonl`: the rows as they are on disk, byte for byte, in the job's order.


def json_lines(run: Shapable) -> Iterator[bytes]:
    """A line for each row."""
    for row in run.rows():
        yield row.line + b"\n"
