"""A job on a bench: what it asks for, what it sends, and how its run goes, so that a key's effect can be looked at."""

import asyncio
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from batchrunner import api
from batchrunner.core.errors import JobMistakesError
from batchrunner.core.http import Request
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Source
from batchrunner.core.outcome import Revision
from batchrunner.core.status import Report
from batchrunner.prompts import items_of
from batchrunner.providers import dialect_for
from batchrunner.stores.upstream_rows import UpstreamRun
from tests.support.engine import RunHarness, World

Tree = dict[str, Any]


@dataclass
class Bench:
    """One job file. Everything below is made when it is first looked at."""

    folder: Path
    tree: Tree
    make_world: Callable[[], World] = World
    run_options: Tree = field(default_factory=dict)

    @cached_property
    def job(self) -> Job:
        """As it would run for money."""
        path = self.folder / "job.yaml"
        path.write_text(json.dumps(self.tree))
        return api.load_job(str(path))

    @property
    def results(self) -> str:
        """Where its results go, below its own folder."""
        return str(Path(self.job.output.dir).relative_to(self.folder))

    @cached_property
    def items(self) -> list[Item]:
        """What is asked for."""
        source = self.job.prompts
        upstream = UpstreamRun(Path(source.path)) if isinstance(source, Source) and source.run else None

        async def all_of_them() -> list[Item]:
            return [item async for item in items_of(self.job, upstream).stream()]

        return asyncio.run(all_of_them())

    def request(self, place: int = 0) -> Request:
        """What would be sent for an item."""
        return dialect_for(self.job.provider).encode(self.items[place], Revision())

    def body(self, place: int = 0) -> Tree:
        """Its JSON."""
        return dict(json.loads(self.request(place).body or b""))

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """The keys that something is wrong with."""
        try:
            assert self.job is not None
        except JobMistakesError as caught:
            return tuple(mistake.key or "" for mistake in caught.mistakes)
        return ()

    @cached_property
    def harness(self) -> RunHarness:
        """Where it runs, in virtual time."""
        return RunHarness(self.folder, world=self.make_world())

    @cached_property
    def report(self) -> Report:
        """How its run ends."""
        self.began = self.harness.began
        return self.harness.run(json.dumps(self.tree), **self.run_options)

    @property
    def seconds(self) -> float:
        """How long the run takes, on the world's clock."""
        assert self.report is not None
        return self.harness.began - self.began - 1.0

    @property
    def rows(self) -> list[Tree]:
        """The rows of its results."""
        assert self.report is not None
        return self.harness.rows()

    def sends_before(self, event: str) -> int:
        """How many requests left before the first event of this name; all of them where there is none."""
        assert self.report is not None
        names = [record["e"] for record in self.harness.events()]
        return (names[: names.index(event)] if event in names else names).count("intent")

    def until(self, first: str, second: str) -> float:
        """Seconds from the first event of one name to the first of another, to the tenth."""
        assert self.report is not None
        return round(float(self.harness.events(second)[0]["t"] - self.harness.events(first)[0]["t"]), 1)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A key's effect: the same look at a job without it and with it."""

    base: Tree
    change: Tree
    """Dotted paths to values; None takes a key away. FOLDER in a value is the job's folder."""
    look: Callable[[Bench], object]
    was: object
    now: object
    world: Callable[[], World] = World
    files: dict[str, bytes] = field(default_factory=dict)
    """Written beside the job first."""

    def seen(self, folder: Path, *, changed: bool) -> object:
        """What there is to see."""
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        tree = deepcopy(self.base)
        for path, value in self.change.items() if changed else ():
            put(tree, path, value)
        tree = json.loads(json.dumps(tree).replace("FOLDER", str(folder)))
        return self.look(Bench(folder=folder, tree=tree, make_world=self.world))


def put(tree: Any, path: str, value: object) -> None:
    """Set the value at a dotted path; digits are places of a list. None takes the key away."""
    *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    for step in way:
        tree = tree[step] if isinstance(step, int) else tree.setdefault(step, {})
    if value is None:
        del tree[last]
    else:
        tree[last] = value


def chat(*prompts: object, **more: object) -> Tree:
    """A chat job for the simulator."""
    return {"name": "job", "provider": "simulator", "model": "m/One", "prompts": list(prompts) or ["one"], **more}


def paid(*prompts: object, preset: str = "openai", **more: object) -> Tree:
    """A chat job for a real server, to be looked at and not run."""
    return {**chat(*prompts), "provider": {"preset": preset}, **more}


def image(*prompts: object, **more: object) -> Tree:
    """An image job for the simulator."""
    size = {"size": "64x64"}
    return {**chat(*(prompts or ("a cat",))), "kind": "image", "model": "Qwen/Qwen-Image", "params": size, **more}


def vectors(*prompts: object, **more: object) -> Tree:
    """A job of embeddings for the simulator."""
    return {**chat(*(prompts or ("a cat",))), "kind": "embedding", "params": {"dimensions": 4}, **more}
