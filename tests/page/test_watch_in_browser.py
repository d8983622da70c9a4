"""The page of `batchrunner watch` in a browser: rows as they come, kills and restarts, many tabs, and hostile texts."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchrunner.page.watch import WatchServer
from tests.page.test_hostile import HOSTILE, hostile
from tests.page.test_hostile import ROWS as HOSTILE_ROWS
from tests.page.watching import add, ids_on_disk, lines_of, replace
from tests.support.json_lines import json_lines_so_far
from tests.support.waiting import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["hostile"]
pytestmark = pytest.mark.slow
SLOW = """
name: slow
provider: simulator
model: sim/chat
prompts: {file: prompts.txt}
limits: {concurrency: 2, requests_per_minute: 100}
"""
ITEMS = 300


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """The address of a server in a thread: the browser's loop occupies this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = WatchServer(folder, port=port)
    try:
        yield asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE_S)
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Tab:
    """A page of the server."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def rows(self) -> int:
        return int(self.page.evaluate("document.documentElement.dataset.rows ?? -1"))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, (self.rows(), self.text(".live-note"), self.text(".new-pill"))
            self.page.wait_for_timeout(50)

    def text(self, selector: str) -> str:
        return str(
            self.page.evaluate(
                "s => { const e = document.querySelector(s); return e && !e.hidden ? e.textContent : '' }", selector
            )
        )

    def ids(self) -> list[str]:
        """The ids of all rows that the page has, as its source gives them."""
        script = """async () => {
            const { meta, chunk } = window.batchrunnerSource;
            const found = [];
            for (let n = 0; n * 256 < meta.rows; n++) {
                const text = await chunk(n);
                for (const line of text.split("\\n")) found.push(JSON.parse(line.split("\\t")[0])[0]);
            }
            return found;
        }"""
        return [str(name) for name in self.page.evaluate(script)]


@contextmanager
def tab(browser: "Browser", address: str, **options: Any) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1_000)
    seen = Tab(page)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda said: seen.complaints.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    try:
        yield seen
    finally:
        context.close()


@pytest.fixture
def folder(talk: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with 600 rows."""
    return Path(shutil.copytree(talk, tmp_path / "run"))


def test_rows_appear_as_they_come_and_are_the_rows_on_disk(browser: "Browser", folder: Path) -> None:
    path = folder / "results.jsonl"
    first, *rest = lines_of(folder)
    (folder / "failures.jsonl").write_bytes(b"")
    path.write_bytes(first)
    with serving(folder) as address, tab(browser, address) as seen:
        assert seen.rows() == 1
        add(path, *rest[:9], rest[9][:40])
        seen.until(lambda: seen.rows() == 10)
        add(path, rest[9][40:], *rest[10:])
        seen.until(lambda: seen.rows() == len(rest) + 1)
        assert sorted(seen.ids()) == ids_on_disk(folder)
        replace(path, b"".join(reversed(lines_of(folder))))
        seen.until(lambda: sorted(seen.ids()) == ids_on_disk(folder) and seen.ids()[0] == json.loads(rest[-1])["id"])
        for view in ("#compare", "#run", "#failures", "#results"):
            seen.page.evaluate("view => { location.hash = view; }", view)
            seen.page.wait_for_timeout(100)
        assert seen.complaints == []


@pytest.mark.parametrize("files", ["empty", "absent"])
def test_a_page_that_was_opened_before_the_first_answer_shows_it_when_it_comes(
    browser: "Browser", folder: Path, files: str
) -> None:
    path, lines = folder / "results.jsonl", lines_of(folder)
    for name in ("results.jsonl", "failures.jsonl"):
        (folder / name).unlink()
        if files == "empty":
            (folder / name).touch()
    with serving(folder) as address, tab(browser, address) as seen:
        assert seen.rows() == 0
        add(path, *lines[:3])
        seen.until(lambda: seen.rows() == 3)
        seen.until(lambda: seen.page.locator(".row .answer").count() > 0)
        (folder / "gone").mkdir()
        path.rename(folder / "gone" / path.name)  # and back to none
        seen.until(lambda: seen.rows() == 0)
        add(path, *lines)
        seen.until(lambda: seen.rows() == len(lines))
        assert seen.complaints == []


def test_what_is_being_read_does_not_move_and_a_button_reports_how_many_are_new(
    browser: "Browser", folder: Path
) -> None:
    path = folder / "results.jsonl"
    lines = lines_of(folder)
    path.write_bytes(b"".join(lines[:-37]))
    with serving(folder) as address, tab(browser, address) as seen:
        before = seen.rows()
        scrolled_to_600 = "document.querySelector('.scroller').scrollTop === 600"
        seen.until(
            lambda: seen.page.evaluate(f"(document.querySelector('.scroller').scrollTop = 600, {scrolled_to_600})")
        )
        add(path, *lines[-37:])
        seen.until(lambda: seen.text(".new-pill") == "37 new ▲")
        assert seen.rows() == before
        assert seen.page.evaluate(scrolled_to_600)
        seen.page.click(".new-pill")
        seen.until(lambda: seen.rows() == before + 37)
        seen.until(lambda: seen.text(".new-pill") == "")
        assert seen.complaints == []


