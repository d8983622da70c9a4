"""Large files in a process of its own: memory stays flat, and kill -9 in the middle of a download loses no order."""

import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.e2e.lives import run
from tests.e2e.runs import CANARY, KEY_NAME
from tests.providers.task_servers import MODEL, SERVERS
from tests.support.json_lines import json_lines
from tests.support.task_server import Played, played

pytestmark = pytest.mark.real
PIECE = b"v" * (1 << 20)
START = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0\0\0\x10moov" + bytes(8)


def job_in(folder: Path, state: Played) -> Path:
    folder.mkdir(exist_ok=True)
    job = {
        "provider": {"dialect": "task", "task": "ark-videos", "base_url": state.base_url, "api_key_env": KEY_NAME},
        "kind": "media",
        "model": MODEL,
        "prompts": ["a cat"],
        "params": {"seed": 7},
        "output": {"dir": "out", "report": False},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def video(handler: BaseHTTPRequestHandler, megabytes: int, *, then: threading.Event | None = None) -> None:
    """`then` is awaited in the middle of it."""
    length = len(START) + 8 + megabytes * len(PIECE)
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(START + (length - len(START)).to_bytes(4, "big") + b"mdat")
    for number in range(megabytes):
        if then is not None and number == megabytes // 2:
            handler.wfile.flush()
            then.wait(60)
        handler.wfile.write(PIECE)


def peak_bytes(folder: Path, megabytes: int) -> int:
    with played(SERVERS["ark-videos"], key=CANARY) as state:
        state.done_at_once = True
        state.file = lambda handler, _: video(handler, megabytes)
        with run(job_in(folder, state)) as life:
            ended = life.end()
    assert ended.status == 0, ended.stderr
    (row,) = json_lines(folder / "out" / "results.jsonl")
    assert row["output"]["media"][0]["bytes"] == len(START) + 8 + megabytes * len(PIECE)
    return life.peak_bytes


def test_a_file_of_200_megabytes_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    small, large = peak_bytes(tmp_path / "small", 1), peak_bytes(tmp_path / "large", 200)
    assert large - small < 24 * 1024 * 1024, (small, large)


def test_a_kill_in_the_middle_of_a_download_leaves_an_order_whose_file_the_next_run_fetches(tmp_path: Path) -> None:
    with played(SERVERS["ark-videos"], key=CANARY) as state:
        go_on = threading.Event()
        state.done_at_once = True
        state.file = lambda handler, _: video(handler, 8, then=go_on)
        job = job_in(tmp_path, state)
        folder = tmp_path / "out" / "media"
        with run(job) as life:
            half = life.watch(until=lambda: any(path.stat().st_size > 1 << 20 for path in folder.glob(".*.tmp")))
            assert half, "the run ended before"
            assert life.kill()
        go_on.set()
        assert [path.suffix for path in folder.iterdir()] == [".tmp"], "half a file has no lasting name"
        with run(job) as second:
            ended = second.end()
    assert ended.status == 0, ended.stderr
    (row,) = json_lines(tmp_path / "out" / "results.jsonl")
    (file,) = row["output"]["media"]
    assert [path.name for path in folder.iterdir()] == [Path(file["path"]).name]
    assert (len(state.orders), row["ambiguous"], state.wrong) == (1, 0, [])
