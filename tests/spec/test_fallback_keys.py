"""`models: {first, then, on, after}`: what is accepted, and what is said of what is not."""

import pytest

from tests.spec.job_files import Load, Mistakes

SCHEMA = "schema: {type: object, properties: {n: {type: integer}}}\n"


def job(keys: str, more: str = "") -> str:
    """A job with a second model."""
    return f"provider: simulator\nmodels: {{first: a, then: b, {keys}}}\nprompts: [one]\n{more}"


@pytest.mark.parametrize("written", ["quota", '"quota"', "[quota]"])
def test_one_reason_may_stand_alone(load: Load, written: str) -> None:
    fallback = load(job(f'"on": {written}')).fallback
    assert fallback is not None
    assert fallback.on == ("quota",)


@pytest.mark.parametrize("written", ["5", "5.5", "600"])
def test_a_number_without_its_unit_gets_no_hint_that_would_not_help(mistakes: Mistakes, written: str) -> None:
    for text, key in (
        (job(f"after: {written}"), "models.after"),
        (
            f"provider: openai\nmodel: m\nprompts: [a]\nbatch: {{look_every: {written}}}\n",
            "batch.look_every",
        ),
    ):
        (mistake,) = mistakes(text)
        assert mistake.key == key
        assert mistake.problem == f"is {written}"
        assert (mistake.hint, "a duration" in str(mistake.expected)) == ("write the unit, too: s, m or h", True)


@pytest.mark.parametrize("written", ["schema_miss", "[quota, schema_miss]"])
def test_a_reason_that_cannot_come_about_is_a_mistake(load: Load, mistakes: Mistakes, written: str) -> None:
    (mistake,) = mistakes(job(f'"on": {written}'))
    assert "the job has no `schema`" in mistake.problem
    assert load(job(f'"on": {written}', SCHEMA)).fallback is not None
    assert load(job("after: 1m")).fallback is not None, "all reasons, of which it is one that does not come about"


def test_a_reason_that_stands_there_twice_is_a_mistake(mistakes: Mistakes) -> None:
    (mistake,) = mistakes(job('"on": [quota, overloaded, quota]'))
    assert (mistake.key, mistake.problem) == ("models.on[2]", "is the same as models.on[0]")
