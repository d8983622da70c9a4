"""A large file whose connection breaks goes on where it broke, if the server can; nothing is ordered again."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus
from tests.engine.test_media import VIDEO, _server, _soon, files_in, ran
from tests.support.json_lines import json_lines
from tests.support.task_server import Played

__all__ = ["_server", "_soon"]  # fixtures

PIECE = 70_000
TAG = '"v1"'
Head = Callable[[int, int], tuple[int, dict[str, str]]]


class Storage:
    """Breaks off after so many bytes each time, and gives the rest where it is asked for it."""

    def __init__(self, *, tag: str = TAG, head: Head | None = None, body: Callable[[int], bytes] | None = None) -> None:
        self.tag = tag
        self.head = head or self._head
        self.body = body or (lambda _number: VIDEO)
        self.asked: list[tuple[str | None, str | None]] = []

    def _head(self, start: int, length: int) -> tuple[int, dict[str, str]]:
        if not start:
            return 200, {"ETag": self.tag} if self.tag else {}
        return 206, {"ETag": self.tag, "Content-Range": f"bytes {start}-{length - 1}/{length}"}

    def send(self, handler: BaseHTTPRequestHandler, _task: str) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((wanted, handler.headers.get("If-Range")))
        body = self.body(len(self.asked))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        status, headers = self.head(start, len(body))
        start = start if status == 206 else 0
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        handler.wfile.write(body[start : start + PIECE])
        handler.wfile.flush()
        handler.close_connection = True


@pytest.fixture(name="no_pause", autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.transport.downloads._PAUSE_S", 0.0)


@pytest.mark.parametrize("tag", [TAG, ""])
def test_the_rest_is_asked_for_where_the_connection_broke(tmp_path: Path, server: Played, tag: str) -> None:
    dated = {"Last-Modified": "Sat, 28 Nov 2026 11:00:00 GMT"}

    def head(start: int, length: int) -> tuple[int, dict[str, str]]:
        known = {"ETag": tag} if tag else dated
        return (206, known | {"Content-Range": f"bytes {start}-{length - 1}/{length}"}) if start else (200, known)

    storage = Storage(head=head)
    server.file = storage.send
    assert ran(tmp_path, server).exit_status is ExitStatus.DONE
    starts = range(0, len(VIDEO), PIECE)
    known = tag or dated["Last-Modified"]
    assert storage.asked == [(f"bytes={start}-", known) if start else (None, None) for start in starts]
    (row,) = json_lines(tmp_path / "out" / "results.jsonl")
    assert (tmp_path / "out" / row["output"]["media"][0]["path"]).read_bytes() == VIDEO
    assert len(server.orders) == 1


def _whole_again(_start: int, _length: int) -> tuple[int, dict[str, str]]:
    return 200, {"ETag": TAG}


def _wrong_place(start: int, length: int) -> tuple[int, dict[str, str]]:
    there = {"ETag": TAG, "Content-Range": f"bytes {start + 1}-{length - 1}/{length}"}
    return (206, there) if start else (200, {"ETag": TAG})


def _another_file(start: int, length: int) -> tuple[int, dict[str, str]]:
    there = {"ETag": '"v2"', "Content-Range": f"bytes {start}-{length - 1}/{length}"}
    return (206, there) if start else (200, {"ETag": TAG})


def _too_short(start: int, _length: int) -> tuple[int, dict[str, str]]:
    return (416, {}) if start else (200, {"ETag": TAG})


@pytest.mark.parametrize("head", [_whole_again, _wrong_place, _another_file, _too_short])
def test_what_is_not_the_rest_of_the_same_file_is_fetched_anew(tmp_path: Path, server: Played, head: Head) -> None:
    storage = Storage(head=head)
    server.file = storage.send
    report = ran(tmp_path, server)
    assert report.exit_status is ExitStatus.PAUSED
    assert files_in(tmp_path) == []
    server.file = _whole
    assert ran(tmp_path, server).exit_status is ExitStatus.DONE
    assert (len(server.orders), len(files_in(tmp_path))) == (1, 1)


def _whole(handler: BaseHTTPRequestHandler, _task: str) -> None:
    assert handler.headers.get("Range") is None, "a new file begins at its beginning"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(VIDEO)))
    handler.end_headers()
    handler.wfile.write(VIDEO)


@pytest.mark.parametrize("tag", ["", 'W/"v1"'])
def test_without_a_strong_tag_no_part_is_asked_for(tmp_path: Path, server: Played, tag: str) -> None:
    storage = Storage(tag=tag)
    server.file = storage.send
    assert ran(tmp_path, server).exit_status is ExitStatus.PAUSED
    assert {wanted for wanted, _ in storage.asked} == {None}


def test_the_cap_holds_over_all_parts(tmp_path: Path, server: Played) -> None:
    storage = Storage(body=lambda _number: VIDEO * 4)
    storage.head = lambda start, length: (
        (206, {"ETag": TAG, "Content-Range": f"bytes {start}-{length - 1}/*"}) if start else (200, {"ETag": TAG})
    )
    server.file = storage.send
    report = ran(tmp_path, server, output={"max_mb": 1})
    assert report.exit_status is ExitStatus.PAUSED
    assert "more than 1000000 bytes" in (report.status.message or "")
