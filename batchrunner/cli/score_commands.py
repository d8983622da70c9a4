"""The commands about scores: `score` and `compare`."""

import hashlib
import shlex
from pathlib import Path
from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.interruption import unwinding
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, print_message
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake

Checks = Annotated[
    str | None,
    typer.Option("--checks", metavar="FILE", help="YAML file with `checks:`; default: those of the run's job."),
]


def score(*, folder: RunFolder, checks: Checks = None, as_json: AsJson = False) -> ExitStatus:
    r"""Check a run's answers again.

    \b
    Writes DIR/scores.jsonl and changes nothing else; sends nothing. Checks that were
    edited since the run come from the job file:
      batchrunner score outputs/gsm8k
      batchrunner score outputs/gsm8k --checks jobs/gsm8k.yaml
    """
    from batchrunner.report.scoring import check_table, rate_words  # noqa: PLC0415 - for this command only

    before = _verdicts_in(folder)
    with unwinding():
        scored = batchrunner.score(folder, checks=checks)
    if as_json:
        emit(scored)
    else:
        lines = [*rate_words(scored), *check_table(scored), f"scores: {scored.path}"]
        if (page := Path(folder, "report.html")).exists() and _verdicts_in(folder) != before:
            lines.append(
                f"page: {page} still shows the earlier verdicts; `batchrunner report {shlex.quote(folder)}` renews it"
            )
        print_message("\n".join(lines))
    return ExitStatus.DONE


def _verdicts_in(folder: str) -> bytes | None:
    """A digest of the scores that stand there; None where there are none."""
    path = Path(folder, "scores.jsonl")
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


Folders = Annotated[
    list[str], typer.Argument(metavar="DIR", show_default=False, help="One or more scored run directories.")
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="WHAT", help="Group by model, run, or a parameter's or variable's name."),
]
Base = Annotated[
    str | None, typer.Option("--base", metavar="GROUP", help="Compare the others with this group; default: all pairs.")
]
Only = Annotated[str | None, typer.Option("--check", metavar="NAME", help="Only this check's verdicts.")]
PairBy = Annotated[
    str | None,
    typer.Option("--pair-by", metavar="COLUMN", help="A column that is the same for the answers to one question."),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="COLUMN", help="A column that is the same for questions that belong together."),
]
Junit = Annotated[
    str | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML, with a test case for each item.")
]
Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Also write a page: groups side by side, flips first.")
]
FailUnder = Annotated[
    str | None, typer.Option("--fail-under", metavar="SHARE", help="Exit 1 if a group's rate is below: 0.9 or 90%.")
]
MaxDrop = Annotated[
    str | None,
    typer.Option("--max-drop", metavar="SHARE", help="Exit 1 if a group is further than this below its base."),
]
PerPrompt = Annotated[
    str | None,
    typer.Option("--per-prompt", metavar="SHARE", help="Exit 1 if a prompt passes less often than this."),
]
_SHOWN_FLIPS = 10


def compare(
    *,
    folders: Folders,
    by: By = None,
    base: Base = None,
    check: Only = None,
    pair_by: PairBy = None,
    cluster: Cluster = None,
    junit: Junit = None,
    html: Html = None,
    fail_under: FailUnder = None,
    max_drop: MaxDrop = None,
    per_prompt: PerPrompt = None,
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Compare models, parameters or runs by their scores.

    \b
    Rates with 95 % intervals, paired differences with an exact test, and the answers
    that flipped. Exit status 1 if a threshold is missed:
      batchrunner compare outputs/gsm8k
      batchrunner compare outputs/monday outputs/tuesday --by run --max-drop 1%
      batchrunner compare outputs/gsm8k --fail-under 90% --junit scores.xml
    """
    from batchrunner.report.comparing import CompareOptions, most_changed  # noqa: PLC0415 - as in `score`
    from batchrunner.report.comparison_words import comparison_words  # noqa: PLC0415 - as above
    from batchrunner.report.junit_file import require_place, write_junit  # noqa: PLC0415 - as above
    from batchrunner.scores import compared, opened  # noqa: PLC0415 - as above

    options = CompareOptions(by=by, base=base, check=check, pair_by=pair_by, cluster=cluster)
    limits = {
        "fail_under": _share(fail_under, "--fail-under"),
        "max_drop": _share(max_drop, "--max-drop"),
        "per_prompt": _share(per_prompt, "--per-prompt"),
    }
    if junit is not None:
        require_place(Path(junit))
    if html is not None:
        from batchrunner.page.comparison_file import require_place as require_place_of_page  # noqa: PLC0415 - seldom

        require_place_of_page(Path(html))
    runs = opened(folders)
    comparison, missed = compared(
        runs, options, fail_under=limits["fail_under"], max_drop=limits["max_drop"], per_prompt=limits["per_prompt"]
    )
    if junit is not None:
        write_junit(Path(junit), runs, options)
    if html is not None:
        from batchrunner.page.comparison_file import write_comparison  # noqa: PLC0415 - for this option only

        write_comparison(Path(html), runs, options)
    if as_json:
        emit({"groups": comparison.groups, "pairs": comparison.pairs, "missed": missed, "notes": comparison.notes})
    else:
        flips = [(pair, most_changed(pair, runs, most=_SHOWN_FLIPS)) for pair in comparison.pairs]
        print_message(comparison_words(comparison, flips=flips, missed=missed))
        for what, file in (("JUnit", junit), ("page", html)):
            if file is not None:
                print_message(f"{what}: {file}")
    return ExitStatus.FAILED if missed else ExitStatus.DONE


def _share(text: str | None, option: str) -> float | None:
    """A share from 0 to 1, written as 0.9 or as 90%."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        hint = "write 0.9 or 90%"
        raise JobMistakesError((Mistake(file=option, problem=f"{text} is not a share from 0 to 1", hint=hint),))
    return share
