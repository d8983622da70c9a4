"""Jobs for the tests of the prompts room: everything by default, each test names what it is about."""

import asyncio
from pathlib import Path, PurePath
from typing import Any

import pytest

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Limits, ListedPrompt, Listing, Output, Provider, RetryPolicy, Source, Timeouts
from batchrunner.core.values import replace
from batchrunner.prompts import JobItems, check_items, items_of

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

_JOB = Job(
    name="job",
    file="job.yaml",
    folder=PurePath(),
    kind="chat",
    provider=Provider(
        preset="openai", dialect="openai-chat", base_url="https://x.test/v1", key_env=("K",), auth="bearer"
    ),
    models=("a/One",),
    prompts=Listing(entries=()),
    matrix={},
    params={},
    system=None,
    messages=(),
    images=(),
    schema=None,
    stream=True,
    replicas=1,
    limits=Limits(),
    retry=RetryPolicy(),
    timeouts=Timeouts(),
    output=Output(dir="outputs/job"),
    durability="result",
    on_ambiguous="resend",
    on_quota="wait",
    breaker=20,
    simulated=False,
)


def job_of(prompts: Listing | Source, **changes: Any) -> Job:
    """A chat job over these prompts, with these fields changed."""
    return replace(_JOB, prompts=prompts, **changes)


def listing(*entries: str | ListedPrompt) -> Listing:
    """A list of prompts; a string is one with its text alone."""
    return Listing(entries=tuple(ListedPrompt(prompt=e) if isinstance(e, str) else e for e in entries))


def source(path: Path, text: str | bytes | None = None, **changes: Any) -> Source:
    """A source at that path, written first when there is text for it."""
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Source(path=str(path), shown=path.name, **changes)


def picture_job(prompts: Listing | Source, **changes: Any) -> Job:
    """A ModelScope image job."""
    provider = replace(_JOB.provider, preset="modelscope", dialect="modelscope-images")
    return job_of(prompts, kind="image", provider=provider, **changes)


def stream(items: JobItems, models: frozenset[str] | None = None) -> list[Item]:
    """All that it yields."""

    async def collect() -> list[Item]:
        return [item async for batch in items.batches(models) for item in batch]

    return asyncio.run(collect())


def items(job: Job) -> list[Item]:
    """The items of a job."""
    return stream(items_of(job))


def mistakes(job: Job) -> tuple[Mistake, ...]:
    """What the check finds."""
    return asyncio.run(check_items(job))


def mistake(job: Job) -> str:
    """The one mistake that streaming stops at, as a person reads it."""
    with pytest.raises(JobMistakesError) as caught:
        items(job)
    assert len(caught.value.mistakes) == 1
    return str(caught.value.mistakes[0])
