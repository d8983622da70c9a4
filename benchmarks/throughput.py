"""Durable runs against a bare aiohttp loop: the same answers, from the same stub server, on the same machine.

The bare loop keeps everything in memory and forgets it; the program writes intents, rows and ledger. A ratio above 1
means that the program is faster. Run: python benchmarks/throughput.py [ITEMS]
"""

import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from batchrunner import app

CONCURRENCY = 64
ROUNDS = 5
ANSWER = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "forty-two " * 40}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89},
    }
).encode()


def serve(told: Connection) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    async def main() -> None:
        door = web.Application()
        door.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(door, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        told.send(runner.addresses[0][1])
        await asyncio.sleep(600.0)

    uvloop.run(main())


async def bare(url: str, prompts: list[str]) -> None:
    slots = asyncio.Semaphore(CONCURRENCY)
    answers = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(prompt: str) -> None:
            async with slots:
                body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": False}
                async with session.post(f"{url}/chat/completions", json=body) as reply:
                    answers.append((await reply.json())["choices"][0]["message"]["content"])

        await asyncio.gather(*(ask(prompt) for prompt in prompts))


def durable(url: str, source: Path, out: Path) -> None:
    job = out.parent / "job.yaml"
    provider = f"{{preset: openai, base_url: '{url}', api_key_env: [], auth: none}}"
    text = f"name: rate\nprovider: {provider}\nmodel: m\nstream: false\nprompts: {{file: '{source}'}}\n"
    job.write_text(f"{text}limits: {{concurrency: {CONCURRENCY}}}\n")
    report = app.run_sync(app.load_job(str(job), out=str(out)))
    assert report.status.items.done == report.status.items.total, report


def main(items: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    prompts = [f"question number {number}, and a few words more" for number in range(items)]
    ratios, rates = [], []
    try:
        for round_ in range(ROUNDS + 1):
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "prompts.txt"
                source.write_text("\n".join(prompts))
                began = time.perf_counter()
                uvloop.run(bare(url, prompts))
                middle = time.perf_counter()
                durable(url, source, Path(folder) / "out")
                ended = time.perf_counter()
            if round_:
                ratios.append((middle - began) / (ended - middle))
                rates.append(items / (ended - middle))
    finally:
        server.terminate()
    print(f"{items} chat items, {CONCURRENCY} at once, {ROUNDS} rounds in turn after one warm-up")
    print(
        f"  rate, durable over bare:  median {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"  durable items a second:   median {statistics.median(rates):.0f}  ({min(rates):.0f} to {max(rates):.0f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
