"""nginx in front of a small server of our own, on 127.0.0.1, with a limit of the test's choice."""

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import PATIENCE_S, wait_until

NGINX: Final = next((path for path in ("/usr/sbin/nginx", shutil.which("nginx")) if path and Path(path).exists()), None)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian's package `nginx-light`)")
LIMITS: Final = {
    "limit_req": "limit_req zone=requests burst=5;",
    "limit_req nodelay": "limit_req zone=requests burst=5 nodelay;",
    "limit_req nodelay 429": "limit_req zone=requests burst=5 nodelay; limit_req_status 429;",
    "limit_conn": "limit_conn connections 8;",
}
"""What a location may say; all but the one with 429 refuse with nginx's own default, a 503 without words."""

_CONFIGURATION: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  limit_req_zone $server_name zone=requests:1m rate=20r/s;
  limit_conn_zone $server_name zone=connections:1m;
  server {{
    listen 127.0.0.1:{port};
    server_name limited;
    location / {{
      {limit}
      proxy_pass http://127.0.0.1:{behind};
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, limit: str, *, answer_s: float) -> Iterator[str]:
    """A running nginx with one of LIMITS; gives its `http://127.0.0.1:PORT`. Ends both servers afterwards."""
    assert NGINX is not None, "the test needs the mark `needs_nginx`"
    port = _free_port()
    with _upstream(answer_s) as behind:
        text = _CONFIGURATION.format(folder=folder, port=port, behind=behind, limit=LIMITS[limit])
        (folder / "nginx.conf").write_text(text)
        command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                _await_port(port, process)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(timeout=PATIENCE_S)


@contextmanager
def _upstream(answer_s: float) -> Iterator[int]:
    """A server that gives every POST the same answer after a while; its port."""
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]}
    body = json.dumps(answer).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reply += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(answer_s)
            writer.write(reply)
            await writer.drain()
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(attend, "127.0.0.1", 0, backlog=512))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    def listens() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    wait_until(listens, "nginx listens", process=process)
