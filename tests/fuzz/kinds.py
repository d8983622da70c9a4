"""The kinds of replies that a hostile server gives: a table of names and functions. A new idea is a line in it."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Final

from PIL import Image

from tests.fuzz.hostile_server import Asked, Kind, Step, Steps
from tests.fuzz.mutations import mutated
from tests.fuzz.replies import chat_seeds, messages_seeds, picture_seeds, poll_seeds, submit_seeds
from tests.fuzz.stores import picture_seeds as files

MB: Final = 1 << 20


def http(body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def json_reply(value: object, *, status: str = "200 OK", more: str = "") -> list[Step]:
    return [http(json.dumps(value).encode(), status=status, more=more)]


# -- sound replies, so that a run gets anywhere


def valid_reply(asked: Asked) -> Steps:
    """What a good server would say, by path."""
    if asked.path.startswith("/files"):
        return [http(asked.random_source.choice(files()), kind="image/png")]
    if "/tasks/" in asked.path:
        return json_reply({"task_id": "1", "task_status": "SUCCEED", "output_images": [f"{asked.base}/files/a.png"]})
    if asked.path.endswith("/images/generations"):
        return json_reply({"task_id": str(asked.random_source.randrange(10**9)), "task_status": "PENDING"})
    if asked.path.endswith("/messages"):
        block = {"type": "text", "text": "Hi."}
        return json_reply({"type": "message", "role": "assistant", "content": [block], "stop_reason": "end_turn"})
    return chat_answer("Hi.")


def chat_answer(text: str) -> list[Step]:
    message = {"role": "assistant", "content": text}
    return json_reply({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


# -- replies spoilt


def spoilt(asked: Asked) -> Steps:
    """A reply of the simulator, mutated."""
    table = {"/v1/chat/completions": chat_seeds, "/v1/messages": messages_seeds}
    seeds = table.get(asked.path, poll_seeds if "/tasks/" in asked.path else submit_seeds)()
    seeds = picture_seeds() if asked.path.endswith("generations") and asked.random_source.random() < 0.5 else seeds
    text = mutated(asked.random_source.choice(seeds), asked.random_source.randrange(2**40), seeds)
    _, _, body = text.partition(b"\n\n")
    status = asked.random_source.choice(("200 OK", "200 OK", "200 OK", "400 Bad", "404 No", "500 X", "503 X", "422 X"))
    kind = asked.random_source.choice(("application/json", "text/event-stream", "text/html", "", "x" * 300))
    return [http(body, status=status, kind=kind), "close"]


def noise(asked: Asked) -> Steps:
    """No HTTP at all."""
    return [asked.random_source.randbytes(asked.random_source.randrange(3000)), "close"]


def half_http(asked: Asked) -> Steps:
    """Heads that no server should send."""
    heads = (
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n{}",
        b"HTTP/1.1 999 \xff\xfe\r\n\r\n{}", b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 20, b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 000 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX\x00Y: z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nRetry-After: \xb2\r\nx-ratelimit-reset-requests: " + b"9" * 300 + b"\r\n\r\n{}",
    )  # fmt: skip
    return [asked.random_source.choice(heads), "close"]


def cut(asked: Asked) -> Steps:
    """Half of a reply, then nothing."""
    whole = http(asked.random_source.choice(chat_seeds()).partition(b"\n\n")[2], kind="text/event-stream")
    return [whole[: asked.random_source.randrange(len(whole))], asked.random_source.choice(("close", "reset"))]


def wrong_coding(asked: Asked) -> Steps:
    """A content coding that is unknown, or damaged."""
    coding = asked.random_source.choice(("gzip", "deflate", "br", "zstd", "gzip, gzip", "\xff"))
    return [http(asked.random_source.randbytes(200), more=f"Content-Encoding: {coding}\r\n")]


# -- replies without end, or much too big


@cache
def bomb(size_bytes: int, *, text: bool) -> bytes:
    """Zeros, or one JSON string, that were a thousand times smaller on the wire."""
    plain = b'{"choices":[{"message":{"content":"' + b"a" * size_bytes if text else bytes(size_bytes)
    return gzip.compress(plain, 9)


def compressed_bomb(asked: Asked) -> Steps:
    """Threat 4."""
    body = bomb(300 * MB, text=False) if asked.random_source.random() < 0.5 else bomb(120 * MB, text=True)
    return [http(body, more="Content-Encoding: gzip\r\n")]


def endless_events(asked: Asked) -> Iterator[Step]:
    """Threat 9: keep-alives for ever."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    while True:
        yield b": ping\n\n" * 100
        yield 0.01


