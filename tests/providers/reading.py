"""Ways to feed a reply to a decoder: whole, one byte at a time, in random pieces, with junk behind it."""

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from batchrunner.core.http import Completed, Decoder, Ending, Interrupted, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import DialectName, Json, PresetName, Provider, Turn
from batchrunner.spec.task_tables import shipped_table

T = TypeVar("T")

NOON = 1_790_000_000.0
"""When every head of these tests was received: 2026-09-21T14:13:20Z."""
EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"

RESET = Interrupted(cause="reset", message="connection reset by peer", sent=True)
TIMEOUT = Interrupted(cause="timeout", message="no bytes for 120 s", sent=True)


def head(status: int = 200, content_type: str = JSON, **headers: str) -> ResponseHead:
    """A head; underscores in names stand for dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return ResponseHead(status=status, headers={"content-type": content_type, **given}, received_at=NOON)


def cuts(body: bytes) -> Iterator[list[bytes]]:
    """The body whole, byte by byte, so with empty pieces between, and in twelve random ways."""
    yield [body]
    yield [body[place : place + 1] for place in range(len(body))]
    yield [piece for place in range(len(body)) for piece in (body[place : place + 1], b"")]
    for seed in range(12):
        random_source = random.Random(seed)
        places = sorted(random_source.randrange(len(body) + 1) for _ in range(random_source.randrange(1, 12)))
        yield [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def read(decoder: Decoder[T], reply: ResponseHead | None, pieces: list[bytes], ending: Ending) -> T:
    """What one decoder makes of a reply. Reads on after it had enough: a transport may have read ahead."""
    if reply is not None:
        decoder.begin(reply)
        for piece in pieces:
            decoder.feed(piece)
    return decoder.end(ending)


def read_every_way(make: Callable[[], Decoder[T]], reply: ResponseHead, body: bytes, ending: Ending | None = None) -> T:
    """The one outcome of all ways to cut the body, and of reading it at once; fails when two ways disagree."""
    outcomes = [read(make(), reply, pieces, ending or Completed()) for pieces in cuts(body)]
    at_once = getattr(make(), "whole", None)
    if at_once is not None and isinstance(ending or Completed(), Completed):
        outcomes.append(at_once(reply, body))
    for outcome in outcomes[1:]:
        assert outcome == outcomes[0]
    return outcomes[0]


def provider(preset: PresetName = "modelscope", dialect: DialectName = "openai-chat", base_url: str = "") -> Provider:
    """A provider on an address of this machine."""
    return Provider(
        preset=preset,
        dialect=dialect,
        base_url=base_url or "http://127.0.0.1:8000/v1",
        key_env=(),
        auth="none",
        task=shipped_table("bfl") if dialect == "task" else None,
    )


def item(prompt: str = "Say hi", *, params: dict[str, Json] | None = None, **fields: object) -> Item:
    """An item with one user turn."""
    plain = Item(
        id="a",
        prompt_id="a",
        index=1,
        key="0" * 32,
        model="Qwen/Qwen3-8B",
        prompt=prompt,
        turns=(Turn(role="user", content=prompt),),
        params=params or {},
    )
    for name, value in fields.items():
        setattr(plain, name, value)
    return plain
