"""The wire between workers and the coordinator, on real sockets: whatever a peer does, the other says what happened."""

import asyncio
import functools
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batchrunner.coordination.address import (
    Address,
    CoordinatorGoneError,
    CoordinatorRefusedError,
    address_of,
    secret_for,
)
from batchrunner.coordination.client import CoordinatorClient
from batchrunner.coordination.desk import Desk
from batchrunner.coordination.server import CoordinatorServer, own_socket
from batchrunner.core.coordination import Coordinator
from batchrunner.core.coordination_messages import Claim, Claimed, Counts, Lease
from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.stores.shard_claims import ClaimFiles
from tests.coordination.test_claims import job
from tests.stores.test_lock import holding_process


def on_a_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        asyncio.run(test(**fixtures))

    return run


TCP = Address(host="127.0.0.1", port=0)


def desk(tmp_path: Path, *, shards: int = 2, locks_tell: bool = False) -> Desk:
    files = ClaimFiles(tmp_path / "out", shards=shards, job="d")
    known = files.known(locks_tell=locks_tell, keep_finished=True)
    one = Coordinator(
        job(tmp_path),
        digest="d",
        shards=shards,
        now=0.0,
        epochs=known.epochs,
        goes_on=known.goes_on,
        finished=known.finished,
        held=known.held,
    )
    return Desk(one, files, monotonic=lambda: 1.0, wall=lambda: 1e9)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_sockets_that_killed_processes_left_are_removed_and_no_other(short: Path) -> None:
    dead, young, living, other = (short / f"batchrunner-{name}" for name in ("dead", "young", "living", "other"))
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for folder, one in zip((dead, young, living), sockets, strict=True):
        folder.mkdir()
        one.bind(str(folder / "coordinator"))
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    sockets[2].listen()
    for one in sockets[:2]:
        one.close()
    for folder in (dead, living, other):
        os.utime(folder, (1e9, 1e9))
    with own_socket() as address:
        assert sorted(short.iterdir()) == sorted([young, living, other, Path(str(address.path)).parent])
    assert sorted(short.iterdir()) == sorted([young, living, other])
    sockets[2].close()


