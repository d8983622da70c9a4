"""What servers and gateways do to a whole reply, whatever it says: faulty heads, content codings, odd bytes around it.

Seen in the field, and no reason to buy an answer twice. Each takes the finished script of an answer.
"""

import base64
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

from batchrunner.core.job import Json
from batchrunner.simulator.order import Order
from batchrunner.simulator.script import JSON_TYPE, SSE_TYPE, Hang, Script, Send, Step, as_list, as_object

Envelope = Callable[[Script, Order], Script]


def enveloped(script: Script, order: Order) -> Script:
    """The script as the scenarios want it sent."""
    for name, change in ENVELOPES.items():
        if name in order.chosen:
            script = change(script, order)
    return script


def _with_headers(**headers: str) -> Envelope:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda script, _: replace(script, headers={**script.headers, **named})


def _many_headers(script: Script, _order: Order) -> Script:
    return replace(script, headers={**script.headers, **{f"x-hop-{at}": f"edge-{at}" for at in range(300)}})


def _in_one_piece(script: Script, body: bytes, *behind: Step, **headers: str) -> Script:
    """The waits as they were, and then these bytes at once."""
    waits = tuple(step for step in script.steps if not isinstance(step, Send))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(script, headers={**script.headers, **named}, steps=(*waits, Send(piece=body), *behind))


def _gzip(script: Script, _order: Order) -> Script:
    return _in_one_piece(script, gzip.compress(script.body, mtime=0), content_encoding="gzip")


def _gzip_wrong_sum(script: Script, _order: Order) -> Script:
    coded = gzip.compress(script.body, mtime=0)
    return _in_one_piece(script, coded[:-8] + bytes(8), content_encoding="gzip")


def _raw_control(script: Script, _order: Order) -> Script:
    """A tab as it is, which JSON forbids, before the first words."""
    return _in_one_piece(script, _before_the_words(script.body, b"\t"))


def _bytes_behind(script: Script, _order: Order) -> Script:
    return _in_one_piece(script, script.body + b"\n\n<!-- served by edge-7 -->\n")


def _utf_16(script: Script, _order: Order) -> Script:
    return _in_one_piece(script, script.body.decode("utf-8", "replace").encode("utf-16"))


def _behind_comments(script: Script, _order: Order) -> Script:
    """Keep-alives of a stream before an answer that is none."""
    kind = SSE_TYPE if script.body[:1] == b"{" else script.headers.get("content-type", JSON_TYPE)
    return _in_one_piece(script, b": PROCESSING\n\n: PROCESSING\n\n" + script.body, content_type=kind)


def _stays_open(script: Script, _order: Order) -> Script:
    """More is announced than comes, and the connection is left open."""
    return _in_one_piece(script, script.body, Hang(), content_length=str(len(script.body) + 10))


def _empty_error(script: Script, _order: Order) -> Script:
    blank = b'{"error":{"message":"","code":0,"type":null},'
    return _in_one_piece(script, script.body.replace(b'{"', blank + b'"', 1))


def _gemini(script: Script, _order: Order) -> Script:
    """The same answer in Gemini's own shape; a stream, or anything else, as it was."""
    try:
        body: Json = json.loads(script.body)
    except ValueError:
        return script
    choices = [as_object(choice) for choice in as_list(as_object(body).get("choices"))]
    if not choices:
        return script
    usage = as_object(as_object(body).get("usage"))
    candidates: list[Json] = [
        {
            "content": {"role": "model", "parts": [{"text": as_object(choice.get("message")).get("content")}]},
            "finishReason": "STOP",
        }
        for choice in choices
    ]
    counts: Json = {
        "promptTokenCount": usage.get("prompt_tokens"),
        "candidatesTokenCount": usage.get("completion_tokens"),
    }
    said: Json = {"candidates": candidates, "usageMetadata": counts}
    return _in_one_piece(script, json.dumps(said).encode())


def _echo_key(script: Script, order: Order) -> Script:
    """The caller's key stands in the answer, encoded in three ways."""
    key = order.headers.get("authorization", "").removeprefix("Bearer ") or order.headers.get("x-api-key", "")
    forms = (quote(key, safe=""), base64.b64encode(key.encode()).decode(), key.replace("/", "\\/"))
    return _in_one_piece(script, _before_the_words(script.body, (" ".join(forms) + " ").encode()))


def _before_the_words(body: bytes, told: bytes) -> bytes:
    """With these bytes at the beginning of the answer's text."""
    return _WORDS.sub(lambda found: found[0] + told, body, count=1)


_WORDS = re.compile(rb'"(?:content|text)":\s*"')


ENVELOPES: dict[str, Envelope] = {
    "body-gemini": _gemini,
    "body-empty-error": _empty_error,
    "body-raw-control": _raw_control,
    "body-echo-key": _echo_key,
    "body-comments-before": _behind_comments,
    "body-bytes-behind": _bytes_behind,
    "body-utf-16": _utf_16,
    "body-stays-open": _stays_open,
    "coding-not-there": _with_headers(content_encoding="gzip"),
    "coding-unknown": _with_headers(content_encoding="utf-8"),
    "coding-gzip": _gzip,
    "coding-gzip-wrong-sum": _gzip_wrong_sum,
    "head-many": _many_headers,
    "head-long": _with_headers(x_policy="x" * 32_768),
}
"""By scenario, in the order in which they are applied."""
