"""What the program does, one function for each command: the Python API, and what the commands call.

`wiring` builds what a run needs; this file opens, watches and closes it. Each function imports the modules it needs
when it is called: `check` and `status` are called often and need few of them.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, Unpack

from batchrunner.core.errors import CheckResult, JobMistakesError, Mistake
from batchrunner.core.job import Job, Json, Source, has_judges
from batchrunner.core.presets import PRESETS
from batchrunner.core.upstream import NO_UPSTREAM, Upstream
from batchrunner.core.values import replace

if TYPE_CHECKING:
    from batchrunner.core.control import Action, CommandOptions, ControlResult
    from batchrunner.core.exports import Exported, ExportKeys
    from batchrunner.core.part import PartOptions
    from batchrunner.core.plan import Plan, PointBalance
    from batchrunner.core.rehearsal_report import Rehearsal, RehearsalOptions
    from batchrunner.core.state import LedgerState
    from batchrunner.core.status import Audit, MergeResult, Report, Status
    from batchrunner.running import RunOptions
    from batchrunner.transport import Secret

T = TypeVar("T")
Counted = Callable[[int], None]


def load_job(
    path: str,
    *,
    overrides: Sequence[str] = (),
    simulate: bool = False,
    out: str | None = None,
    shard: str | None = None,
) -> Job:
    """Read, check and resolve a job file.

    Args:
        path: the YAML file.
        overrides: `key.path=VALUE` each, as of `--set`.
        simulate: run it against the built-in simulator, apart from real runs.
        out: the output directory, instead of the job's.
        shard: `I/N`: the part of the job that this process runs, with its share of the limits, in its own directory.

    Raises:
        JobMistakesError: with every mistake.
    """
    from batchrunner.spec import load_job as load

    job = load(path, overrides=overrides, simulate=simulate, out=out)
    if shard is None:
        return job
    from batchrunner.core.shard import shard_of, with_shard
    from batchrunner.stores.shards import shard_folder

    wanted = shard_of(shard)
    return with_shard(job, wanted, folder=str(shard_folder(Path(job.output.dir), wanted)))


async def check(job: Job, *, progress: Counted | None = None, before: Sequence[Job] = ()) -> CheckResult:
    """Stream every item once and collect what is wrong. `progress`: called with the items read, every 20,000.

    `before`: jobs that will run before this one. A run of theirs that this job reads and that is not there yet is no
    mistake: what needs its rows is not checked, see `CheckResult.waits_for`.
    """
    from batchrunner.core.picture_rules import picture_notes
    from batchrunner.prompts import items_of
    from batchrunner.prompts.variants import literal_braces
    from batchrunner.providers import require_dialect
    from batchrunner.report.wording import skipped_words
    from batchrunner.transport import read_keys

    require_dialect(job.provider)
    if job.simulated and (job.scenario or any("#" in model for model in job.models)):
        from batchrunner.simulator.scenarios import require_scenarios

        require_scenarios(job.scenario, job.models)
    gone: tuple[Mistake, ...] = ()
    try:
        upstream = await _upstream(job, before=before)
    except JobMistakesError as error:
        upstream, gone = NO_UPSTREAM, error.mistakes
    gone += upstream.missing
    items = items_of(job, upstream.rows)
    items.progress = progress
    mistakes = (*gone, *await items.mistakes())
    unknown: tuple[str, ...] = ()
    if job.checks and not mistakes:
        from batchrunner.report.judging import judge_mistakes
        from batchrunner.report.scoring import check_mistakes

        there = None if upstream.waits_for else items
        mistakes, unknown = await check_mistakes(job, there)
        mistakes = (*mistakes, *await judge_mistakes(job, there))
    if any(map(os.path.lexists, job.output.former_dirs)):
        from batchrunner.stores.run_directory import run_elsewhere

        mistakes = (*filter(None, (run_elsewhere(job),)), *mistakes)
    if mistakes:
        return CheckResult(mistakes=mistakes, items=0)
    notes = (*skipped_words(items.skipped_rows, items.skipped), *items.left_out, *literal_braces(job))
    found = read_keys(job.provider, os.environ, run_commands=False)
    missing = [*(mistake.problem for mistake in found.missing), *found.notes]
    return CheckResult(
        mistakes=(),
        items=items.counted,
        notes=(*notes, *unknown, *missing, *picture_notes(job), *upstream.notes),
        skipped_rows=items.skipped_rows,
        skipped=items.skipped,
        waits_for=upstream.waits_for,
    )


async def plan(
    job: Job, *, part: "PartOptions | None" = None, limit: int | None = None, progress: Counted | None = None
) -> "Plan":
    """What a run would do now. Sends nothing and writes nothing; asks for the balance if the job wants that.

    `part` and `limit` as for `run`, `progress` as for `check`.

    Raises:
        JobMistakesError, LedgerDamagedError, WrongDirectoryError, StoreBrokenError.
    """
    from batchrunner.core.lifecycle import ItemState
    from batchrunner.core.pacing import estimate_tokens
    from batchrunner.core.plan import Plan, count_items, count_superseded, points_plan
    from batchrunner.core.plan_costs import answers_plan, cost_plan, fallback_plans, requests_of
    from batchrunner.core.shard import shard_notes
    from batchrunner.engine.budget_guard import budget_so_far
    from batchrunner.engine.planning import left_notes, run_planning_pass, totals_of
    from batchrunner.engine.work_queue import LoopClock
    from batchrunner.prompts import items_of
    from batchrunner.prompts.variants import literal_braces
    from batchrunner.providers import has_batches
    from batchrunner.report.disk_space import disk_note, disk_plan
    from batchrunner.report.selection import part_of
    from batchrunner.report.summary import schedule_notes
    from batchrunner.report.wording import skipped_words
    from batchrunner.simulator.profiles import forecast
    from batchrunner.stores.other_runs import rows_of_others
    from batchrunner.stores.run_directory import refuse_run_elsewhere
    from batchrunner.transport import read_keys

    refuse_run_elsewhere(job)
    upstream = await _upstream(job)
    job, state, in_force = _stands(job)
    items = items_of(job, upstream.rows)
    items.progress = progress
    chosen = await part_of(job, items, part, state=state, limit=limit) if part is not None and part.chooses else None
    with closing(rows_of_others(upstream.reused)) as others:
        found = await run_planning_pass(
            items,
            state,
            limit=limit if chosen is None else None,
            part=chosen.keys if chosen is not None else None,
            hold=job.on_ambiguous == "hold",
            reusing=others if others.runs else None,
        )
    gone = upstream.require_reused(sends=bool(found.ahead or state.tasks or state.batches.open))
    state.lost = set(found.lost)
    daily = job.limits.requests_per_day
    requests = sum(requests_of(job, ahead.calls) for ahead in found.ahead.values()) if found.ahead else found.to_send
    api_keys = await asyncio.to_thread(read_keys, job.provider, os.environ, run_commands=job.provider.balance)
    fallbacks = fallback_plans(job, found.ahead, state.tallies)
    disk = await asyncio.to_thread(
        disk_plan,
        job,
        ahead=found.to_send + len(state.tasks),
        done=sum(tally.done for tally in state.tallies.values()),
        files=sum(tally.pictures for tally in state.tallies.values()),
    )
    planned = Plan(
        job=job.name,
        dir=job.output.dir,
        items=count_items(state, totals_of(job, found, accounts=1), now=LoopClock().wall()),
        to_send=requests,
        to_poll=len(state.tasks),
        identical=sum(found.shared.values()),
        superseded=found.vanished[ItemState.DONE] if chosen is None else count_superseded(chosen, state),
        skipped_rows=found.skipped_rows,
        skipped=items.skipped,
        estimated_input_tokens=estimate_tokens(found.prompt_chars) if found.prompt_chars else 0,
        max_calls=(found.to_send + sum(each.at_most for each in fallbacks)) * job.retry.attempts,
        quota_days=requests / (daily * len(job.first_models) * max(1, len(job.provider.accounts))) if daily else None,
        notes=(
            *(chosen.notes if chosen is not None else ()),
            *shard_notes(job),
            *(mistake.problem for mistake in api_keys.missing),
            *api_keys.notes,
            *schedule_notes(job, wall=LoopClock().wall()),
            *skipped_words(found.skipped_rows, items.skipped),
            *items.left_out,
            *literal_braces(job),
            *left_notes(state.tasks.values(), job, api_keys.accounts or ("",)),
            *in_force,
            *gone,
            *disk_note(disk),
            *upstream.notes,
            *others.notes(),
        ),
        points=points_plan(job, found.ahead, accounts=len(job.provider.accounts)),
        answers=answers_plan(job, found.ahead, state.tallies),
        cost=cost_plan(job, found.ahead, state.tallies, has_batches=has_batches(job)),
        budget=budget_so_far(job, state),
        forecast=forecast(job, found, state, now=LoopClock().wall()),
        balances=await _balances(job, api_keys.keys),
        fallbacks=fallbacks,
        upstream=upstream.chain,
        reused=found.reused,
        disk=disk,
    )
    if not has_judges(job):
        return planned
    from batchrunner.report.judging import judge_plans

    return replace(planned, judges=await judge_plans(job, planned, plan=plan))


def rehearse(job: Job, **options: "Unpack[RehearsalOptions]") -> "Rehearsal":
    """Run what is left of a job against a simulated provider in virtual time, and return how it would go.

    Sends and writes nothing; see `RehearsalOptions`. Blocks: in a coroutine, `await asyncio.to_thread(rehearse, job)`.

    Raises:
        JobMistakesError: of the profile, or of a source.
        LedgerDamagedError, WrongDirectoryError, StoreBrokenError: a run could not continue there.
    """
    from batchrunner.wiring import rehearsal_of

    return rehearsal_of(job, options)


async def run(job: Job, **options: "Unpack[RunOptions]") -> "Report":
    """Run a job, or continue it; see `RunOptions`. Its judges begin when its items have ended.

    Raises:
        JobMistakesError: a source, a key's variable that is not set, or a judge's file.
        LockHeldError, LedgerDamagedError, WrongDirectoryError, StoreBrokenError: nothing was sent.
    """
    if job.output.upload is None:
        return await _run_with_judges(job, options)
    from batchrunner.report.attended import harmless
    from batchrunner.report.uploading import mirrored

    return await mirrored(job, await _run_with_judges(job, options), harmless(options.get("say")))


async def _run_with_judges(job: Job, options: "RunOptions") -> "Report":
    from batchrunner.running import run_alone

    if not has_judges(job) or options.get("reformat", False):
        return await run_alone(job, options)
    from batchrunner.page.report_file import with_page
    from batchrunner.report.judge_runs import judged

    report = await judged(job, options, run_alone=run_alone)
    if not job.output.report:
        return report
    return replace(report, status=await with_page(Path(job.output.dir), report.status, options.get("say")))


def run_sync(job: Job, **options: "Unpack[RunOptions]") -> "Report":
    """`run` from ordinary code, on uvloop where it runs."""
    return on_a_fast_loop(run(job, **options))


def on_a_fast_loop(coroutine: Coroutine[object, object, T]) -> T:
    """Run it to its end on uvloop, or on asyncio's own loop where uvloop is not installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        import uvloop  # it is not there on every system

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


