"""`batchrunner cancel DIR [BATCH…]`: asks the server to end open batches before they have ended by themselves.

Nothing is written here: the next run asks how they stand, reads what they have finished, and puts the rest back. No
batch is ever cancelled without this command.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake, WrongDirectoryError
from batchrunner.core.job import Provider
from batchrunner.core.outcome import Problem
from batchrunner.core.ports import BatchDialect, Transport
from batchrunner.core.presets import PRESETS
from batchrunner.core.remote_batch import RemoteBatch
from batchrunner.engine.planning import same_server
from batchrunner.providers import batches_for, dialect_for
from batchrunner.report.directory_status import day_offset_of
from batchrunner.stores.ledger_replay import replay
from batchrunner.stores.lock import RunLock
from batchrunner.stores.run_file import run_file_or_refuse, server_of
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
class Cancellation:
    """What was asked for, a batch each."""

    batches: tuple[CancelledBatch, ...]
    next_command: str | None
    """What reads the results of what they had finished."""

    @property
    def exit_status(self) -> ExitStatus:
        """0 where every wish was taken, otherwise 1."""
        return ExitStatus.FAILED if any(each.problem for each in self.batches) else ExitStatus.DONE


async def cancel_batches(folder: Path, chosen: Sequence[str] = ()) -> Cancellation:
    """Ask the server to cancel the open batches of this directory, or those `chosen` by number or by the server's id.

    Raises:
        WrongDirectoryError: there is no run in this directory, or a simulated one.
        JobMistakesError: no such batch is open, or a key is not set.
        LockHeldError: a run works here; it would order again what comes back.
        LedgerDamagedError, StoreBrokenError: its ledger cannot be read.
    """
    there = run_file_or_refuse(folder)
    with RunLock(folder):
        state = replay(folder, day_offset_s=day_offset_of(there))
        batches = _meant([one for one in state.batches.open if one.batch_id and not one.ended], chosen)
        provider, timeouts = server_of(folder, there)
        keys, missing = read_keys(sorted({one.account for one in batches} - {""}), os.environ)
        if missing:
            raise JobMistakesError(missing)
        proxy_auth = read_proxy_auth(provider.proxy_auth_env, os.environ) if provider.proxy_auth_env else None
        if provider.base_url == PRESETS["simulator"].base_url:
            raise WrongDirectoryError(
                f"{folder}: this run was simulated in its own process, and no server has its batches; nothing to cancel"
            )
        dialect = batches_for(provider, dialect_for(provider))
        if dialect is None:
            raise WrongDirectoryError(f"{folder}: the provider of this run has no batches")
        from batchrunner.transport import ApiTransport  # noqa: PLC0415 - aiohttp, once something is to be sent

        async with ApiTransport(provider, timeouts=timeouts, keys=keys, proxy_auth=proxy_auth) as transport:
            ended = [await _cancelled(one, provider, dialect, transport) for one in batches]
    return Cancellation(batches=tuple(ended), next_command=there.command_here())


def _meant(open_ones: list[RemoteBatch], chosen: Sequence[str]) -> list[RemoteBatch]:
    if not open_ones:
        problem = "no batch of this directory is open at the server"
        raise JobMistakesError((Mistake(key="DIR", problem=problem, hint="`batchrunner status` lists the batches"),))
    names = {name: one for one in open_ones for name in (str(one.number), one.batch_id)}
    unknown = [name for name in chosen if name not in names]
    if unknown:
        shown = ", ".join(f"{one.number} ({one.batch_id})" for one in open_ones)
        problem = f"no open batch is {', '.join(map(repr, unknown))}"
        raise JobMistakesError((Mistake(key="BATCH", problem=problem, expected=f"one of {shown}"),))
    numbers = {names[name].number for name in chosen}
    return [one for one in open_ones if not chosen or one.number in numbers]


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
