"""`batchrunner check JOB…`: every mistake of every job, then of their prompts. Sends nothing, writes nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import batchrunner
from batchrunner.cli.options import AsJson, JobFiles, Overrides
from batchrunner.cli.output import emit, reading, say, tell_mistakes
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.report.wording import count


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What `--json` shows of a job without mistakes."""

    file: str
    job: str
    items: int
    notes: tuple[str, ...]
    skipped_rows: int = 0
    skipped: tuple[Mistake, ...] = ()


def check(*, jobs: JobFiles, overrides: Overrides = None, as_json: AsJson = False) -> ExitStatus:
    r"""Check job files and their prompts; print every mistake.

    \b
    Nothing is sent. Each mistake has its file, line and key, and what was expected:
      batchrunner check jobs/cats.yaml
      batchrunner check jobs/*.yaml --json
    """
    fine: list[Checked] = []
    mistakes: list[Mistake] = []
    for file in jobs:
        try:
            found = _check_one(file, tuple(overrides or ()), progress=None if as_json else reading(file))
        except JobMistakesError as error:
            mistakes.extend(error.mistakes)
        else:
            fine.append(found)
    for checked in fine:
        _tell(checked)
    if mistakes:
        return tell_mistakes(tuple(mistakes), as_json=as_json)
    if as_json:
        emit({"mistakes": (), "jobs": fine})
    return ExitStatus.DONE


def _check_one(file: str, overrides: tuple[str, ...], *, progress: Callable[[int], None] | None) -> Checked:
    try:
        job = batchrunner.load_job(file, overrides=overrides)
    except JobMistakesError as error:
        from batchrunner.app import every_mistake  # noqa: PLC0415 - the door to the house opens when something is done

        raise JobMistakesError(asyncio.run(every_mistake(error))) from None
    result = asyncio.run(batchrunner.check(job, progress=progress))
    if result.mistakes:
        raise JobMistakesError(result.mistakes)
    return Checked(
        file=file,
        job=job.name,
        items=result.items,
        notes=result.notes,
        skipped_rows=result.skipped_rows,
        skipped=result.skipped,
    )


def _tell(checked: Checked) -> None:
    say(f"{checked.file}: no mistakes, {count(checked.items, 'item')}")
    for note in checked.notes:
        say(f"  note: {note}")
