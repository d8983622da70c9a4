"""What a job does with the rows of its source before they become prompts, in this order.

`where` leaves rows out, `sample` takes a part of them, `explode` makes a row of each entry of a list, `dedupe` drops
repeated texts, `group` puts several rows into one, `draw` adds values.

Everything depends on the content of rows, never on their places: rows that are added later leave the others as they
were. Rows stay in their order, and are not kept in memory.
"""

import asyncio
import heapq
import json
import unicodedata
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from hashlib import blake2b
from typing import Final

from batchrunner.core.job import Group, Json, Sample, Source
from batchrunner.prompts.draws import Pools
from batchrunner.prompts.ids import Seen, slug
from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.sources.base import BATCH_ROWS, BadRow, Batch, SourceRow
from batchrunner.prompts.templates import JobTemplates, named, unfillable

ITEM: Final = "item"
"""The name of an entry that `explode` made a row of."""
ROWS: Final = "rows"
"""The name of the rows that `group` put together."""
Reading = Callable[[], AsyncGenerator[Batch]]
"""Begins to read the source."""
_Rows = list[SourceRow | BadRow]


class RowStages:
    """The stages of one pass over a source. `left_out` counts the rows that are not used, by the key that says so."""

    def __init__(self, source: Source, templates: JobTemplates, left_out: Counter[str]) -> None:
        self._source = source
        self._templates = templates
        self._left_out = left_out
        self._seen = Seen()
        self._groups = _Groups(source.group) if source.group is not None else None
        self._number = 0

    def __repr__(self) -> str:
        return f"<RowStages: {dict(self._left_out)} left out>"

    @staticmethod
    def has_any(source: Source) -> bool:
        """Whether anything is to be done with the rows at all."""
        keys = (source.where, source.sample, source.explode, source.dedupe, source.group)
        return bool(source.draw) or any(key is not None for key in keys)

    async def rows(self, read: Reading) -> AsyncGenerator[Batch]:
        """The rows that are used; bad ones are passed on.

        Raises:
            BadSourceError: as of the source, or of a file that is drawn from.
        """
        try:
            source = self._source
            pools = await asyncio.to_thread(Pools, source.draw, source.seed) if source.draw else None
            sample = source.sample
            limit = None if sample is None else await self._limit_of(sample, read)
            self._left_out.clear()
            async with aclosing(read()) as batches:
                async for batch in batches:
                    rows = self._where(batch)
                    if sample is not None and limit is not None:
                        rows = self._sampled(rows, sample, limit)
                    if self._templates.explode is not None:
                        rows = self._exploded(rows)
                    if self._templates.dedupe is not None:
                        rows = self._deduped(rows)
                    if self._groups is not None:
                        rows = await asyncio.to_thread(self._groups.take, rows)
                    if rows:
                        yield self._finished(rows, pools)
                    async with aclosing(self._whole_groups()) as groups:
                        async for rows in groups:
                            yield self._finished(rows, pools)
            async with aclosing(self._whole_groups(at_end=True)) as groups:
                async for rows in groups:
                    yield self._finished(rows, pools)
        finally:
            if self._groups is not None:
                self._groups.close()

    async def _whole_groups(self, *, at_end: bool = False) -> AsyncGenerator[_Rows]:
        if self._groups is None:
            return
        if at_end:
            self._groups.end()
        while rows := await asyncio.to_thread(self._groups.some) if self._groups.are_ready else []:
            yield rows

    def _where(self, batch: Batch) -> Batch:
        """The batch without the rows for which `where` does not hold; the batch itself where there is no `where`."""
        where = self._templates.where
        if where is None:
            return batch
        if where.needs_scores and self._source.run:
            scored = [row for row in batch if isinstance(row, BadRow) or row.values.get("verdict")]
            self._left_out["unscored"] += len(batch) - len(scored)
            batch = scored
        return self._filtered(batch, "where", where.holds)

    def _filtered(self, batch: Batch, key: str, keeps: Callable[[Mapping[str, Json]], bool]) -> Batch:
        """The rows that `keeps` wants; the others are counted, and rows for which it raises TemplateFault are bad."""
        kept: _Rows = []
        for row in batch:
            if isinstance(row, BadRow):
                kept.append(row)
                continue
            values = named(row.values, row=row.number)
            try:
                is_kept = keeps(values)
            except TemplateFault as fault:
                kept.append(_bad(row, fault, key=f"prompts.{key}", names=list(values)))
                continue
            if is_kept:
                kept.append(row)
            else:
                self._left_out[key] += 1
        return kept

    async def _limit_of(self, sample: Sample, read: Reading) -> int:
        """The largest hash that is in the sample: a pass over all rows, with as many numbers in memory as it has."""
        chosen: set[int] = set()
        largest_first: list[int] = []
        async with aclosing(read()) as batches:
            async for batch in batches:
                for row in self._where(batch):
                    if isinstance(row, BadRow) or (code := self._hash(row, sample)) in chosen:
                        continue
                    if len(chosen) < sample.n:
                        chosen.add(code)
                        heapq.heappush(largest_first, -code)
                    elif code < -largest_first[0]:
                        chosen.discard(-heapq.heappushpop(largest_first, -code))
                        chosen.add(code)
        return -largest_first[0] if largest_first else -1

    def _sampled(self, batch: Batch, sample: Sample, limit: int) -> Batch:
        chosen = [row for row in batch if isinstance(row, BadRow) or self._hash(row, sample) <= limit]
        self._left_out["sample"] += len(batch) - len(chosen)
        return chosen

    def _hash(self, row: SourceRow, sample: Sample) -> int:
        by = sample.by or ("id" if self._source.run else None)
        value: Json = row.values if by is None else named(row.values).get(by)
        return int.from_bytes(digest_of(value, sample.seed, size_bytes=8))

    def _exploded(self, batch: Batch) -> Batch:
        found: _Rows = []
        for row in batch:
            if isinstance(row, BadRow):
                found.append(row)
            else:
                found += self._entries(row)
        return found

    def _entries(self, row: SourceRow) -> _Rows:
        """A row for each entry of the list that `explode` gives; its fields are names that the row has not yet."""
        explode = self._templates.explode
        assert explode is not None, "there is something to explode"
        values = named(row.values, row=row.number)
        try:
            entries = explode.value(values)
        except TemplateFault as fault:
            return [_bad(row, fault, key="prompts.explode", names=list(values))]
        if not isinstance(entries, list):
            problem = f"gives {json.dumps(entries, ensure_ascii=False)[:80]}, which is not a list"
            return [_wrong(row, problem, key="prompts.explode")]
        if not entries:
            self._left_out["explode"] += 1
        rows: _Rows = []
        ids: Counter[str] = Counter()
        for place, entry in enumerate(entries, 1):
            fields = entry if isinstance(entry, dict) else {}
            own = {**fields, **row.values, ITEM: entry}
            if self._source.run:
                base = f"{row.values.get('id')}-{digest_of(entry, size_bytes=3).hex()}"
                ids[base] += 1
                own["id"] = base if ids[base] == 1 else f"{base}-{ids[base]}"
            where = f"{row.where}, entry {place}" if row.line is None else row.where
            rows.append(SourceRow(row.number, row.line, own, where, origin=row.origin))
        return rows

    def _deduped(self, batch: Batch) -> Batch:
        dedupe = self._templates.dedupe
        assert dedupe is not None, "there is something to compare by"
        return self._filtered(batch, "dedupe", lambda values: self._seen.claim(_normal(dedupe.value(values))) is None)

    def _finished(self, batch: Batch, pools: Pools | None) -> Batch:
        """With what is drawn, and numbered anew where they are other rows than those of the source."""
        is_new = self._templates.explode is not None or self._groups is not None
        if pools is None and not is_new:
            return batch
        rows: _Rows = []
        for row in batch:
            self._number += 1
            number = self._number if is_new else row.number
            if isinstance(row, BadRow):
                rows.append(row)
                continue
            values = row.values
            if pools is not None:
                of_whom: Json = values.get("id") if self._source.run else values or number
                values = {**values, **pools.drawn(of_whom)}
            rows.append(SourceRow(number, row.line, values, row.where, row.asked, row.origin))
        return rows


