"""What is paid for, as a table: how each kind is checked and executed, and what mishaps do to it."""

import base64
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from batchrunner.core.job import Json
from batchrunner.simulator import chat_replies, messages_replies
from batchrunner.simulator.answers import count_tokens
from batchrunner.simulator.chat_replies import answer_chat, check_chat, light_chat, shell
from batchrunner.simulator.drawing import check_image
from batchrunner.simulator.image_replies import answer_pictures, check_pictures, wants_pictures_at_once
from batchrunner.simulator.messages_replies import answer_messages, check_messages
from batchrunner.simulator.profiles import FaultRates
from batchrunner.simulator.refusals import REFUSALS, Refusal, invalid
from batchrunner.simulator.requests import Order, broken_off, whole
from batchrunner.simulator.script import SSE_TYPE, Cut, Hang, Reset, Script, as_text, digest_of, encode_json
from batchrunner.simulator.simulated_tasks import SimulatedTasks

# Embeddings as a server gives them: a unit vector for each text, the same for the same text.
#
# Refused without an explicit `encoding_format`, as ModelScope refuses it, and beyond 25 texts. Nothing in this program
# asks for them yet; clients that are tried against the simulator do.

_DIMENSIONS = 64
_MOST_DIMENSIONS = 4096
_MOST_TEXTS = 25
_FORMATS = ("float", "base64")


def check_embeddings(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    texts, dimensions = _texts(order), order.body.get("dimensions", _DIMENSIONS)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        return invalid("`input` must be a non-empty string or a list of them.")
    if len(texts) > _MOST_TEXTS:
        return invalid(f"batch size is invalid, it should not be larger than {_MOST_TEXTS}.")
    if order.body.get("encoding_format") not in _FORMATS:
        return invalid(f"`encoding_format` must be given: one of {', '.join(_FORMATS)}.")
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= _MOST_DIMENSIONS:
        return invalid(f"`dimensions` must be an integer between 1 and {_MOST_DIMENSIONS}.")
    return None


def answer_embeddings(order: Order) -> Script:
    """The vectors, as numbers or as the base64 of little-endian floats."""
    texts, packed = [as_text(text) for text in _texts(order)], order.body["encoding_format"] == "base64"
    found = [_vector(text, order) for text in texts]
    listed: list[Json] = [
        {"object": "embedding", "index": at, "embedding": _packed(vector) if packed else list(vector)}
        for at, vector in enumerate(found)
    ]
    counted = sum(map(count_tokens, texts))
    usage: Json = {"prompt_tokens": counted, "total_tokens": counted}
    return whole(encode_json({"object": "list", "model": order.model, "data": listed, "usage": usage}), order)


def _texts(order: Order) -> list[Json]:
    said = order.body.get("input")
    return said if isinstance(said, list) else [said]


def _vector(text: str, order: Order) -> list[float]:
    """32-bit floats of length one."""
    dimensions = order.body.get("dimensions", _DIMENSIONS)
    assert isinstance(dimensions, int)
    seed = f"{order.random_source.seed}/{order.base_model}/{text}"
    raw = [digest_of(f"{seed}/{at}", bits=32) / 2**31 - 1.0 for at in range(dimensions)]
    length = math.sqrt(sum(part * part for part in raw)) or 1.0
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(part / length for part in raw))))


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@dataclass(slots=True)
class Verdict:
    """What became of an order; made for one call, which completes it."""

    script: Script
    name: str
    paid: bool = False
    quiet: bool = False
    """No rate headers go with it."""
    let_in: bool = False
    """It went through its lane's limits."""


_BROKEN = "answered, schema broken"

Run = Callable[[], Verdict]
"""Executes the order at hand, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A kind of paid call."""

    path: str
    """Where it is POSTed to."""
    check: Callable[[Order], Refusal | None]
    execute: Callable[[Order, SimulatedTasks], Verdict]
    spared: frozenset[str] = frozenset()
    """Mishaps that do not befall it."""


def _chat(order: Order, _tasks: SimulatedTasks) -> Verdict:
    if order.unread and (script := light_chat(order)) is not None:
        return Verdict(script, "answered", paid=True)
    name = _BROKEN if chat_replies.misses_schema(order) else "answered"
    return Verdict(answer_chat(order), name, paid=True)


