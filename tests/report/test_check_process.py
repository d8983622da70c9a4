"""A person's functions and patterns without an end: whatever they do, there is an answer or a reason, in time."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from batchrunner.evaluation.check_kinds import CheckBrokenError
from batchrunner.report.check_process import CheckProcess

FUNCTIONS = """
import os, sys, time

time.sleep(LOADING)

def good(row):
    return row["id"]

def hangs(row):
    if "tries" in row:
        with open(row["tries"], "a") as file:
            file.write("x")
    time.sleep(1000)

def closes_everything_and_hangs(row):
    os.closerange(0, 64)
    time.sleep(1000)

def exits(row):
    os._exit(4)

def raises_exit(row):
    raise SystemExit(3)

def prints(row):
    print("{" * 100)
    os.write(1, b"[]\\n")
    return True
"""
ENDLESS = ("(a+)+$", "a" * 40 + "!")


@pytest.fixture
def process() -> Iterator[CheckProcess]:
    with CheckProcess(key_env=(), limits_s=(60.0, 60.0)) as started:  # a busy machine answers late
        yield started


@contextmanager
def hasty(process: CheckProcess) -> Iterator[None]:
    """For what never ends: it is stopped soon."""
    patience = process._python_limit_s, process._pattern_limit_s
    process._python_limit_s = process._pattern_limit_s = 0.3
    yield
    process._python_limit_s, process._pattern_limit_s = patience


@pytest.fixture
def place(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTIONS.replace("LOADING", "0"))
    return f"{file}:"


def test_a_file_that_takes_long_to_load_does_not_count_as_a_slow_function(
    process: CheckProcess, place: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS.replace("LOADING", "6"))
    process._python_limit_s = 5.0
    assert process.python(f"{place}good", {"id": "a"}) == "a"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hangs", "more than 0.3 s"),
        ("closes_everything_and_hangs", "closed its output"),
        ("exits", "exit status 4"),
        ("raises_exit", "SystemExit"),
        ("missing", "no attribute"),
    ],
)
def test_a_function_that_gives_nothing_is_a_reason_and_the_next_one_is_asked(
    process: CheckProcess, place: str, name: str, reason: str
) -> None:
    with hasty(process) if name == "hangs" else nullcontext(), pytest.raises(CheckBrokenError, match=reason):
        process.python(f"{place}{name}", {})
    assert process.python(f"{place}good", {"id": "a"}) == "a"


def test_a_file_that_cannot_be_loaded_is_tried_once(process: CheckProcess, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'tries')!r}, 'a').write('x')\nraise OSError('no')\n")
    for _ in range(3):
        with pytest.raises(CheckBrokenError, match=r"mine\.py cannot be loaded: OSError: no"):
            process.python(f"{tmp_path / 'mine.py'}:good", {})
    assert (tmp_path / "tries").read_text() == "x"


def test_what_a_function_prints_is_no_answer(process: CheckProcess, place: str) -> None:
    assert [process.python(f"{place}prints", {}) for _ in range(2)] == [True, True]


def test_what_always_hangs_is_not_waited_for_a_thousand_times(
    process: CheckProcess, place: str, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    for _ in range(1_000):
        with hasty(process), pytest.raises(CheckBrokenError):
            process.python(f"{place}hangs", {"tries": str(tries)})
    with pytest.raises(CheckBrokenError, match="5 times in a row and is not tried again"):
        process.python(f"{place}hangs", {"tries": str(tries)})
    assert len(tries.read_text()) <= 5
    assert process.python(f"{place}good", {"id": "a"}) == "a"


def test_a_pattern_without_an_end_is_stopped(process: CheckProcess) -> None:
    with hasty(process), pytest.raises(CheckBrokenError, match=r"more than 0\.3 s"):
        process.search(*ENDLESS)
    assert process.search("b(c)", "abc") == ["bc", "c"]


def test_a_pattern_without_an_end_does_not_outlive_the_process_that_asked(tmp_path: Path) -> None:
    text = (
        "import sys; from batchrunner.report.check_process import CheckProcess\n"
        "with CheckProcess(key_env=(), limits_s=(60, 60)) as process:\n"
        "    process.search('a', 'a')\n"
        "    process._pattern_limit_s = 1\n"
        "    print(process._child.pid, flush=True)\n"
        f"    process.search(*{ENDLESS!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None
        child = int(asking.stdout.readline())
        time.sleep(0.3)
        asking.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 120
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
