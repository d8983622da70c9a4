"""Ways to spoil an input: bytes as bytes, lines as lines, JSON as a tree, each by a seed that repeats it.

A mutation takes a sound input and gives one that a hostile or broken writer may send. Nothing here knows who reads it.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from batchrunner.core.job import Json

Random: TypeAlias = random.Random
Mutation: TypeAlias = Callable[[bytes, Random], bytes]

DEPTH: Final = 3_000
ODD_JSON: Final[tuple[bytes, ...]] = (
    b"null", b"true", b"0", b"-1", b"1e999", b"-1e999", b"1e-999", b"NaN", b"-Infinity", b"1.5", b'""', b'"x"', b"[]",
    b"{}", b"[[]]", b"[null]", b'{"":null}', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff\xfe"',
    b'"\xed\xa0\x80"', b"9" * 400, b"-" + b"9" * 400, b"0." + b"1" * 400, b"18446744073709551616", b"1E400",
    b"[" * DEPTH, b"[" * DEPTH + b"]" * DEPTH, b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, b'"' + b"x" * 70_000 + b'"',
    b'"../../x"', b'"/etc/passwd"', b'"\\u001b[2J"', b'"http://169.254.169.254/"', b'"429"', b'"error"', b"[1,2",
    b'{"a"',
)  # fmt: skip
"""Values that stand where another type belongs, or that no parser likes."""
ODD_BYTES: Final[tuple[bytes, ...]] = (
    b"\xef\xbb\xbf", b"\x00", b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r", b"\xff", b"\xed\xa0\x80", b"\xc3",
    b"\xf4\x90\x80\x80",
    b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\x1b[2J", b"\x85", b"\t", b" ", b'"', b"'", b"\\", b":", b",", b"{", b"}",
    b"[", b"]",
    b"data:", b"data: ", b"event: error\n", b"id: 1\n", b": ping\n\n", b"data: [DONE]\n\n", b"{{", b"}}", b"{%", b"&a ",
    b"*a", b"<<: *a", b"!!python/object:os.system x", b"---\n", b"%TAG ! x\n", b"9" * 400, b"1e999", b"NaN", b"../",
    b"x" * 70_000,
)  # fmt: skip


def flip(data: bytes, random_source: Random) -> bytes:
    """Some bits."""
    spoilt = bytearray(data or b"\0")
    for _ in range(random_source.choice((1, 1, 2, 8))):
        spoilt[random_source.randrange(len(spoilt))] ^= 1 << random_source.randrange(8)
    return bytes(spoilt)


def cut(data: bytes, random_source: Random) -> bytes:
    """The end, the beginning or the middle is missing."""
    a, b = sorted(random_source.randrange(len(data) + 1) for _ in range(2))
    return random_source.choice((data[:a], data[a:], data[:a] + data[b:]))


def double(data: bytes, random_source: Random) -> bytes:
    """A piece comes twice, or many times."""
    a, b = sorted(random_source.randrange(len(data) + 1) for _ in range(2))
    times = random_source.choice((2, 2, 3, max(1, min(300, 200_000 // (b - a + 1)))))
    return data[:a] + data[a:b] * times + data[b:]


def insert(data: bytes, random_source: Random) -> bytes:
    """Bytes that nobody expects."""
    place = random_source.randrange(len(data) + 1)
    return data[:place] + random_source.choice(ODD_BYTES) + data[place:]


def overwrite(data: bytes, random_source: Random) -> bytes:
    """The same, over what stood there."""
    place, odd = random_source.randrange(len(data) + 1), random_source.choice(ODD_BYTES)
    return data[:place] + odd + data[place + len(odd) :]


def swap_lines(data: bytes, random_source: Random) -> bytes:
    """Lines change places, vanish or come twice."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    a, b = random_source.randrange(len(lines)), random_source.randrange(len(lines))
    match random_source.randrange(3):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            del lines[a]
        case _:
            lines.insert(a, lines[b])
    return b"".join(lines)


def other_newlines(data: bytes, random_source: Random) -> bytes:
    """Mixed ends of lines."""
    pieces = data.split(b"\n")
    return (
        b"".join(piece + random_source.choice((b"\n", b"\r\n", b"\r", b"\n\n")) for piece in pieces[:-1]) + pieces[-1]
    )


