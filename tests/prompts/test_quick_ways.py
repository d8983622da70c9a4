"""Every quick way over many rows at once gives what the way row by row gives: items, mistakes, and their order.

Each way is switched off in turn, over sources that nobody thought of: what differs then is found, whatever it is.
"""

import asyncio
import csv
import io
import json
import sys
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import Job, Json, Turn
from batchrunner.prompts import check_items, ids, items_of, render, sandbox
from batchrunner.prompts.ids import KeyMaker, item_key, slug
from batchrunner.prompts.plain import PlainItems
from batchrunner.prompts.render import Template
from batchrunner.prompts.sources import comma_separated, openai_batch, text_files
from tests.prompts.jobs import job_of, source

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ("prompt", "q", "n", "Sub Category", "row", "dict")
TEXTS = st.text(st.sampled_from("ab,;\"'\t\r\n{}%\\/é漢🎉\x00\x1f\x7f\u2028\ufeff0-. "), max_size=12)
CELLS = st.sampled_from(("a", "b c", "%s", "é", "x, y", 'say "x"', "{{ q }}", "", " ", "line\nline", "cr\rcr", "\r"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES: st.SearchStrategy[Json] = SCALARS | st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.fixed_dictionaries(
    {"prompt": CELLS, "q": CELLS | st.integers() | st.booleans()},
    optional={"n": VALUES, "Sub Category": CELLS, "row": CELLS, "dict": VALUES},
)
ODD_LINES = st.sampled_from(
    (
        *(b"", b" \t", b"nothing", b"[]", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b'"two'),
        *(b'{"q": 1e999}', b'{"prompt": "a"}{"q": 1}', b'{"prompt": "a", "prompt": "b"}', b'a,"b', b'a,"b"c', b"\x00"),
        *(b"a,b,c", b"x\r", b'"', b'{"a":' * 300 + b"1" + b"}" * 300, b'{"prompt": ' + b"9" * 5000 + b"}", b'lines",1'),
    )
)
SOME_ODD = st.lists(st.tuples(st.integers(0, 9), ODD_LINES), max_size=1)
TEMPLATES = st.sampled_from(
    (
        *(
            None,
            "{{ prompt }}",
            "{{ q }} of {{ prompt }}%s",
            "{{q}}{{q}}\n",
            "{{ Sub_Category }}",
            "{{ row }}: {{ q }}",
        ),
        *("{{ q }}}", "{{- q -}} x", "{{ none }}", "{{ True }}{{ q }}", "a {% if q %}b{% endif %}", "{{ dict }}"),
        *(
            "{# no #}{{ q }}",
            "{{ q }}\r\n{{ q }}",
            "{ {{ q }} {",
            "{{ q\n}}",
            "{{ q | upper }}",
            "%d %% {{ q }}",
            "{{ q }",
        ),
        *("{{{ q }}", "fixed", "{{ q }}\n\n", "{{ n }}", "%{{ q }}%%"),
    )
)


@contextmanager
def row_by_row() -> Iterator[None]:
    """Without any quick way."""

    def never(*_: object) -> None:
        return None

    def only_fixed(self: Template, *_: object) -> str | None:
        return self._fixed

    with pytest.MonkeyPatch.context() as patch:
        for way in (text_files._Objects, text_files._Texts, text_files._TabTable):
            patch.setattr(way, "many", never)
        patch.setattr(comma_separated._Table, "whole", never)
        patch.setattr(PlainItems, "texts", never)
        patch.setattr(openai_batch, "_plain_turns", never)
        patch.setattr(Template, "joined", only_fixed)
        patch.setattr(render, "_simple_pieces", never)
        patch.setattr(sandbox, "_pieces", never)
        patch.setattr(ids, "_flat", never)
        yield


def comes_to(job: Job) -> list[str]:
    found: list[str] = []

    async def read() -> None:
        async for batch in items_of(job).batches():
            found.extend(map(repr, batch))

    try:
        asyncio.run(read())
    except JobMistakesError as error:
        found.append(str(error))
    return [*found, *map(str, asyncio.run(check_items(job)))]


def same(job: Job) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "BATCH_ROWS", 2)  # a header stands in a batch of its own
        quick = comes_to(job)
        with row_by_row():
            slow = comes_to(job)
    assert quick == slow


def job_over(path: Path, content: bytes, template: str | None, *, skip: bool, **more: Any) -> Job:
    on_bad_row = "skip" if skip else "fail"
    return job_of(source(path, content, template=template, on_bad_row=on_bad_row), **more)


@FEW
@given(
    rows=st.lists(ROWS.map(lambda row: json.dumps(row).encode()), max_size=5),
    odd=SOME_ODD,
    template=TEMPLATES,
    params=st.sampled_from(({}, {"seed": "{{ q }}", "x": True}, {"stop": ["{{ q }}"], "y": None})),
)
def test_lines_of_json(
    tmp_path: Path, rows: list[bytes], odd: list[tuple[int, bytes]], template: str | None, params: dict[str, Json]
) -> None:
    for place, line in odd:
        rows.insert(place, line)
    for skip in (True, False):
        same(job_over(tmp_path / "rows.jsonl", b"\n".join(rows), template, skip=skip, params=params))


@FEW
@given(
    table=st.integers(1, 3).flatmap(
        lambda width: st.tuples(st.just(NAMES[:width]), st.lists(st.lists(CELLS, min_size=width, max_size=width)))
    ),
    odd=SOME_ODD,
    template=TEMPLATES,
    ending=st.sampled_from([".csv", ".tsv", ".txt"]),
)
def test_tables(
    tmp_path: Path,
    table: tuple[tuple[str, ...], list[list[str]]],
    odd: list[tuple[int, bytes]],
    template: str | None,
    ending: str,
) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([table[0], *table[1]])
    raw = written.getvalue().encode().split(b"\n")
    if ending == ".tsv":
        raw = ["\t".join(row).encode().replace(b"\n", b"") for row in (table[0], *table[1])]
    for place, line in odd:
        raw.insert(place, line)
    for skip in (True, False):
        same(job_over(tmp_path / f"rows{ending}", b"\n".join(raw), template, skip=skip))


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool", "nobody"]), "content": CELLS | st.just("hi")},
        optional={"name": TEXTS, "x": st.just(1)},
    ),
    max_size=3,
)


