"""`batchrunner cancel DIR [ID…]`: asks the server to end open batches and tasks before they have ended by themselves.

Nothing is written here: the next run asks how they stand, reads what they have finished, and puts the rest back.
Nothing is ever cancelled without this command.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from batchrunner.core.batch_ports import BatchDialect
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake, WrongDirectoryError
from batchrunner.core.job import Provider
from batchrunner.core.lifecycle import OpenTask
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import CancellingDialect, Transport
from batchrunner.core.presets import PRESETS
from batchrunner.core.remote_batch import RemoteBatch
from batchrunner.engine.planning import same_server
from batchrunner.providers import batches_for, dialect_for
from batchrunner.report.directory_status import day_offset_of
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.lock import RunLock
from batchrunner.stores.run_file import run_file_or_refuse, server_of, task_table_of
from batchrunner.transport.secrets import read_keys, read_proxy_auth


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledBatch:
    """What came of asking for one batch's end."""

    batch: int
    """The number of the batch in the directory."""
    id: str
    model: str
    items: int
    """Items that wait for its results."""
    state: str
    """The server's own word for how it stands now; empty where it did not say."""
    problem: str | None
    """Why it goes on, as far as is known; None where the server took the wish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledTask:
    """What came of asking for one task's end."""

    item: str
    """The item's id."""
    id: str
    """The task's."""
    model: str
    problem: str | None
    """Why it goes on, as far as is known; None where the server took the wish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What was asked for, a batch or a task each."""

    batches: tuple[CancelledBatch, ...]
    tasks: tuple[CancelledTask, ...]
    next_command: str | None
    """What reads the results of what they had finished."""

    @property
    def exit_status(self) -> ExitStatus:
        """0 where every wish was taken, otherwise 1."""
        problems = [one.problem for one in self.batches] + [one.problem for one in self.tasks]
        return ExitStatus.FAILED if any(problems) else ExitStatus.DONE


async def cancel(folder: Path, chosen: Sequence[str] = ()) -> Cancellation:
    """Ask the server to cancel what it has of this directory, or what is `chosen`.

    Batches are chosen by number or by the server's id, tasks by the item's id or the server's.

    Raises:
        WrongDirectoryError: there is no run in this directory, or a simulated one.
        JobMistakesError: nothing of that name is open, or a key is not set.
        LockHeldError: a run works here; it would order again what comes back.
        LedgerDamagedError, StoreBrokenError: its ledger cannot be read.
    """
    there = run_file_or_refuse(folder)
    with RunLock(folder):
        state = replay(folder, day_offset_s=day_offset_of(there))
        batches, tasks = _meant(
            [one for one in state.batches.open if one.batch_id and not one.ended],
            [task for task in state.tasks.values() if task.task_id and not task.urls],
            chosen,
        )
        provider, timeouts = server_of(folder, there)
        accounts = {one.account for one in batches} | {one.account for one in tasks}
        keys, missing = read_keys(sorted(accounts - {""}), os.environ)
        if missing:
            raise JobMistakesError(missing)
        proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
        if provider.base_url == PRESETS["simulator"].base_url:
            raise WrongDirectoryError(
                f"{folder}: this run was simulated in its own process, and no server has its work; nothing to cancel"
            )
        table = task_table_of(there)
        dialect = dialect_for(replace(provider, task=table)) if table is not None else None
        in_batches = None if table is not None else batches_for(provider, dialect_for(provider)) if batches else None
        if in_batches is None and batches:
            raise WrongDirectoryError(f"{folder}: the provider of this run has no batches")
        from batchrunner.transport import ApiTransport  # noqa: PLC0415 - aiohttp, once something is to be sent

        async with ApiTransport(provider, timeouts=timeouts, keys=keys, proxy_auth=proxy_auth) as transport:
            ended = [
                await _cancelled(one, provider, in_batches, transport) for one in batches if in_batches is not None
            ]
            stopped = [await _stopped(one, provider, dialect, transport) for one in tasks]
    return Cancellation(batches=tuple(ended), tasks=tuple(stopped), next_command=there.command_here())


def _meant(
    batches: list[RemoteBatch], tasks: list[OpenTask], chosen: Sequence[str]
) -> tuple[list[RemoteBatch], list[OpenTask]]:
    if not batches and not tasks:
        problem = "no batch or task of this directory is open at the server"
        raise JobMistakesError((Mistake(key="DIR", problem=problem, hint="`batchrunner status` lists what is open"),))
    names: dict[str, int] = {name: id(one) for one in batches for name in (str(one.number), one.batch_id)}
    for task in tasks:
        names |= {task.item_id: id(task), task.task_id: id(task)}
    unknown = [name for name in chosen if name not in names]
    if unknown:
        shown = [f"{one.number} ({one.batch_id})" for one in batches] + [f"{one.item_id}" for one in tasks]
        more = f" and {len(shown) - _MOST_SHOWN:,} more" if shown[_MOST_SHOWN:] else ""
        what = "batch" if not tasks else "task" if not batches else "batch or task"
        problem = f"no open {what} is {', '.join(map(repr, unknown))}"
        expected = f"one of {', '.join(shown[:_MOST_SHOWN])}{more}"
        raise JobMistakesError((Mistake(key="ID", problem=problem, expected=expected),))
    wanted = {names[name] for name in chosen}
    return (
        [one for one in batches if not chosen or id(one) in wanted],
        [one for one in tasks if not chosen or id(one) in wanted],
    )


_MOST_SHOWN: Final = 20


async def _stopped(task: OpenTask, provider: Provider, dialect: object, transport: Transport) -> CancelledTask:
    problem: str | None = None
    request = dialect.cancel(task.task_id) if isinstance(dialect, CancellingDialect) else None
    if not same_server(task.origin, provider.base_url):  # as of batches
        problem = f"it was started at {task.origin}, and the job's provider.base_url is {provider.base_url} now"
    elif request is None or not isinstance(dialect, CancellingDialect):
        problem = "this server is not known to end a task when it is asked; the next run fetches what it makes"
    else:
        refused = await transport.exchange(request, dialect.cancelled(), account=task.account)
        problem = None if refused is None else refused.message
    return CancelledTask(item=task.item_id, id=task.task_id, model=task.model, problem=problem)


async def _cancelled(
    batch: RemoteBatch, provider: Provider, dialect: BatchDialect, transport: Transport
) -> CancelledBatch:
    word, problem = "", None
    if not same_server(batch.origin, provider.base_url):  # no key goes to a host that the job does not name any more
        problem = f"it was started at {batch.origin}, and the job's provider.base_url is {provider.base_url} now"
    else:
        look = await transport.exchange(dialect.cancel(batch.batch_id), dialect.looked(), account=batch.account)
        if isinstance(look, Problem):
            problem = look.message
        else:
            word = look.word
    return CancelledBatch(
        batch=batch.number, id=batch.batch_id, model=batch.model, items=batch.left, state=word, problem=problem
    )