def test_a_socket_s_path_is_short_where_the_folder_for_temporary_files_is_not(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = short / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with own_socket() as address, socket.socket(socket.AF_UNIX) as one:
        one.bind(str(address.path))
    monkeypatch.setattr(tempfile, "tempdir", str(short / "not-there"))
    with pytest.raises(StoreBrokenError, match="no folder can be made for a socket"), own_socket():
        pass


@asynccontextmanager
async def served(one: Desk, address: Address = TCP, secret: str = "s") -> AsyncIterator[CoordinatorServer]:
    async with CoordinatorServer(one, address, secret=secret) as server:
        yield server


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_a_loop
async def test_a_worker_greets_claims_beats_leases_and_ends(tmp_path: Path, kind: str) -> None:
    where = TCP if kind == "tcp" else Address(path=str(tmp_path / "socket"))
    async with (
        served(desk(tmp_path), where) as server,
        CoordinatorClient(server.address, job="d", secret="s", worker="w") as client,
    ):
        welcome = await client.hello()
        assert (welcome.shards, welcome.beat_s, welcome.expires_s) == (2, 2.0, 6.0)
        assert await client.claim() == Claimed(shard=0, epoch=1)
        assert (await client.beat(0, 1, Counts(done=3))).ok
        granted = await client.lease(Lease(worker="w", lane="l", want=3))
        assert granted.requests == 3
        assert (await client.end(0, 1, "finished", counts=Counts(done=5))).ok
        assert await client.claim() == Claimed(shard=1, epoch=1)
    assert not (tmp_path / "socket").exists()


@on_a_loop
async def test_the_claims_are_on_the_disk_before_they_are_known_and_a_new_coordinator_reads_them(
    tmp_path: Path,
) -> None:
    async with served(desk(tmp_path, shards=4)) as server:
        a, b, c = (CoordinatorClient(server.address, job="d", secret="s", worker=name) for name in "abc")
        for client in (a, b, c):
            await client.claim()
        shards = tmp_path / "out" / "shards"
        assert sorted(path.parent.name for path in shards.glob("*/claim-1.json")) == ["0-of-4", "1-of-4", "2-of-4"]
        assert (await a.end(0, 1, "finished")).ok
        assert (await b.end(1, 1, "paused", not_before_s=100.0)).ok
        for client in (a, b, c):
            await client.close()
    again = desk(tmp_path, shards=4).coordinator
    assert again.shards[0].outcome == "finished"
    assert again.claim("new", now=1.0) == Claimed(shard=1, epoch=1)
    assert again.claim("other", now=1.0) == Claimed(shard=3, epoch=1)
    assert again.claim("third", now=1.0).wait_s is not None, "c may still work"
    at_once = desk(tmp_path, shards=4, locks_tell=True).coordinator
    assert {at_once.claim(name, now=1.0).epoch for name in ("x", "y", "z")} == {1, 2}


@on_a_loop
async def test_two_coordinators_never_give_one_epoch(tmp_path: Path) -> None:
    first, second = desk(tmp_path), desk(tmp_path)
    async with served(first) as one, served(second) as other:
        a = CoordinatorClient(one.address, job="d", secret="s", worker="a")
        b = CoordinatorClient(other.address, job="d", secret="s", worker="b")
        assert (await a.claim(), await b.claim()) == (Claimed(shard=0, epoch=1), Claimed(shard=0, epoch=2))
        await a.close()
        await b.close()


@on_a_loop
async def test_a_wrong_secret_and_another_job_are_refused_with_words(tmp_path: Path) -> None:
    async with served(desk(tmp_path)) as server:
        with pytest.raises(CoordinatorRefusedError, match="shared secret"):
            await CoordinatorClient(server.address, job="d", secret="wrong").hello()
        with pytest.raises(CoordinatorRefusedError, match="job file"):
            await CoordinatorClient(server.address, job="other", secret="s").hello()


@on_a_loop
async def test_a_coordinator_that_is_gone_is_an_error_and_one_that_came_back_is_none(tmp_path: Path) -> None:
    where = Address(path=str(tmp_path / "socket"))
    client = CoordinatorClient(where, job="d", worker="w")
    with pytest.raises(CoordinatorGoneError, match="coordinate JOB"):
        await client.hello()
    async with served(desk(tmp_path), where, secret=""):
        assert (await client.claim()).epoch == 1
    with pytest.raises(CoordinatorGoneError):
        await client.beat(0, 1, Counts())
    async with served(desk(tmp_path), where, secret=""):
        assert (await client.beat(0, 1, Counts())).ok, "its claim was on the disk"
    await client.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"nonsense\n",
        b"{}\n",
        b'{"type": "hello"}\n',
        b'{"type": "claim", "worker": "w"}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"x" * (2 << 20),
        b"",
        b'{"type": "hello", "worker": "w"',
        b'{"type": "lease", "worker": "w", "lane": "l", "want": "many"}\n',
    ],
)
@on_a_loop
async def test_a_peer_that_talks_nonsense_is_answered_and_hurts_nobody(tmp_path: Path, said: bytes) -> None:
    async with served(desk(tmp_path)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
        nonce = json.loads(await reader.readline())
        assert nonce["secret"] is True
        writer.write(said)
        writer.write_eof()
        try:
            rest = await reader.read()
        except ConnectionResetError:
            rest = b""
        assert not rest or "error" in json.loads(rest)
        writer.close()
        async with CoordinatorClient(server.address, job="d", secret="s") as client:
            assert (await client.claim()).epoch == 1


@on_a_loop
async def test_a_server_that_is_no_coordinator_is_reported(tmp_path: Path) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    path = str(tmp_path / "socket")
    async with await asyncio.start_unix_server(other, path):
        with pytest.raises(CoordinatorGoneError, match="no message"):
            await CoordinatorClient(Address(path=path), job="d").hello()


@on_a_loop
async def test_a_request_that_was_cancelled_leaves_no_reply_for_the_next(tmp_path: Path) -> None:
    async with (
        served(desk(tmp_path)) as server,
        CoordinatorClient(server.address, job="d", secret="s", worker="w") as client,
    ):
        await client.claim()
        beating = asyncio.create_task(client.beat(0, 1, Counts()))
        await asyncio.sleep(0)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        assert await client.claim() is not None
        assert (await client.lease(Lease(worker="w", lane="l", want=1))).requests in {0, 1}


@on_a_loop
async def test_only_this_user_may_use_the_socket_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    where = Address(path=str(path))
    async with served(desk(tmp_path), where, secret=""):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(StoreBrokenError, match="another coordinator"):
            async with served(desk(tmp_path), where, secret=""):
                pass
        os.link(path, tmp_path / "left")
    (tmp_path / "left").rename(path)  # as after a kill -9
    async with served(desk(tmp_path), where, secret=""):
        assert path.is_socket()
    path.write_text("a file")
    with pytest.raises(StoreBrokenError, match="no socket"):
        async with served(desk(tmp_path), where, secret=""):
            pass
    assert path.read_text() == "a file"


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("10.0.0.5:7070", Address(host="10.0.0.5", port=7070)),
        ("[::1]:7070", Address(host="::1", port=7070)),
        ("localhost:0", Address(host="localhost", port=0)),
        ("unix:socket", Address(path="socket")),
        ("/run/socket", Address(path="/run/socket")),
    ],
)
def test_an_address_is_a_path_or_a_host_with_a_port(text: str, there: Address) -> None:
    assert address_of(text, option="--listen") == there


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "host:99999", "a b:1", "unix:", f"/{'x' * 120}", "http://h:1"]
)
def test_what_is_no_address_is_a_mistake_with_the_option(text: str) -> None:
    with pytest.raises(JobMistakesError, match="--listen"):
        address_of(text, option="--listen")