def endless_line(asked: Asked) -> Iterator[Step]:
    """Threat 9: a line without an end."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: "
    while True:
        yield b"x" * 65536


def drip(asked: Asked) -> Iterator[Step]:
    """Threat 9: a byte now and then."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    while True:
        yield b"x"
        yield 0.1


def silence(asked: Asked) -> Steps:
    return [15.0]


def big_body(asked: Asked) -> Steps:
    """As big as it claims."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {200 * MB}\r\n\r\n".encode()
    return [head, *[b"y" * MB] * 40, "close"]


# -- words with the key in them


def echoing_refusal(asked: Asked) -> Steps:
    """The key in every field of an error, whole, cut off and escaped."""
    key = asked.key
    escaped = "".join(f"\\u{ord(char):04x}" for char in key)
    words = f"no: {key} {'x' * asked.random_source.randrange(990)}{key}"
    error = f'{{"error":{{"message":"{words}","code":"{escaped}","type":"{key}"}},"request_id":"{key}"}}'
    status = asked.random_source.choice(("400 Bad", "500 X", "404 No", "503 X", "422 No"))
    return [http(error.encode(), status=status, more=f"x-request-id: {key}\r\nRetry-After: {key}\r\n")]


def echoing_text(asked: Asked) -> Steps:
    """The request's head as plain text, as debugging proxies do."""
    return [http(asked.head, status=asked.random_source.choice(("200 OK", "502 Bad", "400 Bad")), kind="text/plain")]


def echoing_answer(asked: Asked) -> Steps:
    """The key as the model's words, its tool call, its task id, its URL."""
    key = asked.key
    if asked.path.endswith("generations"):
        return json_reply({"task_id": key, "task_status": "PENDING"})
    if "/tasks/" in asked.path:
        return json_reply({"task_status": "SUCCEED", "output_images": [f"{asked.base}/files/{key}.png?k={key}"]})
    if asked.path.endswith("/messages"):
        block = {"type": "text", "text": f"your key is {key}"}
        return json_reply({"type": "message", "content": [block], "stop_reason": key})
    return chat_answer(f"your key is {key}, backwards {key}{key}")


def echoing_pieces(asked: Asked) -> Steps:
    """The key in the pieces of a stream, a few letters each."""
    pieces = [asked.key[at : at + 3] for at in range(0, len(asked.key), 3)]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    events = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return [http(events + b"data: [DONE]\n\n", kind="text/event-stream")]


# -- walls, redirects, pictures


def wall(asked: Asked) -> Steps:
    """Refusals of the whole account, lanes that close, waits until next year."""
    status, more = asked.random_source.choice(
        (("401 No", ""), ("403 No", ""), ("402 Pay", ""), ("429 Slow", "Retry-After: 99999999\r\n"))
    )
    return json_reply({"error": {"message": f"insufficient_quota {asked.key}"}}, status=status, more=more)


def throttle(asked: Asked) -> Steps:
    return json_reply({"error": {"message": "slow down"}}, status="429 Slow", more="Retry-After: 0.05\r\n")


def redirect(asked: Asked) -> Steps:
    """Threat 1: API calls follow none; downloads follow three, each checked."""
    where = asked.random_source.choice(
        ("/files/b.png", "//169.254.169.254/", "file:///etc/passwd", "http://[::ffff:169.254.169.254]/", "\\\\x", "")
    )
    return [
        http(
            b"", status=asked.random_source.choice(("301 M", "302 M", "307 M", "308 M")), more=f"Location: {where}\r\n"
        )
    ]


