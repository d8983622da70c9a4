"""The field server and its runs do what the tables of replies rely on."""

import pytest

from tests.field.runs import Case, Field, case_ids, check_case, job_with
from tests.field.server import HELLO, Cut, Reply, always, delta, http, once, sse, to_prompts, to_requests

STREAM = sse(delta(content="hé"), delta(content="漢😀"), delta("stop"))
CASES = (
    Case(name="whole", reply=HELLO, text="hello world"),
    Case(name="stream", reply=STREAM, text="hé漢😀", output={"finish_reason": "stop", "tool_calls": None}),
    Case(name="late-and-slow", reply=Reply(data=STREAM, delay_s=50.0, gap_s=1.0, cut="random"), text="hé漢😀"),
    Case(
        name="a-refusal-once",
        reply=http(b"{}", status=429, headers={"Retry-After": "12"}),
        times=1,
        requests=2,
        text="hello world",
        not_before_s=12.0,
    ),
    Case(name="failed", reply=http(b"{}", status=400), exit_status=1, done=0, failed=1, failure={"error.status": 400}),
)


@pytest.mark.parametrize("cut", ["whole", "random", "bytes"])
@pytest.mark.parametrize("case", CASES, ids=case_ids(CASES))
def test_a_case_holds_however_its_reply_is_cut(field: Field, case: Case, cut: Cut) -> None:
    check_case(field, case, cut=cut)


def test_a_row_that_is_not_as_it_should_be_fails(field: Field) -> None:
    with pytest.raises(AssertionError):
        check_case(field, Case(name="wrong", reply=HELLO, text="hello moon"))


def test_replies_go_by_number_and_by_prompt(field: Field) -> None:
    refusal = http(b'{"error": {"message": "no"}}', status=400)
    job = {"prompts": ["p0", "p1", "p2"], "limits": {"concurrency": 1}}
    ran = field.run(to_requests(refusal, 2, others=HELLO), job)
    assert [row["prompt"] for row in ran.failures] == [ran.asked[1].prompt]
    again = Field(field.folder / "other")
    again.folder.mkdir()
    assert [row["prompt"] for row in again.run(to_prompts(refusal, "p1", others=HELLO), job).failures] == ["p1"]


def test_a_second_run_goes_on_with_the_same_items(field: Field) -> None:
    """Another port is another address, and no other item."""
    assert field.run(always(HELLO)).exit_status == 0
    assert field.run(always(HELLO)).asked == []


def test_a_connection_carries_further_requests_or_ends_as_it_was_asked_to(field: Field) -> None:
    cut_off = Reply(data=STREAM[: len(STREAM) // 2], then="reset")
    ran = field.run(once(cut_off, HELLO), job_with())
    assert len(ran.asked) == 2
    assert ran.rows[0]["ambiguous"] == 1
