"""Fuzzing guided by coverage, outside of the tests: `python -m tests.fuzz.atheris_campaign TARGET SECONDS [FOLDER]`.

The targets are those of `targets.py`. FOLDER keeps what was found worth keeping, so that the next campaign goes on
from there. What fails is written there as `crash-…`: mend the program, then keep the input in `past_inputs/`.
Needs `pip install atheris`, which is no dependency of the tests.
"""

import importlib
import sys
import tempfile
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run one target for so many seconds; 0 when nothing was found."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed here: pip install atheris, into an environment of its own", file=sys.stderr)  # noqa: T201
        return 2
    with atheris.instrument_imports(include=["batchrunner"]):
        from tests.fuzz.targets import BY_NAME  # noqa: PLC0415 - instrumented only if it is imported here
    if len(arguments) < 2 or arguments[0] not in BY_NAME:
        print(f"{__doc__}\nTargets: {', '.join(BY_NAME)}", file=sys.stderr)  # noqa: T201
        return 2
    target = BY_NAME[arguments[0]]
    folder = Path(arguments[2] if len(arguments) > 2 else tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number:04d}").write_bytes(seed)
    options = [f"-max_total_time={arguments[1]}", "-timeout=20", "-rss_limit_mb=1500", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], str(folder), *options], lambda text: (target.run(text), None)[1])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
