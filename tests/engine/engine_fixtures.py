"""One house per test."""

from pathlib import Path

import pytest
from engine_house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)
