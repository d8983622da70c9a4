"""`kind: media`: files of any type go from a real socket to the disk piece by piece, and none is paid for twice."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus, JobMistakesError
from batchrunner.core.status import Report
from tests.providers.task_servers import MODEL, SERVERS
from tests.support.json_lines import json_lines
from tests.support.task_server import Played, played

KEY, KEY_ENV = "canary-5f1d7c3e-must-never-be-written", "MEDIA_KEY"
VIDEOS = (
    "ark-videos", "dashscope-videos", "minimax-videos", "zhipu-videos", "luma", "openai-videos", "runway-videos",
    "runway-image-videos",
)  # fmt: skip
Sender = Callable[[BaseHTTPRequestHandler, str], None]


def mp4_of(size_bytes: int) -> bytes:
    """The boxes of a video, without one."""
    start = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0\0\0\x10moov" + bytes(8)
    return start + (size_bytes - len(start)).to_bytes(4, "big") + b"mdat" + b"v" * (size_bytes - len(start) - 8)


VIDEO = mp4_of(300_000)


def sends(body: bytes, *, status: int = 200, length: int | None = None, kind: str = "video/mp4") -> Sender:
    """`length` is what the head announces; -1: nothing, the body ends with the connection."""

    def send(handler: BaseHTTPRequestHandler, _task: str) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        if length == -1:
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return send


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls and further tries follow each other at once: real sockets, and no waiting."""
    monkeypatch.setattr("batchrunner.engine.task_poller.next_poll_s", lambda *_, **__: 0.01)
    monkeypatch.setattr("batchrunner.engine.image_tasks.backoff_s", lambda **_: 0.01)


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setenv(KEY_ENV, KEY)
    with played(SERVERS["ark-videos"], key=KEY) as state:
        state.file = sends(VIDEO)
        yield state


