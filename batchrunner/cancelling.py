"""`batchrunner cancel DIR [ID…]`: asks the server to end open batches and tasks before they have ended by themselves.

The ledger is left as it is: the next run asks how they stand, reads what they have finished, and puts the rest back.
What a server agreed to is noted in `control/cancelled.jsonl`, so that the command asks for it once.
Nothing is ever cancelled without this command.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchrunner.core.batch_ports import BatchDialect
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake, WrongDirectoryError
from batchrunner.core.job import Provider, Timeouts
from batchrunner.core.lifecycle import OpenTask
from batchrunner.core.outcome import Pending, Problem
from batchrunner.core.ports import CancellingDialect, TaskDialect, Transport
from batchrunner.core.presets import PRESETS
from batchrunner.core.remote_batch import RemoteBatch
from batchrunner.core.values import dataclass, replace
from batchrunner.engine.planning import same_server
from batchrunner.providers import batches_for, dialect_for
from batchrunner.report.directory_status import day_offset_of
from batchrunner.stores.cancelled_file import note_cancelled, read_cancelled
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.lock import RunLock
from batchrunner.stores.run_file import run_file_or_refuse, server_of, task_table_of
from batchrunner.transport import read_keys
from batchrunner.transport.secrets import read_proxy_auth

if TYPE_CHECKING:
    from batchrunner.core.task_table import TaskTable


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
    before: str | None = None
    """When it took it, by an earlier command: then it was not asked again."""


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
    before: str | None = None
    """As of batches."""


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


_MOST_S: Final = 30.0
"""How long one question may take: a person waits."""
_AT_ONCE: Final = 8
_SAID_AFTER_S: Final = 3.0
"""After so long it is said what is being waited for."""


async def cancel(
    folder: Path, chosen: Sequence[str] = (), *, say: Callable[[str], None] = lambda _: None
) -> Cancellation:
    """Ask the server to cancel what it has of this directory, or what is `chosen`.

    Batches are chosen by number or by the server's id, tasks by the item's id or the server's. What the server agreed
    to before is asked for again only where it is chosen. `say` is told what is being waited for.

    Raises:
        WrongDirectoryError: there is no run in this directory, or a simulated one.
        JobMistakesError: nothing of a chosen name is open, or a key is not set.
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
        agreed = {} if chosen else read_cancelled(folder)
        asked_batches = [one for one in batches if one.batch_id not in agreed]
        asked_tasks = [task for task in tasks if task.task_id not in agreed]
        ended: dict[str, CancelledBatch] = {}
        stopped: dict[str, CancelledTask] = {}
        if asked_batches or asked_tasks:
            provider, timeouts = server_of(folder, there)
            if provider.base_url == PRESETS["simulator"].base_url:
                raise WrongDirectoryError(
                    f"{folder}: this run was simulated in its own process, and no server has its work; nothing to "
                    "cancel"
                )
            asking = _Asking(folder, provider, _bounded(timeouts), table=task_table_of(there), say=say)
            ended, stopped = await asking.all(asked_batches, asked_tasks)
    return Cancellation(
        batches=tuple(
            ended.get(one.batch_id)
            or CancelledBatch(
                batch=one.number,
                id=one.batch_id,
                model=one.model,
                items=one.left,
                state="",
                problem=None,
                before=agreed[one.batch_id],
            )
            for one in batches
        ),
        tasks=tuple(
            stopped.get(task.task_id)
            or CancelledTask(
                item=task.item_id, id=task.task_id, model=task.model, problem=None, before=agreed[task.task_id]
            )
            for task in tasks
        ),
        next_command=there.command_here() if batches or tasks else None,
    )


def _bounded(timeouts: Timeouts) -> Timeouts:
    return replace(
        timeouts,
        connect_s=min(timeouts.connect_s, _MOST_S),
        first_byte_s=min(timeouts.first_byte_s, _MOST_S),
        idle_s=min(timeouts.idle_s, _MOST_S),
        total_s=min(timeouts.total_s, _MOST_S),
    )


def _meant(
    batches: list[RemoteBatch], tasks: list[OpenTask], chosen: Sequence[str]
) -> tuple[list[RemoteBatch], list[OpenTask]]:
    if not batches and not tasks:
        if not chosen:
            return [], []
        problem = f"{NOTHING_OPEN}; nothing is called {', '.join(map(repr, chosen))}"
        raise JobMistakesError((Mistake(key="ID", problem=problem, hint="`batchrunner status` lists what is open"),))
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
NOTHING_OPEN: Final = "no batch or task of this directory is open at the server"