class _Groups:
    """Puts rows with the same value into groups. Rows that wait for others lie in a temporary file. Blocks."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._waiting: dict[str, list[tuple[int, int]]] = {}
        self._ready: deque[tuple[str, list[tuple[int, int]]]] = deque()
        import tempfile  # noqa: PLC0415 - for jobs with groups only: it loads much

        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the pass
        self._end = 0

    def __repr__(self) -> str:
        return f"<_Groups by {self._group.by}: {len(self._waiting)} begun>"

    def close(self) -> None:
        """What waits is gone."""
        self._file.close()

    def take(self, batch: Batch) -> _Rows:
        """Take the rows in; gives the bad ones among them."""
        found: _Rows = []
        for row in batch:
            if isinstance(row, BadRow):
                found.append(row)
                continue
            values = named(row.values)
            if self._group.by not in values:
                expected = ", ".join(f"`{name}`" for name in list(row.values)[:20])
                problem = f"there is no `{self._group.by}` to group by"
                found.append(_wrong(row, problem, key="prompts.group.by", expected=f"one of {expected}"))
                continue
            by = json.dumps(values[self._group.by], sort_keys=True, ensure_ascii=False)
            waiting = self._waiting.setdefault(by, [])
            waiting.append(self._put({"v": row.values, "o": row.origin}))
            if len(waiting) == self._group.size:
                self._ready.append((by, self._waiting.pop(by)))
        return found

    def end(self) -> None:
        """No more rows: the groups that are smaller than they may be are ready, too."""
        self._ready.extend(self._waiting.items())
        self._waiting.clear()

    @property
    def are_ready(self) -> bool:
        """Whether `some` has any."""
        return bool(self._ready)

    def some(self) -> _Rows:
        """Groups that are ready: few, for their rows are all in memory."""
        few = min(len(self._ready), max(1, BATCH_ROWS // self._group.size))
        return [self._made(*self._ready.popleft()) for _ in range(few)]

    def _put(self, row: dict[str, Json]) -> tuple[int, int]:
        text = json.dumps(row).encode()
        place = (self._end, len(text))
        self._file.seek(self._end)
        self._file.write(text)
        self._end += len(text)
        return place

    def _get(self, place: tuple[int, int]) -> dict[str, Json]:
        self._file.seek(place[0])
        found: dict[str, Json] = json.loads(self._file.read(place[1]))
        return found

    def _made(self, by: str, places: list[tuple[int, int]]) -> SourceRow:
        members = [self._get(place) for place in places]
        if not self._waiting and not self._ready:  # the file begins anew
            self._end = 0
        rows = [member["v"] for member in members]
        origins = [of for member in members if isinstance(of := member["o"], dict)]
        value: Json = json.loads(by)
        values: dict[str, Json] = {self._group.by: value, ROWS: list(rows)}
        origin: dict[str, Json] | None = None
        if origins:
            origin = {"run": origins[0].get("run"), "ids": [one.get("id") for one in origins]}
            own: Json = [row.get("id") for row in rows if isinstance(row, dict)]
            values["id"] = f"{slug(str(value))}-{digest_of(own, size_bytes=6).hex()}"
        return SourceRow(0, None, values, f", group {by[:80]}", origin=origin)


def digest_of(value: Json, seed: int = 0, *, size_bytes: int) -> bytes:
    """A hash of a value and a seed."""
    text = f"{seed}\x1f{json.dumps(value, sort_keys=True, ensure_ascii=False)}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size_bytes).digest()


def _normal(value: Json) -> str:
    """What texts are compared by: composed characters, no case, single spaces."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def _bad(row: SourceRow, fault: TemplateFault, *, key: str, names: list[str]) -> BadRow:
    """The row, with what is wrong with it as a template says it."""
    wrong = unfillable(fault, file="", line=None, key=key, names=names)
    return _wrong(row, wrong.problem, key=key, hint=wrong.hint, expected=wrong.expected)


def _wrong(row: SourceRow, problem: str, *, key: str, hint: str | None = None, expected: str | None = None) -> BadRow:
    return BadRow(
        number=row.number,
        line=row.line,
        where=row.where,
        problem=problem,
        hint=hint,
        key=key,
        expected=expected,
    )


LEFT_OUT_WORDS: Final[Mapping[str, str]] = {
    "where": "for which `where` does not hold",
    "unscored": "that are not scored yet; `batchrunner score` scores them",
    "sample": "that are not in the sample",
    "explode": "whose list is empty",
    "dedupe": "that repeat an earlier one",
}
"""What is said of rows that are left out, by key."""
