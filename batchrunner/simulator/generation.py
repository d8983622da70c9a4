"""What is paid for, as a table: how each kind is checked and executed, and what mishaps do to it."""

from collections.abc import Callable, Iterable

from batchrunner.core.values import dataclass, replace
from batchrunner.simulator import chat_replies, messages_replies, responses_replies
from batchrunner.simulator.chat_replies import answer_chat, check_chat, light_chat, shell
from batchrunner.simulator.drawing import check_image
from batchrunner.simulator.embedding_replies import answer_embeddings, check_embeddings, contents_of
from batchrunner.simulator.image_replies import answer_pictures, check_pictures, wants_pictures_at_once
from batchrunner.simulator.messages_replies import answer_messages, check_messages
from batchrunner.simulator.profiles import FaultRates
from batchrunner.simulator.refusals import REFUSALS, Refusal
from batchrunner.simulator.requests import Order, broken_off
from batchrunner.simulator.responses_replies import answer_responses, check_responses
from batchrunner.simulator.script import SSE_TYPE, Cut, Hang, Reset, Script
from batchrunner.simulator.simulated_tasks import SimulatedTasks
from batchrunner.simulator.simulated_videos import check_video, order_video
from batchrunner.simulator.transcription_replies import answer_transcription, check_transcription, check_translation


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
    contents: Callable[[Order], Iterable[int]] = lambda order: (order.random_source.content,)
    """What one call pays for, each counted by itself."""


def _chat(order: Order, _tasks: SimulatedTasks) -> Verdict:
    if order.unread and (script := light_chat(order)) is not None:
        return Verdict(script, "answered", paid=True)
    name = _BROKEN if chat_replies.misses_schema(order) else "answered"
    return Verdict(answer_chat(order), name, paid=True)


def _message(order: Order, _tasks: SimulatedTasks) -> Verdict:
    name = _BROKEN if messages_replies.misses_schema(order) else "answered"
    return Verdict(answer_messages(order), name, paid=True)


def _response(order: Order, _tasks: SimulatedTasks) -> Verdict:
    name = _BROKEN if responses_replies.misses_schema(order) else "answered"
    return Verdict(answer_responses(order), name, paid=True)


def _embedding(order: Order, _tasks: SimulatedTasks) -> Verdict:
    return Verdict(answer_embeddings(order), "embedded", paid=True)


def _transcription(order: Order, _tasks: SimulatedTasks) -> Verdict:
    return Verdict(answer_transcription(order), "transcribed", paid=True)


def _translation(order: Order, _tasks: SimulatedTasks) -> Verdict:
    return Verdict(answer_transcription(order, task="translate"), "translated", paid=True)


def _check_image(order: Order) -> Refusal | None:
    return check_pictures(order) if wants_pictures_at_once(order) else check_image(order)


def _image(order: Order, tasks: SimulatedTasks) -> Verdict:
    if wants_pictures_at_once(order):
        return Verdict(answer_pictures(order, tasks), "answered", paid=True)
    task, script = tasks.accept(order)
    return Verdict(script, "task accepted", paid=not task.fails)


def _video(order: Order, tasks: SimulatedTasks) -> Verdict:
    task, script = order_video(order, tasks)
    return Verdict(script, "task accepted", paid=not task.fails)


_NO_CHOICES = frozenset({"shell", "empty_choices"})
"""The empty shell is known of chat completions only."""

GENERATIONS = {
    "chat": Generation(path="/v1/chat/completions", check=check_chat, execute=_chat),
    "embedding": Generation(
        path="/v1/embeddings", check=check_embeddings, execute=_embedding, spared=_NO_CHOICES, contents=contents_of
    ),
    "image": Generation(path="/v1/images/generations", check=_check_image, execute=_image, spared=_NO_CHOICES),
    "video": Generation(path="/v1/videos", check=check_video, execute=_video, spared=_NO_CHOICES),
    "message": Generation(path="/v1/messages", check=check_messages, execute=_message, spared=_NO_CHOICES),
    "transcription": Generation(
        path="/v1/audio/transcriptions", check=check_transcription, execute=_transcription, spared=_NO_CHOICES
    ),
    "translation": Generation(
        path="/v1/audio/translations", check=check_translation, execute=_translation, spared=_NO_CHOICES
    ),
    "response": Generation(path="/v1/responses", check=check_responses, execute=_response, spared=_NO_CHOICES),
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
