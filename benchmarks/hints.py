"""A fifth of all calls refused with a Retry-After of two seconds: how long 300 items take, and who is back too early.

A stub server on this machine in real time: answers take 50 ms, ten calls at once. The time is the server's, from the
first call to the last answer. Another runner is measured in the same run if a Python that has lm-deluge is named:

    python benchmarks/hints.py [PYTHON_WITH_LM_DELUGE]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from aiohttp import web

from batchrunner import api

ITEMS, AT_ONCE, ANSWER_S, HINT_S, REFUSED = 300, 10, 0.05, 2.0, 0.2
ROUNDS = 3
GRAIN_S = 0.02
"""What two clocks may differ by before a return counts as too early."""

PEER = """
import asyncio, sys
from lm_deluge import LLMClient
from lm_deluge.models import register_model
register_model(id="stub", name="m", api_base=sys.argv[1], api_key_env_var="PEER_KEY", api_spec="openai")
client = LLMClient("stub", max_requests_per_minute=100_000, max_tokens_per_minute=100_000_000,
                   max_concurrent_requests=int(sys.argv[3]), max_attempts=10, progress="manual")
prompts = [f"question number {number}" for number in range(int(sys.argv[2]))]
asyncio.run(client.process_prompts_async(prompts, show_progress=False))
"""


@dataclass
class Seen:
    """What the server saw since it was last asked."""

    began: float = 0.0
    ended: float = 0.0
    calls: int = 0
    answered: int = 0
    refused: int = 0
    early: int = 0
    free_at: dict[str, float] = field(default_factory=dict)
    """When an item that was refused may come again."""


def serve(told: Connection) -> None:
    seen, random_source = Seen(), random.Random(1)

    async def answer(request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        prompt = str(json.loads(await request.read())["messages"][-1]["content"])
        seen.began = seen.began or now
        seen.calls += 1
        seen.early += now < seen.free_at.pop(prompt, 0.0) - GRAIN_S
        if random_source.random() < REFUSED:
            seen.refused += 1
            seen.free_at[prompt] = now + HINT_S
            return web.json_response(
                {"error": {"message": "slow down", "type": "rate_limit", "code": None}},
                status=429,
                headers={"retry-after": f"{HINT_S:.0f}"},
            )
        await asyncio.sleep(ANSWER_S)
        seen.answered += 1
        seen.ended = asyncio.get_running_loop().time()
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        )

    async def reported_and_forgotten(_request: web.Request) -> web.Response:
        nonlocal seen, random_source
        last, seen, random_source = seen, Seen(), random.Random(1)
        return web.json_response(
            {
                "seconds": last.ended - last.began,
                "calls": last.calls,
                "answered": last.answered,
                "refused": last.refused,
                "early": last.early,
            }
        )

    async def main() -> None:
        listener = web.Application()
        listener.router.add_post("/v1/chat/completions", answer)
        listener.router.add_post("/seen", reported_and_forgotten)
        runner = web.AppRunner(listener, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        told.send(runner.addresses[0][1])
        await asyncio.sleep(1200.0)

    uvloop.run(main())


def ours(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, job = Path(folder) / "prompts.txt", Path(folder) / "job.yaml"
        source.write_text("\n".join(f"question number {number}" for number in range(ITEMS)))
        provider = f"{{preset: openai, base_url: '{url}', api_key_env: [], auth: none}}"
        text = f"name: hints\nprovider: {provider}\nmodel: m\nstream: false\nprompts: {{file: '{source}'}}\n"
        job.write_text(f"{text}limits: {{concurrency: {AT_ONCE}}}\n")
        api.run_sync(api.load_job(str(job), out=str(Path(folder) / "out")))


def theirs(python: str, url: str) -> None:
    command = [python, "-W", "ignore", "-c", PEER, url, str(ITEMS), str(AT_ONCE)]
    environment = {**os.environ, "PEER_KEY": "none"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)


def seen_by(port: int) -> dict[str, float]:

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/seen", data=b"") as reply:
        return dict(json.load(reply))


def main(peer: str | None) -> None:
    end, other_end = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(other_end,), daemon=True)
    server.start()
    port = end.recv()
    url = f"http://127.0.0.1:{port}/v1"
    runners: dict[str, Callable[[], None]] = {"batchrunner": lambda: ours(url)}
    if peer is not None:
        runners["lm-deluge"] = lambda: theirs(peer, url)
    took: dict[str, list[float]] = {name: [] for name in runners}
    try:
        for _ in range(ROUNDS):
            for name, run in runners.items():
                run()
                seen = seen_by(port)
                took[name].append(seen["seconds"])
                print(
                    f"  {name:12} {seen['seconds']:6.2f} s, {seen['answered']} answered, {seen['calls']} calls, "
                    f"{seen['refused']} refused, {seen['early']} came back too early"
                )
    finally:
        server.terminate()
    print(
        f"{ITEMS} items, {AT_ONCE} at once, {REFUSED:.0%} refused for {HINT_S:g} s, {ROUNDS} rounds in turn; seconds:"
    )
    for name, seconds in took.items():
        print(f"  {name:12} median {statistics.median(seconds):.2f}  ({min(seconds):.2f} to {max(seconds):.2f})")
    if peer is not None:
        ratios = [mine / other for mine, other in zip(took["batchrunner"], took["lm-deluge"], strict=True)]
        print(f"  ratio        median {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", nargs="?", metavar="PYTHON_WITH_LM_DELUGE", help="measure this runner, too")
    main(parser.parse_args().python)