def status(dir: str) -> "Status":  # noqa: A002 - the word of the command and of `Status.dir`
    """The status of a run, from its files, also during a run; of a job that is divided, that of all its shards.

    Raises:
        WrongDirectoryError: there is no run in this directory.
        LedgerDamagedError, StoreBrokenError: its files cannot be read.
    """
    from batchrunner.report.directory_status import status_of_directory
    from batchrunner.stores.shards import has_open_shards

    if has_open_shards(folder := Path(dir)):
        from batchrunner.report.shard_status import status_of_shards

        return status_of_shards(folder)
    return status_of_directory(folder)


def control(dir: str, action: "Action", **command: "Unpack[CommandOptions]") -> "ControlResult":  # noqa: A002 - as above
    """Pause, resume, stop or change a run from another process; see `report.control_run`. Blocks for 5 s at most."""
    from batchrunner.report.control_run import control_run

    return control_run(Path(dir), action, **command)


def verify(dir: str, *, salvage: str | None = None) -> "Audit":  # noqa: A002 - as above
    """Audit a run's directory and its judges: is all that was recorded there, and as it was? Changes nothing in it.

    Args:
        dir: the run's directory; nothing may run there meanwhile.
        salvage: a new directory into which everything sound is copied; must not exist, or be empty.

    Raises:
        WrongDirectoryError: there is no run in this directory, or `salvage` is taken.
        LockHeldError: a run is working here.
        StoreBrokenError: its files cannot be read, or the copies not written.
    """
    from batchrunner.report.audit import audit_all, run_file_of
    from batchrunner.report.salvage import salvage_into
    from batchrunner.stores.lock import Quiet

    folder = Path(dir)
    run_file_of(folder)
    with Quiet(folder):
        found = audit_all(folder)
        return found if salvage is None else replace(found, salvaged=salvage_into(folder, Path(salvage)))


