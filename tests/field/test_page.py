"""docs/field-replies.md lists the replies of these tables with their references; run this file to write it anew."""

from pathlib import Path
from typing import Final

from tests.field.refusals import (
    BROKEN_FOR_ALL,
    INSIDE_200,
    NO_MODEL,
    ON_THE_WAY,
    ONE_ITEM,
    PASSING,
    UNSTREAMED,
)
from tests.field.runs import Case
from tests.field.server import Reply
from tests.field.servers import SERVERS
from tests.field.test_answers import BROKEN, CUT, KEPT, OK
from tests.field.test_media import ALL as MEDIA
from tests.field.unpaid import UNPAID
from tests.field.waits import WAITS

PAGE: Final = Path(__file__).parents[2] / "docs" / "field-replies.md"
HEAD: Final = """# Replies seen in the field

What servers, gateways and proxies were reported to send, and what batchrunner makes of it. Each row is a test: the tables
stand in `tests/field`, the bodies are written for them after the reports that are named. This page is written by
`python -m tests.field.test_page`; a test fails when it is stale.
"""
SECTIONS: Final[tuple[tuple[str, str, tuple[Case, ...]], ...]] = (
    (
        "Refused to one item",
        (
            "No word about the model or the account: once the model has answered in the run, its items fail one by one as"
            " what they are, and all others are sent."
        ),
        ONE_ITEM,
    ),
    (
        "Said by a machine on the way",
        (
            "Before the first good answer of a run: three probes, nothing failed, exit status 2 with the key of the job to"
            " look at. After it: an outage, which is waited for."
        ),
        ON_THE_WAY,
    ),
    ("Unpaid", "Whatever the status: exit status 5, nothing failed, the same command goes on once it is paid.", UNPAID),
    ("Unknown models", "Two items that say so, and the others of the model fail without being sent.", NO_MODEL),
    (
        "Passing trouble",
        "Tried again. Refusals (throttles, overloads, every 503) charge no try and count as no perhaps paid request.",
        PASSING,
    ),
    ("Refusals inside a 200", "Whole or in a stream: no try is charged.", INSIDE_200),
    ("Streams refused", "Sent again without a stream, later items at once.", UNSTREAMED),
    (
        "The same error for everything",
        "Nothing ever came through: after a few probes the lane closes with the words; no item has failed.",
        BROKEN_FOR_ALL,
    ),
    (
        "Refusals of many servers",
        "What befalls the account ends the run with 5, what stands before the API with 2; one item fails, or a model; the rest is tried again.",
        SERVERS,
    ),
    ("Waits", "Never sent again earlier than asked.", WAITS),
    ("Complete answers in odd wrappings", "Kept, with one request.", (*KEPT, *OK)),
    ("Answers that broke off", "Asked for again.", BROKEN),
    ("Answers cut by a limit", "Kept, with `truncated`.", CUT),
    (
        "Answers with more than words",
        "Pictures and sound on the disk, choices, thinking, calls and counts in the row, with one request.",
        MEDIA,
    ),
)


def test_the_page_is_as_the_tables_are() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.field.test_page"


def test_every_refusal_names_where_it_was_seen() -> None:
    sections = [cases for title, _, cases in SECTIONS if not title.startswith(("Complete", "Answers"))]
    assert [case.name for cases in sections for case in cases if not case.reference] == []


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, right, cases in SECTIONS:
        rows = [f"| {_cell(case.name)} | {_reply(case)} | {_cell(case.reference or '-')} |" for case in cases]
        parts.append("\n".join([f"## {title}", "", right, "", "| | reply | seen |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _reply(case: Case) -> str:
    data = case.reply.data if isinstance(case.reply, Reply) else case.reply
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode("ascii", "replace") if data.startswith(b"HTTP/") else ""
    told = [
        line.decode("latin-1") for line in head.split(b"\r\n")[1:] if b"etry" in line or b"atelimit" in line.lower()
    ]
    text = " ".join([*told, *body[:200].decode("utf-8", "replace").split()])
    return f"{status} `{_cell(text[:110])}`" if text else status


def _cell(text: str) -> str:
    plain = "".join(sign if sign.isprintable() else "·" for sign in text)
    return plain.replace("`", "'").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