def _message(order: Order, _tasks: SimulatedTasks) -> Verdict:
    name = _BROKEN if messages_replies.misses_schema(order) else "answered"
    return Verdict(answer_messages(order), name, paid=True)


def _embedding(order: Order, _tasks: SimulatedTasks) -> Verdict:
    return Verdict(answer_embeddings(order), "embedded", paid=True)


def _check_image(order: Order) -> Refusal | None:
    return check_pictures(order) if wants_pictures_at_once(order) else check_image(order)


def _image(order: Order, tasks: SimulatedTasks) -> Verdict:
    if wants_pictures_at_once(order):
        return Verdict(answer_pictures(order, tasks), "answered", paid=True)
    task, script = tasks.accept(order)
    return Verdict(script, "task accepted", paid=not task.fails)


_NO_CHOICES = frozenset({"shell", "empty_choices"})
"""The empty shell is known of chat completions only."""

GENERATIONS = {
    "chat": Generation(path="/v1/chat/completions", check=check_chat, execute=_chat),
    "embedding": Generation(path="/v1/embeddings", check=check_embeddings, execute=_embedding, spared=_NO_CHOICES),
    "image": Generation(path="/v1/images/generations", check=_check_image, execute=_image, spared=_NO_CHOICES),
    "message": Generation(path="/v1/messages", check=check_messages, execute=_message, spared=_NO_CHOICES),
}


def apply_failure_mode(failure_mode: str, order: Order, run: Run, faults: FaultRates) -> Verdict:
    """What the mishap makes of the order. `run` is called only if the order is executed all the same."""
    return _APPLIED[failure_mode](order, run, faults)


def _throttled(order: Order, _run: Run, faults: FaultRates) -> Verdict:
    refusal = REFUSALS["T1"]
    if faults.retry_after_s is not None:
        refusal = refusal.with_header("retry-after", f"{faults.retry_after_s:g}")
    return Verdict(order.refuse(refusal), "throttled")


def _refused(name: str) -> Callable[[Order, Run, FaultRates], Verdict]:
    return lambda order, _run, _faults: Verdict(order.refuse(REFUSALS[name]), name)


def _shell(order: Order, _run: Run, _faults: FaultRates) -> Verdict:
    return Verdict(shell(order, choices=None), "shell")


def _no_choices(order: Order, _run: Run, _faults: FaultRates) -> Verdict:
    return Verdict(shell(order, choices=[]), "shell")


def _headless(last: Reset | Hang, name: str) -> Callable[[Order, Run, FaultRates], Verdict]:
    """No head is ever sent; in half of the cases the order is executed all the same."""

    def affected(order: Order, run: Run, _faults: FaultRates) -> Verdict:
        if order.random_source.roll("executed") >= 0.5:
            return Verdict(Script(early=(last,)), f"{name}, not executed")
        verdict = run()
        return Verdict(Script(early=(*verdict.script.early, last)), f"{name}, executed", paid=verdict.paid)

    return affected


def _broken(last: Cut | Reset | Hang, name: str) -> Callable[[Order, Run, FaultRates], Verdict]:
    def affected(_order: Order, run: Run, _faults: FaultRates) -> Verdict:
        verdict = run()
        return replace(verdict, script=broken_off(verdict.script, last), name=name)

    return affected


def _cut(order: Order, run: Run, _faults: FaultRates) -> Verdict:
    """A stream ends in good order in half of the cases, without its last events: HTTP sees nothing wrong."""
    verdict = run()
    script = broken_off(verdict.script, Cut())
    streamed = script.headers.get("content-type", "").startswith(SSE_TYPE) and "content-length" not in script.headers
    if streamed and order.random_source.roll("orderly") < 0.5:
        script = replace(script, steps=script.steps[:-1])
    return replace(verdict, script=script, name="cut")


_APPLIED: dict[str, Callable[[Order, Run, FaultRates], Verdict]] = {
    "throttle": _throttled,
    "server_error": _refused("server-error"),
    "bad_gateway": _refused("bad-gateway"),
    "shell": _shell,
    "empty_choices": _no_choices,
    "reset": _headless(Reset(), "reset"),
    "hang": _headless(Hang(), "hang"),
    "reset_mid": _broken(Reset(), "reset in the middle"),
    "hang_mid": _broken(Hang(), "hang in the middle"),
    "cut": _cut,
}
