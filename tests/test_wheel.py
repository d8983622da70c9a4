"""The wheel, in an empty environment of every Python that the classifiers name, runs the demo."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["project"]
MINORS = [
    version
    for line in PROJECT["classifiers"]
    if (version := line.removeprefix("Programming Language :: Python :: ")) != line and version.startswith("3.")
]
RUNTIME = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CONFIG_FILE",
    "PIP_FIND_LINKS",
)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it with nothing of this environment's Python in its own, so that only what was installed is found."""
    environment = {name: os.environ[name] for name in RUNTIME if name in os.environ}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def interpreter(version: str) -> str | None:
    """A Python of this minor version: the one that runs the tests, one on PATH, or one that pyenv has."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    candidates = [shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        root = Path(subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip())
        candidates += [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"))]
    for path in candidates:
        # a shim of pyenv stands on PATH for versions that are not active, and fails when it is called
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves folders behind."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, source)
    shutil.copytree(HOME / "batchrunner", source / "batchrunner", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", built, source, cwd=source)
    if done.returncode != 0 and "setuptools" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("setuptools cannot be had here: pip reaches no package index")
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("*.whl")
    return path


@pytest.mark.parametrize("version", MINORS)
def test_the_wheel_runs_the_demo_in_an_empty_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    here = tmp_path / "environment"
    made = run(python, "-m", "venv", "--without-pip", here, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    installed = run(
        sys.executable, "-m", "pip", "--python", here / "bin" / "python", "install", "--quiet", "--no-compile", wheel,
        cwd=tmp_path,
    )  # fmt: skip
    if installed.returncode != 0 and "No matching distribution" in installed.stderr:
        pytest.skip("the dependencies cannot be had here: pip reaches no package index")
    assert installed.returncode == 0, installed.stderr
    for job in (HOME / "jobs").glob("demo-*.yaml"):
        shutil.copy(job, tmp_path)
        ran = run(here / "bin" / "batchrunner", "run", "--json", job.name, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        status = json.loads(ran.stdout)
        assert status["items"]["done"] == status["items"]["total"] > 0
    started = run(here / "bin" / "batchrunner", "init", "first", cwd=tmp_path)
    assert started.returncode == 0, started.stderr  # its template is a file of the package
    whence = run(here / "bin" / "python", "-c", "import batchrunner; print(batchrunner.__file__)", cwd=tmp_path)
    assert Path(whence.stdout.strip()).is_relative_to(here)


def test_the_lowest_classifier_is_what_the_wheel_requires() -> None:
    assert PROJECT["requires-python"] == f">={MINORS[0]}"
