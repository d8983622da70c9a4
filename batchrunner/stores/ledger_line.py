r"""The one place that knows what a ledger line looks like, byte for byte.

    {"s":41,"t":1790000000.123,"d":9000,"e":"intent", … ,"c":"0123abcd"}\n

`s` counts from 0 in a segment, `t` is the wall clock, `d` (first record of a batch only) the segment's length known to
be durable, then the event's own fields. The last 17 bytes, newline included, are `,"c":"` + eight lowercase hex digits
+ `"}\n`; the digits are `zlib.crc32` of every byte of the line before those 17. All 17 are compared as bytes, so that
no bit of a line can change unseen. Lines are ASCII and at most 64 KiB with their newline.

Refuses: records that stay longer than that when their messages are cut, and text that no UTF-8 can carry (lone
surrogates become U+FFFD).
"""

import re
import zlib
from pathlib import Path

import msgspec

from batchrunner.core.events import Event, Failed, Parked
from batchrunner.stores.surrogates import mended_text

MAX_LINE_BYTES = 64 * 1024
TRAILER_BYTES = 17
LEDGER = "ledger"
"""The ledger's folder in a run's directory."""
SEGMENT_NAME = re.compile(r"([0-9]{6,})\.jsonl")
CHECKPOINT_NAME = re.compile(r"([0-9]{6,})\.checkpoint")

_ENVELOPE_BYTES = 128
"""More than `s`, `t`, `d` and the trailer can take."""
_LONG_BYTES = MAX_LINE_BYTES - _ENVELOPE_BYTES
_KEPT_CHARACTERS = 4096
"""Of a message in a record that is too long; at most 12 bytes each when escaped."""
_NON_ASCII = re.compile(r"[^\x00-\x7f]")

_encoder = msgspec.json.Encoder()


def segment_path(folder: Path, number: int) -> Path:
    """Where segment `number` (from 1) of a ledger lies."""
    return folder / f"{number:06d}.jsonl"


def checkpoint_path(folder: Path, number: int) -> Path:
    """Where the checkpoint at the end of segment `number` lies."""
    return folder / f"{number:06d}.checkpoint"


def segment_numbers(names: list[str]) -> list[int]:
    """The numbers of the segments among a folder's names, ascending."""
    return sorted(int(found[1]) for name in names if (found := SEGMENT_NAME.fullmatch(name)))


def encode_line(event: Event, *, sequence: int, at: float, durable: int | None) -> bytes:
    """The record of an event, newline included.

    Raises:
        ValueError: the event is too long for a record although its messages were cut.
    """
    try:
        body = _encoder.encode(event)[1:-1]
    except UnicodeEncodeError:
        body = _encode_event(event)
    if not body.isascii() or len(body) > _LONG_BYTES:
        body = _encode_event(event)
    if durable is None:
        line = b'{"s":%d,"t":%.3f,%b' % (sequence, at, body)
    else:
        line = b'{"s":%d,"t":%.3f,"d":%d,%b' % (sequence, at, durable, body)
    return b'%b,"c":"%08x"}\n' % (line, zlib.crc32(line))


def is_sound(text: bytes) -> bool:
    """Whether a line without its newline ends with the checksum of what stands before."""
    cut = 1 - TRAILER_BYTES
    return text[cut:] == b',"c":"%08x"}' % zlib.crc32(text[:cut])


def _encode_event(event: Event) -> bytes:
    """The event's own fields, without the braces."""
    body = _encode_ascii(event)
    if len(body) > _LONG_BYTES:
        body = _encode_ascii(_shortened(event))
    if len(body) > _LONG_BYTES:
        raise ValueError(
            f"a ledger record of {len(body)} bytes ({type(event).__name__.lower()}): at most {MAX_LINE_BYTES} fit"
        )
    return body


def _encode_ascii(event: Event) -> bytes:
    try:
        raw = _encoder.encode(event)
    except UnicodeEncodeError:
        raw = _encoder.encode(_mended(event))
    if not raw.isascii():
        raw = _NON_ASCII.sub(_escape, raw.decode()).encode("ascii")
    return raw[1:-1]


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _mended(event: Event) -> Event:
    """Lone surrogates replaced, in a copy."""
    changes: dict[str, object] = {}
    for name in event.__struct_fields__:
        value: object = getattr(event, name)
        if isinstance(value, str):
            changes[name] = mended_text(value)
        elif isinstance(value, tuple):
            changes[name] = tuple(_mended_part(part) for part in value)
    return msgspec.structs.replace(event, **changes)


def _mended_part(part: object) -> object:
    if isinstance(part, str):
        return mended_text(part)
    if isinstance(part, tuple):
        return tuple(_mended_part(inner) for inner in part)
    return part


def _shortened(event: Event) -> Event:
    """Only words for people are cut: ids, URLs and names are whole or the record is refused."""
    if isinstance(event, Failed):
        request_id = None if event.request_id is None else event.request_id[:256]
        return msgspec.structs.replace(event, message=_cut(event.message), request_id=request_id)
    if isinstance(event, Parked):
        return msgspec.structs.replace(event, reason=_cut(event.reason))
    return event


def _cut(text: str) -> str:
    left_out = len(text) - _KEPT_CHARACTERS
    return text if left_out <= 0 else f"{text[:_KEPT_CHARACTERS]}… ({left_out} more characters)"