def merge(dir: str, *, partial: bool = False) -> "MergeResult":  # noqa: A002 - as above
    """Put the rows, pictures and ledgers of a job's shards together in its directory. Nothing is sent.

    Args:
        dir: the directory of the whole job, with the shards below it.
        partial: merge what there is so far; the shards may be at work, and go on.

    Raises:
        WrongDirectoryError: there are no shards, or they are of different versions of the job.
        LockHeldError: a process works on a shard, and `partial` is not given.
        LedgerDamagedError, LedgerMissingError, StoreBrokenError: a shard cannot be read, or the disk refused.
    """
    from batchrunner.stores.merging import Merge

    return Merge(Path(dir), partial=partial).run()


def export(dir: str, *, to: str, out: str | IO[bytes] | None = None, **options: "Unpack[ExportKeys]") -> "Exported":  # noqa: A002
    """Take a run's results along as a file or folder (`batchrunner.exporters.EXPORTERS`); see `report.export_run`."""
    from batchrunner.report.export_run import export_run

    return export_run(Path(dir), to=to, out=out, keys=options)


def results(dir: str) -> Iterator[dict[str, Json]]:  # noqa: A002 - as above
    """The rows of a run's `results.jsonl`."""
    from batchrunner.stores.row_codec import iter_results

    return iter_results(Path(dir))


