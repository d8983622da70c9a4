"""A headless Chromium for the page: pages from disk, what they asked for and what they complained of."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PHONE: Final = (390, 844)


def chromium() -> str | None:
    """The path of a Chromium that is installed, `BATCHRUNNER_CHROMIUM` first."""
    names = (os.environ.get("BATCHRUNNER_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def why_not() -> str:
    """Why there is no browser here; empty if there is one."""
    try:
        import playwright.sync_api  # noqa: F401, PLC0415 - not everyone has it
    except ImportError:
        return "playwright is not installed: `make browser`"
    return "" if chromium() else "no Chromium is installed: `make browser`"


@contextmanager
def started() -> Iterator["Browser"]:
    """The browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - as above

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True, kw_only=True)
class Seen:
    """A page that is open."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ready(self) -> "Seen":
        """Wait until rows are shown."""
        self.page.wait_for_selector("html[data-ready]", timeout=120_000)
        return self

    def view(self, address: str) -> None:
        """Go to another view of the same page."""
        self.page.evaluate("address => { location.hash = address; }", address)
        self.settle()

    def settle(self) -> None:
        """Until what was asked for is drawn: two frames."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, condition: str | Callable[[], object], seconds: float = 120) -> None:
        """Until an expression in the page, or a function that looks at it, is true; else AssertionError.

        The page draws what it loads when it is there: whoever looks once sees what a fast machine shows.
        `page.wait_for_function` does not do here: its first look is allowed, but the later ones use `eval` inside
        the page, which the page's Content-Security-Policy refuses.
        """
        end = time.monotonic() + seconds
        while not (self.page.evaluate(condition) if isinstance(condition, str) else condition()):
            assert time.monotonic() < end, (f"not true after {seconds:g} s", condition, self.text("body")[:1000])
            self.page.wait_for_timeout(50)

    def press(self, *keys: str) -> None:
        """Type keys."""
        for key in keys:
            self.page.keyboard.press(key)
            self.settle()

    def text(self, selector: str) -> str:
        """What stands in the first element of a selector."""
        return str(self.page.locator(selector).first.inner_text())

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return int(self.page.locator(selector).count())

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.page.evaluate(script)


@contextmanager
def opened(
    browser: "Browser",
    path: Path,
    address: str = "",
    *,
    size: tuple[int, int] = (1280, 800),
    script: bool = True,
    dark: bool = False,
) -> Iterator[Seen]:
    """A page from disk; its own requests for itself are not counted."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        java_script_enabled=script,
        has_touch=size == PHONE,
        color_scheme="dark" if dark else "light",
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    seen = Seen(page=page)
    own = path.as_uri()
    page.on("request", lambda request: None if request.url.split("#")[0] == own else seen.requests.append(request.url))
    page.on("console", lambda said: seen.complaints.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(own + address)
    try:
        yield seen.ready() if script else seen
    finally:
        context.close()
