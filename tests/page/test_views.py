"""The page in a browser, from disk: every view, search, filters, order, keys, marks."""

import json
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import batchrunner
from batchrunner.page.report_file import joined_script, page_style
from tests.page.conftest import CHAT, ran
from tests.support.engine import RunHarness, World, chat
from tools.browser import PHONE, Seen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOME = Path(__file__).resolve().parents[2]
VIEWS = ("#results", "#results?item=1", "#compare", "#run", "#failures", "#marks")


@pytest.mark.parametrize("size", [(1280, 800), PHONE], ids=["desktop", "phone"])
def test_every_view_opens_from_disk_without_a_request_and_without_an_error(
    browser: "Browser", talk: Path, size: tuple[int, int]
) -> None:
    with opened(browser, talk / "report.html", size=size) as seen:
        for address in VIEWS:
            seen.view(address)
            seen.until("document.querySelector('main').innerText.length > 20")
        assert seen.requests == []
        assert seen.complaints == []
        assert seen.value("document.documentElement.scrollWidth") <= size[0]


def test_batches_stand_on_the_page_with_their_counts(browser: "Browser", tmp_path: Path) -> None:
    """Some of a batch that expired go into another one; one that is still open is last, and shown first."""
    harness = RunHarness(tmp_path, world=World(scenario="batch-expires:60"))
    prompts = [f"question {number}" for number in range(40)]
    job = chat(*prompts, more="batch: {use: always, max_items: 20, rest: wait}")
    with ThreadPoolExecutor(max_workers=1) as pool:
        status = pool.submit(harness.run, job).result().status
    with opened(browser, harness.out / "report.html") as seen:
        seen.view("#run")
        seen.until(lambda: seen.count("table.batches tbody tr") == len(status.batches))
        rows = [row.split("\t") for row in seen.page.locator("table.batches tbody tr").all_inner_texts()]
        assert seen.complaints == []
    assert len(rows) > 3
    assert rows == [
        [
            str(batch.id),
            batch.model,
            "results read",
            *map(str, (batch.items, 0, batch.done, 0, batch.returned)),
            "expired",
        ]
        for batch in reversed(status.batches)
    ]


def test_pictures_come_as_thumbnails_from_beside_the_page(browser: "Browser", pictures: Path) -> None:
    with opened(browser, pictures / "report.html") as seen:
        seen.until(lambda: seen.count(".cell img") == 12)
        assert all("/thumbs/" in address and address.startswith("file:") for address in seen.requests)
        assert seen.complaints == []
        seen.view("#results?item=1")
        seen.page.wait_for_selector(".item img.full")
        seen.until(lambda: "/images/" in str(seen.page.locator(".item img.full").evaluate("image => image.src")))
        for mode in ("swipe", "difference"):
            seen.view(f"#compare?mode={mode}")
            seen.page.wait_for_selector(f".over.{mode} img.above")
        assert seen.complaints == []