class _Asking:
    """Asks one server for the end of batches and tasks, few at a time, and notes what it agreed to."""

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        timeouts: Timeouts,
        *,
        table: "TaskTable | None",
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._provider = provider
        self._timeouts = timeouts
        self._say = say
        self._table = table
        self._dialect = dialect_for(replace(provider, task=table)) if table is not None else None
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def all(
        self, batches: Sequence[RemoteBatch], tasks: Sequence[OpenTask]
    ) -> tuple[dict[str, CancelledBatch], dict[str, CancelledTask]]:
        """What came of each, by the server's id. Raises as `cancel` does."""
        accounts = {one.account for one in batches} | {one.account for one in tasks}
        found = await asyncio.to_thread(read_keys, self._provider, os.environ, only=sorted(accounts - {""}))
        if found.missing:
            raise JobMistakesError(found.missing)
        provider = self._provider
        proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
        in_batches = batches_for(provider, dialect_for(provider)) if batches and self._table is None else None
        if in_batches is None and batches:
            raise WrongDirectoryError(f"{self._folder}: the provider of this run has no batches")
        from batchrunner.transport import ApiTransport  # noqa: PLC0415 - aiohttp, once something is to be sent

        async with ApiTransport(provider, timeouts=self._timeouts, keys=found.keys, proxy_auth=proxy_auth) as transport:
            waiting = asyncio.create_task(self._wait_aloud(len(batches) + len(tasks)))
            try:
                ended = await asyncio.gather(
                    *(self._cancelled(one, in_batches, transport) for one in batches if in_batches is not None)
                )
                stopped = await asyncio.gather(*(self._stopped(one, transport) for one in tasks))
            finally:
                waiting.cancel()
        return {one.id: one for one in ended}, {one.id: one for one in stopped}

    async def _wait_aloud(self, count: int) -> None:
        await asyncio.sleep(_SAID_AFTER_S)
        open_now = f"{count:,} open batches and tasks" if count > 1 else "one open batch or task"
        self._say(
            f"waiting for {self._provider.base_url}, which is asked to end {open_now}; at most {_MOST_S:g} s for each "
            "reply"
        )

    async def _stopped(self, task: OpenTask, transport: Transport) -> CancelledTask:
        async with self._at_once:
            problem = await self._problem_of(task, transport)
        if problem is None:
            self._note(task.task_id)
        return CancelledTask(item=task.item_id, id=task.task_id, model=task.model, problem=problem)

    async def _problem_of(self, task: OpenTask, transport: Transport) -> str | None:
        """Why a task goes on; None where the server took the wish."""
        dialect: object = self._dialect
        if not same_server(task.origin, self._provider.base_url):  # as of batches
            return f"it was started at {task.origin}, and the job's provider.base_url is {self._provider.base_url} now"
        request = (
            dialect.cancel(task.task_id, task.addresses)
            if isinstance(dialect, CancellingDialect) and isinstance(dialect, TaskDialect)
            else None
        )
        if request is None or not isinstance(dialect, CancellingDialect) or not isinstance(dialect, TaskDialect):
            return "this server is not known to end a task when it is asked; the next run fetches what it makes"
        if dialect.cancelled_while:
            look = dialect.poll_decoder(task.task_id, task.addresses)
            stands = await transport.exchange(dialect.poll(task.task_id, task.addresses), look, account=task.account)
            if isinstance(stands, Problem) and not stands.of_task:
                return f"how it stands cannot be seen: {stands.message}"
            if not isinstance(stands, Pending):
                return "it has ended already; the next run reads what came of it"
            if stands.state not in dialect.cancelled_while:
                word = stands.raw or stands.state
                return f"the server says {word!r}, and ends only what is {' or '.join(dialect.cancelled_while)}"
        refused = await transport.exchange(request, dialect.cancelled(), account=task.account)
        return None if refused is None else refused.message

    async def _cancelled(self, batch: RemoteBatch, dialect: BatchDialect, transport: Transport) -> CancelledBatch:
        word, problem, base_url = "", None, self._provider.base_url
        if not same_server(batch.origin, base_url):  # no key goes to a host that the job does not name any more
            problem = f"it was started at {batch.origin}, and the job's provider.base_url is {base_url} now"
        else:
            async with self._at_once:
                look = await transport.exchange(dialect.cancel(batch.batch_id), dialect.looked(), account=batch.account)
            if isinstance(look, Problem):
                problem = look.message
            else:
                word = look.word
                self._note(batch.batch_id)
        return CancelledBatch(
            batch=batch.number, id=batch.batch_id, model=batch.model, items=batch.left, state=word, problem=problem
        )

    def _note(self, name: str) -> None:
        try:
            note_cancelled(self._folder, name, at=time.time())
        except OSError as error:
            self._say(f"{self._folder}: it cannot be noted that {name} is cancelled: {error.strerror or error}")
