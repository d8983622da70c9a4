"""Arguments and options that several commands share, with their help."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file (YAML).", show_default=False)]
JobFiles = Annotated[list[str], typer.Argument(metavar="JOB", show_default=False, help="One or more job files (YAML).")]
RunFolder = Annotated[
    str, typer.Argument(metavar="DIR", help="Run directory, for example outputs/cats.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, for programs.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job file; repeatable."),
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Write the results to this directory instead.")]
Simulate = Annotated[
    bool,
    typer.Option(
        "--simulate", help="Use the built-in simulator instead of the provider: no key needed, nothing billed."
    ),
]


# How this program was started, so that the command that continues a run can be shown ready to paste.


def program(*, anywhere: bool = False) -> str:
    """`batchrunner` when that is on the path, otherwise a command that works in the current directory.

    `anywhere`: from any other folder, too.
    """
    started = sys.argv[0]
    if Path(started).name == "__main__.py":
        return f"{_shortest(sys.executable, anywhere=anywhere)} -m batchrunner"
    return _shortest(started, anywhere=anywhere)


def run_command(
    job_file: str, *, overrides: Sequence[str], simulate: bool, out: str | None, anywhere: bool = False
) -> str:
    """The `run` command that continues a job: without `--limit` and without one-time options such as `--retry-failed`.

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


# Options and commands of similar tools, and what to use here instead.

_GOES_ON = "`batchrunner run JOB` always continues where it stopped; finished items are not sent again"
_PLAN = "`batchrunner plan JOB` shows what would be sent; `batchrunner run JOB --limit 2` sends only two items"
_CONCURRENCY = "use `--set limits.concurrency=N`; by default the limit is found automatically"
_KEYS = "API keys come from environment variables, named by `provider.api_key_env` in the job file"
_STATUS = "`batchrunner status DIR` shows a run's status"
_CHECK = "`batchrunner check JOB` prints every error and sends nothing"
_RESULTS = "results are in DIR/results.jsonl; `batchrunner export DIR --to csv` converts them"
_STOP = "`batchrunner stop DIR` ends the process of a run, as Ctrl-C in its terminal does; `run` continues it"
_HELP = "`batchrunner --help` lists the commands, `batchrunner COMMAND --help` explains one"
_VERSION = "`batchrunner --version` prints the version"
_OUT = "use `--out DIR` to choose the run directory"

OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("--dry-run", "--dryrun", "--dry", "--what-if", "--estimate", "--preview"), _PLAN),
    "-n": f"{_PLAN}; `--limit N` sends only the first N items",
    **dict.fromkeys(("--num", "--count", "--max-items", "--max-samples", "--sample", "--head"), "use `--limit N`"),
    **dict.fromkeys(("--resume", "--continue", "--restart", "--checkpoint", "-r"), f"not needed: {_GOES_ON}"),
    **dict.fromkeys(
        ("--force", "-f", "--overwrite", "--no-cache", "--fresh", "--clean"),
        f"{_GOES_ON}; use `--out DIR` to start over in another directory",
    ),
    **dict.fromkeys(("--retry", "--rerun-failed", "--retry-errors"), "use `--retry-failed` to retry failed items"),
    **dict.fromkeys(
        ("-j", "--jobs", "--workers", "--threads", "--concurrency", "--max-concurrency", "--num-workers"), _CONCURRENCY
    ),
    **dict.fromkeys(
        ("--rpm", "--rate-limit", "--requests-per-minute", "--max-requests-per-minute"),
        "use `--set limits.requests_per_minute=N`",
    ),
    **dict.fromkeys(("-m", "--model"), "use `--set model=NAME`"),
    **dict.fromkeys(("-p", "--provider", "--base-url", "--api-base"), "use `--set provider.base_url=URL`"),
    **dict.fromkeys(("--api-key", "--key", "--token", "-k"), _KEYS),
    **dict.fromkeys(("-o", "--output", "--output-dir", "--out-dir", "--outdir", "--dest"), _OUT),
    **dict.fromkeys(
        ("-c", "--config", "--file", "--job", "-i", "--input"),
        "give the job file as an argument: `batchrunner run JOB`",
    ),
    "-version": _VERSION,
    **dict.fromkeys(
        ("-v", "--verbose", "--debug", "--log-level"), f"progress is shown unless --quiet is given; {_STATUS}"
    ),
    **dict.fromkeys(("--silent", "--no-progress"), "use `--quiet` to print only the final summary"),
    **dict.fromkeys(("-y", "--yes"), "not needed: batchrunner never asks for confirmation"),
    **dict.fromkeys(("--mock", "--fake", "--test", "--simulated"), "use `--simulate`: no key needed, nothing billed"),
    **dict.fromkeys(
        ("--format", "-t"),
        "use `batchrunner export DIR --to FORMAT` for results, `--json` for output that programs read",
    ),
    **dict.fromkeys(("-l", "--list"), _HELP),
}
"""Unknown option -> hint."""

