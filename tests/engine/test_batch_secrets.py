"""Whatever a server repeats in the results of a batch, no secret of the run is in its files: threat 2.

A real server in front of everything, which is the proxy, too, and says what it was told.
"""

import asyncio
import json
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from aiohttp import web

import batchrunner
from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Json

LOGIN = "someone:proxy-pass-word-1"
KEY = "sk-key-of-the-account-1"


class EchoingServer:
    """An API of batches behind a proxy, both of which repeat the secrets that they are given."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.told: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        basic = request.headers.get("Proxy-Authorization", "")
        login = b64decode(basic.removeprefix("Basic ")).decode()
        self.told = [login, login.partition(":")[2], basic, request.headers.get("Authorization", "")]
        path, body = request.rel_url.path, await request.read()
        batch: dict[str, Json] = {"id": "batch_1", "status": "completed", "output_file_id": "out"}
        if request.method == "GET" and path.endswith("/content"):
            return web.Response(body=b"".join(self._result(line) for line in self.lines))
        if path.endswith("/files"):
            self.lines = [line for line in body.splitlines() if line.startswith(b'{"custom_id"')]
            return web.json_response({"id": "file-1"})
        return web.json_response({**batch, "message": self.told})

    def _result(self, line: bytes) -> bytes:
        message: dict[str, Json] = {"role": "assistant", "content": f"I was told: {', '.join(self.told)}"}
        body: dict[str, Json] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        reply: dict[str, Json] = {"status_code": 200, "body": body}
        return json.dumps({"custom_id": json.loads(line)["custom_id"], "response": reply}).encode() + b"\n"


def test_a_proxy_s_login_is_in_no_file_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_PROXY_LOGIN", LOGIN)
    monkeypatch.setenv("THE_KEY", KEY)

    async def run() -> ExitStatus:
        tell_tale = EchoingServer()
        runner = web.ServerRunner(web.Server(tell_tale.answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy = f"http://127.0.0.1:{runner.addresses[0][1]}"
        (tmp_path / "job.yaml").write_text(
            "name: secrets\n"
            "provider:\n  preset: openai\n  base_url: http://api.example.invalid/v1\n  allow_http: true\n"
            f"  api_key_env: THE_KEY\n  proxy: {proxy}\n  proxy_auth_env: THE_PROXY_LOGIN\n"
            "model: m\nprompts: [a, b]\n"
            "batch: {use: always, look_every: 1s}\n"
        )
        job = batchrunner.load_job(str(tmp_path / "job.yaml"), out=str(tmp_path / "out"))
        try:
            report = await batchrunner.run(job)
        finally:
            await runner.cleanup()
        assert tell_tale.told[0] == LOGIN
        return report.exit_status

    assert asyncio.run(run()) is ExitStatus.DONE
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"results.jsonl", "000001.out.jsonl"} <= {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        for secret in (LOGIN.partition(":")[2], b64encode(LOGIN.encode()).decode(), KEY):
            assert secret.encode() not in data, (path, secret)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_bytes().splitlines()]
    assert all("***" in row["output"]["text"] for row in rows)
    assert len(rows) == 2
