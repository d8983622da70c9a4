"""A server on 127.0.0.1 that answers with the very bytes that a test wrote, in pieces of any size.

It lives in the test's own loop, so that it works in virtual time. What it answers to a request is a function of that
request: `always`, `once`, `to_requests` and `to_prompts` make the usual ones, anything else is a function of one's own.
"""

import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

Cut = Literal["whole", "random", "bytes"]
After = Literal["auto", "keep", "close", "reset", "hang"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came."""

    number: int
    """1 for the server's first request."""
    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    at_s: float
    """The loop's time when it had arrived."""
    base: str
    """The server's own `http://127.0.0.1:PORT`."""

    @property
    def json(self) -> Any:
        """The body's JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def prompt(self) -> str:
        """The text of the last message, or `prompt` of an image request; empty where there is neither."""
        body = self.json
        if not isinstance(body, dict):
            return ""
        if isinstance(body.get("prompt"), str):
            return str(body["prompt"])
        content = (body.get("messages") or [{"content": ""}])[-1].get("content", "")
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Bytes to send, and how. `{base}` in them becomes the server's own address if `fill` is set."""

    data: bytes
    delay_s: float = 0.0
    """Before the first byte."""
    cut: Cut = "whole"
    gap_s: float = 0.0
    """Between pieces."""
    then: After = "auto"
    """`auto` closes unless the head says how long the body is and does not say `Connection: close`."""
    fill: bool = False


Answer: TypeAlias = bytes | Reply
Script: TypeAlias = Callable[[Asked], Answer]


def always(reply: Answer) -> Script:
    """The same to every request."""
    return lambda _: reply


def once(reply: Answer, then: Answer, *, times: int = 1) -> Script:
    """One reply to the first `times` requests, another to all later ones."""
    return lambda asked: reply if asked.number <= times else then


def to_requests(reply: Answer, *numbers: int, others: Answer) -> Script:
    """The reply to the requests with these numbers."""
    return lambda asked: reply if asked.number in numbers else others


def to_prompts(reply: Answer, *prompts: str, others: Answer) -> Script:
    """The reply to these prompts."""
    return lambda asked: reply if asked.prompt in prompts else others


def by_path(paths: dict[str, Script], *, otherwise: Script | None = None) -> Script:
    """By the beginning of the path, the longest first; without `otherwise` anything else is a 404."""

    def answer(asked: Asked) -> Answer:
        fitting = [start for start in paths if asked.path.startswith(start)]
        if fitting:
            return paths[max(fitting, key=len)](asked)
        return otherwise(asked) if otherwise is not None else http(b'{"error": "not found"}', status=404)

    return answer


# -- replies


def http(
    body: bytes | str = b"",
    *,
    status: int = 200,
    kind: str | None = "application/json",
    headers: dict[str, str] | None = None,
    length: int | Literal["none"] | None = None,
) -> bytes:
    """A whole reply; `length` is another `Content-Length` than the body's own, or `none` at all (and a closing end)."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X"]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    lines.append(
        "Connection: close" if length == "none" else f"Content-Length: {len(data) if length is None else length}"
    )
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def json_reply(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A JSON value as a whole reply."""
    return http(json.dumps(value), status=status, headers=headers)


def sse(*events: object, done: bool = True, headers: dict[str, str] | None = None) -> bytes:
    """A stream of events: `str` is sent as it is, anything else as JSON; `[DONE]` behind them unless said otherwise."""
    said = [event if isinstance(event, str) else json.dumps(event) for event in events]
    body = "".join(f"data: {event}\n\n" for event in [*said, *(["[DONE]"] if done else [])])
    return http(body, kind="text/event-stream", headers=headers, length="none")


def delta(finish: str | None = None, /, **fields: object) -> dict[str, Any]:
    """A chunk of an OpenAI stream with this delta."""
    return {"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def message(finish: str | None = "stop", /, **fields: object) -> dict[str, Any]:
    """A whole OpenAI answer with this message and 3 + 4 tokens."""
    choice = {"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


HELLO: Final = json_reply(message(content="hello world"))
"""A good answer."""


# -- the server


@dataclass(slots=True)
class FieldServer:
    """What a running server was asked."""

    script: Script
    seed: int = 0
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests(self, method: str | None = None, path: str = "") -> list[Asked]:
        """What was asked by this method (any) on paths that begin so."""
        return [asked for asked in self.asked if method in {None, asked.method} and asked.path.startswith(path)]

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        except Exception as error:  # noqa: BLE001 - the test fails with it, see `serving`
            self.raised.append(error)
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked = await self._read(reader)
        self.asked.append(asked)
        answer = self.script(asked)
        reply = answer if isinstance(answer, Reply) else Reply(data=answer)
        data = reply.data.replace(b"{base}", self.base.encode()) if reply.fill else reply.data
        await asyncio.sleep(reply.delay_s)
        for piece in _pieces(data, reply.cut, random.Random(f"{self.seed} {asked.number}")):
            writer.write(piece)
            await writer.drain()
            for _ in range(3 if reply.gap_s == 0 else 0):  # the client reads this piece by itself
                await asyncio.sleep(0)
            if reply.gap_s:
                await asyncio.sleep(reply.gap_s)
        return await _afterwards(reply.then, data, writer)

    async def _read(self, reader: asyncio.StreamReader) -> Asked:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", ""):
            body = await _chunked_body(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split(" ", 2)
        now = asyncio.get_running_loop().time()
        number = len(self.asked) + 1
        return Asked(number=number, method=method, path=path, headers=headers, body=body, at_s=now, base=self.base)


@asynccontextmanager
async def serving(script: Script, *, seed: int = 0) -> AsyncIterator[FieldServer]:
    """A server on the running loop; whatever the script raised fails the test at the end."""
    server = FieldServer(script, seed=seed)
    talks: set[asyncio.Task[None]] = set()

    def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(server.attend(reader, writer)))

    listener = await asyncio.start_server(attend, "127.0.0.1", 0, limit=1 << 24)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
    assert not server.raised, server.raised


async def _chunked_body(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _pieces(data: bytes, cut: Cut, random_source: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = {"whole": len(data), "random": random_source.choice((1, 2, 3, 7, 30, 200, 1500)), "bytes": 1}[cut]
        yield data[at : at + size]
        at += size


async def _afterwards(then: After, data: bytes, writer: asyncio.StreamWriter) -> bool:
    """True when the connection waits for another request."""
    match then:
        case "keep":
            return True
        case "auto":
            head = data.partition(b"\r\n\r\n")[0].lower()
            framed = b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head
            return framed and b"\r\nconnection: close" not in head
        case "hang":
            await asyncio.Event().wait()
        case "reset":
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        case "close":
            pass
    return False
