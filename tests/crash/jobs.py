"""The jobs of the seeded runs: a few kinds, each read from YAML once, and what a seed changes in them.

The plain kinds are those of the first runs, and stay as they are: the past bugs use them.
"""

import asyncio
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, TypeVar

from batchrunner import api
from batchrunner.core.budget import Budget
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Limits, Listing, RetryPolicy
from batchrunner.core.schedule import Window
from batchrunner.core.values import replace
from batchrunner.prompts import items_of

T = TypeVar("T")

RUN: Final = Path("/run")
PROMPT: Final = re.compile(r"item number \d+")
_MOST_PROMPTS: Final = 16

PLAIN: Final = {
    "chat": "model: sim/chat\ndurability: full\n",
    "chat-result": "model: sim/chat\nlimits: {concurrency: 2}\n",
    "chat-each": 'model: sim/chat\noutput: {each: "answers/{{ id }}.md"}\n',
    "image": "model: Qwen/Qwen-Image\nkind: image\nparams: {size: 64x64}\ntimeouts: {task_s: 3600}\n",
}
JOBS: Final = {
    **PLAIN,
    "schema": "model: sim/chat\nschema: answer.schema.json\n",
    "messages": "provider: {preset: simulator, dialect: anthropic-messages}\nmodel: sim/chat\n",
    "whole": "model: sim/chat\nstream: false\n",
    "pictures": "provider: {preset: simulator, dialect: openai-images}\nmodel: gpt-image-1\nkind: image\n",
}
APART: Final = {
    "vectors": "model: sim/vectors\nkind: embedding\nparams: {dimensions: 4}\n",
    "transcripts": 'model: whisper-1\nkind: transcription\nfiles: ["sound.mp3"]\n',
    "filtered": 'models: {first: "sim/first#content-filter", then: sim/other}\n',
    "chain": 'models: {first: "sim/a#content-filter", then: ["sim/b#content-filter:3", sim/c]}\n',
    "spent": 'models: {first: "sim/first#quota-model:2", then: sim/other, after: 1m}\n',
    "overloaded": 'models: {first: "sim/first#bare-503", then: sim/other, after: 1m}\n',
    "misses": 'models: {first: "sim/first#schema-miss", then: sim/other}\nschema: answer.schema.json\n',
    "urls": "provider: {preset: simulator, dialect: openai-images}\nmodel: dall-e-3\nkind: image\n",
}
"""Kinds with tests of their own: one more in `JOBS` would make every seed give another run."""
_SCHEMA: Final = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
_SECOND_MODEL: Final = {"image": "Qwen/Qwen-Image-2", "pictures": "gpt-image-2"}
WINDOWS: Final = (
    Window(opens_minute=11 * 60, closes_minute=11 * 60 + 8, shown="11:00-11:08"),
    Window(opens_minute=12 * 60, closes_minute=12 * 60 + 5, shown="12:00-12:05"),
)
"""In UTC: one is open when the runs begin, the other one opens an hour later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A job, as far as a seed decides it. The defaults are those of the kind."""

    kind: str
    accounts: tuple[str, ...] = ()
    models: int = 1
    replicas: int = 1
    twins: bool = False
    """Every prompt stands there twice: identical items."""
    durability: Literal["full", "result"] | None = None
    hold: bool = False
    quota_stops: bool = False
    attempts: int = 5
    breaker: int = 20
    limits: Limits | None = None
    budget_calls: int | None = None
    window: Window | None = None


def _one_of(rng: random.Random, usual: T, *others: T) -> T:
    """The usual thing two times out of three."""
    return usual if rng.random() < 0.66 else rng.choice(others)


def limits_of(rng: random.Random) -> Limits:
    """Small figures: a run has few items."""
    return Limits(
        concurrency=rng.choice((None, 1, 2, 3, 5)),
        requests_per_minute=_one_of(rng, None, 6.0, 30.0, 100.0),
        tokens_per_minute=_one_of(rng, None, 20.0, 200.0),
        requests_per_day=_one_of(rng, None, 3, 6),
        in_flight_tasks=_one_of(rng, None, 1, 2, 3),
        poll_per_second=_one_of(rng, None, 0.3, 2.0),
    )


def shape_of(rng: random.Random, *, kinds: tuple[str, ...]) -> Shape:
    """By seed; about one in eight is as plain as its kind."""
    kind = rng.choice(kinds)
    if rng.random() < 0.12:
        return Shape(kind=kind)
    return Shape(
        kind=kind,
        accounts=_one_of(rng, (), ("KEY_A",), ("KEY_A", "KEY_B")),
        models=_one_of(rng, 1, 2),
        replicas=_one_of(rng, 1, 2),
        twins=rng.random() < 0.35,
        durability=rng.choice((None, "full", "result")),
        hold=rng.random() < 0.3,
        quota_stops=rng.random() < 0.3,
        attempts=_one_of(rng, 5, 1, 2, 3),
        breaker=_one_of(rng, 20, 2, 1000),
        limits=limits_of(rng),
        budget_calls=_one_of(rng, None, None, 2, 5),
        window=_one_of(rng, None, None, *WINDOWS),
    )


@cache
def _base(kind: str) -> Job:
    """The kind with as many prompts as any run has."""
    prompts = "".join(f"  - item number {number}\n" for number in range(_MOST_PROMPTS))
    keys = {**JOBS, **APART}[kind]
    provider = "" if "provider:" in keys else "provider: simulator\n"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(f"name: job\n{provider}{keys}\nprompts:\n{prompts}", "utf-8")
        (Path(folder) / "sound.mp3").write_bytes(b"ID3 a sound")
        (Path(folder) / "answer.schema.json").write_text(_SCHEMA, "utf-8")
        return api.load_job(str(path), simulate=True, out=str(RUN))


@cache
def job_of(shape: Shape, prompts: int) -> Job:
    """The job with so many of its prompts."""
    job = _base(shape.kind)
    assert isinstance(job.prompts, Listing)
    entries = job.prompts.entries[:prompts]
    if shape.twins:
        entries = tuple(entry for entry in entries for _ in range(2))
    second = _SECOND_MODEL.get(shape.kind, "sim/other")
    return replace(
        job,
        prompts=Listing(entries=entries),
        models=job.models if job.fallback is not None else (*job.models, second)[: shape.models],
        replicas=shape.replicas,
        durability=shape.durability or job.durability,
        on_ambiguous="hold" if shape.hold else job.on_ambiguous,
        on_quota="stop" if shape.quota_stops else job.on_quota,
        retry=RetryPolicy(attempts=shape.attempts),
        breaker=shape.breaker,
        limits=shape.limits or job.limits,
        budget=None if shape.budget_calls is None else Budget(calls=shape.budget_calls, prices={}),
        window=shape.window,
        timezone="UTC" if shape.window is not None else None,
        provider=replace(job.provider, key_env=shape.accounts),
    )


@cache
def items_in(shape: Shape, prompts: int) -> tuple[Item, ...]:
    """What the job comes to, identical items included."""

    async def read() -> tuple[Item, ...]:
        return tuple([item async for item in items_of(job_of(shape, prompts)).stream()])

    return asyncio.run(read())
