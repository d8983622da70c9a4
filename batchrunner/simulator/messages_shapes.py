"""The many ways in which servers write a stream of messages: edits of its events, and framings of its bytes.

An edit turns the list of events into another one; a framing turns the written events into pieces of bytes.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from batchrunner.core.job import Json
from batchrunner.simulator.script import as_object, as_text, encode_json

Event = dict[str, Json]
"""What stands in `data:`; its `type` is written as the event's name."""


def stream_pieces(events: list[Event], *, scenarios: Sequence[str]) -> tuple[list[bytes], bool]:
    """The stream's bytes, a piece for each event unless a framing says otherwise; True when the pieces are exact."""
    for name in scenarios:
        if name in EDITS:
            events = EDITS[name](events)
    write = next((WRITINGS[name] for name in scenarios if name in WRITINGS), _plain)
    written = [write(event) for event in events]
    framing = next((FRAMINGS[name] for name in scenarios if name in FRAMINGS), None)
    return (written, False) if framing is None else (framing(written), True)


def _error(kind: str, message: str) -> Event:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _half(events: list[Event]) -> list[Event]:
    return events[: max(1, len(events) // 2)]


def _overloaded_mid(events: list[Event]) -> list[Event]:
    return [*_half(events), _error("overloaded_error", "Overloaded")]


def _error_mid(events: list[Event]) -> list[Event]:
    return [*_half(events), _error("api_error", "The server had an error while answering.")]


def _without(name: str) -> Callable[[list[Event]], list[Event]]:
    return lambda events: [event for event in events if event["type"] != name]


def _unknown(events: list[Event]) -> list[Event]:
    """An event, a piece and a block that nobody knows."""
    last: Json = sum(event["type"] == "content_block_start" for event in events)
    odd: list[Event] = [
        {"type": "content_block_start", "index": last, "content_block": {"type": "poem", "verse": "Roses"}},
        {"type": "content_block_delta", "index": last, "delta": {"type": "verse_delta", "verse": "are red"}},
        {"type": "content_block_stop", "index": last},
    ]
    *before, change, stop = events
    return [before[0], {"type": "weather_report", "degrees": 21}, *before[1:], *odd, change, {"type": "mood"}, stop]


def _pings(events: list[Event]) -> list[Event]:
    ping: Event = {"type": "ping"}
    return [part for event in events for part in (ping, event)]


def _usage_late(events: list[Event]) -> list[Event]:
    """The input is counted at the end only, as servers do that pass another house's stream on."""
    message = as_object(events[0].get("message"))
    asked = as_object(message.get("usage")).get("input_tokens")
    first: Event = {**events[0], "message": {**message, "usage": {"input_tokens": 0, "output_tokens": 0}}}
    return [first, *(_with_input(event, asked) if event["type"] == "message_delta" else event for event in events[1:])]


def _with_input(event: Event, asked: Json) -> Event:
    return {**event, "usage": {"input_tokens": asked, **as_object(event.get("usage"))}}


def _one_index(events: list[Event]) -> list[Event]:
    return [{**event, "index": 0} if "index" in event else event for event in events]


def _error_after_end(events: list[Event]) -> list[Event]:
    """An error where the closing event had to come: the answer's own end stands before it."""
    return [*events[:-1], _error("overloaded_error", "Overloaded")]


def _with_blocks(*blocks: dict[str, Json]) -> Callable[[list[Event]], list[Event]]:
    """Whole blocks behind those of the answer."""

    def edit(events: list[Event]) -> list[Event]:
        last = sum(event["type"] == "content_block_start" for event in events)
        added: list[Event] = []
        for at, block in enumerate(blocks, start=last):
            added.append({"type": "content_block_start", "index": at, "content_block": dict(block)})
            added.append({"type": "content_block_stop", "index": at})
        *before, change, stop = events
        return [*before, *added, change, stop]

    return edit


def _own_fields(events: list[Event]) -> list[Event]:
    """Fields of Anthropic's that came later, and one that nobody knows."""
    container: Json = {"id": "container_1", "expires_at": "2026-01-01T00:00:00Z"}
    return [
        {**event, "delta": {**as_object(event.get("delta")), "container": container, "lane": "a"}}
        if event["type"] == "message_delta"
        else event
        for event in events
    ]


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""A whole PNG of one pixel."""

EDITS: dict[str, Callable[[list[Event]], list[Event]]] = {
    "an-overloaded-mid": _overloaded_mid,
    "sse-error-mid": _error_mid,
    "sse-cut": _half,
    "an-no-message-stop": _without("message_stop"),
    "an-no-message-start": _without("message_start"),
    "an-no-end": lambda events: events[:-2],
    "an-unknown-event": _unknown,
    "an-ping": _pings,
    "an-usage-late": _usage_late,
    "an-one-index": _one_index,
    "an-error-after-end": _error_after_end,
    "an-own-fields": _own_fields,
    "an-picture": _with_blocks(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL}}
    ),
    "an-search": _with_blocks(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "cats"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [{"type": "web_search_result", "url": "https://e.example/a", "encrypted_content": "e"}],
        },
    ),
}


def _plain(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {_data(event)}\n\n".encode()


def _nameless(event: Event) -> bytes:
    return f"data: {_data(event)}\n\n".encode()


def _typeless(event: Event) -> bytes:
    bare = {name: value for name, value in event.items() if name != "type"}
    return f"event: {as_text(event['type'])}\ndata: {_data(bare)}\n\n".encode()


def _no_space(event: Event) -> bytes:
    return f"event:{event['type']}\ndata:{_data(event)}\n\n".encode()


def _data(event: Event) -> str:
    return encode_json(event).decode()


def _one_newline(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {_data(event)}\n".encode()


WRITINGS: dict[str, Callable[[Event], bytes]] = {
    "an-no-event-line": _nameless,
    "an-no-type": _typeless,
    "sse-nospace": _no_space,
    "an-single-newlines": _one_newline,
}


def _one_byte(written: Sequence[bytes]) -> list[bytes]:
    stream = b"".join(written)
    return [stream[at : at + 1] for at in range(len(stream))]


def _split_inside_characters(written: Sequence[bytes]) -> list[bytes]:
    stream = b"".join(written)
    cuts = [at for at in range(1, len(stream)) if stream[at] & 0xC0 == 0x80]
    return [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]


def _with_line_end(end: bytes) -> Callable[[Sequence[bytes]], list[bytes]]:
    return lambda written: [piece.replace(b"\n", end) for piece in written]


FRAMINGS: dict[str, Callable[[Sequence[bytes]], list[bytes]]] = {
    "sse-crlf": _with_line_end(b"\r\n"),
    "sse-cr": _with_line_end(b"\r"),
    "sse-bom": lambda written: [b"\xef\xbb\xbf", *written],
    "sse-comments": lambda written: [part for piece in written for part in (b": ping\n\n", piece)],
    "sse-onebyte": _one_byte,
    "sse-split-utf8": _split_inside_characters,
    "sse-no-final-blank": lambda written: [*written[:-1], written[-1].rstrip(b"\n")],
}
