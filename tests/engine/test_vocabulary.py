"""No key is accepted and ignored: each key of the job file changes something that can be seen behind it."""

from pathlib import Path

import pytest

from tests.engine.job_key_effects import EFFECTS


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_has_its_documented_effect(key: str, tmp_path: Path) -> None:
    effect = EFFECTS[key]
    assert effect.was != effect.now
    assert effect.seen(tmp_path / "without", changed=False) == effect.was
    assert effect.seen(tmp_path / "with", changed=True) == effect.now