def test_a_hidden_tab_lets_go_of_its_connection_and_asks_for_the_difference(browser: "Browser", folder: Path) -> None:
    path = folder / "results.jsonl"
    lines = lines_of(folder)
    path.write_bytes(b"".join(lines[:-5]))
    hide = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with serving(folder) as address, tab(browser, address) as seen:
        before = seen.rows()
        seen.page.evaluate(hide, arg=True)
        add(path, *lines[-5:])
        seen.page.wait_for_timeout(1500)
        assert seen.rows() == before
        seen.page.evaluate(hide, arg=False)
        seen.until(lambda: seen.rows() == before + 5)
        assert sum("/events" in asked for asked in seen.requests) == 2


def test_every_one_of_ten_tabs_shows_new_rows(browser: "Browser", folder: Path) -> None:
    """Each in a window of its own; in one window nine of them would be hidden, and have no connection."""
    path = folder / "results.jsonl"
    lines = lines_of(folder)
    path.write_bytes(b"".join(lines[:-1]))
    with serving(folder) as address:
        contexts = [tab(browser, address) for _ in range(10)]
        tabs = [context.__enter__() for context in contexts]
        before = tabs[0].rows()
        add(path, lines[-1])
        tabs[0].until(lambda: all(each.rows() > before for each in tabs))
        for context in contexts:
            context.__exit__(None, None, None)


def test_a_run_that_is_killed_and_run_again_is_followed_to_its_end(browser: "Browser", tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"Question {n}?\n" for n in range(ITEMS)), "utf-8")
    (tmp_path / "job.yaml").write_text(SLOW, "utf-8")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "batchrunner", "run", "job.yaml", "--simulate", "--out", str(out), "--quiet"]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run = start()
    try:
        wait_until(lambda: len(lines_of(out)) >= 5, "answers are there", process=run)
        with serving(out) as address, tab(browser, address) as seen:
            seen.until(lambda: seen.rows() > 10)
            seen.until(lambda: seen.text(".live-note") == "")
            run.send_signal(signal.SIGKILL)
            run.wait()
            seen.until(lambda: "no process works on this run since" in seen.text(".live-note"))
            there = len(json_lines_so_far(out / "results.jsonl"))
            seen.until(lambda: seen.rows() == there)
            (tmp_path / "job.yaml").write_text(SLOW.replace("100", "3000"), "utf-8")
            run = start()
            seen.until(lambda: seen.rows() > there + 3)
            seen.until(lambda: seen.text(".live-note") == "")
            assert run.wait(PATIENCE_S) == 0
            seen.until(lambda: seen.rows() == ITEMS)
            seen.until(lambda: sorted(seen.ids()) == ids_on_disk(out))
            assert len(ids_on_disk(out)) == ITEMS
            seen.until(lambda: seen.text(".status .state-done") == "done")
            seen.until(lambda: seen.text(".live-note") == "")  # a run that is done needs no process
            assert seen.complaints == []
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()


def test_no_untrusted_text_runs_or_asks_through_watch(browser: "Browser", hostile: Path) -> None:
    """Threat 11."""
    with serving(hostile) as address, tab(browser, address) as seen:
        assert seen.rows() == len(HOSTILE) * HOSTILE_ROWS
        for view in ("#results", "#compare", "#run", "#failures", "#marks", "#results?q=script"):
            seen.page.evaluate("view => { location.hash = view; }", view)
            seen.page.wait_for_timeout(60)
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= 1280, view
        for number in range(1, len(HOSTILE) * HOSTILE_ROWS + 1, 7):
            seen.page.evaluate("view => { location.hash = view; }", f"#results?item={number}")
            seen.page.wait_for_timeout(20)
        assert seen.page.evaluate("window.__xss === undefined")
        assert seen.page.evaluate("document.querySelectorAll('script:not([type])').length") == 2
        assert seen.page.evaluate("document.querySelectorAll('base, iframe, object, embed, form').length") == 0
        assert all(asked.startswith((address, "data:", "blob:")) for asked in seen.requests), seen.requests
        assert seen.page.url.partition("#")[0] == address
        assert [
            said for said in seen.complaints if "Failed to load resource: the server responded with" not in said
        ] == []


def test_a_server_that_is_gone_is_reported_and_found_again(browser: "Browser", folder: Path) -> None:
    first = serving(folder)
    address = first.__enter__()
    with tab(browser, address) as seen:
        before = seen.rows()
        first.__exit__(None, None, None)
        seen.until(lambda: "connection to batchrunner watch lost" in seen.text(".live-note"))
        with serving(folder, port=int(address.rstrip("/").rpartition(":")[2])):
            seen.until(lambda: "lost" not in seen.text(".live-note"))
            seen.until(lambda: seen.rows() == before)
