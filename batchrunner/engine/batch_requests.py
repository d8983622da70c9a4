"""The requests of a batch: upload, order, look, find, download. Those that are free are repeated a few times."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from batchrunner.core.batch_ports import BatchDialect, BatchFiles
from batchrunner.core.error_policy import POLICY, Then
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.pacing import backoff_s
from batchrunner.core.ports import Transport
from batchrunner.core.remote_batch import BatchLook, RemoteBatch, RequestFile, ResultFile
from batchrunner.core.values import dataclass

NOT_FOUND: Final = 404
_TRIES: Final = 5
_FIND_PAGES: Final = 50


@dataclass(slots=True, kw_only=True)
class BatchRequests:
    """One for a run. What goes wrong is a value."""

    dialect: BatchDialect
    transport: Transport
    files: BatchFiles
    sleep: Callable[[float], Awaitable[None]]
    random_source: random.Random

    async def upload(self, batch: RemoteBatch, requests: RequestFile) -> str | Problem:
        """The id of the file of requests, which each try reads anew.

        Raises:
            SteppedOutError: the run drains between two tries.
            StoreBrokenError: the file cannot be read any more.
        """
        request = self.dialect.upload(requests, name=f"batchrunner-{batch.number:06d}.jsonl")
        tries = 0
        while True:
            outcome = await self.transport.exchange(request, self.dialect.uploaded(), account=batch.account)
            tries += 1
            if isinstance(outcome, str) or tries == _TRIES or not passes(outcome):
                return outcome
            await self.sleep(self.backoff_s(tries, outcome))

    async def order(self, batch: RemoteBatch, requests: RequestFile) -> BatchLook | Problem:
        """The one request that is paid for; its intent, and its file if it has one, are in the ledger."""
        request = self.dialect.create(batch.file, key=batch.key, model=batch.model, requests=requests)
        return await self.transport.exchange(request, self.dialect.looked(), account=batch.account)

    async def look(self, batch: RemoteBatch) -> BatchLook | Problem:
        """How it stands."""
        request = self.dialect.look(batch.batch_id)
        return await self.transport.exchange(request, self.dialect.looked(), account=batch.account)

    async def find(self, batch: RemoteBatch) -> BatchLook | Problem | None:
        """The batch in the account's list, by our key or by its file; None where it is not there."""
        return await self._first(
            batch, lambda look: look.key == batch.key or bool(batch.file and look.input_file == batch.file)
        )

    async def find_like(self, batch: RemoteBatch, known: Collection[str]) -> BatchLook | Problem | None:
        """A batch in the account's list that may be this one, and is none of the `known`; None where there is none."""
        return await self._first(batch, lambda look: look.batch_id not in known and look.may_be(batch))

    async def _first(self, batch: RemoteBatch, fits: Callable[[BatchLook], bool]) -> BatchLook | Problem | None:
        after: str | None = None
        for _ in range(_FIND_PAGES):
            request = self.dialect.listing(after)
            page = await self.transport.exchange(request, self.dialect.listed(after), account=batch.account)
            if isinstance(page, Problem):
                return page
            for look in page.batches:
                if fits(look):
                    return look
            after = page.after
            if after is None:
                return None
        return Problem(kind=ProblemKind.NOT_UNDERSTOOD, message="the account's list of batches has no end")

    async def download(self, batch: RemoteBatch, look: BatchLook) -> list[ResultFile] | Problem:
        """The result files, on the disk. A file of errors that is gone is left out."""
        files: list[ResultFile] = []
        for kind, file in look.outputs:
            found = await self._download(batch, kind, file)
            if not isinstance(found, Problem):
                files.append(found)
            elif not (kind == "err" and found.status == NOT_FOUND and files):
                return found
        return files

    async def _download(self, batch: RemoteBatch, kind: str, file: str) -> ResultFile | Problem:
        tries = 0
        while True:
            writing = await asyncio.to_thread(self.files.begin, f"{batch.number:06d}.{kind}.jsonl")
            try:
                outcome = await self.transport.exchange(
                    self.dialect.content(file), self.dialect.downloaded(writing.write), account=batch.account
                )
            except BaseException:
                writing.give_up()
                raise
            if outcome is None:
                return await asyncio.to_thread(writing.finish)
            writing.give_up()
            tries += 1
            if tries == _TRIES:
                return outcome
            await self.sleep(self.backoff_s(tries, outcome))

    def backoff_s(self, tries: int, problem: Problem, *, first_s: float = 2.0, cap_s: float = 300.0) -> float:
        """Before the next try; the server's own wish is a lower bound."""
        random_source = self.random_source.random()
        grown = backoff_s(first_s=first_s, cap_s=cap_s, tries=tries, random_source=random_source)
        return max(grown, problem.wait_s or 0.0)


def passes(problem: Problem) -> bool:
    """Whether what went wrong passes by itself."""
    return POLICY[problem.kind].then in {Then.WAIT, Then.RETRY, Then.PARK_LANE, Then.PARK_ACCOUNT}
