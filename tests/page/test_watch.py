"""`batchrunner watch` over real sockets: who is answered, what is told, and that nothing is lost or written."""

import asyncio
import json
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError, WrongDirectoryError
from batchrunner.page.watch import WatchServer
from tests.page.conftest import ran
from tests.page.watching import Client, add, ids_on_disk, lines_of, replace, rows_reported, watched

JOB = """
name: talk
provider: simulator
model: "sim/strict#moderated-403:1"
prompts: {file: prompts.txt}
"""
ROWS = 40
PICTURES = """
name: pictures
provider: simulator
kind: image
model: sim/painter
prompts: [an owl, a barn]
params: {size: 64x64}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 40 items, one of which failed."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "prompts.txt").write_text("".join(f"Question {n}.\n" for n in range(ROWS)), "utf-8")
    return ran(folder, JOB)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (found.st_mtime_ns, found.st_size)
        for path in sorted(folder.rglob("*"))
        if stat.S_ISREG((found := path.stat()).st_mode)
    }


def test_rows_of_the_page_are_the_rows_on_disk_and_nothing_is_written(folder: Path) -> None:
    before = tree(folder)

    async def visit(client: Client) -> None:
        assert sorted(await client.ids()) == ids_on_disk(folder)
        assert len(await client.ids()) == ROWS
        status, body, headers = await client.get("")
        assert status == 200
        assert b"batchrunnerSource" in body
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "connect-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "aiohttp" not in str(headers)
        told = json.dumps(await client.rows()).encode() + body
        assert str(folder).encode() not in told
        assert str(Path.home()).encode() + b"/" not in told

    watched(folder, visit)
    assert tree(folder) == before


def test_what_is_appended_is_reported_once_with_its_numbers(folder: Path) -> None:
    path = folder / "results.jsonl"
    first, second, *rest = lines_of(folder)
    path.write_bytes(first)
    (folder / "failures.jsonl").write_bytes(b"")

    async def visit(client: Client) -> None:
        generation = (await client.rows())["generation"]
        async with client.events(f"{generation}.1") as following:
            assert (await following())[0] == "status"
            add(path, second)
            assert await following() == ("rows", {"from": 1, "to": 2}, f"{generation}.2")
            add(path, *rest)
            await rows_reported(following, 2, ROWS - 1)
        told = await client.rows(f"?g={generation}&from=2")
        assert (told["from"], told["rows"], told["generation"]) == (2, ROWS - 1, generation)

    watched(folder, visit)


def test_half_a_line_waits_for_its_end(folder: Path) -> None:
    path = folder / "results.jsonl"
    first, second, *_ = lines_of(folder)
    path.write_bytes(first + second[:50])
    (folder / "failures.jsonl").write_bytes(b"")

    async def visit(client: Client) -> None:
        await asyncio.sleep(0.6)
        assert (await client.rows())["rows"] == 1
        add(path, second[50:-1])
        await asyncio.sleep(0.6)
        assert (await client.rows())["rows"] == 1
        add(path, b"\n")
        await client.until(2)

    watched(folder, visit)


def test_a_file_that_is_written_anew_is_one_reset_after_which_every_row_is_there(folder: Path) -> None:
    path = folder / "results.jsonl"

    async def visit(client: Client) -> None:
        generation = (await client.rows())["generation"]
        async with client.events(f"{generation}.{ROWS}") as following:
            assert (await following())[0] == "status"
            replace(path, b"".join(reversed(lines_of(folder))))
            told = [await following()]
            while told[-1][0] != "reset":
                told.append(await following())
            await asyncio.sleep(1)
        now = await client.rows()
        assert now["generation"] != generation
        assert sorted(await client.ids()) == ids_on_disk(folder)
        async with client.events(f"{now['generation']}.{ROWS}") as following:
            assert (await following())[0] == "status", "one reset, and no second"
        assert (await client.get(f"c/0?g={generation}"))[0] == 204
        assert (await client.rows(f"?g={generation}&from=7"))["from"] == 0

    watched(folder, visit)


@pytest.mark.parametrize("how", ["shorter", "gone"])
def test_a_file_that_lost_rows_is_read_anew(folder: Path, how: str) -> None:
    path = folder / "results.jsonl"

    async def visit(client: Client) -> None:
        if how == "shorter":
            with path.open("r+b") as file:
                file.truncate(len(lines_of(folder)[0]))
        else:
            path.unlink()
        await client.until((how == "shorter") + 1)

    watched(folder, visit)


def test_a_reconnect_is_sent_what_came_meanwhile(folder: Path) -> None:
    async def visit(client: Client) -> None:
        generation = (await client.rows())["generation"]
        async with client.events(f"{generation}.3") as following:
            assert await following() == ("rows", {"from": 3, "to": ROWS}, f"{generation}.{ROWS}")
        for unknown in ("", "x", "other.3", "..", f"{generation}.-1", f"{generation}.99999999999999999999"):
            async with client.events(unknown) as following:
                assert (await following())[0] in {"reset", "rows"}

    watched(folder, visit)


def test_a_failed_item_that_has_an_answer_now_has_one_row(folder: Path) -> None:
    (failed,) = lines_of(folder, "failures.jsonl")
    row = json.loads(lines_of(folder)[0]) | {key: json.loads(failed)[key] for key in ("id", "key", "index")}

    async def visit(client: Client) -> None:
        assert (await client.rows())["rows"] == ROWS
        add(folder / "results.jsonl", json.dumps(row).encode() + b"\n")
        async with asyncio.timeout(60):
            while (await client.rows())["failureClasses"]:  # noqa: ASYNC110 - it is another thread's
                await asyncio.sleep(0.05)
        ids = await client.ids()
        assert len(ids) == len(set(ids)) == ROWS

    watched(folder, visit)


def test_lines_that_are_no_rows_are_passed_over(folder: Path) -> None:
    noise = [
        b"\n",
        b"null\n",
        b"{}\n",
        b"\xff\xfe\n",
        b'{"key": "zz", "index": 1}\n',
        b"[" * 100_000 + b"\n",
        b'{"key": 1}\n',
    ]

    async def visit(client: Client) -> None:
        add(folder / "results.jsonl", *noise)
        await asyncio.sleep(0.6)
        assert sorted(await client.ids())
        assert (await client.rows())["rows"] == ROWS

    watched(folder, visit)


def test_50_000_rows_at_once_are_few_events(folder: Path) -> None:
    path = folder / "results.jsonl"
    row = json.loads(lines_of(folder)[0])
    many = b"".join(
        json.dumps(row | {"key": f"{n:032x}", "id": f"r{n}", "index": n + 100}).encode() + b"\n" for n in range(50_000)
    )

    async def visit(client: Client) -> None:
        generation = (await client.rows())["generation"]
        async with client.events(f"{generation}.{ROWS}") as following:
            assert (await following())[0] == "status"
            add(path, many)
            assert await rows_reported(following, ROWS, ROWS + 50_000) < 10
        assert len(await client.ids()) == ROWS + 50_000

    watched(folder, visit)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:PORT"}, 200),
        ({"Host": "[::1]:PORT"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:PORT"}, 403),
        ({"Host": "127.0.0.1.evil.example:PORT"}, 403),
        ({"Host": "localhost"}, 403),
        ({"Host": "localhost:1"}, 403),
        ({"Host": "localhost:x"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "user@localhost:PORT"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_only_this_machine_and_this_page_are_answered(folder: Path, headers: dict[str, str], status: int) -> None:
    async def visit(client: Client) -> None:
        given = {name: value.replace("PORT", str(client.server.port)) for name, value in headers.items()}
        for path in ("", "rows", "events"):
            async with client.session.get(client.server.address + path, headers=given) as answer:
                assert answer.status == status, path

    watched(folder, visit)


def test_other_addresses_are_behind_a_secret(folder: Path) -> None:
    async def visit(client: Client) -> None:
        address = client.server.address
        base, _, secret = address.rstrip("/").rpartition("/")
        assert base == f"http://0.0.0.0:{client.server.port}/k"
        assert len(secret) == 32
        other = "y" if secret.endswith("x") else "x"
        assert (await client.get("rows"))[0] == 200
        for path in ("/", "/rows", "/events", f"/k/{secret[:-1]}{other}/", "/k/", f"/k/{secret[:-1]}/rows"):
            async with client.session.get(f"http://127.0.0.1:{client.server.port}{path}") as answer:
                assert answer.status == 404, path

    watched(folder, visit, host="0.0.0.0")


def test_pictures_are_had_by_their_hash_and_nothing_else_is(tmp_path: Path) -> None:
    folder = ran(tmp_path, PICTURES)
    first, second = (json.loads(line) for line in lines_of(folder))
    (picture,) = first["output"]["images"]
    (other,) = second["output"]["images"]
    (folder / "images" / "svg.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    (tmp_path / "secret.png").write_bytes((folder / picture["path"]).read_bytes())
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    planted = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "images/svg.png",
        "images/link.png",
        "run.json",
        "images",
        "\0",
    ]
    names = {f"{n:064x}": path for n, path in enumerate(planted)}
    for sha256, path in names.items():
        image = other | {"path": path, "sha256": sha256}
        row = second | {"key": sha256[-32:], "id": sha256, "output": {"images": [image]}}
        add(folder / "results.jsonl", json.dumps(row).encode() + b"\n")

    async def visit(client: Client) -> None:
        for kind, path in (
            ("p", picture["path"]),
            ("t", f"thumbs/{picture['sha256'][:2]}/{picture['sha256'][:16]}.webp"),
        ):
            status, body, headers = await client.get(f"{kind}/{picture['sha256']}")
            assert (status, body) == (200, (folder / path).read_bytes())
            assert "immutable" in headers["Cache-Control"]
            assert headers["Content-Type"].startswith("image/")
        shutil.rmtree(folder / "thumbs")
        status, body, headers = await client.get(f"t/{other['sha256']}")
        assert (status, headers["Content-Type"]) == (200, "image/webp")
        assert not (folder / "thumbs").exists(), "it writes nothing"
        for bad in (
            *names,
            "f" * 64,
            "..%2frun.json",
            "../run.json",
            "%2e%2e/run.json",
            "x",
            picture["sha256"].upper(),
        ):
            for kind in "pt":
                assert (await client.get(f"{kind}/{bad}"))[0] == 404, (kind, names.get(bad, bad))
        for path in ("run.json", "p/", "images/", "c/x", "c/-1", "c/99", "../etc/passwd", "c/0"):
            assert (await client.get(path))[0] in {204, 404}, path

    watched(folder, visit)


def test_every_one_of_ten_pages_is_updated(folder: Path) -> None:
    path = folder / "results.jsonl"
    *most, last = lines_of(folder)
    path.write_bytes(b"".join(most))

    async def visit(client: Client) -> None:
        generation = (await client.rows())["generation"]
        ready = asyncio.Barrier(11)

        async def page() -> None:
            async with client.events(f"{generation}.{ROWS - 1}") as following:
                await following()
                await ready.wait()
                assert (await following())[0] == "rows"

        pages = [asyncio.create_task(page()) for _ in range(10)]
        await ready.wait()
        add(path, last)
        await asyncio.gather(*pages)

    watched(folder, visit)


def test_a_folder_without_a_run_and_a_port_that_is_taken_are_reported(folder: Path, tmp_path: Path) -> None:
    async def nothing(_: Client) -> None:
        raise AssertionError

    with pytest.raises(WrongDirectoryError):
        watched(tmp_path, nothing)

    async def taken(client: Client) -> None:
        second = WatchServer(folder, port=client.server.port)
        with pytest.raises(JobMistakesError, match="cannot listen"):
            await second.start()
        await second.close()

    watched(folder, taken)


def test_what_cannot_be_read_for_a_while_is_reported_and_shown_again_afterwards(folder: Path) -> None:
    text = (folder / "run.json").read_bytes()

    async def problem(client: Client, words: str) -> str:
        for _ in range(600):
            if words in (told := str((await client.rows())["problem"])) and bool(told) == bool(words):
                return told
            await asyncio.sleep(0.1)
        raise AssertionError(words)

    async def visit(client: Client) -> None:
        (folder / "run.json").write_bytes(b"{")
        assert str(folder) not in await problem(client, "run.json")
        (folder / "run.json").write_bytes(text)
        await problem(client, "")
        followed, client.server._run._followed = client.server._run._followed, {}  # as a fault of this program would
        await problem(client, "KeyError")
        client.server._run._followed = followed
        await problem(client, "")

    watched(folder, visit)


def test_the_command_prints_its_address_and_ends_well_with_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "batchrunner", "watch", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            with urllib.request.urlopen(url) as answer:
                assert b"batchrunnerSource" in answer.read()
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0
    assert url in said.decode()
    assert "Traceback" not in said.decode()
