"""The measure: a loop of aiohttp on uvloop that keeps its answers in memory and forgets them. Prints one line of JSON.

Run as a process of its own: python bench_bare.py WAY URL REQUESTS AT_ONCE, with WAY `json` (whole answers, read with
`resp.json()`), `stream` (`readany()` split at line ends, `json.loads` of each data line) or `pictures` (FOLDER of one
PNG instead of URL: verify, load and write, which is what a kept picture costs at least) or `thumbnails` (the same, with
a WEBP of 256 pixels as the program makes it).
"""

import asyncio
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPT = "What is the sum of the first numbers, please? Answer in one sentence. "


def payload(number: int, *, stream: bool) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"{PROMPT}{number}"}], "stream": stream}


async def whole(session: Any, url: str, numbers: Iterator[int], answers: list[str]) -> None:
    for number in numbers:
        async with session.post(url, json=payload(number, stream=False)) as reply:
            answer = await reply.json()
        answers.append(answer["choices"][0]["message"]["content"])


async def streamed(session: Any, url: str, numbers: Iterator[int], answers: list[str]) -> None:
    for number in numbers:
        deltas: list[str] = []
        async with session.post(url, json=payload(number, stream=True)) as reply:
            rest = b""
            while piece := await reply.content.readany():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: {"):
                        choices = json.loads(line[6:])["choices"]
                        deltas.extend(choice["delta"].get("content") or "" for choice in choices)
        answers.append("".join(deltas))


async def loop(way: str, url: str, count: int, at_once: int) -> float:
    import aiohttp  # noqa: PLC0415 - not where pictures alone are measured

    numbers = iter(range(count))
    answers: list[str] = []
    work = streamed if way == "stream" else whole
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        began = time.perf_counter()
        await asyncio.gather(*(work(session, url, numbers, answers) for _ in range(at_once)))
        took = time.perf_counter() - began
    assert len(answers) == count
    return took


def kept_picture(data: bytes, folder: Path, number: int, *, thumbnails: bool) -> None:
    """What a kept picture costs at least."""
    from PIL import Image  # noqa: PLC0415 - for this way alone

    with Image.open(io.BytesIO(data)) as picture:
        picture.verify()
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        if thumbnails:
            small = picture.resize((256, 256), Image.Resampling.BICUBIC, reducing_gap=2.0)
            small.save(folder / f"thumbnail-{number % 64}.webp", quality=70, method=2)
    (folder / f"written-{number % 64}.png").write_bytes(data)


def pictures(folder: Path, count: int, *, thumbnails: bool) -> float:
    data = (folder / "picture.png").read_bytes()
    began = time.perf_counter()
    for number in range(count):
        kept_picture(data, folder, number, thumbnails=thumbnails)
    return time.perf_counter() - began


def main(way: str, url: str, count: int, at_once: int) -> None:
    if way in {"pictures", "thumbnails"}:
        took = pictures(Path(url), count, thumbnails=way == "thumbnails")
    else:
        import resource  # noqa: PLC0415 - for thousands of connections

        import uvloop  # noqa: PLC0415

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        took = uvloop.run(loop(way, url, count, at_once))
    print(json.dumps({"span_s": took}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