def test_columns_are_what_varies_and_rows_are_prompts(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.until(lambda: seen.count(".column-head") == 6)
        heads = seen.page.locator(".column-head").all_inner_texts()
        assert "sim/one" in "".join(heads)
        assert "temperature" in "".join(heads)
        seen.until(lambda: seen.text(".head .prompt-cell") == "100 prompts")
        seen.until(lambda: seen.value("document.querySelector('.scroller').ariaRowCount") == "101")


def test_search_finds_prompts_and_answers_by_all_words(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.press("/")
        seen.page.keyboard.type('"question 42" TIDES')
        seen.page.wait_for_selector(".active:has-text('6 items')")
        seen.until(lambda: seen.text(".row .prompt") == "Question 42 about tides.")
        seen.view("#results?q=prompt_id")  # a name in the rows' JSON, not a text of theirs
        seen.page.wait_for_selector(".state-note:has-text('Nothing matches')")
        assert seen.complaints == []


LAYOUTS_ASKED_FOR = """async (address) => {
  const asked = [];
  for (const name of ["scrollTop", "clientHeight", "clientWidth"]) {
    const { get, set } = Object.getOwnPropertyDescriptor(Element.prototype, name);
    const noted = { get() { asked.push(name); return get.call(this); } };
    if (set) noted.set = function (value) { asked.push(`${name} = ${value}`); set.call(this, value); };
    Object.defineProperty(Element.prototype, name, noted);
  }
  const before = document.querySelector(".row");
  location.hash = address;
  while (before.isConnected) await new Promise((done) => requestAnimationFrame(done));
  return asked;
}"""


def test_a_search_draws_its_rows_without_asking_for_the_layout(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.view("#results?q=tides")
        seen.page.wait_for_selector(".active:has-text('600 items')")
        seen.settle()
        assert seen.page.evaluate(LAYOUTS_ASKED_FOR, "#results?q=tides%20%22question%204%22") == []
        seen.until(lambda: seen.text(".active span") == "11 prompts, 66 items")


def test_a_search_shows_its_rows_from_the_first_one_on_wherever_the_list_was(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.value("document.querySelector('.scroller').scrollTop = 9000")
        seen.settle()
        seen.view("#results?q=tides")
        seen.page.wait_for_selector(".active:has-text('600 items')")
        seen.settle()
        seen.until(lambda: seen.value("document.querySelector('.scroller').scrollTop") == 0)
        seen.until(lambda: seen.text(".row .prompt") == "Question 0 about tides.")


def test_every_count_leads_to_its_filter_and_filters_can_be_taken_back(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.page.click("summary:has-text('State')")
        seen.page.click(".menu-list a:has-text('failed')")
        seen.page.wait_for_selector(".active:has-text('3 items')")
        assert "state=failed" in seen.page.url
        seen.page.click(".active a:has-text('clear all')")
        seen.settle()
        seen.until(lambda: seen.text(".head .prompt-cell") == "100 prompts")
        seen.page.click(".views a:has-text('Failures')")
        seen.page.click(".cause h2 a")
        seen.page.wait_for_selector(".active:has-text('3 items')")


def test_a_link_into_the_page_leaves_the_keys_free(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.view("#results?q=tides")
        seen.page.wait_for_selector(".active:has-text('600 items')")
        seen.press("?")
        seen.until(lambda: seen.count("dialog.help[open]") == 1)


def test_menus_stay_inside_of_the_window(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html", size=PHONE) as seen:
        for menu in seen.page.locator("details.menu > summary").all():
            menu.click()
            seen.settle()
            right = seen.page.locator("details.menu[open] .menu-list").evaluate(
                "list => list.getBoundingClientRect().right"
            )
            assert right <= PHONE[0]
            seen.press("Escape")


def test_a_cell_without_an_answer_states_why(browser: "Browser", tmp_path: Path) -> None:
    folder = ran(tmp_path, CHAT.replace("{file: prompts.txt}", "[one, two]"), limit=8)
    with opened(browser, folder / "report.html") as seen:
        seen.until(lambda: seen.count(".missing") == 4)
        seen.until(lambda: seen.text(".missing") == "not sent")


def test_items_without_an_answer_are_reported_also_where_nothing_of_their_prompt_was_sent(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = ran(tmp_path, CHAT.replace("{file: prompts.txt}", "[one, two, three]"), limit=6)
    with opened(browser, folder / "report.html") as seen:
        seen.until(lambda: seen.count(".row") == 1)
        seen.until(lambda: seen.text(".rest") == "12 items have no answer: still to send")
        seen.page.click(".rest a")
        seen.settle()
        seen.until(lambda: "12 items have no answer" in seen.text("main"))
        seen.until(lambda: seen.text("main .command code").startswith("batchrunner run"))
        assert seen.complaints == []


def test_axes_and_items_may_be_called_like_members_of_every_object(browser: "Browser", tmp_path: Path) -> None:
    job = CHAT.replace("{file: prompts.txt}", "[{id: constructor, prompt: one}, {id: toString, prompt: two}]")
    folder = ran(tmp_path, job.replace("temperature", "constructor"), limit=9)
    with opened(browser, folder / "report.html") as seen:
        seen.until(lambda: seen.count(".column-head") == 6)
        seen.until(lambda: seen.count(".missing") == 3)
        seen.until(lambda: {seen.page.locator(".missing").nth(n).inner_text() for n in range(3)} == {"not sent"})
        for address in ("#constructor", "#results?sort=toString", "#results?size=valueOf"):
            seen.view(address)
            seen.until("document.querySelectorAll('.row').length === 2")
        assert seen.complaints == []


def test_a_filter_of_an_axis_hides_its_other_columns(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html", "#results?x.model=sim%2Ftwo") as seen:
        seen.until(lambda: seen.count(".column-head") == 2)


def test_rows_are_sorted_by_any_figure(browser: "Browser", talk: Path) -> None:
    rows: list[Any] = list(batchrunner.results(str(talk)))
    with opened(browser, talk / "report.html", "#results?sort=-output") as seen:
        seen.page.wait_for_selector(".row[data-entry='0'] .prompt:not(:empty)")
        first = seen.text(".row[data-entry='0'] .prompt")
        tokens = [row["usage"]["output_tokens"] for row in rows if row["prompt"] == first]
        assert max(tokens) == max(row["usage"]["output_tokens"] for row in rows)


def test_keys_move_open_close_and_mark(browser: "Browser", talk: Path, tmp_path: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.press("j", "ArrowRight", "Enter")
        seen.until(lambda: "Question 1 about" in seen.text(".item-main"))
        first = seen.text(".item-title b")
        seen.press("ArrowRight")
        seen.until(lambda: seen.text(".item-title b") != first)
        seen.press("ArrowLeft")
        seen.until(lambda: seen.text(".item-title b") == first)
        seen.press("4")
        seen.until(lambda: seen.text(".mark-button.chosen") == "4")
        seen.press("Escape")
        seen.until(lambda: not seen.count("dialog.item[open]"))
        seen.press("x", "?")
        seen.until(lambda: seen.count("dialog.help[open]") == 1)
        seen.press("Escape")
        seen.until(lambda: not seen.count("dialog.help[open]"))
        seen.view("#marks")
        with seen.page.expect_download() as download:
            seen.page.click("button:has-text('Download')")
        download.value.save_as(tmp_path / "marks.jsonl")
        lines = [json.loads(line) for line in (tmp_path / "marks.jsonl").read_text("utf-8").splitlines()]
        assert [(line["id"], line["mark"]) for line in lines] == [(first, "x")]
        assert lines[0]["key"] in {row["key"] for row in batchrunner.results(str(talk))}
        seen.page.reload()
        seen.ready()
        seen.until(lambda: seen.text(".marked") != "")
        assert seen.complaints == []


def test_an_address_leads_to_the_item_it_names(browser: "Browser", talk: Path) -> None:
    row: Any = next(row for row in batchrunner.results(str(talk)) if row["index"] == 77)
    with opened(browser, talk / "report.html", "#results?item=77") as seen:
        seen.until(lambda: seen.text(".item-title b") == row["id"])
        seen.until(lambda: row["output"]["text"] in seen.text(".item-main"))


def test_an_item_is_copied_as_an_entry_of_a_job_as_a_request_and_for_image_tools(
    browser: "Browser", talk: Path, pictures: Path
) -> None:
    def copied(seen: Seen, name: str) -> str:
        seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        seen.value("navigator.clipboard.writeText('')")
        seen.page.click(f".buttons button:text-is('{name}')")
        seen.page.wait_for_selector(".buttons button:text-is('copied')")
        seen.until("navigator.clipboard.readText()")
        return str(seen.value("navigator.clipboard.readText()"))

    with opened(browser, talk / "report.html", "#results?item=50") as seen:
        row: Any = next(row for row in batchrunner.results(str(talk)) if row["index"] == 50)
        (entry,) = yaml.safe_load(copied(seen, "YAML entry"))
        assert entry == {"id": row["id"], "prompt": row["prompt"], "params": row["params"]}
        words = shlex.split(copied(seen, "curl"))
        assert words[:2] == ["curl", "http://simulator.invalid/v1/chat/completions"]
        assert "Authorization: Bearer $API_KEY" in words
        body = json.loads(words[words.index("-d") + 1])
        assert body == {
            "model": row["model"],
            "messages": [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["prompt"]}],
            **row["params"],
        }
        assert json.loads(copied(seen, "JSON")) == row
        assert copied(seen, "answer") == row["output"]["text"]
    with opened(browser, pictures / "report.html", "#results?item=2") as seen:
        lines = copied(seen, "A1111 text").splitlines()
        assert lines[0] == "an owl in a teacup"
        assert {"Seed: 2", "Size: 256x256", "Model: sim/painter"} <= set(lines[1].split(", "))
        assert seen.count(".buttons button:text-is('answer')") == 0, "a picture is no text to copy"


def test_print_has_the_visible_rows_and_no_controls(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        seen.page.emulate_media(media="print")
        seen.settle()
        seen.until(lambda: not seen.page.locator(".filters").is_visible())
        seen.until(seen.page.locator(".row .prompt").first.is_visible)
        tops = [row.bounding_box() for row in seen.page.locator(".row").all()]
        assert all(a and b and a["y"] + a["height"] <= b["y"] + 1 for a, b in pairwise(tops))


def test_compare_shows_what_differs_word_by_word(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html", "#compare") as seen:
        seen.page.wait_for_selector(".pair ins")
        seen.until(lambda: seen.count(".pair") == 12)
        seen.press("d")
        seen.page.wait_for_selector(".pair .text")
        seen.until(lambda: seen.count(".pair ins") == 0)


def test_the_run_view_has_lanes_figures_and_waits(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html", "#run") as seen:
        shown = ("sim/one", "597", "p50", "p95", "Waits", "Items a minute")
        seen.until(lambda: all(words in seen.text("main") for words in shown))
        seen.until(lambda: seen.count("svg.drawing rect") > 3)


def test_failures_show_the_servers_words_an_example_and_the_command(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html", "#failures") as seen:
        seen.page.wait_for_selector(".cause .link-button")
        seen.until(lambda: "requires moderation" in seen.text("main") and "--retry-failed" in seen.text("main"))
        seen.page.click(".cause .link-button")
        seen.page.wait_for_selector(".item .failed-text")


def test_many_rows_need_few_elements(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        assert seen.value("document.querySelectorAll('*').length") < 600
        seen.value("document.querySelector('.scroller').scrollTop = 9000")
        seen.settle()
        assert seen.value("document.querySelectorAll('*').length") < 600
        seen.until("!document.querySelector('.skeleton')")


def test_without_javascript_the_totals_are_there(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html", script=False) as seen:
        text = seen.text("noscript")
        assert "597 of 600 done, 3 failed" in text
        assert "needs JavaScript" in text


def test_the_page_holds_no_path_of_this_machine(talk: Path, pictures: Path) -> None:
    for folder in (talk, pictures):
        text = (folder / "report.html").read_text("utf-8")
        assert str(folder.parent) not in text
        assert str(Path.home()) not in text
        assert str(Path.cwd()) not in text


def test_inline_makes_one_file_that_can_be_mailed(browser: "Browser", pictures: Path, tmp_path: Path) -> None:
    batchrunner.write_page(str(pictures), out=tmp_path / "mail", inline=True)
    alone = tmp_path / "alone.html"
    shutil.copy(tmp_path / "mail" / "index.html", alone)
    with opened(browser, alone) as seen:
        seen.until(lambda: seen.count(".cell img[src^='data:image/webp']") == 12)
        seen.view("#results?item=1")
        seen.page.wait_for_selector(".item img.full")
        assert all(address.startswith("data:") for address in seen.requests)
        assert seen.complaints == []


def test_copy_makes_a_folder_that_can_be_moved(browser: "Browser", pictures: Path, tmp_path: Path) -> None:
    written = batchrunner.write_page(str(pictures), out=tmp_path / "site", copy=True)
    assert written.pictures_copied == 12
    (tmp_path / "site").rename(tmp_path / "elsewhere")
    with opened(browser, tmp_path / "elsewhere" / "index.html", "#results?item=1") as seen:
        seen.page.wait_for_selector(".item img.full")
        assert seen.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_view_has_a_serious_fault_for_those_who_cannot_see_it(
    browser: "Browser", talk: Path, pictures: Path, tmp_path: Path, *, dark: bool
) -> None:
    axe = HOME / ".browser" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: `make browser`")
    unfinished = ran(tmp_path, CHAT.replace("{file: prompts.txt}", "[one, two, three]"), limit=8)
    for folder in (talk, pictures, unfinished):
        with opened(browser, folder / "report.html", dark=dark) as seen:
            seen.value(axe.read_text("utf-8") + "\n;0")
            for address in (*VIEWS, "#results?q=nothing-has-this"):
                seen.view(address)
                found = seen.value("axe.run(document, { resultTypes: ['violations'] })")["violations"]
                assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == [], address


def test_script_and_style_stay_small() -> None:
    assert len(joined_script()) + len(page_style()) <= 120_000


CHECKED = """
name: checked
provider: simulator
models: [sim/one, sim/two]
prompts: {file: prompts.txt}
checks:
  - regex: "[aeiou]s? .*[.]$"
    counts: false
  - python: "mine.py:odd"
"""
ODD = """
def odd(row):
    number = int(row["prompt"].split()[1])
    return {"pass": (number % 3 == 0) if row["model"] == "sim/one" else number % 2 == 0, "reason": "a <b>reason</b>"}
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    (folder / "prompts.txt").write_text("".join(f"Question {n} about tides.\n" for n in range(30)), "utf-8")
    (folder / "mine.py").write_text(ODD)
    return ran(folder, CHECKED)


def test_rows_have_their_verdicts_and_are_filtered_by_them(browser: "Browser", checked: Path) -> None:
    with opened(browser, checked / "report.html") as seen:
        seen.until(lambda: "pass" in seen.page.locator(".cell .badge").all_inner_texts())
        seen.view("#results?checks=fail&x.model=sim%2Fone")
        seen.until(lambda: seen.text(".head .prompt-cell") == "20 prompts")
        seen.view("#results?item=1")
        seen.until(lambda: re.search("(fail|pass) · a <b>reason</b>", seen.text(".item aside")))
        assert seen.complaints == []


def test_compare_begins_with_the_flips_and_counts_them(browser: "Browser", checked: Path) -> None:
    with opened(browser, checked / "report.html") as seen:
        seen.view("#compare")
        seen.page.wait_for_selector(".pair-column .badge")
        seen.until(lambda: "10 won, 5 lost" in seen.text(".figures"))
        figures = seen.text(".figures")
        assert "10 of 30 (33.3 %)" in figures
        assert "15 of 30 (50.0 %)" in figures
        flips = [n for n in range(30) if (n % 3 == 0) != (n % 2 == 0)]

        def titles() -> list[int]:
            return [int(title.split()[1]) for title in seen.page.locator(".pair-title").all_inner_texts()]

        seen.until(lambda: titles() == flips[: seen.count(".pair")])
        assert seen.complaints == []


def test_a_run_without_checks_shows_none(browser: "Browser", talk: Path) -> None:
    with opened(browser, talk / "report.html") as seen:
        assert "Checks" not in seen.text(".filters")
        seen.view("#compare")
        seen.page.wait_for_selector(".figures")
        assert "won" not in seen.text(".figures")
