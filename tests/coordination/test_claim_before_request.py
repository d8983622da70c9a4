"""The claim is looked at between intent and request: a process that was stopped there may have lost its shard."""

from types import SimpleNamespace
from typing import cast

import pytest

from batchrunner.coordination.client import CoordinatorClient
from batchrunner.core.events import Intent
from batchrunner.engine.send_records import PendingIntent, SendRecorder
from batchrunner.engine.work_queue import Work
from batchrunner.working import HeldClaim


@pytest.mark.parametrize(("now", "leaves"), [(5.9, 1), (6.0, 0), (36.0, 0)])
def test_a_request_whose_claim_was_lost_after_its_intent_does_not_leave(now: float, leaves: int) -> None:
    clock = SimpleNamespace(now=0.0)
    claim = HeldClaim(
        client=cast("CoordinatorClient", None),
        shard=0,
        epoch=1,
        until=6.0,
        expires_s=6.0,
        beat_s=2.0,
        monotonic=lambda: float(clock.now),
    )
    assert claim.may_send()
    sent: list[str] = []
    recorder = SimpleNamespace(
        may_send=claim.may_send,
        state=SimpleNamespace(sent=lambda key, **_: sent.append(key)),
        clock=SimpleNamespace(wall=lambda: 0.0),
        asked_for=1,
        intents_synced=0,
        synced_intents=True,
    )
    event = SimpleNamespace(model="m", account="A", n=1, a=1, w=None)
    gate = PendingIntent(
        cast("SendRecorder", recorder), cast("Work", SimpleNamespace(key="k", number=0)), cast("Intent", event)
    )
    told: list[Exception | None] = []
    gate(told.append)
    clock.now = now  # the process was stopped here
    gate.written(None)
    assert (sent, told == [None], gate.refused is None) == (["k"] * leaves, leaves, leaves)
    assert bool(claim.lost) != bool(leaves)
