"""The table of items: no two keys are ever taken for one, and an item costs few bytes."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.item_table import ItemTable
from batchrunner.core.lifecycle import EPOCH, EPOCHS, IN_JOB, KNOWN, SEEN

_WORD = (1 << 64) - 1
_halves = st.sampled_from([0, 1, 2, 1 << 32, 1 << 63, _WORD]) | st.integers(0, _WORD)
_keys = st.builds(lambda high, low: (high << 64 | low).to_bytes(16, "big"), _halves, _halves)


@given(keys=st.lists(_keys, max_size=300), others=st.lists(_keys, max_size=20))
def test_the_table_knows_the_keys_that_were_added_and_no_others(keys: list[bytes], others: list[bytes]) -> None:
    table, numbers = ItemTable(), dict[bytes, int]()
    for key in keys:
        assert table.add(key) == numbers.setdefault(key, len(numbers) + 1)
    assert len(table) == len(numbers)
    assert {key: table.find(key) for key in numbers} == numbers
    assert {key: table.key(number) for key, number in numbers.items()} == {key: key for key in numbers}
    assert [table.find(key) for key in others] == [numbers.get(key, 0) for key in others]


def test_keys_that_share_half_their_bits_or_their_place_in_the_index_are_distinguished() -> None:
    table = ItemTable()
    halves = [1, 1 << 40, _WORD, 0x0123_4567_89AB_CDEF]
    keys = [(a << 64 | b).to_bytes(16, "big") for a in halves for b in halves]
    keys += [(a << 64 | a ^ 5).to_bytes(16, "big") for a in range(2000)]  # all fall to one slot
    for number, key in enumerate(keys):
        table.words[table.add(key)] = number
    assert [table.words[table.find(key)] for key in keys] == list(range(len(keys)))


@given(
    words=st.lists(st.integers(0, _WORD), max_size=200),
    bits=st.sampled_from([SEEN, IN_JOB, EPOCHS << EPOCH, SEEN | IN_JOB, 0, _WORD]),
)
def test_bits_are_taken_from_every_word_and_no_other_bit_is(words: list[int], bits: int) -> None:
    table = ItemTable()
    for number, word in enumerate(words, start=1):
        table.words[table.add(number.to_bytes(16, "big"))] = word
    same = table.words
    table.clear(bits)
    assert list(same) == [0] + [word & ~bits for word in words]


def test_bits_are_taken_from_more_words_than_one_step_takes() -> None:
    table = ItemTable()
    for number in range(70_000):
        table.words[table.add(number.to_bytes(16, "big"))] = _WORD
    table.clear(SEEN)
    assert set(table.words[1:]) == {_WORD & ~SEEN}


@given(known=st.lists(_keys, max_size=50), job=st.lists(_keys, max_size=50))
def test_what_the_ledger_knows_and_what_the_job_has_are_distinguished(known: list[bytes], job: list[bytes]) -> None:
    table = ItemTable()
    for key in known:
        table.words[table.add(key)] |= KNOWN
    had = set[bytes]()
    for key, word in zip(job, table.claim_all(job), strict=True):
        assert word == (KNOWN if key in set(known) else 0) | (IN_JOB if key in had else 0)
        had.add(key)
    assert {key for key, _ in table.known()} == set(known)
    assert {key for key, _ in table.vanished()} == set(known) - set(job)
    table.forget_job()
    assert {key for key, _ in table.vanished()} == set(known)


def test_an_item_costs_at_most_45_bytes_however_many_there_are() -> None:
    random_source = random.Random(4)
    tracemalloc.start()
    try:
        table = ItemTable()
        before = tracemalloc.get_traced_memory()[0]
        for upto in (10_000, 30_000, 43_691, 60_000):
            while len(table) < upto:
                table.add(random_source.randbytes(16))
            assert (tracemalloc.get_traced_memory()[0] - before) / upto <= 45
    finally:
        tracemalloc.stop()
