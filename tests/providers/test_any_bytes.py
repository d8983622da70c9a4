"""Whatever the bytes are: one outcome, the same however they are cut, and nothing in it that no record can hold."""

import json

import pytest
from hypothesis import example, given, strategies

from batchrunner.core.events import parts_of_urls
from batchrunner.core.http import Completed, Ending, ResponseHead
from batchrunner.core.job import DialectName, Json
from batchrunner.core.outcome import Answer, Pictures, PictureUrl, Problem, TaskAccepted
from batchrunner.core.ports import TaskDialect
from batchrunner.providers import DIALECTS, dialect_for
from batchrunner.providers.result_pictures import pictures_in
from tests.providers.chat import DONE, STOP, USAGE, delta, tools
from tests.providers.messages import BEGUN, BLOCK, HI, START, TOOL, WHOLE, ended, event, pieces_of_input
from tests.providers.reading import EVENTS, JSON, RESET, head, item, provider, read

RECORD_BYTES = 64 * 1024
BITS = [
    *(DONE, STOP, USAGE, delta(content="a"), tools({"index": 0, "function": {"arguments": "{"}}), b"data: {\n\n"),
    *(START, BLOCK, HI, TOOL, pieces_of_input(0, "{"), ended(), WHOLE, BEGUN, event("message_stop")),
    *(
        event("error", error={"type": "x"}),
        b"event: message_start\ndata: 1\n\n",
        b'{"content": "a"}',
        b'{"data": [{}]}',
    ),
    *(b'{"task_id": ', b"1}", b"\xff", b"\r", b"\n\n", b"event: ", b"[", b'"\\ud800"', b"null"),
]
BODIES = strategies.one_of(
    strategies.binary(max_size=200),
    strategies.lists(strategies.sampled_from(BITS), max_size=8).map(b"".join),
)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@example(body=b'\r""', cut=1, reply=head(200, JSON), ending=Completed())  # blanks before a body that is not JSON
@given(
    body=BODIES,
    cut=strategies.integers(0, 400),
    reply=strategies.builds(
        head, strategies.sampled_from([200, 200, 200, 302, 429, 500]), strategies.sampled_from([EVENTS, JSON, ""])
    ),
    ending=strategies.sampled_from([Completed(), RESET]),
)
def test_any_bytes_give_one_outcome_however_they_are_cut(
    name: DialectName, body: bytes, cut: int, reply: ResponseHead, ending: Ending
) -> None:
    """Threat 10."""
    dialect = dialect_for(provider("simulator", name))
    outcomes = [
        read(dialect.decoder(item()), reply, pieces, ending)
        for pieces in ([body], [body[:cut], body[cut:]], [body[at : at + 1] for at in range(len(body))])
    ]
    assert isinstance(outcomes[0], Answer | TaskAccepted | Pictures | Problem)
    assert outcomes[1:] == outcomes[:1] * 2
    if isinstance(dialect, TaskDialect):
        read(dialect.poll_decoder(), reply, [body], ending)


def urls(*lengths: int, letter: str = "x") -> list[Json]:
    return ["https://h.example/".ljust(length, letter) for length in lengths]


def test_urls_that_no_record_holds_are_no_pictures() -> None:
    assert len(pictures_in({"output_images": urls(*[100] * 40)})) == 40
    assert len(pictures_in({"output_images": urls(4096, 4097)})) == 1
    assert pictures_in({"output_images": urls(5000)}) == ()


@pytest.mark.parametrize("letter", ["x", "猫", "😀", "\u0001"])
def test_all_urls_of_a_reply_fit_into_as_many_records_as_they_need(letter: str) -> None:
    refs = pictures_in({"images": urls(*[300] * 10, *[600] * 6, *[3000] * 30, letter=letter)})
    assert refs
    kept = tuple(ref.url for ref in refs if isinstance(ref, PictureUrl))
    parts = parts_of_urls(kept)
    assert tuple(url for part in parts for url in part) == kept
    assert max(len(json.dumps(part)) for part in parts) < RECORD_BYTES - 8 * 1024


def test_pictures_in_the_answer_itself_are_not_counted() -> None:
    assert len(pictures_in({"data": [{"b64_json": "AAAA"}] * 40})) == 40
