"""The servers that `bench` measures against, on a core of their own: nginx for whole answers, a stub for the rest.

nginx answers a POST from its configuration (`return 200`) and serves a picture from the page cache. What it cannot do,
waiting before an answer and streaming one chunk at a time, each flushed, is done by a stub: an asyncio protocol on
uvloop in a process of its own, on the same core. The stub counts how many requests it has open at most.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

WORDS: Final = "forty-two " * 40
CHAT: Final = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89},
}
MESSAGE: Final = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": WORDS}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 80},
}
CHUNKS: Final = 42


def chat_chunks() -> list[bytes]:
    """A streamed chat answer: its events, each flushed by itself; 40 of them carry words."""

    def event(delta: dict[str, str], *, end: str | None = None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        whole = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
        return b"data: " + json.dumps(whole).encode() + b"\n\n"

    words = [event({"content": "forty-two and some more words "}) for _ in range(CHUNKS - 2)]
    usage = {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89}
    return [
        event({"role": "assistant", "content": ""}),
        *words,
        event({}, end="stop", usage=usage) + b"data: [DONE]\n\n",
    ]


def message_chunks() -> list[bytes]:
    """The same of Anthropic's dialect."""

    def event(kind: str, **fields: object) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    start = {**MESSAGE, "content": [], "stop_reason": None}
    delta = {"type": "text_delta", "text": "forty-two and some more words "}
    first = event("message_start", message=start)
    first += event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    last = event("content_block_stop", index=0)
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    last += event("message_delta", delta=ended, usage={"output_tokens": 80}) + event("message_stop")
    return [first, *(event("content_block_delta", index=0, delta=delta) for _ in range(CHUNKS - 2)), last]


NGINX_CONF: Final = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
worker_rlimit_nofile 65536;
events {{ worker_connections 30000; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_max_body_size 64m; client_body_buffer_size 1m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=16384;
    location = /v1/chat/completions {{ return 200 '{chat}'; }}
    location = /v1/messages {{ return 200 '{message}'; }}
    location = /v1/images/generations {{ return 200 '{picture}'; }}
    location /files/ {{ alias {folder}/files/; types {{ image/png png; }} }}
    location / {{ return 404 '{{}}'; }}
  }}
}}
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def find_nginx(home: Path) -> str:
    """Debian's nginx, as it is installed; or unpacked below `home` from its package. Raises RuntimeError."""
    for place in (shutil.which("nginx"), "/usr/sbin/nginx", str(home / "nginx/usr/sbin/nginx")):
        if place and os.access(place, os.X_OK):
            return place
    home.mkdir(parents=True, exist_ok=True)
    got = subprocess.run(["apt-get", "download", "nginx"], cwd=home, capture_output=True, text=True, check=False)
    package = next(home.glob("nginx_*.deb"), None)
    if package is None:
        raise RuntimeError(f"there is no nginx, and apt-get cannot download it: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg", "-x", package, home / "nginx"], check=True)
    return str(home / "nginx/usr/sbin/nginx")


@contextmanager
def servers(home: Path, *, core: int | None) -> Iterator[dict[str, str]]:
    """Both, for as long as the block lasts: their addresses by name, `nginx` and `stub`."""
    folder = home / "server"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    port, stub_port = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    picture = {"created": 1, "data": [{"url": f"{address}/files/picture.png"}]}
    conf = NGINX_CONF.format(
        folder=folder, port=port, chat=json.dumps(CHAT), message=json.dumps(MESSAGE), picture=json.dumps(picture)
    )
    (folder / "nginx.conf").write_text(conf)
    pin = [] if core is None else ["taskset", "-c", str(core)]
    started = [
        subprocess.Popen([*pin, find_nginx(home), "-c", str(folder / "nginx.conf"), "-p", str(folder)]),
        subprocess.Popen([*pin, sys.executable, __file__, str(stub_port)]),
    ]
    try:
        _wait_for(port, stub_port)
        yield {"nginx": address, "stub": f"http://127.0.0.1:{stub_port}", "files": str(folder / "files")}
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _wait_for(*ports: int) -> None:
    for port in ports:
        for _ in range(100):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"no server on port {port}")


def most_open(stub: str) -> int:
    """How many requests the stub had open at once since it was asked last."""
    with urllib.request.urlopen(f"{stub}/most") as answer:  # 127.0.0.1
        return int(json.load(answer)["most"])


# -- the stub, run as a process: `python bench_servers.py PORT`

_HEAD: Final = "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n"
_WHOLE: Final = {"/v1/chat/completions": json.dumps(CHAT).encode(), "/v1/messages": json.dumps(MESSAGE).encode()}


def _framed(chunks: list[bytes]) -> list[bytes]:
    return [f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks] + [b"0\r\n\r\n"]


_STREAMS: Final = {"/v1/chat/completions": _framed(chat_chunks()), "/v1/messages": _framed(message_chunks())}


class Stub(asyncio.Protocol):
    """`/later/MS/v1/…` answers whole after so many milliseconds, `/flushed/v1/…` streams its chunks one by one."""

    open_now = 0
    most = 0

    def __init__(self) -> None:
        self.kept = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.kept += data
        while (end := self.kept.find(b"\r\n\r\n")) >= 0:
            head = self.kept[:end]
            low = head.lower()
            at = low.find(b"content-length:")
            length = int(low[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.kept) < end + 4 + length:
                return
            self.kept = self.kept[end + 4 + length :]
            self.answer(head.split(b" ", 2)[1].decode())

    def answer(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        if path == "/most":
            self.whole(json.dumps({"most": Stub.most}).encode())
            Stub.most = 0
            return
        Stub.open_now += 1
        Stub.most = max(Stub.most, Stub.open_now)
        if path.startswith("/later/"):
            _, _, wait_ms, rest = path.split("/", 3)
            loop.call_later(int(wait_ms) / 1000, self.ended, _WHOLE["/" + rest])
        elif path.startswith("/flushed"):
            self.transport.write(_HEAD.format(kind="text/event-stream", framing="transfer-encoding: chunked").encode())
            loop.call_soon(self.flush, iter(_STREAMS[path.removeprefix("/flushed")]))
        else:
            self.ended(_WHOLE.get(path, b"{}"))

    def flush(self, chunks: Iterator[bytes]) -> None:
        """One chunk a turn of the loop: each leaves in a packet of its own."""
        chunk = next(chunks, None)
        if chunk is None:
            Stub.open_now -= 1
            return
        self.transport.write(chunk)
        asyncio.get_running_loop().call_soon(self.flush, chunks)

    def ended(self, body: bytes) -> None:
        Stub.open_now -= 1
        self.whole(body)

    def whole(self, body: bytes) -> None:
        head = _HEAD.format(kind="application/json", framing=f"content-length: {len(body)}")
        self.transport.write(head.encode() + body)


def main(port: int) -> None:
    import resource  # noqa: PLC0415 - for the process of the stub alone

    import uvloop  # noqa: PLC0415

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=16384)
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]))