def respell_json(data: bytes, random_source: Random) -> bytes:
    """One value of a JSON text in here becomes another: wrong types at every path, odd numbers, deep nests."""
    found = [*_json_texts(data)]
    if not found:
        return insert(data, random_source)
    start, end, value = random_source.choice(found)
    places = [*_places(value)]
    spoilt = (
        _spelt(value, random_source.choice(places), random_source.choice(ODD_JSON))
        if places
        else random_source.choice(ODD_JSON)
    )
    return data[:start] + spoilt + data[end:]


def drop_json(data: bytes, random_source: Random) -> bytes:
    """One key or element is missing, comes twice, or has another name."""
    found = [(start, end, value, [*_places(value)]) for start, end, value in _json_texts(data)]
    found = [entry for entry in found if len(entry[3]) > 1]
    if not found:
        return cut(data, random_source)
    start, end, value, places = random_source.choice(found)
    return (
        data[:start]
        + _spelt(value, random_source.choice(places[1:]), None, twice=random_source.random() < 0.5)
        + data[end:]
    )


MUTATIONS: Final[tuple[Mutation, ...]] = (
    flip, cut, double, insert, overwrite, swap_lines, other_newlines, respell_json, respell_json, respell_json,
    drop_json,
)  # fmt: skip


def mutated(data: bytes, seed: int, others: tuple[bytes, ...] = ()) -> bytes:
    """The input spoilt one to four times; now and then with a piece of another input spliced in."""
    random_source = random.Random(seed)
    for _ in range(random_source.choice((1, 1, 1, 2, 3, 4))):
        data = random_source.choice(MUTATIONS)(data, random_source)
        if others and random_source.random() < 0.1:
            other = random_source.choice(others)
            data = data[: random_source.randrange(len(data) + 1)] + other[random_source.randrange(len(other) + 1) :]
    return data[:1_000_000]


# -- JSON inside of bytes

Path: TypeAlias = tuple[str | int, ...]


def _json_texts(data: bytes) -> Iterator[tuple[int, int, Json]]:
    """Objects and lists in the bytes, wherever they begin at the start of the text, of a line or after `data:`."""
    text = data.decode("latin-1")
    decoder = json.JSONDecoder()
    at, known = 0, 0
    while known < 40:
        starts = [place for mark in "{[" if (place := text.find(mark, at)) >= 0]
        if not starts:
            return
        try:
            value, end = decoder.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            at = min(starts) + 1
        else:
            yield min(starts), end, value
            at = end
        known += 1


def _places(value: Json, path: Path = ()) -> Iterator[Path]:
    yield path
    if len(path) > 12:
        return
    match value:
        case dict():
            for key, inner in value.items():
                yield from _places(inner, (*path, key))
        case list():
            for number, inner in enumerate(value[:8]):
                yield from _places(inner, (*path, number))
        case _:
            return


def _spelt(value: Json, path: Path, odd: bytes | None, *, twice: bool = False) -> bytes:
    """The value as JSON with `odd` at the path; None: without what stands there, or with it twice."""
    if not path:
        return json.dumps(value).encode("latin-1", "replace") if odd is None else odd
    step, rest = path[0], path[1:]
    pairs: list[tuple[str | int, Json]] = [*value.items()] if isinstance(value, dict) else []
    pairs = [*enumerate(value)] if isinstance(value, list) else pairs
    told: list[bytes] = []
    for key, inner in pairs:
        name = json.dumps(key).encode() + b":" if isinstance(value, dict) else b""
        if key != step:
            told.append(name + _raw(inner))
        elif rest or odd is not None:
            told.append(name + _spelt(inner, rest, odd, twice=twice))
        elif twice:
            told += [name + _raw(inner)] * 2
    return (b"{%s}" if isinstance(value, dict) else b"[%s]") % b",".join(told)


def _raw(value: Json) -> bytes:
    """The texts were read as Latin-1: written back the same way, so that UTF-8 inside stays what it was."""
    return json.dumps(value, ensure_ascii=False).encode("latin-1", "replace")
