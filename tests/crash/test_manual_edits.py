"""Stories in which hands change the directory between two lives of a process."""

import pytest

from tests.crash.edits import hands_story, ledger_story


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_edited_nothing_is_paid_again_unasked_and_nothing_lost_is_called_done(seed: int) -> None:
    hands_story(seed)


@pytest.mark.parametrize("seed", range(4))
def test_without_its_ledger_a_run_sends_nothing_until_its_rows_are_adopted(seed: int) -> None:
    ledger_story(seed)