def test_a_network_address_needs_the_secret_and_a_path_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCHRUNNER_COORDINATOR_SECRET", raising=False)
    with pytest.raises(JobMistakesError, match="BATCHRUNNER_COORDINATOR_SECRET"):
        secret_for(TCP, option="--listen")
    assert secret_for(Address(path="p"), option="--listen") == ""
    monkeypatch.setenv("BATCHRUNNER_COORDINATOR_SECRET", "x")
    assert secret_for(TCP, option="--listen") == "x"


def test_a_shard_whose_process_died_on_this_machine_is_free_before_its_claim_expires(tmp_path: Path) -> None:
    one = desk(tmp_path, shards=1)
    assert one.answer(Claim(worker="w")) == Claimed(shard=0, epoch=1)
    folder = tmp_path / "out" / "shards" / "0-of-1" / "epoch-1"
    folder.mkdir(parents=True)
    with holding_process(folder) as process:
        assert one.found_dead() == []
        process.kill()
        process.wait()
    again = desk(tmp_path, shards=1)  # one that begins now finds it, too
    for each in (one, again):
        assert each.found_dead() == [(0, 1)]
        each.lost(0, 1)
        assert each.found_dead() == []
    assert again.answer(Claim(worker="x")) == Claimed(shard=0, epoch=2)
    assert again.found_dead() == []
    again.lost(0, 1)
    assert again.coordinator.shards[0].is_held, "another epoch's death says nothing about this one"


def test_an_epoch_that_goes_on_is_not_taken_for_dead_because_the_process_before_was(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "shards" / "0-of-1" / "epoch-1"
    folder.mkdir(parents=True)
    with holding_process(folder) as process:  # `run --shard`, which has no claim
        process.kill()
        process.wait()
    one = desk(tmp_path, shards=1)
    one._wall = lambda: 4e9
    assert one.answer(Claim(worker="w")) == Claimed(shard=0, epoch=1)
    assert one.found_dead() == [], "its worker has not locked it yet"
