"""A run and whoever called it: progress, signals and scores while it works; messages that must not cost an answer."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.core.job import Job
from batchrunner.core.status import Status
from batchrunner.engine.shutdown import listening
from batchrunner.stores.run_directory import remember_refusal
from batchrunner.stores.run_file import RunFile
from batchrunner.stores.threads import Threads

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner
    from batchrunner.report.scoring import LiveScores

Progress = Callable[[Callable[[], Status]], Awaitable[None]]
_PROGRESS_ENDS_S: Final = 5.0
"""How long a progress callback that was cancelled is waited for."""


@asynccontextmanager
async def attended(
    runner: "Runner", *, progress: Progress | None, signals: bool, speak: Callable[[str], None]
) -> AsyncIterator[None]:
    """Progress, signals and scores of answers as they come, for as long as the run goes."""
    showing = asyncio.create_task(_shown(progress, runner, speak)) if progress is not None else None
    scores = _live_scores(runner.job)
    try:
        with listening(runner.shutdown) if signals else nullcontext():
            yield
    finally:
        if scores is not None:
            await asyncio.to_thread(scores.end)
        if showing is not None:
            showing.cancel()
            await asyncio.wait({showing}, timeout=_PROGRESS_ENDS_S)


def _live_scores(job: Job) -> "LiveScores | None":
    """What scores the answers of a job with checks, begun; judges see them when all have come."""
    if all(check.kind == "judge" for check in job.checks):
        return None
    from batchrunner.report.scoring import LiveScores  # noqa: PLC0415 - for jobs with checks only

    scores = LiveScores(job, Path(job.output.dir))
    scores.start()
    return scores


async def _shown(progress: Progress, runner: "Runner", speak: Callable[[str], None]) -> None:
    """The caller's progress; if it fails, that is reported and the run continues without it."""
    try:
        await progress(runner.snapshot)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - answers are being paid for: a drawing must not cost one
        speak(f"the progress callback failed: {error!r}; the run continues")


async def or_remembered(
    assembling: Awaitable["Runner"], disk: Threads, folder: Path, before: RunFile | None
) -> "Runner":
    """The runner. What is wrong with the job is in run.json before it is raised; see `remember_refusal`."""
    try:
        return await assembling
    except JobMistakesError as error:
        with suppress(StoreBrokenError):
            await disk.run(remember_refusal, folder, before, error)
        raise


def harmless(say: Callable[[str], None] | None) -> Callable[[str], None]:
    """The caller's `say`; once it fails, that message and all later ones go to stderr. None: stderr from the first."""
    voices = [say or _to_stderr]

    def speak(text: str) -> None:
        try:
            voices[-1](text)
        except Exception as error:  # noqa: BLE001 - a message must not cost an answer
            if len(voices) == 1:
                voices.append(_to_stderr)
                _to_stderr(f"the `say` callback failed ({error!r}); messages go to stderr from now on")
                _to_stderr(text)

    return speak


def _to_stderr(text: str) -> None:
    with suppress(OSError, ValueError):  # a terminal that went away
        print(text, file=sys.stderr)  # noqa: T201 - the default voice of the Python API
