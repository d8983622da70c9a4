"""How the bytes of a reply are spread over time and over pieces, and how a reply breaks off in its middle."""

from collections.abc import Sequence
from dataclasses import replace

from batchrunner.simulator.order import Order
from batchrunner.simulator.script import JSON_TYPE, Cut, Hang, Reset, Script, Send, Step, Wait


def whole(body: bytes, order: Order, *, pieces: int | None = None) -> Script:
    """A reply in one piece; it takes as long as its stream of so many `pieces` would. None: about as long."""
    wait_s = order.latency.chunk_s * (pieces or min(10, 2 + len(body) // 96))
    working = (Wait(seconds=wait_s),) if wait_s else ()
    return Script(headers={"content-type": JSON_TYPE}, steps=(*working, Send(piece=body)))


def paced(pieces: Sequence[bytes], order: Order, *, exact: bool) -> tuple[Step, ...]:
    """The pieces as steps. Unless they are `exact`, a reply without waits is cut anew at arbitrary bytes, in three.

    A network does not respect the edges of events, and three writes cost less than twenty.
    """
    wait_s = order.latency.chunk_s
    if wait_s:
        sends = [(Wait(seconds=wait_s), Send(piece=piece)) for piece in pieces]
        return tuple(step for pair in sends for step in pair)
    if exact:
        return tuple(Send(piece=piece) for piece in pieces)
    stream = b"".join(pieces)
    first, second = sorted(int(order.dice.roll(f"edge {at}") * len(stream)) for at in (1, 2))
    cuts = (stream[:first], stream[first:second], stream[second:])
    return tuple(Send(piece=piece) for piece in cuts if piece)


def delayed(script: Script, order: Order) -> Script:
    """The same, after the time to the first byte."""
    wait_s = order.dice.spread(order.latency.first_byte_s, order.latency.spread, "first byte")
    if not wait_s:
        return script
    early = (Wait(seconds=wait_s), *script.early)
    return Script(status=script.status, headers=script.headers, early=early, steps=script.steps)


def slow_to_refuse(script: Script, order: Order) -> Script:
    """A refusal, after the time that it takes."""
    wait_s = order.dice.spread(order.latency.refusal_s, order.latency.spread, "refusal")
    return replace(script, early=(Wait(seconds=wait_s), *script.early)) if wait_s else script


def broken_off(script: Script, last: Cut | Reset | Hang) -> Script:
    """The first half of a reply's bytes, and then `last`. A reply in one piece announces its whole length."""
    total = len(script.body)
    left = total // 2
    steps: list[Step] = []
    for step in script.steps:
        if isinstance(step, Send):
            piece = step.piece[:left]
            left -= len(piece)
            steps.append(Send(piece=piece))
            if not left:
                break
        else:
            steps.append(step)
    single = sum(isinstance(step, Send) for step in script.steps) == 1
    headers = {**script.headers, "content-length": str(total)} if single else script.headers
    return replace(script, headers=headers, steps=(*steps, last))
