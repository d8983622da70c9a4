"""What holds over the whole house and belongs to no single room."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from batchrunner.core.job import DialectName, PresetName
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.presets import PRESETS
from batchrunner.core.rules import RULES
from batchrunner.providers import DIALECTS
from batchrunner.spec.provider import _KIND_OF
from batchrunner.transport.api import REPLY_CAP_BYTES

HOME = Path(__file__).resolve().parents[1]
HEAVY = ("aiohttp", "PIL", "pydantic", "jinja2")


@pytest.mark.parametrize("table", [DIALECTS, _KIND_OF, REPLY_CAP_BYTES])
def test_every_table_of_dialects_names_them_all(table: dict[str, object]) -> None:
    assert set(table) == set(get_args(DialectName))


def test_every_preset_and_every_problem_has_its_row() -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    assert set(RULES) == set(ProblemKind)


def test_no_file_is_longer_than_500_lines() -> None:
    long = {
        str(path.relative_to(HOME)): lines
        for folder in ("batchrunner", "tests", "benchmarks")
        for path in (HOME / folder).rglob("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert long == {}


HELP = """
import runpy, sys
sys.argv = ["batchrunner", "--help"]
try:
    runpy.run_module("batchrunner", run_name="__main__")
except SystemExit:
    pass
"""


@pytest.mark.parametrize("code", ["import batchrunner", HELP])
def test_looking_in_costs_no_heavy_library(code: str) -> None:
    told = f"\nimport sys; print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + told], cwd=HOME, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stderr


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_job_is_looked_at_without_what_only_sending_needs(command: str) -> None:
    job = HOME / "jobs" / "questions-from-csv.yaml"
    code = f"from batchrunner.cli.main import main; import sys; status = main([{command!r}, {str(job)!r}])"
    told = "\nheavy = [name for name in ('aiohttp', 'tenacity', 'PIL', 'pyarrow') if name in sys.modules]"
    shown = "\nprint('ENDED', status, 'HEAVY', heavy, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + told + shown], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert "ENDED 0 HEAVY []" in done.stderr, done.stderr
