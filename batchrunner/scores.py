"""The functions behind `score` and `compare`: verdicts on a run's answers, and groups of them beside each other.

Neither sends anything. Modules are loaded when a function is called, as in `api`.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.values import replace

if TYPE_CHECKING:
    from batchrunner.core.checks import Scored
    from batchrunner.core.job import Check
    from batchrunner.evaluation.comparison import Comparison
    from batchrunner.report.comparing import ComparedRun, CompareOptions
    from batchrunner.stores.run_file import RunFile


def score(dir: str, *, checks: str | None = None) -> "Scored":  # noqa: A002 - the word of the command
    """Check every answer of a run again and replace its `scores.jsonl`; changes nothing else there.

    Args:
        dir: the run's directory.
        checks: a YAML file with `checks:`; default: those of the job that ran there last.

    Raises:
        JobMistakesError: no run, no checks, or mistakes in them.
        LockHeldError: a run works there.
        StoreBrokenError: the disk refused.
    """
    from batchrunner.report.directory_status import status_of_directory
    from batchrunner.report.scoring import score_directory
    from batchrunner.spec import load_checks
    from batchrunner.stores.lock import RunLock
    from batchrunner.stores.run_file import run_file_or_refuse

    folder = Path(dir)
    run = run_file_or_refuse(folder)
    held, base = (_checks_of(run, folder)) if checks is None else load_checks(checks)
    lock = RunLock(folder)
    lock.acquire()
    try:
        total = status_of_directory(folder).items.total  # also refuses a directory whose ledger is gone
        scored = score_directory(folder, held, base=base, key_env=_key_env(run))
    finally:
        lock.release()
    scored.not_answered = max(0, total - scored.rows)
    return scored


def _checks_of(run: "RunFile", folder: Path) -> "tuple[tuple[Check, ...], PurePath]":
    """The checks that run.json has, and the job file's folder."""
    from batchrunner.core.job import Check

    listed: Any = run.job.get("checks")
    if not isinstance(listed, list) or not listed:
        hint = f"add `checks:` to the job file and name it: batchrunner score {folder} --checks JOB"
        raise JobMistakesError((Mistake(file=str(folder), problem="the job that ran here had no checks", hint=hint),))
    try:
        made = tuple(Check(**entry) for entry in listed if isinstance(entry, dict))
    except TypeError:
        hint = f"name the job file: batchrunner score {folder} --checks JOB"
        raise JobMistakesError(
            (Mistake(file=str(folder / "run.json"), problem="has checks of another version", hint=hint),)
        ) from None
    return made, PurePath(run.job_path).parent if run.job_path else PurePath()


def _key_env(run: "RunFile") -> tuple[str, ...]:
    provider = run.job.get("provider")
    names = provider.get("key_env") if isinstance(provider, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def _unfinished_notes(runs: "list[ComparedRun]") -> list[str]:
    """Which runs are not at their end, so that a part of one is not taken for all of it."""
    from batchrunner.core.errors import BatchrunnerError
    from batchrunner.report.directory_status import status_of_directory

    notes: list[str] = []
    for one in runs:
        try:
            items = status_of_directory(one.folder).items
        except BatchrunnerError:  # rows and scores that were copied without their ledger
            continue
        if left := items.total - items.done - items.failed:
            notes.append(f"{left:,} of {items.total:,} items of {one.label} have no answer yet and are not in it")
    return notes


def _checks_notes(runs: "list[ComparedRun]") -> list[str]:
    """Where scores were made by other checks than those of the run's last job, or of the other runs."""
    from batchrunner.core.checks import checks_digest

    notes = []
    for one in runs:
        again = f"`batchrunner score {one.folder}` scores all of it by those"
        try:
            checks, _ = _checks_of(one.run, one.folder)
        except JobMistakesError:
            notes.append(f"{one.label} is scored by checks that the job which ran there last does not have")
            continue
        if len(one.checks) > 1:
            notes.append(f"{one.label} is scored partly by other checks than the rest; {again}")
        elif one.checks and one.checks != {checks_digest(checks)}:
            notes.append(f"{one.label} is scored by other checks than those of the job that ran there last; {again}")
    if len({one.checks for one in runs if one.checks}) > 1:
        notes.append("the runs are scored by different checks, so their rates may be of different things")
    return notes


def _judges_notes(runs: "list[ComparedRun]") -> list[str]:
    """What the judges of pairs say of themselves: how often the order of the answers decided."""
    from batchrunner.core.errors import BatchrunnerError

    notes: list[str] = []
    for one in runs:
        listed: Any = one.run.job.get("checks")
        if not any(isinstance(check, dict) and check.get("kind") == "judge" for check in listed or ()):
            continue
        from batchrunner.report.judging import verdicts_of

        prefix = f"{one.label}: " if len(runs) > 1 else ""
        try:
            checks, base = _checks_of(one.run, one.folder)
            found = verdicts_of(one.folder, checks, base=base)
        except BatchrunnerError as error:  # the judge's file has gone since; its verdicts stand in the scores
            notes.append(f"{prefix}nothing can be said of the judges' position bias: {error}")
            continue
        notes += [f"{prefix}judge {name}: {note}" for name, verdicts in found.items() if (note := verdicts.note())]
    return notes


class Thresholds(TypedDict, total=False):
    """Shares from 0 to 1 that `compare` holds groups against.

    fail_under: the least rate of every group.
    max_drop: how far a group's rate may be below that of the group it is compared with.
    per_prompt: the least share of passes among the answers to each prompt.
    """

    fail_under: float | None
    max_drop: float | None
    per_prompt: float | None


def compare(
    dirs: Sequence[str], options: "CompareOptions | None" = None, **thresholds: Unpack[Thresholds]
) -> "tuple[Comparison, list[str]]":
    """Compare groups of scored answers, of one run or of several; also gives which thresholds are missed, in words.

    Raises:
        JobMistakesError: no run, no scores, nothing to compare.
        StoreBrokenError: the disk refused.
    """
    return compared(opened(dirs), options, **thresholds)


def opened(dirs: Sequence[str]) -> "list[ComparedRun]":
    """The runs with their scores, for `compared`. Raises as `compare`."""
    from batchrunner.report.comparing import open_runs

    return open_runs([Path(folder) for folder in dirs])


def compared(
    runs: "list[ComparedRun]", options: "CompareOptions | None" = None, **thresholds: Unpack[Thresholds]
) -> "tuple[Comparison, list[str]]":
    """As `compare`, of runs that were opened."""
    from batchrunner.evaluation.comparison import missed_thresholds
    from batchrunner.report.comparing import CompareOptions, compare_runs

    comparison = compare_runs(runs, options or CompareOptions())
    notes = (*comparison.notes, *_unfinished_notes(runs), *_checks_notes(runs), *_judges_notes(runs))
    comparison = replace(comparison, notes=notes)
    missed = missed_thresholds(
        comparison,
        fail_under=thresholds.get("fail_under"),
        max_drop=thresholds.get("max_drop"),
        per_prompt=thresholds.get("per_prompt"),
    )
    return comparison, missed