def odd_task(asked: Asked) -> Steps:
    """Threat 5: ids that want to be paths, or whole requests."""
    ids = (
        "../../x",
        "/etc/passwd",
        "",
        "a" * 5000,
        "x\r\nX-Evil: 1",
        "\0",
        "?a=b#c",
        "..",
        1e300,
        None,
        ["x"],
        {"a": 1},
        "%2e%2e%2f",
        "\ud800",
    )
    return json_reply({"task_id": asked.random_source.choice(ids), "task_status": "SUCCEED"})


def odd_pictures(asked: Asked) -> Steps:
    """Threats 3 and 6: URLs that lead inside, and bytes in the reply itself."""
    urls = (
        "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", f"{asked.base}/files/../../x",
        "javascript:alert(1)", "", "x" * 9000,
        f"{asked.base}/files/%00", "data:image/png;base64,AAAA",
        f"http://u:p@127.0.0.1:{asked.base.rpartition(':')[2]}/files/c", "\ud800", 7,
    )  # fmt: skip
    if asked.path.endswith("generations"):
        return json_reply(
            {"data": [{"b64_json": asked.random_source.choice(("AAAA", "!!!!", "A" * 99_999, "", None, 5))}]}
        )
    return json_reply(
        {
            "task_status": "SUCCEED",
            "output_images": [asked.random_source.choice(urls)] * asked.random_source.choice((1, 2, 40)),
        }
    )


@cache
def bad_files() -> tuple[bytes, ...]:
    """Bombs of pixels, halves, strangers."""
    out = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(out, "PNG", optimize=True)
    header = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    claim = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    gif = b"GIF89a\xff\xff\xff\xff\xf0\0\0" + b"\0" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(8)
    halves = tuple(data[: len(data) // 2] for data in files()[:6])
    return (out.getvalue(), claim, gif, webp, *halves, b"<svg onload=alert(1)>", b"<html>", b"", b"\0" * 5000)


def bad_file(asked: Asked) -> Steps:
    """Threat 6, at the storage host; elsewhere a task whose picture lies there."""
    if not asked.path.startswith("/files"):
        return valid_reply(asked)
    seeds = (*bad_files(), *files())
    chosen = asked.random_source.choice(
        (*bad_files(), mutated(asked.random_source.choice(files()), asked.random_source.randrange(2**40), seeds[:4]))
    )
    return [http(chosen, kind=asked.random_source.choice(("image/png", "text/html", "image/svg+xml")))]


@cache
def most_pixels() -> bytes:
    """A PNG of zeros that is just small enough to be decoded: the dearest picture that passes."""
    side = 5999
    zeros, deflate = bytes(side * 4 + 1), zlib.compressobj(1)
    pixels = b"".join(deflate.compress(zeros) for _ in range(side)) + deflate.flush()
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ):
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return out


def pixel_bomb(asked: Asked) -> Steps:
    """Threat 6: as many pixels as are allowed."""
    if asked.path.startswith("/files"):
        return [http(most_pixels(), kind="image/png")]
    if asked.path.endswith("generations"):
        return json_reply({"data": [{"url": f"{asked.base}/files/a"}, {"url": f"{asked.base}/files/b"}]})
    return valid_reply(asked)


KINDS: Final[dict[str, Kind]] = {
    kind.__name__: kind
    for kind in (
        valid_reply, spoilt, noise, half_http, cut, wrong_coding, compressed_bomb, endless_events, endless_line, drip,
        silence, big_body,
        echoing_refusal, echoing_text, echoing_answer, echoing_pieces, wall, throttle, redirect, odd_task,
        odd_pictures, bad_file, pixel_bomb,
    )
}  # fmt: skip
SLOW: Final = frozenset({"endless_events", "endless_line", "drip", "silence"})
"""They last until a deadline of the client."""
