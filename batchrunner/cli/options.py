"""Arguments and options that several commands share, with their help."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, TypedDict, get_args

import typer

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.part import PartOptions, PartState

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

ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only shard I of N (from 0), with its share of the limits; `batchrunner merge DIR` joins them.",
    ),
]

# A part of a job, for `run` and `plan`.

Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Only the first N items of each job, or of the chosen part."),
]

_PART: Final = "A part of the job"
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ID",
        rich_help_panel=_PART,
        help="Only the item or prompt with this id; repeatable; @FILE has an id on each line.",
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        rich_help_panel=_PART,
        help="Only items that are done, failed, held or pending; repeatable.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPR",
        rich_help_panel=_PART,
        help='Only items whose rows meet this condition, as "{{ not pass }}"; rows of this run, or of --from.',
    ),
]
RowsFrom = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="DIR", rich_help_panel=_PART, help="For --where, --state and --marks: the rows of this run."
    ),
]
Marks = Annotated[
    str | None,
    typer.Option(
        "--marks", metavar="FILE", rich_help_panel=_PART, help="Only marked items, by a file from the page of a run."
    ),
]
Mark = Annotated[
    str | None,
    typer.Option("--mark", metavar="4,5", rich_help_panel=_PART, help="Which marks of --marks count; default: all."),
]


class TypedPart(TypedDict):
    """The options that choose a part, as they were typed."""

    only: Sequence[str] | None
    states: Sequence[str] | None
    where: str | None
    rows_from: str | None
    marks: str | None
    mark: str | None


def part_options(typed: TypedPart) -> PartOptions:
    """The options as typed, the files of `--only @FILE` read.

    Raises:
        JobMistakesError: a state that there is not, a file that cannot be read.
    """
    known: tuple[PartState, ...] = get_args(PartState)
    for state in typed["states"] or ():
        if state not in known:
            raise JobMistakesError(
                (Mistake(key="--state", problem=f"`{state}` is not a state", expected=f"one of {', '.join(known)}"),)
            )
    return PartOptions(
        only=tuple(name for given in typed["only"] or () for name in ids_of(given)),
        states=tuple(state for state in known if state in (typed["states"] or ())),
        where=typed["where"],
        rows_from=typed["rows_from"],
        marks=typed["marks"],
        mark=tuple(one.strip() for one in (typed["mark"] or "").split(",") if one.strip()),
    )


def ids_of(given: str) -> Sequence[str]:
    """An id, or those in a file that is named `@FILE`. Raises JobMistakesError: it cannot be read, or is empty."""
    if not given.startswith("@"):
        return (given,)
    try:
        lines = Path(given[1:]).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        problem = f"the file of ids cannot be read: {said}"
        raise JobMistakesError((Mistake(file=given[1:], key="--only", problem=problem),)) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise JobMistakesError((Mistake(file=given[1:], key="--only", problem="the file has no ids"),))
    return names


def part_words(typed: TypedPart, *, anywhere: bool = False) -> list[str]:
    """The options as words of a command; `anywhere`: with absolute paths."""

    def path(given: str, mark: str = "") -> str:
        if not anywhere or not given.startswith(mark):
            return given
        return f"{mark}{_absolute(given.removeprefix(mark))}"

    words = [part for name in typed["only"] or () for part in ("--only", path(name, "@"))]
    words += [part for state in typed["states"] or () for part in ("--state", state)]
    words += ["--where", typed["where"]] if typed["where"] is not None else []
    words += ["--from", path(typed["rows_from"])] if typed["rows_from"] is not None else []
    words += ["--marks", path(typed["marks"])] if typed["marks"] is not None else []
    return words + (["--mark", typed["mark"]] if typed["mark"] is not None else [])


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
    job_file: str,
    *,
    overrides: Sequence[str],
    simulate: bool,
    out: str | None,
    shard: str | None = None,
    part: Sequence[str] = (),
    anywhere: bool = False,
    word: str = "run",
) -> str:
    """The `run` command that continues a job: without `--limit` and without one-time options such as `--retry-failed`.

    `part`: the options that choose a part of it; without them, the command would send the rest as well.

    `anywhere`: with absolute paths, so that it works from any other folder, too. `word`: the command.
    """
    if anywhere:
        job_file = _absolute(job_file)
        out = None if out is None else _absolute(out)
    options = [part for override in overrides for part in ("--set", override)]
    options += ["--simulate"] if simulate else []
    options += ["--out", out] if out is not None else []
    options += ["--shard", shard] if shard is not None else []
    options += part
    file = f"./{job_file}" if job_file.startswith("-") else job_file
    return f"{program(anywhere=anywhere)} {shlex.join([word, file, *options])}"


def worker_words(job_file: str, *, overrides: Sequence[str], simulate: bool, out: str | None) -> list[str]:
    """The arguments of `run` for a worker of the same job."""
    options = [part for override in overrides for part in ("--set", override)]
    options += ["--simulate"] if simulate else []
    options += ["--out", out] if out is not None else []
    return ["run", f"./{job_file}" if job_file.startswith("-") else job_file, *options, "--quiet"]


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
_KEYS = (
    "API keys come from environment variables, files or commands, named by `provider.api_key_env`, `api_key_file` or "
    "`api_key_cmd` in the job file"
)
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
    **dict.fromkeys(("kill", "abort", "terminate"), _STOP),
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
