"""A provider with a strict token bucket that counts what it is paid for; `python metered_server.py RATE BURST SECONDS`.

It stands outside of the program: what the ledgers say is compared with what it took. An answer is paid for when the
bucket lets its request through, whoever asked and whether or not anybody waits for the answer. As a process it prints
its address, and serves until its standard input ends.
"""

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

_ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
_LOOK_EVERY_S = 0.02
_LOOKING = set[asyncio.Task[None]]()
_REFUSAL = {"error": {"message": "rate limit reached", "code": "rate_limit_exceeded"}}


@dataclass(kw_only=True)
class Meter:
    """A bucket that fills with `per_second` up to `burst`, and what came of the requests; times are the loop's.

    What came while the machine kept this server from looking is judged as if it had come at its time: for a second
    afterwards the bucket holds that much more. Else a client that keeps the limit would be refused on a busy machine.
    """

    per_second: float
    burst: float
    latency_s: float
    paid: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    first: float | None = None
    last: float = 0.0
    _level: float = 0.0
    _at: float | None = None
    _looked: float | None = None
    _away_s: float = 0.0
    _away_until: float = 0.0

    def look(self, now: float) -> None:
        """To be called from time to time, and before a request is judged: notes when it came late."""
        late_s = 0.0 if self._looked is None else now - self._looked - 2.0 * _LOOK_EVERY_S
        self._looked = now
        if late_s > 0.0:
            self._away_s = late_s + (self._away_s if now < self._away_until else 0.0)
            self._away_until = now + 1.0

    def takes(self, prompt: str, now: float) -> bool:
        """Whether the request is let through; it is paid for then."""
        self.look(now)
        most = self.burst + (self._away_s * self.per_second if now < self._away_until else 0.0)
        self._level = self.burst if self._at is None else min(most, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < 1.0:
            self.refused += 1
            return False
        self._level -= 1.0
        self.paid[prompt] += 1
        self.first, self.last = now if self.first is None else self.first, now
        return True

    def figures(self) -> dict[str, Any]:
        """Requests paid for, prompts, the most for one prompt, refusals, seconds from first to last paid one."""
        return {
            "paid": self.paid.total(),
            "prompts": len(self.paid),
            "most": max(self.paid.values(), default=0),
            "refused": self.refused,
            "seconds": 0.0 if self.first is None else self.last - self.first,
        }


async def serve(meter: Meter) -> tuple[asyncio.Server, str]:
    """Start listening on a free port of 127.0.0.1; the value has the server and its root."""

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                await _answer(meter, reader, writer)
        writer.close()

    server = await asyncio.start_server(attend, "127.0.0.1", 0, backlog=1024)
    looking = asyncio.create_task(_look(meter))
    _LOOKING.add(looking)
    looking.add_done_callback(_LOOKING.discard)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _look(meter: Meter) -> None:
    while True:
        meter.look(asyncio.get_running_loop().time())
        await asyncio.sleep(_LOOK_EVERY_S)  # the server's own clock, not a wait for something


async def _answer(meter: Meter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next((int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length:")), 0)
    body = await reader.readexactly(length)
    if head.startswith("get"):
        status, said = "200 OK", meter.figures()
    elif meter.takes(json.loads(body)["messages"][-1]["content"], asyncio.get_running_loop().time()):
        await asyncio.sleep(meter.latency_s)  # the server's own pace, not a wait for something
        status, said = "200 OK", _ANSWER
    else:
        status, said = "429 Too Many Requests", _REFUSAL
    sent = json.dumps(said).encode()
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent
    )
    await writer.drain()


@contextmanager
def metered_server(*, per_second: float, burst: float, latency_s: float = 0.02) -> Iterator[tuple[str, Meter]]:
    """A running one in a thread of this process: its root (`http://127.0.0.1:PORT`) and what it counts."""
    meter = Meter(per_second=per_second, burst=burst, latency_s=latency_s)
    loop = asyncio.new_event_loop()
    server, root = loop.run_until_complete(serve(meter))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield root, meter
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def read_meter(root: str) -> dict[str, Any]:
    """What a server in another process says of itself."""
    with urlopen(root) as reply:
        return dict(json.load(reply))


async def _main() -> None:
    per_second, burst, latency_s = map(float, sys.argv[1:4])
    _server, root = await serve(Meter(per_second=per_second, burst=burst, latency_s=latency_s))
    print(root, flush=True)  # noqa: T201 - for whoever started it
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
