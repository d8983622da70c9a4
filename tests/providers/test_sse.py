"""Server-sent events: the rules of the standard, however the bytes are cut."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, strategies

from batchrunner.providers.sse import CAP_BYTES, Overflow, SseEvent, SseParser
from tests.providers.reading import cuts
from tests.support.growth import assert_linear


def parse(pieces: list[bytes], *, cap_bytes: int = CAP_BYTES) -> tuple[list[tuple[str, bytes]], Overflow | None]:
    parser = SseParser(cap_bytes=cap_bytes)
    events: list[SseEvent] = []
    for piece in pieces:
        events += parser.feed(piece)
    events += parser.end()
    return [(event.name, event.data) for event in events], parser.overflow


def plain(*data: bytes) -> list[tuple[str, bytes]]:
    return [("", each) for each in data]


STREAMS = {
    "one event": (b"data: x\n\n", plain(b"x")),
    "two events": (b"data: x\n\ndata: y\n\n", plain(b"x", b"y")),
    "blank lines between events say nothing": (b"\n\n\ndata: x\n\n\n\n\ndata: y\n\n\n", plain(b"x", b"y")),
    "a BOM at the start is none of the stream": (
        b"\xef\xbb\xbfdata: x\r\n\r\ndata: [DONE]\r\n\r\n",
        plain(b"x", b"[DONE]"),
    ),
    "only one BOM is": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
    "a BOM later is no BOM": (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", plain(b"x")),
    "CRLF": (b"data: x\r\n\r\ndata: y\r\n\r\n", plain(b"x", b"y")),
    "CR only": (b"data: x\r\rdata: y\r\r", plain(b"x", b"y")),
    "line ends mixed": (b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\r", plain(b"a\nb\nc", b"d")),
    "CR LF LF is two line ends": (b"data: a\r\n\ndata: b\r\n\n", plain(b"a", b"b")),
    "comments": (b":hb\n\ndata:{}\n\n: ping\n:\n", plain(b"{}")),
    "a comment inside an event": (b"data: a\n: ping\ndata: b\n\n", plain(b"a\nb")),
    "one space is taken off, no more": (b"data:x\n\ndata:  y\n\ndata:\tz\n\n", plain(b"x", b" y", b"\tz")),
    "data lines are joined": (b'data: {"a":\ndata: 1}\n\n', plain(b'{"a":\n1}')),
    "an empty data line counts": (b"data: a\ndata\ndata:\ndata: b\n\n", plain(b"a\n\n\nb")),
    "data that is empty": (b"data:\n\n", plain(b"")),
    "a name": (b"event: error\ndata: x\n\ndata: y\n\n", [("error", b"x"), ("", b"y")]),
    "the last name stands": (b"event: a\nevent: b\ndata: x\n\n", [("b", b"x")]),
    "a name without data": (b"event: ping\n\ndata: x\n\n", [("ping", b""), ("", b"x")]),
    "ids and retries are read over": (b"id: 7\nretry: 10\ndata: x\n\nid\n\n", plain(b"x")),
    "unknown fields are read over": (b"datax: 1\nDATA: 3\nX-Trace: a b\ndata: x\n\n", plain(b"x")),
    "words that are no field are told, in their place": (
        b"data: x\n\nInternal Server Error\n\n{}\nError: y\n\ndata: z\n\n",
        [("", b"x"), *[("stray", b"")] * 3, ("", b"z")],
    ),
    "a split character": ("data: 猫\n\n".encode(), plain("猫".encode())),
    "nothing": (b"", []),
    "half a BOM": (b"\xef\xbb", []),
    "an end without its blank line: JSON is whole": (
        b'data: a\n\ndata: {"type":"message_stop"}',
        plain(b"a", b'{"type":"message_stop"}'),
    ),
    "an end without its blank line, the line ended": (b"data: [DONE]\n", plain(b"[DONE]")),
    "an end inside JSON is dropped": (b'data: {"type":"mess', []),
    "an end inside words is dropped": (b"data: wor", []),
    "an end with a name keeps it": (b"event: error\ndata: {}", [("error", b"{}")]),
}


@pytest.mark.parametrize(("body", "events"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_gives_its_events_however_it_is_cut(body: bytes, events: list[tuple[str, bytes]]) -> None:
    for pieces in cuts(body):
        assert parse(pieces) == (events, None)


OVERFLOWS = {
    "an endless line": (b"data: x\n\n" + b"y" * 40, plain(b"x"), "line"),
    "an endless comment": (b":" + b"y" * 40 + b"\ndata: x\n\n", [], "line"),
    "an endless event": (b"data: 123456789\n" * 4 + b"\ndata: x\n\n", [], "event"),
    "endless empty lines of data": (b"data\n" * 40, [], "event"),
    "a long line among whole blocks": (b"data: x\n\ndata: " + b"y" * 40 + b"\n\ndata: z\n\n", plain(b"x"), "line"),
}


@pytest.mark.parametrize(("body", "events", "what"), OVERFLOWS.values(), ids=OVERFLOWS.keys())
def test_what_is_too_long_ends_the_stream_as_a_value(body: bytes, events: list[tuple[str, bytes]], what: str) -> None:
    """Threat 9: endless lines and endless events."""
    for pieces in cuts(body):
        found, overflow = parse(pieces, cap_bytes=32)
        assert found == events
        assert overflow is not None
        assert (overflow.what, overflow.cap_bytes) == (what, 32)


def test_a_line_of_exactly_the_cap_is_kept() -> None:
    for pieces in cuts(b"data: " + b"y" * 26 + b"\n\n"):
        assert parse(pieces, cap_bytes=32) == (plain(b"y" * 26), None)


def test_a_line_that_drips_in_is_not_copied_again_and_again() -> None:
    parser = SseParser()
    for _ in range(200_000):
        parser.feed(b"x")
    parser.feed(b"\ndata: y\n\n")
    assert parser.overflow is None


@pytest.mark.parametrize(
    ("first", "each"),
    [(b"", b"data: {\n"), (b'data: {"a": "SIZE"}}\n', b"data: {}\n"), (b"", b"data: x\ndata: [DONE]\n")],
)
def test_an_event_of_many_lines_is_not_read_again_at_every_line(first: bytes, each: bytes) -> None:
    def read(lines: int) -> Callable[[], object]:
        body = first.replace(b"SIZE", b"x" * 25 * lines) + each * lines
        return lambda: parse([body])

    assert_linear(read, 1_000)


ALPHABET = strategies.sampled_from(
    [b"data: ", b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"event: e", b"x", b"{}"]
)


@given(strategies.lists(ALPHABET, max_size=40), strategies.randoms(use_true_random=False))
def test_the_quick_way_and_the_slow_way_agree(parts: list[bytes], random_source: random.Random) -> None:
    body = b"".join(parts)
    places = sorted(random_source.randrange(len(body) + 1) for _ in range(5))
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    assert parse([body]) == parse([bytes([byte]) for byte in body]) == parse(pieces)


@given(strategies.binary(max_size=300), strategies.integers(1, 64))
def test_any_bytes_give_the_same_events_at_any_cap(body: bytes, cap_bytes: int) -> None:
    one_by_one = [bytes([byte]) for byte in body]
    assert parse([body], cap_bytes=cap_bytes) == parse(one_by_one, cap_bytes=cap_bytes)
