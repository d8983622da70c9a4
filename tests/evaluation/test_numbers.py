"""The number of an answer is found however it is written, and where it could be two numbers, nobody guesses."""

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchrunner.evaluation.check_kinds import AmbiguousNumberError, Decimals, NoNumberError, Taken, number_in
from tests.support.growth import assert_linear

WRITTEN = [
    ("1,234.", "1234"),
    ("$18.50.", "18.50"),
    ("**42**", "42"),
    (r"so it is \boxed{12}", "12"),
    ("\uff11\uff12", "12"),  # full-width digits
    ("it is 10\u202f000 now", "10000"),
    ("it is 10\u00a0000", "10000"),
    ("16-3=13", "13"),
    ("7 - 2", "2"),
    ("minus \u22125 %", "-5"),
    ("-5", "-5"),
    ("costs 1,000,000.50 EUR", "1000000.50"),
    ("5 apples and 100 pears", "100"),
    ("#### 7", "7"),
    ("1e3", "1000"),
    ("10-20", "20"),
    ("$.50", "0.50"),
    ("a loss of -$5", "-5"),
    ("it is 1,234, as shown", "1234"),
    ("it is $1,234.50, as shown", "1234.50"),
    ("3 + 4 = 7.\n12", "12"),
    ("12 m\u00b2", "12"),
]


@pytest.mark.parametrize(("text", "number"), WRITTEN)
def test_a_number_is_read_as_people_and_models_write_it(text: str, number: str) -> None:
    assert number_in(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "10 000",
        "there were 12 345",
        "1.234,5",
        "1,5",
        "1,2,3",
        "1,23,456",
        "\u00bd",
        "v1.2.3",
        "1'000",
        "1_000",
        "10^3",
        "10\u00b3",
    ],
)
def test_what_could_be_two_numbers_is_an_error(text: str) -> None:
    with pytest.raises(AmbiguousNumberError):
        number_in(text)


@pytest.mark.parametrize(("text", "number"), [("1.234,5", "1234.5"), ("3,14", "3.14"), ("1.234", "1234")])
def test_a_decimal_comma_is_read_where_the_job_states_it(text: str, number: str) -> None:
    assert number_in(text, decimals="comma") == Decimal(number)


@pytest.mark.parametrize(("take", "number"), [("last", 9), ("first", 7)])
def test_one_of_several_numbers_is_taken(take: Taken, number: int) -> None:
    assert number_in("7, then 8, then 9", take=take) == number


def test_several_numbers_are_none_where_only_one_may_be() -> None:
    with pytest.raises(NoNumberError, match="3 numbers"):
        number_in("7, then 8, then 9", take="only")


@pytest.mark.parametrize("text", ["", "no", "####", "one", "1e9999999", "1e-9999999", "9" * 400])
def test_no_number_is_reported(text: str) -> None:
    with pytest.raises(NoNumberError):
        number_in(text)


@pytest.mark.parametrize(("first", "repeated", "last"), [("1", ",000", ","), ("1", ",000", ",5"), ("", "1.", "")])
def test_an_answer_of_endless_digits_is_walked_through_once(first: str, repeated: str, last: str) -> None:
    def read(count: int) -> Callable[[], None]:
        text = first + repeated * count + last

        def work() -> None:
            with suppress(NoNumberError, AmbiguousNumberError):
                number_in(text)

        return work

    assert_linear(read, 4_000)


@given(st.text("12 .,-+e$\n\u2009xa^'_)", max_size=90), st.sampled_from(["point", "comma"]))
def test_the_last_number_of_a_text_is_that_of_its_end(text: str, decimals: Decimals) -> None:
    def read(whole: str) -> Decimal | str:
        try:
            return number_in(whole, decimals=decimals)
        except (NoNumberError, AmbiguousNumberError) as error:
            return type(error).__name__

    assume(any(digit in text for digit in "12"))
    assert read(f"{'a word, 5 or 6; ' * 20}\n#{text}") == read(f"#{text}")


@given(st.text(), st.sampled_from(["point", "comma"]), st.sampled_from(["last", "first", "only"]))
def test_any_text_has_a_number_or_a_reason(text: str, decimals: Decimals, take: Taken) -> None:
    with suppress(NoNumberError, AmbiguousNumberError):
        assert isinstance(number_in(text, decimals=decimals, take=take), Decimal)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=2))
def test_a_number_in_a_sentence_comes_back(number: Decimal) -> None:
    assert number_in(f"The answer is {number:,}.") == number
