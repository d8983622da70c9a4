"""How this program was started, so that the command which goes on can be shown exactly, ready to paste."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def program(*, anywhere: bool = False) -> str:
    """`batchrunner` when that is on the path, otherwise what does the same from where the person stands.

    `anywhere`: from any other folder, too.
    """
    started = sys.argv[0]
    if Path(started).name == "__main__.py":
        return f"{_shortest(sys.executable, anywhere=anywhere)} -m batchrunner"
    return _shortest(started, anywhere=anywhere)


def run_command(
    job_file: str, *, overrides: Sequence[str], simulate: bool, out: str | None, anywhere: bool = False
) -> str:
    """The `run` command that goes on with a job: without `--limit`, and without what a person asks for only once.

    `anywhere`: with absolute paths, so that it works from any other folder, too.
    """
    if anywhere:
        job_file = _absolute(job_file)
        out = None if out is None else _absolute(out)
    options = [part for override in overrides for part in ("--set", override)]
    options += ["--simulate"] if simulate else []
    options += ["--out", out] if out is not None else []
    file = f"./{job_file}" if job_file.startswith("-") else job_file
    return f"{program(anywhere=anywhere)} {shlex.join(['run', file, *options])}"


def _absolute(path: str) -> str:
    """Absolute and, unless a link is on the way, without `..`: the folder that it was typed in may go away."""
    plain = os.path.abspath(path)  # noqa: PTH100 - pathlib keeps `..`
    return plain if os.path.realpath(plain) == os.path.realpath(path) else str(Path(path).absolute())


def _shortest(path: str, *, anywhere: bool) -> str:
    name = Path(path).name
    found = shutil.which(name)
    same = found is not None and Path(found).absolute() == Path(path).absolute()
    return shlex.quote(name if same else str(Path(path).absolute()) if anywhere else path)
