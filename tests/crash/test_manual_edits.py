"""Seeded runs in which a person changes the directory between two lives of a process."""

import pytest

from tests.crash.edits import seeded_run_with_edits, seeded_run_with_ledger_edits


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_edited_nothing_is_paid_again_unasked_and_nothing_lost_is_called_done(seed: int) -> None:
    seeded_run_with_edits(seed)


@pytest.mark.parametrize("seed", range(4))
def test_without_its_ledger_a_run_sends_nothing_until_its_rows_are_adopted(seed: int) -> None:
    seeded_run_with_ledger_edits(seed)
