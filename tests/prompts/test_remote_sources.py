"""Sources that do not lie here: every kind of file, what is said when one cannot be read, and never half a source."""

import asyncio
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from batchrunner.core.errors import Mistake
from batchrunner.core.job import Draw, Job, Source
from batchrunner.core.values import replace
from batchrunner.prompts import check_items, digest_of_items, items_of
from batchrunner.prompts.job_items import stamp_of
from batchrunner.prompts.source_guess import guess_source
from batchrunner.prompts.sources import opening
from tests.prompts.jobs import items, job_of
from tests.support.web_files import WebFiles, web_files

ROWS = b"".join(b'{"prompt": "question %d"}\n' % number for number in range(2000))
REQUEST = {
    "custom_id": "one",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"messages": [{"role": "user", "content": "hello"}]},
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebFiles]:
    monkeypatch.setattr(opening, "WAITS_S", [0.0, 0.0, 0.0])
    with web_files() as served:
        yield served


def job(web: WebFiles, name: str, content: bytes, **changes: Any) -> Job:
    web.files[f"/{name}"] = content
    address = f"{web.root}/{name}"
    return job_of(replace(Source(path=address, shown=address), **changes))


def mistake(asked: Job) -> Mistake:
    (found,) = asyncio.run(check_items(asked))
    return found


def parquet(*prompts: str) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table({"prompt": list(prompts)}), made)
    return made.getvalue()


@pytest.mark.parametrize("gives_ranges", [True, False])
@pytest.mark.parametrize(
    ("name", "content", "changes"),
    [
        ("a.txt", b"one\ntwo\n", {}),
        ("a.csv", b"prompt\none\ntwo\n", {}),
        ("a.tsv", b"prompt\tx\none\t1\ntwo\t2\n", {}),
        ("a.jsonl", b'{"prompt": "one"}\n{"prompt": "two"}\n', {}),
        ("a.csv", "prompt;x\noné;1\ntwo;2\n".encode("cp1252"), {"encoding": "cp1252", "delimiter": ";"}),
        ("a.parquet", parquet("one", "two"), {}),
    ],
)
def test_every_kind_of_file_is_read_from_a_server(
    web: WebFiles, name: str, content: bytes, changes: dict[str, Any], *, gives_ranges: bool
) -> None:
    web.gives_ranges = gives_ranges
    found = items(job(web, name, content, **changes))
    assert [item.turns[-1].content.replace("é", "e") for item in found] == ["one", "two"]


def test_a_batch_file_of_ready_requests_is_read_from_a_server(web: WebFiles) -> None:
    (item,) = items(job(web, "batch.jsonl", json.dumps(REQUEST).encode()))
    assert (item.id, item.turns[-1].content) == ("one", "hello")


def test_the_kind_of_a_web_file_is_in_its_path_and_not_behind_the_question_mark(web: WebFiles) -> None:
    found = job(web, "a.csv", b"prompt\none\n")
    assert isinstance(found.prompts, Source)
    asked = replace(found.prompts, path=f"{found.prompts.path}?download=1")
    assert [item.turns[-1].content for item in items(replace(found, prompts=asked))] == ["one"]


def test_values_are_drawn_from_a_file_on_a_server(web: WebFiles) -> None:
    web.files["/tones.txt"] = b"dry\n"
    draw = Draw(name="tone", path=f"{web.root}/tones.txt", shown="tones.txt")
    found = items(job(web, "a.txt", b"one\n", draw=(draw,), template="{{ line }} in a {{ tone }} tone"))
    assert [item.turns[-1].content for item in found] == ["one in a dry tone"]


def test_init_looks_into_a_file_on_a_server(web: WebFiles) -> None:
    web.files["/a.csv"] = b"nr;question\n1;why?\n2;how?\n"
    guess = asyncio.run(guess_source(f"{web.root}/a.csv"))
    assert (guess.template, guess.delimiter) == ("{{ question }}", ";")


@pytest.mark.parametrize(
    ("status", "said"), [(404, "is not there"), (403, "may not be read"), (500, "cannot be read"), (401, "may not be")]
)
def test_a_file_that_is_refused_is_a_mistake_with_its_reason(web: WebFiles, status: int, said: str) -> None:
    asked = job(web, "a.jsonl", ROWS)
    web.status = status
    found = mistake(asked)
    assert said in found.problem
    assert found.file == f"{web.root}/a.jsonl"


def test_an_empty_file_of_a_web_server_is_no_fault_of_the_program(web: WebFiles) -> None:
    web.files["/a.jsonl"] = b""
    with opening.opened(f"{web.root}/a.jsonl") as file:
        assert file.read() == b""


@pytest.mark.parametrize(("status", "said"), [(401, "download the file"), (403, "download the file"), (404, "browser")])
def test_a_web_server_that_refuses_is_no_matter_of_credentials_or_buckets(
    web: WebFiles, status: int, said: str
) -> None:
    asked = job(web, "a.jsonl", ROWS)
    web.status = status
    hint = mistake(asked).hint or ""
    assert said in hint
    assert "these credentials" not in hint
    assert "bucket" not in hint


