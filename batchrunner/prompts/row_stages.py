"""What a job does with the rows of its source before they become prompts: `where` and `sample`.

Everything here depends on a row's content alone, never on its place, so that rows which are added later leave the
others as they were. Rows stay in their order.
"""

import heapq
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import blake2b

from batchrunner.core.job import Json, Sample, Source
from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.sources.base import BadRow, Batch, SourceRow
from batchrunner.prompts.templates import JobTemplates, named, unfillable

Reading = Callable[[], AsyncGenerator[Batch]]
"""Begins to read the source."""


class RowStages:
    """The stages of one pass over a source."""

    def __init__(self, source: Source, templates: JobTemplates) -> None:
        self._source = source
        self._where = templates.where
        self.left_out = 0
        """Rows for which `where` did not hold."""
        self.not_sampled = 0

    def __repr__(self) -> str:
        return f"<RowStages: {self.left_out} rows left out, {self.not_sampled} not in the sample>"

    async def rows(self, read: Reading) -> AsyncGenerator[Batch]:
        """The rows that are used; bad ones are passed on.

        Raises:
            BadSourceError: as of the source.
        """
        sample = self._source.sample
        limit = None if sample is None else await self._limit_of(sample, read)
        self.left_out = 0
        async with aclosing(read()) as batches:
            async for batch in batches:
                rows = self._kept(batch)
                if sample is not None:
                    chosen = [row for row in rows if isinstance(row, BadRow) or self._hash(row, sample) <= (limit or 0)]
                    self.not_sampled += len(rows) - len(chosen)
                    rows = chosen
                if rows:
                    yield rows

    def _kept(self, batch: Batch) -> Batch:
        """The batch without the rows for which `where` does not hold; it is the batch itself where there is none."""
        if self._where is None:
            return batch
        kept: list[SourceRow | BadRow] = []
        for row in batch:
            if isinstance(row, BadRow):
                kept.append(row)
                continue
            values = named(row.values, row=row.number)
            try:
                holds = self._where.holds(values)
            except TemplateFault as fault:
                kept.append(_bad(row, fault, key="prompts.where", names=list(values)))
                continue
            if holds:
                kept.append(row)
            else:
                self.left_out += 1
        return kept

    async def _limit_of(self, sample: Sample, read: Reading) -> int:
        """The largest hash that is in the sample: a pass over all rows, with as many numbers in memory as it has."""
        chosen: set[int] = set()
        largest_first: list[int] = []
        async with aclosing(read()) as batches:
            async for batch in batches:
                for row in self._kept(batch):
                    if isinstance(row, BadRow) or (code := self._hash(row, sample)) in chosen:
                        continue
                    if len(chosen) < sample.n:
                        chosen.add(code)
                        heapq.heappush(largest_first, -code)
                    elif code < -largest_first[0]:
                        chosen.discard(-heapq.heappushpop(largest_first, -code))
                        chosen.add(code)
        return -largest_first[0] if largest_first else -1

    def _hash(self, row: SourceRow, sample: Sample) -> int:
        by = sample.by or ("id" if self._source.run else None)
        value: Json = row.values if by is None else named(row.values).get(by)
        text = f"{sample.seed}\x1f{json.dumps(value, sort_keys=True, ensure_ascii=False)}"
        return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _bad(row: SourceRow, fault: TemplateFault, *, key: str, names: list[str]) -> BadRow:
    """The row, with what is wrong with it as a template says it."""
    wrong = unfillable(fault, file="", line=None, key=key, names=names)
    return BadRow(
        number=row.number,
        line=row.line,
        where=row.where,
        problem=wrong.problem,
        hint=wrong.hint,
        key=key,
        expected=wrong.expected,
    )