# -- pieces of commands


def _stands(job: Job) -> "tuple[Job, LedgerState, tuple[str, ...]]":
    """The job with what commands have in force, what its directory or its shards remember, and notes. Blocks."""
    from batchrunner.report.control_run import job_in_force
    from batchrunner.report.directory_status import format_notes, inspection_notes
    from batchrunner.stores.ledger_replay import inspect_directory, replay
    from batchrunner.stores.run_directory import digest_of_job
    from batchrunner.stores.run_file import check_claim
    from batchrunner.stores.shards import check_shard, divided_words, has_open_shards, replay_shards

    folder, day_offset_s = Path(job.output.dir), PRESETS[job.provider.preset].day_offset_s
    if job.shard is None and has_open_shards(folder):
        return job, replay_shards(folder, day_offset_s=day_offset_s), (divided_words(folder),)
    check_shard(job)
    check_claim(folder, job_name=job.name, simulated=job.simulated, digest=digest_of_job(job))
    job, in_force = job_in_force(job, folder)
    state = replay(folder, day_offset_s=day_offset_s)
    stock = inspect_directory(folder, state)
    return job, state, (*inspection_notes(folder, stock), *format_notes(job, folder), *in_force)


async def _upstream(job: Job, *, before: Sequence[Job] = ()) -> Upstream:
    """The runs that the job reads, looked at; `before` is as for `check`."""
    if not (isinstance(job.prompts, Source) and job.prompts.run) and not job.reuse:
        return NO_UPSTREAM
    from batchrunner.report.upstream_run import look_upstream

    return await asyncio.to_thread(look_upstream, job, before=before)


async def _balances(job: Job, keys: "dict[str, Secret]") -> "tuple[PointBalance, ...]":
    """As `network.ask_balances`, which is loaded for a job that wants to know."""
    if not job.provider.balance:
        return ()
    from batchrunner.network import ask_balances

    return await ask_balances(job, keys)
