"""What people type out of habit from similar tools, and what there is instead. Refuses to guess beyond its tables."""

import re
from collections.abc import Mapping

_GOES_ON = "`batchrunner run JOB` always goes on where it stopped, nothing that is done is paid for again"
_PLAN = "`batchrunner plan JOB` says what would be sent and sends nothing, `run JOB --limit 2` is a small try"
_CONCURRENCY = "`--set limits.concurrency=N`; without it the limit is found by itself"
_KEYS = "keys stand in environment variables, which `provider.api_key_env` in the job file names"
_STATUS = "`batchrunner status DIR` says where a run stands and why"
_CHECK = "`batchrunner check JOB` prints every mistake and sends nothing"
_RESULTS = "results lie in DIR/results.jsonl; `batchrunner export DIR --to csv` makes one file of them"
_STOP = "Ctrl-C in the run's terminal, or SIGTERM to its process, ends it; the same command goes on later"
_HELP = "`batchrunner --help` lists the commands, `batchrunner COMMAND --help` explains one"
_VERSION = "`batchrunner --version` prints the version"
_OUT = "`--out DIR` says where results go"

OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("--dry-run", "--dryrun", "--dry", "--what-if", "--estimate", "--preview"), _PLAN),
    "-n": f"{_PLAN}; `--limit N` takes the first N items",
    **dict.fromkeys(("--num", "--count", "--max-items", "--max-samples", "--sample", "--head"), "`--limit N`"),
    **dict.fromkeys(("--resume", "--continue", "--restart", "--checkpoint", "-r"), f"leave it out: {_GOES_ON}"),
    **dict.fromkeys(
        ("--force", "-f", "--overwrite", "--no-cache", "--fresh", "--clean"),
        f"{_GOES_ON}; `--out DIR` begins anew in another folder",
    ),
    **dict.fromkeys(("--retry", "--rerun-failed", "--retry-errors"), "`--retry-failed` tries failed items again"),
    **dict.fromkeys(
        ("-j", "--jobs", "--workers", "--threads", "--concurrency", "--max-concurrency", "--num-workers"), _CONCURRENCY
    ),
    **dict.fromkeys(
        ("--rpm", "--rate-limit", "--requests-per-minute", "--max-requests-per-minute"),
        "`--set limits.requests_per_minute=N`",
    ),
    **dict.fromkeys(("-m", "--model"), "`--set model=NAME`"),
    **dict.fromkeys(("-p", "--provider", "--base-url", "--api-base"), "`--set provider.base_url=URL`"),
    **dict.fromkeys(("--api-key", "--key", "--token", "-k"), _KEYS),
    **dict.fromkeys(("-o", "--output", "--output-dir", "--out-dir", "--outdir", "--dest"), _OUT),
    **dict.fromkeys(("-c", "--config", "--file", "--job", "-i", "--input"), "name the job file: `batchrunner run JOB`"),
    **dict.fromkeys(("-V", "-version"), _VERSION),
    **dict.fromkeys(("-v", "--verbose", "--debug", "--log-level"), f"progress is shown unless --quiet; {_STATUS}"),
    **dict.fromkeys(("--silent", "--no-progress"), "`--quiet` shows the closing summary only"),
    **dict.fromkeys(("-y", "--yes"), "leave it out: nothing is asked"),
    **dict.fromkeys(("--mock", "--fake", "--test", "--simulated"), "`--simulate` needs no key and pays nothing"),
    **dict.fromkeys(("--format", "-t"), "`--to FORMAT` of `batchrunner export`; `--json` prints one object"),
    **dict.fromkeys(("-l", "--list"), _HELP),
}
"""Options that are not there."""

COMMANDS: Mapping[str, str] = {
    "help": _HELP,
    "version": _VERSION,
    **dict.fromkeys(("dry-run", "dryrun", "estimate", "preview", "cost", "diff"), _PLAN),
    **dict.fromkeys(("validate", "lint", "verify-job", "test"), _CHECK),
    **dict.fromkeys(("start", "submit", "exec", "create", "send", "batch"), "`batchrunner run JOB`"),
    **dict.fromkeys(("resume", "continue", "restart", "retry"), _GOES_ON),
    **dict.fromkeys(("stop", "cancel", "kill", "pause", "abort"), _STOP),
    **dict.fromkeys(("ls", "list", "ps", "logs", "log", "watch", "monitor", "progress", "info"), _STATUS),
    **dict.fromkeys(("results", "show", "get", "download", "fetch", "output", "report", "view"), _RESULTS),
    **dict.fromkeys(("new", "scaffold", "example"), "`batchrunner init` writes a commented job file"),
    **dict.fromkeys(("serve", "server", "mock"), "`batchrunner simulate` is the simulated provider as an HTTP server"),
    **dict.fromkeys(("install", "login", "configure", "auth", "config"), f"nothing of that is needed: {_KEYS}"),
}
"""Commands that are not there."""

_NO_OPTION = re.compile(r"No such option: (-[^\s=]+)")
_NO_COMMAND = re.compile(r"No such command '(.*?)'")
_JOB_FILE = re.compile(r".+\.(ya?ml|json)", re.IGNORECASE)


def meant(message: str, following: str | None = None) -> str | None:
    """What there is instead of the option or command that the message names; None when nobody knows.

    `following` is the word after the command: `help run` means the help of `run`.
    """
    if option := _NO_OPTION.search(message):
        return OPTIONS.get(option[1]) or OPTIONS.get(option[1].lower())
    if command := _NO_COMMAND.search(message):
        if _JOB_FILE.fullmatch(command[1]):
            return f"`batchrunner run {command[1]}` runs it"
        if command[1] == "help" and following is not None and re.fullmatch(r"[a-z]+", following):
            return f"`batchrunner {following} --help` explains it"
        return COMMANDS.get(command[1].lower())
    return None
