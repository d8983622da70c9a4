"""Heads of replies that are nearly HTTP, mended before aiohttp's parser sees them: one line costs it the reply.

What is behind such a head was paid for. Only lines that say nothing are left out, and only lengths that contradict one
another: the body then says by itself where it ends. Bytes that are no head at all are left as they are.
"""

import re
from typing import Final

LINE_BYTES: Final = 64 * 1024
"""Of a line that the parser takes; longer ones are left out."""
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_START: Final = b"HTTP/"
_CHUNK: Final = re.compile(rb"\r?\n?[0-9A-Fa-f]{1,16}[ \t]*(?:[;\r\n]|$)")
"""How chunks begin: with the length of the first, perhaps cut off."""


def may_begin(start: bytes | bytearray) -> bool:
    """Whether these first bytes may be those of a head."""
    return start[: len(_START)] == _START[: len(start)]


def end_of(start: bytes | bytearray, since: int) -> int:
    """Where a head ends, as a count of bytes; 0 while it has no end. `since`: how much was looked at before."""
    since = max(0, since - 3)
    ends = [at + len(end) for end in (b"\r\n\r\n", b"\n\n") if (at := start.find(end, since)) >= 0]
    return min(ends, default=0)


def mended(head: bytes, rest: bytes = b"") -> bytes:
    """The head without lines that are none, with one length or none, and with CR LF behind each line.

    `rest` is what came with it of the body: where that shows no chunk, the head does not say that there are any.
    """
    if _is_sound(head, rest):
        return head
    first, *lines = (line.removesuffix(b"\r") for line in head.rstrip(b"\r\n").split(b"\n"))
    kept, lengths, chunked, left_out = [first], [], False, False
    for line in lines:
        if line[:1] in {b" ", b"\t"}:  # it goes on with the line before it
            if not left_out:
                kept.append(line)
            continue
        given, colon, value = line.partition(b":")
        name = given.rstrip(b" \t")
        word = name.lower()
        left_out = not colon or _NAME.fullmatch(name) is None or len(line) > LINE_BYTES
        if left_out:
            continue
        if word == b"content-length":
            lengths += [length.strip().lstrip(b"+") for length in value.split(b",")]
            left_out = True
            continue
        if word == b"transfer-encoding" and b"chunked" in value.lower():
            if rest and _CHUNK.match(rest) is None:
                lengths, left_out = [*lengths, b"none"], True
                continue
            chunked = True
        kept.append(line if name == given else name + colon + value)
    if lengths and not chunked:  # chunks say by themselves how long they are
        sound = len(set(lengths)) == 1 and lengths[0].isdigit()
        kept.append(b"Content-Length: " + lengths[0] if sound else b"Connection: close")
    return b"\r\n".join((*kept, b"", b""))


_SOUND: Final = re.compile(rb"HTTP/[^\r\n]*+\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\r\n]*+\r\n)*+\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*\d+[ \t]*\r\n")


def _is_sound(head: bytes, rest: bytes) -> bool:
    """Whether nothing in it has to be mended, as nearly always: one look, and not one at every line."""
    if len(head) > LINE_BYTES or _SOUND.fullmatch(head) is None:
        return False
    low = head.lower()
    lengths = low.count(b"content-length")
    if b"transfer-encoding" in low:
        return lengths == 0 and (not rest or _CHUNK.match(rest) is not None)
    return lengths == 0 or (lengths == 1 and _LENGTH.search(low) is not None)
