"""The table of names that were given: a dictionary without the names."""

from hypothesis import given
from hypothesis import strategies as st

from batchrunner.prompts.ids import Seen


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(min_value=0, max_value=2**32 - 1)), max_size=200))
def test_it_remembers_the_first_note_of_every_name(claims: list[tuple[str, int]]) -> None:
    seen, expected = Seen(), dict[str, int]()
    for name, note in claims:
        assert seen.claim(name, note) == expected.get(name)
        expected.setdefault(name, note)
    assert len(seen) == len(expected)


def test_it_grows_and_forgets_nothing() -> None:
    seen = Seen()
    assert all(seen.claim(str(n), n) is None for n in range(5000))
    seen.renote("77", 7)
    assert all(seen.claim(str(n)) == (7 if n == 77 else n) for n in range(5000))
    assert len(seen) == 5000
    assert repr(seen) == "<Seen 5000 names in 8192 slots>"
