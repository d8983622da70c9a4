"""A shard of a job: the items whose keys leave the same remainder, and its share of the job's limits.

Shards know nothing of each other. What the job may use up in a minute, in a day and in all is divided among them, so
that all of them together ask for no more than one process that runs the whole job.
"""

import re
import shlex
from pathlib import PurePath
from typing import Final

from batchrunner.core.budget import Budget, figure
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job, Limits
from batchrunner.core.part import Shard
from batchrunner.core.presets import PRESETS
from batchrunner.core.values import replace

OPTION: Final = "--shard"
_FORM: Final = re.compile(r"([0-9]{1,6})/([0-9]{1,6})", re.ASCII)
_WORD: Final = r"""(?:'[^']*'|"[^"]*"|[^\s'"])+"""
_DIVIDES: Final = re.compile(rf" --(?:shard|coordinator|processes) {_WORD}")
_NAMES_COORDINATOR: Final = re.compile(rf" --coordinator {_WORD}")
_EXPECTED: Final = "I/N, where I counts from 0 to N-1, like 0/4"


def shard_of(text: str) -> Shard:
    """The shard that `--shard` names. Raises JobMistakesError for what names none."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _mistake(f"`{text[:40]}` names no shard")
    number, of = int(found[1]), int(found[2])
    if not of:
        raise _mistake(f"`{text}`: a job cannot have 0 shards")
    if number >= of:
        raise _mistake(f"`{text}`: of {of:,} shards the last is {of - 1}/{of}")
    return Shard(number=number, of=of)


def _mistake(problem: str) -> JobMistakesError:
    return JobMistakesError((Mistake(key=OPTION, problem=problem, expected=_EXPECTED),))


def with_shard(job: Job, shard: Shard, *, folder: str) -> Job:
    """The shard's own job: its items, its share of the limits and the budget, in its own directory.

    The page, the checks and their judges are about the whole: they wait for the merged run.

    Raises:
        JobMistakesError: a limit cannot be divided among so many shards, or the job asks models one after another.
    """
    if job.fallback is not None:
        problem = "cannot be combined with `models: {first, then}`: the two items of a prompt would be of two shards"
        hint = "leave out `--shard`, or name one model"
        raise JobMistakesError((Mistake(key=OPTION, problem=problem, hint=hint),))
    return replace(
        job,
        shard=shard,
        limits=_limits(job, shard),
        budget=_budget(job.budget, shard) if job.budget is not None else None,
        output=replace(job.output, dir=folder, report=False),
        checks=(),
    )


def with_leased_shard(job: Job, shard: Shard, *, folder: str) -> Job:
    """The shard's job for a worker of a coordinator, which has the limits and leases them. Raises as `with_shard`."""
    limits = job.limits
    own = replace(limits, requests_per_minute=None, tokens_per_minute=None, requests_per_day=None)
    divided = with_shard(replace(job, limits=own, budget=None), shard, folder=folder)
    return replace(divided, shard=replace(shard, is_leased=True), budget=job.budget)


def _limits(job: Job, shard: Shard) -> Limits:
    limits = job.limits
    polls = limits.poll_per_second or PRESETS[job.provider.preset].poll_per_second
    return replace(
        limits,
        requests_per_minute=_part(limits.requests_per_minute, shard),
        tokens_per_minute=_part(limits.tokens_per_minute, shard),
        requests_per_day=_whole_part("limits.requests_per_day", limits.requests_per_day, shard),
        poll_per_second=_part(polls, shard),
    )


def _budget(budget: Budget, shard: Shard) -> Budget:
    return replace(
        budget,
        calls=_whole_part("budget.calls", budget.calls, shard),
        tokens=_whole_part("budget.tokens", budget.tokens, shard),
        points=_part(budget.points, shard),
        money=_part(budget.money, shard),
    )


def _part(amount: float | None, shard: Shard) -> float | None:
    return None if amount is None else amount / shard.of


def _whole_part(key: str, amount: int | None, shard: Shard) -> int | None:
    """A whole number each, which add up to the amount; the first shards have one more where it does not come out."""
    if amount is None:
        return None
    if amount < shard.of:
        problem = f"{amount:,} cannot be divided among {shard.of:,} shards: some could send nothing"
        raise JobMistakesError((Mistake(key=key, problem=problem, hint="use fewer shards, or a higher limit"),))
    each, more = divmod(amount, shard.of)
    return each + (shard.number < more)


def for_whole_job(command: str | None) -> str | None:
    """The command of a shard's process, as it is for the whole job once its shards are merged."""
    return None if command is None else _DIVIDES.sub("", command)


def for_processes(command: str, *, processes: int) -> str:
    """The command of a coordinator's worker, for so many processes that share the job where no coordinator is left."""
    return _NAMES_COORDINATOR.sub(f" --processes {processes}", command)


def shard_notes(job: Job) -> tuple[str, ...]:
    """What the shard is and may use of what the job has, for people; nothing for a whole job."""
    shard, limits, budget = job.shard, job.limits, job.budget
    if shard is None:
        return ()
    shares: list[tuple[str, float | None]] = [
        ("requests a minute", limits.requests_per_minute),
        ("tokens a minute", limits.tokens_per_minute),
        ("requests a day", limits.requests_per_day),
    ]
    if budget is not None:
        shares += [("calls in all", budget.calls), ("tokens in all", budget.tokens), ("points in all", budget.points)]
        shares += [(f"{budget.currency} in all", budget.money)]
    listed = ", ".join(f"{figure(amount)} {unit}" for unit, amount in shares if amount is not None)
    if not listed:
        return (f"shard {shard}: the job has no limits to be divided",)
    return (f"shard {shard}: its share of the job's limits is {listed}",)


def merge_notes(job: Job) -> tuple[str, ...]:
    """What follows the end of a shard, for people; nothing for a whole job."""
    if job.shard is None:
        return ()
    base = PurePath(job.output.dir).parents[2]
    return (f"when all {job.shard.of} shards have ended, `batchrunner merge {shlex.quote(str(base))}` joins them",)