COMMANDS: Mapping[str, str] = {
    "help": _HELP,
    "version": _VERSION,
    **dict.fromkeys(("describe", "doc", "docs"), "`batchrunner explain KEY` explains a key of the job file"),
    **dict.fromkeys(("completions", "autocomplete"), "`batchrunner completion bash` prints a script for your shell"),
    **dict.fromkeys(("dry-run", "dryrun", "estimate", "preview", "cost"), _PLAN),
    **dict.fromkeys(("validate", "lint", "verify-job", "test"), _CHECK),
    **dict.fromkeys(("start", "submit", "exec", "create", "send", "batch"), "use `batchrunner run JOB`"),
    **dict.fromkeys(("continue", "restart"), _GOES_ON),
    **dict.fromkeys(("cancel", "kill", "abort", "terminate"), _STOP),
    **dict.fromkeys(("unpause", "start-again"), "`batchrunner resume DIR` lets a paused run go on"),
    **dict.fromkeys(("config-set", "update", "scale"), "`batchrunner set DIR limits.concurrency=2` changes a run"),
    **dict.fromkeys(("list", "ps", "logs", "log", "monitor", "progress", "info"), _STATUS),
    **dict.fromkeys(("results", "show", "get", "download", "fetch", "output"), _RESULTS),
    **dict.fromkeys(("view", "page", "html"), "`batchrunner report DIR` writes report.html, which opens in a browser"),
    **dict.fromkeys(("new", "scaffold", "example", "template"), "`batchrunner init` writes a commented job file"),
    **dict.fromkeys(("eval", "evaluate", "grade", "assert"), "`batchrunner score DIR` checks a run's answers again"),
    **dict.fromkeys(("diff", "stats"), "`batchrunner compare DIR…` compares the scores of models or runs"),
    **dict.fromkeys(("serve", "server", "mock"), "`batchrunner simulate` serves the simulated provider over HTTP"),
    **dict.fromkeys(("install", "login", "configure", "auth", "config"), f"not needed: {_KEYS}"),
}
"""Unknown command -> hint."""

_NO_OPTION = re.compile(r"No such option: (-[^\s=]+)")
_NO_COMMAND = re.compile(r"No such command '(.*?)'")
_JOB_FILE = re.compile(r".+\.(ya?ml|json)", re.IGNORECASE)


def meant(message: str, following: str | None = None) -> str | None:
    """A hint for the unknown option or command that the message names; None where the tables have none.

    `following` is the word after the command: `help run` means the help of `run`.
    """
    if option := _NO_OPTION.search(message):
        return OPTIONS.get(option[1]) or OPTIONS.get(option[1].lower())
    if command := _NO_COMMAND.search(message):
        if _JOB_FILE.fullmatch(command[1]):
            return f"to run it: `batchrunner run {command[1]}`"
        if command[1] == "help" and following is not None and re.fullmatch(r"[a-z]+", following):
            return f"use `batchrunner {following} --help`"
        return COMMANDS.get(command[1].lower())
    return None