@FEW
@given(bodies=st.lists(st.fixed_dictionaries({"messages": MESSAGES}, optional={"seed": VALUES, "model": st.just("m")})))
def test_batch_files(tmp_path: Path, bodies: list[dict[str, Json]]) -> None:
    rows = [
        json.dumps({"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
        for n, body in enumerate(bodies)
    ]
    for skip in (True, False):
        same(job_over(tmp_path / "rows.jsonl", b"\n".join(rows), None, skip=skip, models=("m",), system="S"))


@FEW
@given(params=st.dictionaries(TEXTS, VALUES, max_size=4), texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_keys_from_a_kept_beginning(params: dict[str, Json], texts: list[str]) -> None:
    system = Turn(role="system", content="the same for all")
    maker = KeyMaker(dialect="openai-chat", model='"m", "params":{}', params=params, replica=3)
    for turns in (
        (system, *(Turn(role="user", content=text) for text in texts)),
        (Turn(role="user", content=texts[0]),),
    ):
        whole = item_key(dialect="openai-chat", model='"m", "params":{}', turns=turns, params=params, replica=3)
        assert [maker.key(turns), maker.key(turns), maker.key(turns), maker.key_with(params, turns)] == [whole] * 4


@given(st.text(max_size=100))
def test_slugs_are_what_they_were(text: str) -> None:
    """Ids of items on somebody's disk are made of them."""
    start = text[:80]
    if not start.isascii():
        start = unicodedata.normalize("NFKD", start).encode("ascii", "ignore").decode("ascii")
    letters = "".join(char if char in "abcdefghijklmnopqrstuvwxyz0123456789" else " " for char in start.lower())
    assert slug(text) == ("-".join(letters.split())[:40].rstrip("-") or "item")


@pytest.mark.parametrize(
    ("name", "line", "template"),
    [
        ("rows.jsonl", '{{"q": "What is {0}?", "n": {0}}}', "{{ q }} ({{ n }})"),
        ("rows.jsonl", '{{"prompt": "What is {0}?", "n": {0}}}', None),
        ("rows.csv", 'What is {0}?,"{0}"', "{{ q }} ({{ n }})"),
        ("rows.tsv", "What is {0}?\t{0}", "{{ q }}"),
        ("rows.txt", "What is {0}?", None),
    ],
)
def test_a_pass_over_plain_rows_calls_few_functions_for_each(
    tmp_path: Path, name: str, line: str, template: str | None
) -> None:
    """Per row: what makes its item and nothing that could be done once for a batch."""

    def calls(count: int) -> int:
        head = "q,n\n" if name == "rows.csv" else "q\tn\n" if name == "rows.tsv" else ""
        text = head + "".join(line.format(number) + "\n" for number in range(count))
        items = items_of(job_of(source(tmp_path / name, text, template=template), system="Be brief."))
        made = found = 0

        async def read() -> None:
            nonlocal made
            async for batch in items.batches():
                made += len(batch)

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal found
            found += event == "call"

        threading.setprofile(note)  # files are read in a thread
        sys.setprofile(note)
        try:
            asyncio.run(read())
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        assert made == count
        return found

    assert (calls(1_600) - calls(640)) / 960 <= 4


def test_items_that_are_made_when_asked_for_are_those_of_a_list(tmp_path: Path) -> None:
    text = "".join(f'{{"q": "What is {number}?"}}\n' for number in range(200))
    job = job_of(source(tmp_path / "rows.jsonl", text, template="{{ q }}"), system="Be brief.")

    async def read() -> list[Sequence[Item]]:
        return [batch async for batch in items_of(job).batches()]

    batch = next(batch for batch in asyncio.run(read()) if isinstance(batch, AlikeItems))
    whole = list(batch)
    assert len(batch) == len(whole) > 2
    assert [batch[place] for place in range(-len(batch), len(batch))] == whole + whole
    assert [item.index for item in batch] == list(range(batch.first_index, batch.first_index + len(batch)))
    for chosen in (slice(None), slice(1, 3), slice(-2, None), slice(None, None, 2), slice(None, None, -1), slice(5, 2)):
        assert list(batch[chosen]) == whole[chosen]
    with pytest.raises(IndexError):
        batch[len(batch)]