def ran(folder: Path, state: Played, *, name: str = "ark-videos", **keys: object) -> Report:
    job = {
        "provider": {"dialect": "task", "task": name, "base_url": state.base_url, "api_key_env": KEY_ENV},
        "kind": "media",
        "model": MODEL,
        "prompts": [{"id": "../a cat", "prompt": "a cat"}],
        "params": {"seed": 7},
        "timeouts": {"task_s": 60},
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return asyncio.run(api.run(api.load_job(str(path), out=str(folder / "out"))))


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out" / "media").iterdir())


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_of_every_server_is_kept_with_its_type_and_digest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    with played(SERVERS[name], key=KEY) as state:
        state.file = sends(VIDEO, kind="text/plain")
        report = ran(tmp_path, state, name=name, prompts=["a cat"])
    assert report.exit_status is ExitStatus.DONE, report
    (row,) = json_lines(tmp_path / "out" / "results.jsonl")
    (file,) = row["output"]["media"]
    assert (file["type"], file["format"], file["bytes"]) == ("video/mp4", "MP4", len(VIDEO))
    assert file["sha256"] == hashlib.sha256(VIDEO).hexdigest()
    assert (tmp_path / "out" / file["path"]).read_bytes() == VIDEO
    assert (len(state.orders), state.wrong) == (1, [])


def test_a_finished_run_is_intact_and_sends_nothing_more(tmp_path: Path, server: Played) -> None:
    assert ran(tmp_path, server).exit_status is ExitStatus.DONE
    assert api.verify(str(tmp_path / "out")).findings == ()
    assert ran(tmp_path, server).exit_status is ExitStatus.DONE
    assert (len(server.orders), sum(server.downloads.values())) == (1, 1)


def test_damage_to_a_file_is_found_and_only_it_is_fetched_again(tmp_path: Path, server: Played) -> None:
    ran(tmp_path, server)
    (path,) = (tmp_path / "out" / "media").iterdir()
    path.write_bytes(VIDEO[:-1] + b"x")
    assert {found.kind for found in api.verify(str(tmp_path / "out")).findings} == {"file_changed"}
    path.write_bytes(VIDEO)
    audit = api.verify(str(tmp_path / "out"), salvage=str(tmp_path / "new"))
    assert audit.salvaged is not None
    assert api.verify(str(tmp_path / "new")).findings == ()


PAGE = b"<!doctype html><title>Gateway time-out</title><p>" + b"sorry " * 1000
BROKEN: dict[str, tuple[Sender, str]] = {
    "a page": (sends(PAGE), "an HTML page titled 'Gateway time-out'"),
    "JSON": (sends(b'{"error": "expired"}'), "JSON"),
    "words": (sends(b"not ready yet, try again later. " * 10), "instead of a file"),
    "nothing": (sends(b""), "empty"),
    "a connection that breaks": (sends(VIDEO[:1000], length=len(VIDEO)), ""),
    "half a video whose length nobody told": (sends(VIDEO[:200_000], length=-1), "whose boxes need"),
    "a video without its index": (sends(mp4_of(2000).replace(b"moov", b"free"), length=-1), "without its index"),
    "half a sound": (sends(b"RIFF\xff\xff\0\0WAVEfmt " + bytes(400), length=-1), "whose header says"),
    "a refusal": (sends(b"no", status=503), "503"),
}


@pytest.mark.parametrize(("broken", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_whole_file_is_fetched_again_and_never_ordered_again(
    tmp_path: Path, server: Played, broken: Sender, words: str
) -> None:
    server.file = broken
    first = ran(tmp_path, server)
    assert first.exit_status is ExitStatus.PAUSED
    assert (first.status.items.accepted, first.status.items.timed_out) == (1, 0)
    assert words in (first.status.message or "")
    assert not (tmp_path / "out" / "media").exists() or files_in(tmp_path) == []
    server.file = sends(VIDEO)
    assert ran(tmp_path, server).exit_status is ExitStatus.DONE
    assert (len(server.orders), len(files_in(tmp_path))) == (1, 1)


def test_a_file_beyond_the_cap_is_not_kept_until_the_cap_is_raised(tmp_path: Path, server: Played) -> None:
    for length in (None, -1):
        server.file = sends(mp4_of(1_500_000), length=length)
        report = ran(tmp_path, server, output={"max_mb": 1})
        assert report.exit_status is ExitStatus.PAUSED
        assert "more than 1000000 bytes" in (report.status.message or "")
    assert ran(tmp_path, server, output={"max_mb": 2}).exit_status is ExitStatus.DONE
    assert len(server.orders) == 1


def test_the_key_in_a_file_is_masked_wherever_the_pieces_are_cut(tmp_path: Path, server: Played) -> None:
    secret = KEY.encode()
    body = b"\x1a\x45\xdf\xa3" + bytes(100) + secret + bytes(65_400) + secret + bytes(1_000_000) + secret

    def drip(handler: BaseHTTPRequestHandler, _task: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for cut in (110, 120, 65_520, len(body) - 5, len(body)):
            handler.wfile.write(body[drip.at : cut])  # type: ignore[attr-defined]
            handler.wfile.flush()
            drip.at = cut  # type: ignore[attr-defined]

    drip.at = 0  # type: ignore[attr-defined]
    server.file = drip
    assert ran(tmp_path, server).exit_status is ExitStatus.DONE
    (path,) = (tmp_path / "out" / "media").iterdir()
    assert path.read_bytes() == body.replace(secret, b"*" * len(secret))


def test_a_file_of_the_api_itself_is_fetched_with_the_key_and_what_it_redirects_to_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    with played(SERVERS["openai-videos"], key=KEY) as state:

        def moved(handler: BaseHTTPRequestHandler, task: str) -> None:
            if handler.path.startswith("/files/"):
                return sends(VIDEO)(handler, task)
            handler.send_response(302)
            handler.send_header("Location", handler.path.replace("/videos/", "/files/").replace("/content", "/1.mp4"))
            handler.send_header("Content-Length", "0")
            return handler.end_headers()

        state.file = moved
        assert ran(tmp_path, state, name="openai-videos", prompts=["a cat"]).exit_status is ExitStatus.DONE
    assert (state.wrong, sum(state.downloads.values())) == ([], 2)


def test_a_refused_file_of_the_api_is_fetched_by_the_next_run_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    with played(SERVERS["openai-videos"], key=KEY) as state:
        state.file = sends(b"no", status=503)
        assert ran(tmp_path, state, name="openai-videos", prompts=["a cat"]).exit_status is ExitStatus.PAUSED
        state.file = sends(VIDEO)
        assert ran(tmp_path, state, name="openai-videos", prompts=["a cat"]).exit_status is ExitStatus.DONE
    assert (len(state.orders), state.wrong) == (1, [])


def test_another_file_under_the_same_name_stays(tmp_path: Path, server: Played) -> None:
    ran(tmp_path, server)
    (old,) = files_in(tmp_path)
    server.file = sends(mp4_of(5000))
    assert ran(tmp_path, server, params={"seed": 7, "fps": 2}).exit_status is ExitStatus.DONE
    names = files_in(tmp_path)
    assert old in names
    assert len(names) == 2


def test_a_simulated_run_and_a_rehearsal_play_a_media_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("provider: {dialect: task, task: ark-videos}\nkind: media\nmodel: m\nprompts: [a, b]\n")
    report = asyncio.run(api.run(api.load_job(str(path), simulate=True, out=str(tmp_path / "out"))))
    assert report.exit_status is ExitStatus.DONE
    rows = json_lines(tmp_path / "out" / "results.jsonl")
    assert [file["type"] for row in rows for file in row["output"]["media"]] == ["video/mp4"] * 2
    assert api.rehearse(api.load_job(str(path), out=str(tmp_path / "none"))).items.done == 2


def test_keys_of_pictures_are_none_of_media_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for kind, key, value in (("media", "format", "png"), ("image", "max_mb", 3)):
        job = {"provider": {"dialect": "task", "task": "luma"}, "kind": kind, "model": "m", "prompts": ["a"]}
        path.write_text(json.dumps({**job, "output": {key: value}}))
        with pytest.raises(JobMistakesError) as found:
            api.load_job(str(path))
        assert [mistake.key for mistake in found.value.mistakes] == [f"output.{key}"]
