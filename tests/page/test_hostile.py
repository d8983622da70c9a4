"""Texts that would run, navigate, ask a server or break the layout, wherever such a text can stand in the page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import batchrunner
from batchrunner.page.report_file import data_block
from tests.page.conftest import ran
from tools.browser import PHONE, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = (
    "</script><script>window.__xss=1</script>",
    "<img src=x onerror=window.__xss=1>",
    "</style><style>*{display:none}</style>",
    '<base href="https://example.invalid/">',
    '<meta http-equiv="refresh" content="0;url=https://example.invalid/">',
    '"><svg onload=window.__xss=1>',
    "javascript:window.__xss=1",
    "{{ 7*7 }}${window.__xss=1}",
    "line\u2028separator\u2029paragraph\x85next",
    "nul\x00 esc\x1b[31m bidi\u202egnp.exe",
    "<!--<script>window.__xss=1",
    "w" * 200_000,
)
ROWS = 20


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows hold each text in id, model, prompt, vars, answer, error and file name, 20 times each."""
    folder = tmp_path_factory.mktemp("hostile")
    run = ran(folder, "name: hostile\nprovider: simulator\nmodels: [m, n]\nprompts: [a]\n")
    template: Any = next(batchrunner.results(str(run)))
    done, failed = [], []
    for number in range(len(HOSTILE) * ROWS):
        text = HOSTILE[number // ROWS]
        row = {**template, "index": number + 1, "key": f"{number:032x}", "prompt_id": f"{text} {number}"}
        row |= {"id": f"{text} {number}", "prompt": text, "model": text[:4000], "system": text, "vars": {text: text}}
        row |= {"params": {text[:200]: text}, "task_id": text}
        if number % 4 == 3:
            row = {name: value for name, value in row.items() if name not in ("output", "usage", "seconds")}
            row |= {"error": {"class": text[:300], "message": text, "status": 400, "code": text, "request_id": text}}
            row |= {"failed_at": row["started_at"]}
            failed.append(row)
        elif number % 8 == 6:
            files = [
                {"path": text, "sha256": "0" * 64, "type": kind, "format": text, "bytes": 1}
                for kind in ("video/mp4", text)
            ]
            done.append({**row, "output": {"media": files, "flags": [text]}})
        elif number % 4 == 2:
            picture = {"path": text, "sha256": "0" * 64, "width": 8, "height": 8, "format": text, "bytes": 1}
            done.append({**row, "output": {**template["output"], "text": "", "images": [picture]}})
        else:
            done.append({**row, "output": {**template["output"], "text": text, "reasoning": text}})
    for name, rows in (("results.jsonl", done), ("failures.jsonl", failed)):
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    batchrunner.write_page(str(run))
    return run


def test_no_untrusted_text_runs_asks_or_breaks_the_layout(browser: "Browser", hostile: Path) -> None:
    """Threat 11."""
    own = hostile.as_uri()
    for size in ((1280, 800), PHONE):
        with opened(browser, hostile / "report.html", size=size) as seen:
            address = seen.page.url
            for view in ("#results", "#compare", "#run", "#failures", "#marks", "#results?q=script"):
                seen.view(view)
                assert seen.value("document.documentElement.scrollWidth") <= size[0], view
                assert seen.value("document.querySelector('.bar').offsetHeight") < 200, view
            for number in range(1, len(HOSTILE) * ROWS + 1, 7):
                seen.view(f"#results?item={number}")
            assert seen.value("window.__xss === undefined")
            assert seen.value("document.querySelectorAll('script:not([type])').length") == 1
            assert seen.value("document.querySelectorAll('base, iframe, object, embed, form').length") == 0
            assert all(asked.startswith((own, "data:", "blob:")) for asked in seen.requests), seen.requests
            assert seen.page.url.partition("#")[0] == address.partition("#")[0]
            assert [said for said in seen.complaints if "Failed to load resource: net::ERR_" not in said] == []


def test_a_data_block_cannot_be_ended_by_what_is_in_it() -> None:
    """Threat 11."""
    for text in HOSTILE:
        block = data_block(json.dumps([text]).encode())
        assert "<" not in block
        assert json.loads(block) == [text]