def test_a_server_that_does_not_answer_is_a_mistake_with_its_reason(web: WebFiles) -> None:
    with web_files() as gone:
        asked = job(gone, "a.jsonl", ROWS)
    found = mistake(asked)
    assert found.problem.startswith("cannot be read")
    assert found.hint is not None
    assert "run the command again" in found.hint


def test_a_connection_that_breaks_is_made_again_where_it_broke(web: WebFiles) -> None:
    asked = job(web, "a.jsonl", ROWS)
    web.cuts_after, web.cuts = 10_000, 2
    assert len(items(asked)) == 2000


@pytest.mark.parametrize("gives_ranges", [True, False])
@pytest.mark.parametrize(("name", "content"), [("a.jsonl", ROWS), ("a.csv", b"prompt\n" + b"why?\n" * 5000)])
def test_half_a_file_is_an_error_and_never_a_shorter_source(
    web: WebFiles, name: str, content: bytes, *, gives_ranges: bool
) -> None:
    asked = job(web, name, content)
    web.gives_ranges, web.cuts_after = gives_ranges, 10_000
    assert "cannot be read" in mistake(asked).problem or "ended after" in mistake(asked).problem


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(web: WebFiles) -> None:
    asked = job(web, "a.txt", ROWS)
    web.changes_after = 0
    assert mistake(asked).problem == "was changed while it was read"


def test_equal_digests_are_equal_states_on_the_server(web: WebFiles) -> None:
    asked = job(web, "a.jsonl", ROWS, template="{{ prompt }}")
    before = digest_of_items(asked)
    assert before is not None
    assert digest_of_items(asked) == before
    bodies = web.bodies
    digest_of_items(asked)
    assert web.bodies == bodies, "nothing is read to learn that nothing has changed"
    web.files["/a.jsonl"] = ROWS.replace(b"7", b"8")
    assert digest_of_items(asked) not in {before, None}


def test_a_server_that_reports_no_state_has_no_digest(web: WebFiles) -> None:
    web.gives_states = False
    asked = job(web, "a.jsonl", ROWS)
    assert digest_of_items(asked) is None
    assert stamp_of(asked) != stamp_of(asked)


def test_few_items_are_kept_and_the_file_is_read_again_only_if_it_changed(web: WebFiles) -> None:
    asked = job(web, "a.jsonl", ROWS)

    async def passes() -> tuple[int, int]:
        made = items_of(asked)
        made.keeps = True
        first = sum([len(batch) async for batch in made.batches()])
        read = web.bodies
        second = sum([len(batch) async for batch in made.batches(frozenset(asked.models))])
        assert web.bodies == read
        return first, second

    assert asyncio.run(passes()) == (2000, 2000)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Short limits; the value is what a person is told."""
    told = list[str]()
    monkeypatch.setattr(opening, "SILENCE_S", 0.3)
    monkeypatch.setattr(opening, "TELL_S", 0.05)
    monkeypatch.setattr(opening, "PATIENCE_S", 60.0)
    opening.waiting_voice.set(told.append)
    return told


def test_a_server_that_stands_still_is_asked_for_the_rest_in_smaller_pieces(
    web: WebFiles, impatient: list[str]
) -> None:
    asked = job(web, "a.jsonl", b"".join(b'{"prompt": "question %d"}\n' % number for number in range(7000)))
    web.stalls_after = 100_000
    assert len(items(asked)) == 7000
    assert "nothing came so far" in impatient[0]


@pytest.mark.parametrize("gives_ranges", [True, False])
def test_a_server_that_stays_silent_is_a_mistake_that_says_so(
    web: WebFiles, impatient: list[str], *, gives_ranges: bool
) -> None:
    asked = job(web, "a.jsonl", ROWS)
    web.gives_ranges, web.stalls_after = gives_ranges, 1000
    found = mistake(asked)
    assert "its server sent nothing for 0 s, several times" in found.problem
    assert "download the file" in (found.hint or "")
    assert impatient


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("/a.jsonl", "redirects without end (a redirect loop)"),
        ("ftp://elsewhere/a.jsonl", "redirects to something that is no web address"),
        ("http://[:::", "redirects to something that is no web address"),
        ("http://nowhere.invalid/a.jsonl", "could not connect to nowhere.invalid:80: unknown host name"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_told_as_what_it_is(web: WebFiles, to: str, said: str) -> None:
    asked = job(web, "a.jsonl", ROWS)
    web.redirects_to = to
    assert said in mistake(asked).problem


def test_a_connection_without_an_answer_is_no_file_that_is_not_there(web: WebFiles) -> None:
    asked = job(web, "a.jsonl", ROWS)
    web.closes = True
    assert "closed the connection without a reply" in mistake(asked).problem


def test_a_large_file_of_a_server_without_parts_is_read_whole(web: WebFiles) -> None:
    asked = job(web, "a.jsonl", b'{"prompt": "%s"}\n' % (b"x" * 1000) * 9000)
    web.gives_ranges = False
    assert len(items(asked)) == 9000


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("oss", "ossfs"), ("az", "adlfs")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    tmp_path: Path, scheme: str, package: str
) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    address = f"{scheme}://bucket/a.jsonl"
    found = mistake(job_of(Source(path=address, shown=address)))
    assert found.problem == f"cannot be read without {package}, which reads {scheme}://"
    assert found.hint == f"install it with: pip install {package}"
