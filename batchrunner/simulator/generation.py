"""What is paid for, as a table: how each kind is checked and executed, and what mishaps do to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from batchrunner.simulator import chat_replies, messages_replies
from batchrunner.simulator.chat_replies import answer_chat, check_chat, shell
from batchrunner.simulator.embeddings import answer_embeddings, check_embeddings
from batchrunner.simulator.faults import Faults
from batchrunner.simulator.image_rules import check_image
from batchrunner.simulator.image_tasks import TaskBook
from batchrunner.simulator.light_answers import light_chat
from batchrunner.simulator.messages_replies import answer_messages, check_messages
from batchrunner.simulator.openai_images import answer_pictures, check_pictures, wants_pictures_at_once
from batchrunner.simulator.order import Order
from batchrunner.simulator.pacing import broken_off
from batchrunner.simulator.refusals import REFUSALS, Refusal
from batchrunner.simulator.script import SSE_TYPE, Cut, Hang, Reset, Script


class Verdict(NamedTuple):
    """What became of an order."""

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
    execute: Callable[[Order, TaskBook], Verdict]
    spared: frozenset[str] = frozenset()
    """Mishaps that do not befall it."""


def _chat(order: Order, _book: TaskBook) -> Verdict:
    if order.unread and (script := light_chat(order)) is not None:
        return Verdict(script, "answered", paid=True)
    name = _BROKEN if chat_replies.misses_schema(order) else "answered"
    return Verdict(answer_chat(order), name, paid=True)


def _message(order: Order, _book: TaskBook) -> Verdict:
    name = _BROKEN if messages_replies.misses_schema(order) else "answered"
    return Verdict(answer_messages(order), name, paid=True)


def _embedding(order: Order, _book: TaskBook) -> Verdict:
    return Verdict(answer_embeddings(order), "embedded", paid=True)


def _check_image(order: Order) -> Refusal | None:
    return check_pictures(order) if wants_pictures_at_once(order) else check_image(order)


def _image(order: Order, book: TaskBook) -> Verdict:
    if wants_pictures_at_once(order):
        return Verdict(answer_pictures(order, book), "answered", paid=True)
    task, script = book.accept(order)
    return Verdict(script, "task accepted", paid=not task.fails)


_NO_CHOICES = frozenset({"shell", "empty_choices"})
"""The empty shell is known of chat completions only."""

GENERATIONS = {
    "chat": Generation(path="/v1/chat/completions", check=check_chat, execute=_chat),
    "embedding": Generation(path="/v1/embeddings", check=check_embeddings, execute=_embedding, spared=_NO_CHOICES),
    "image": Generation(path="/v1/images/generations", check=_check_image, execute=_image, spared=_NO_CHOICES),
    "message": Generation(path="/v1/messages", check=check_messages, execute=_message, spared=_NO_CHOICES),
}


def befall(mishap: str, order: Order, run: Run, faults: Faults) -> Verdict:
    """What the mishap makes of the order. `run` is called only if the order is executed all the same."""
    return _MISHAPS[mishap](order, run, faults)


def _throttled(order: Order, _run: Run, faults: Faults) -> Verdict:
    refusal = REFUSALS["T1"]
    if faults.retry_after_s is not None:
        refusal = refusal.with_header("retry-after", f"{faults.retry_after_s:g}")
    return Verdict(order.refuse(refusal), "throttled")


def _refused(name: str) -> Callable[[Order, Run, Faults], Verdict]:
    return lambda order, _run, _faults: Verdict(order.refuse(REFUSALS[name]), name)


def _shell(order: Order, _run: Run, _faults: Faults) -> Verdict:
    return Verdict(shell(order, choices=None), "shell")


def _no_choices(order: Order, _run: Run, _faults: Faults) -> Verdict:
    return Verdict(shell(order, choices=[]), "shell")


def _headless(last: Reset | Hang, name: str) -> Callable[[Order, Run, Faults], Verdict]:
    """No head is ever sent; in half of the cases the order is executed all the same."""

    def befallen(order: Order, run: Run, _faults: Faults) -> Verdict:
        if order.dice.roll("executed") >= 0.5:
            return Verdict(Script(early=(last,)), f"{name}, not executed")
        verdict = run()
        return Verdict(Script(early=(*verdict.script.early, last)), f"{name}, executed", paid=verdict.paid)

    return befallen


def _broken(last: Cut | Reset | Hang, name: str) -> Callable[[Order, Run, Faults], Verdict]:
    def befallen(_order: Order, run: Run, _faults: Faults) -> Verdict:
        verdict = run()
        return verdict._replace(script=broken_off(verdict.script, last), name=name)

    return befallen


def _cut(order: Order, run: Run, _faults: Faults) -> Verdict:
    """A stream ends in good order in half of the cases, without its last events: HTTP sees nothing wrong."""
    verdict = run()
    script = broken_off(verdict.script, Cut())
    streamed = script.headers.get("content-type", "").startswith(SSE_TYPE) and "content-length" not in script.headers
    if streamed and order.dice.roll("orderly") < 0.5:
        script = replace(script, steps=script.steps[:-1])
    return verdict._replace(script=script, name="cut")


_MISHAPS: dict[str, Callable[[Order, Run, Faults], Verdict]] = {
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
