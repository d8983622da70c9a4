"""The port `Items` for a job, and the check that finds every mistake of its prompts at once."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Json, Source
from batchrunner.prompts.expand import Expansion, artifact_name
from batchrunner.prompts.findings import Findings
from batchrunner.prompts.kept import KeptItems, stamp_of
from batchrunner.prompts.recipe import Recipe, recipe_of


class JobItems:
    """The items of a job; implements `core.ports.Items`. Templates are compiled at the first pass and then kept.

    So are the items themselves, where they are few: the first pass for each model after a whole one gives them, and
    reads the source only if it has changed since.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.keeps = False
        """Set by whoever will make more passes than one, before the first."""
        self._kept: KeptItems | None = None
        self._compiled: tuple[Recipe, tuple[Mistake, ...]] | None = None
        self._last: Findings | None = None
        self.counted = 0
        """Items that the last search for mistakes has seen."""
        self.progress: Callable[[int], None] | None = None
        """Told how many items a pass has seen: from a million on, every quarter of a million."""

    def __repr__(self) -> str:
        return f"<JobItems of {self._job.name}, {self.skipped_rows} rows skipped in the last whole pass>"

    @property
    def skipped_rows(self) -> int:
        """Bad rows that the last whole pass left out; 0 before the first."""
        return self._last.skipped_rows if self._last else 0

    @property
    def skipped(self) -> tuple[Mistake, ...]:
        """What was wrong with the first 20 of them."""
        return self._last.skipped if self._last else ()

    async def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
        """The items of these models (None: all), in the job's order, some at a time.

        Raises:
            JobMistakesError: templates that are none (all of them), or the first thing that is wrong with the rows.
        """
        given = left_out = 0
        if self._kept is not None and (waiting := self._kept.take(models)) is not None:
            while waiting:
                batch = waiting.popleft()
                given += len(batch)
                yield batch
                del batch
                await asyncio.sleep(0)
            if await asyncio.to_thread(stamp_of, self._job) == self._kept.stamp:
                return
            left_out = given
        # Where the source has changed since, it is read to its end after all, so that whoever counts notices.
        async with aclosing(self._read(models)) as batches:
            async for batch in batches:
                if more := batch[left_out:]:
                    yield more
                left_out = max(0, left_out - len(batch))
        if left_out:
            of_whom = "" if models is None else f" for {', '.join(sorted(models))}"
            problem = f"the source has {given - left_out:,} prompts{of_whom} now, and had {given:,} when the run began"
            raise JobMistakesError((Mistake(problem=problem, key="prompts"),))

    async def _read(self, models: frozenset[str] | None) -> AsyncGenerator[Sequence[Item]]:
        findings = self._findings(first_only=True)
        kept = None
        if models is None and self.keeps and self._kept is None:
            kept = self._kept = KeptItems(await asyncio.to_thread(stamp_of, self._job))
        async with aclosing(self._pass(findings).batches(models)) as batches:
            async for batch in batches:
                if kept is not None:
                    kept.add(batch)
                yield batch
        self._last = findings
        if kept is not None:
            kept.end(await asyncio.to_thread(stamp_of, self._job))

    async def stream(self, models: frozenset[str] | None = None) -> AsyncGenerator[Item]:
        """The same items one by one."""
        async with aclosing(self.batches(models)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    def path_of(self, item: Item) -> str:
        """`output.each` filled for an item; empty when the job has none. Any text: whoever writes there makes it safe.

        Raises:
            JobMistakesError: the template is none, or uses a name that the item does not have.
        """
        each = self._recipe().each
        own: dict[str, Json] = {"id": item.id, "prompt_id": item.prompt_id, "index": item.index, "model": item.model}
        return artifact_name(self._job, each, {**item.params, **item.vars, **own}) if each else ""

    async def mistakes(self) -> tuple[Mistake, ...]:
        """Every mistake of the templates and all rows; bad rows are none where the job skips them.

        A template that is none hides nothing else: something harmless stands in for it. Of millions, the first
        100,000 are kept and the others counted.
        """
        recipe, broken = recipe_of(self._job)
        findings = self._findings(first_only=False)
        expansion = self._pass(findings, recipe)
        found: tuple[Mistake, ...] = ()
        try:
            async for _ in expansion.batches(frozenset()):
                pass
        except JobMistakesError as error:
            found = error.mistakes
        self._last, self.counted = findings, expansion.counted
        return tuple(dict.fromkeys((*broken, *findings.mistakes, *found)))

    def _pass(self, findings: Findings, recipe: Recipe | None = None) -> Expansion:
        return Expansion(self._job, recipe or self._recipe(), findings, progress=self.progress)

    def _recipe(self) -> Recipe:
        if self._compiled is None:
            self._compiled = recipe_of(self._job)
        recipe, mistakes = self._compiled
        if mistakes:
            raise JobMistakesError(mistakes)
        return recipe

    def _findings(self, *, first_only: bool) -> Findings:
        prompts = self._job.prompts
        return Findings(
            first_only=first_only, skip_bad_rows=isinstance(prompts, Source) and prompts.on_bad_row == "skip"
        )


def items_of(job: Job) -> JobItems:
    """The items of a job. Nothing is read before they are streamed."""
    return JobItems(job)


async def check_items(job: Job) -> tuple[Mistake, ...]:
    """Stream everything once: every mistake of the job's prompts, templates, pictures and rows, empty if none."""
    return await JobItems(job).mistakes()
