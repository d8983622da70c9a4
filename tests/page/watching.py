"""Somebody who asks `batchrunner watch` over real sockets, and what is on the disk meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout

from batchrunner.page.watch import WatchServer


@dataclass
class Client:
    """Somebody with the address."""

    session: ClientSession
    server: WatchServer

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        async with self.session.get(self.server.address + path, headers=headers) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    async def rows(self, query: str = "") -> dict[str, Any]:
        """The JSON of /rows, with the columns under `index`."""
        status, body, headers = await self.get(f"rows{query}")
        assert (status, headers["Content-Encoding"]) == (200, "gzip")
        length = int.from_bytes(body[:4], "little")
        told: dict[str, Any] = json.loads(body[4 : 4 + length])
        count = told["rows"] - told["from"]
        assert len(body) == 4 + length + 4 * count * len(told["columns"])
        return told

    async def lines(self) -> list[str]:
        """The lines of all chunks of one generation, asked for again where it ended meanwhile."""
        while True:
            told = await self.rows()
            bodies = [await self.get(f"c/{number}?g={told['generation']}") for number in range(told["chunks"])]
            statuses = {status for status, _, _ in bodies}
            if 204 not in statuses:
                assert statuses <= {200}
                lines = [line for _, body, _ in bodies for line in body.decode().split("\n")]
                assert len(lines) == told["rows"]
                return lines

    async def ids(self) -> list[str]:
        """The ids of all rows, from their chunks."""
        return [json.loads(line.partition("\t")[0])[0] for line in await self.lines()]

    @asynccontextmanager
    async def events(
        self, last: str = ""
    ) -> AsyncIterator[Callable[[], Coroutine[Any, Any, tuple[str, dict[str, int], str]]]]:
        """A function that waits for the next (event, data, id); signs of life between them are passed over."""
        headers = {"Last-Event-ID": last} if last else {}
        async with self.session.get(self.server.address + "events", headers=headers) as answer:
            assert answer.status == 200

            async def following() -> tuple[str, dict[str, int], str]:
                told: dict[str, str] = {}
                while "event" not in told:
                    while line := (await asyncio.wait_for(answer.content.readline(), 60)).decode().rstrip("\n"):
                        name, _, value = line.partition(": ")
                        told[name] = value
                return told["event"], json.loads(told["data"]), told.get("id", "")

            yield following

    async def until(self, rows: int) -> None:
        """Wait until so many rows are here."""
        for _ in range(1_200):
            if (await self.rows())["rows"] == rows:
                return
            await asyncio.sleep(0.05)
        raise AssertionError((await self.rows())["rows"], rows)


def watched(folder: Path, visit: Callable[[Client], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def run() -> None:
        server = WatchServer(folder, **options)
        await server.start()
        try:
            async with ClientSession(timeout=ClientTimeout(total=120)) as session:
                await visit(Client(session, server))
        finally:
            await server.close()

    with ThreadPoolExecutor(max_workers=1) as pool:  # a browser's loop may occupy this thread
        pool.submit(lambda: asyncio.run(run())).result()


def lines_of(folder: Path, name: str = "results.jsonl") -> list[bytes]:
    path = folder / name
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def ids_on_disk(folder: Path) -> list[str]:
    rows = [*lines_of(folder), *lines_of(folder, "failures.jsonl")]
    return sorted(json.loads(line)["id"] for line in rows)


async def rows_reported(
    following: Callable[[], Coroutine[Any, Any, tuple[str, dict[str, int], str]]], since: int, upto: int
) -> int:
    """How many events report these rows, each once and in order; a server may look while they are being written."""
    events = 0
    while since < upto:
        name, told, mark = await following()
        assert (name, told["from"], mark.rpartition(".")[2]) == ("rows", since, str(told["to"]))
        since = told["to"]
        events += 1
    assert since == upto
    return events


def add(path: Path, *pieces: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"".join(pieces))


def replace(path: Path, text: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(text)
    beside.rename(path)
