"""A refusal means what it means, whoever says it and however its bytes come."""

from typing import Final

import pytest

from tests.field.refusals import BROKEN_FOR_ALL, MANY, ON_THE_WAY, REFUSALS, THREE, error, page
from tests.field.runs import Case, Field, case_ids, check_case
from tests.field.server import HELLO, Reply, always, http, to_prompts
from tests.field.servers import SERVERS
from tests.field.unpaid import UNPAID
from tests.field.waits import WAITS

ALL: Final = (*REFUSALS, *UNPAID, *WAITS)


@pytest.mark.parametrize("case", ALL, ids=case_ids(ALL))
def test_a_refusal_means_what_it_means(field: Field, case: Case) -> None:
    check_case(field, case)


@pytest.mark.parametrize("case", ALL[::3], ids=case_ids(ALL[::3]))
def test_a_refusal_in_random_pieces_means_the_same(field: Field, case: Case) -> None:
    check_case(field, case, cut="random")


@pytest.mark.parametrize("case", ALL[1::6], ids=case_ids(ALL[1::6]))
def test_a_refusal_byte_by_byte_means_the_same(field: Field, case: Case) -> None:
    check_case(field, case, cut="bytes")


@pytest.mark.parametrize("case", SERVERS, ids=case_ids(SERVERS))
def test_a_refusal_in_a_servers_own_words_means_what_it_means(field: Field, case: Case) -> None:
    check_case(field, case)


@pytest.mark.parametrize("case", ON_THE_WAY[::2], ids=case_ids(ON_THE_WAY[::2]))
def test_what_is_not_the_api_is_stated_with_the_key_to_look_at(field: Field, case: Case) -> None:
    ran = check_case(field, case)
    assert "check `provider." in (ran.report.status.message or "")
    assert ran.said, "a person was told nothing while it was tried"
    assert field.run(always(HELLO), THREE).exit_status == 0, "the same command does not go on"


@pytest.mark.parametrize("case", UNPAID[:4], ids=case_ids(UNPAID[:4]))
def test_an_unpaid_account_goes_on_with_the_same_command(field: Field, case: Case) -> None:
    check_case(field, case)
    ran = field.run(always(HELLO), THREE)
    assert (ran.exit_status, len(ran.rows)) == (0, 3)


@pytest.mark.parametrize("case", BROKEN_FOR_ALL, ids=case_ids(BROKEN_FOR_ALL))
def test_the_same_500_for_everything_is_not_waited_for_and_shown_with_its_words(field: Field, case: Case) -> None:
    ran = check_case(field, case)
    assert ran.took_s < 1800.0
    assert len(ran.asked) <= 40
    assert "every request failed in the same way" in (ran.report.status.message or "")


@pytest.mark.parametrize(
    "message",
    ["Internal server error, please try again later.", "upstream connect error", "error", ""],
    ids=["try-again", "upstream", "no-words", "nothing"],
)
def test_the_same_500_for_everything_about_the_server_is_waited_for(field: Field, message: str) -> None:
    down = error(message, 500, type="server_error")
    ran = check_case(field, Case(name="down", reply=down, times=27, job=MANY, requests=None, done=len(MANY["prompts"])))
    assert ran.took_s > 300.0, "it was not down for long enough to show anything"


def test_an_item_that_a_firewall_turns_away_while_others_pass_fails_alone(field: Field) -> None:
    job = {"prompts": [f"p{number}" for number in range(200)], "limits": {"concurrency": 1}}
    ran = field.run(to_prompts(page("Sorry, you have been blocked", 403), "p3", others=HELLO), job)
    assert (ran.exit_status, len(ran.rows), len(ran.failures)) == (1, 199, 1)
    assert ran.failures[0]["error"]["class"] == "not_reached"


@pytest.mark.parametrize(
    ("base_url", "proxy", "key"),
    [
        ("https://nowhere.invalid/v1", None, "provider.base_url"),
        ("https://api.invalid/v1", "http://{host}", "provider.proxy"),
    ],
    ids=["no-such-name", "a-proxy-that-refuses-the-tunnel"],
)
def test_what_no_waiting_fixes_ends_a_run_before_its_first_answer(
    field: Field, base_url: str, proxy: str | None, key: str
) -> None:
    more = f"proxy: '{proxy}'," if proxy else ""
    job = f"""
name: job
provider: {{base_url: "{base_url}", {more} api_key_env: FIELD_KEY}}
model: m
prompts: [p0, p1]
""".replace("http://{host}", "{base}")
    refused = http(status=407, kind=None)
    ran = field.run(always(refused), job)
    assert (ran.exit_status, ran.failures) == (2, [])
    assert f"check `{key}`" in (ran.report.status.message or "")
    assert len(ran.said) >= 1


def test_a_server_that_closes_after_a_refusal_without_a_word_costs_no_run(field: Field) -> None:
    """The pooled connection dies while the next intent is being written: that send never left, and is sent again."""
    flagged = Reply(data=error("m requires moderation. Your input was flagged.", 403, code=403), then="close")
    job = {"prompts": [f"p{number}" for number in range(12)], "limits": {"concurrency": 1}}
    ran = field.run(to_prompts(flagged, "p5", "p6", "p7", others=HELLO), job)
    assert (ran.exit_status, len(ran.rows), len(ran.failures)) == (1, 9, 3), (ran.report.status.message, ran.said)
