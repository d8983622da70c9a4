"""Jobs with `dialect: task` over real sockets: each shipped table in front of a server that plays its replies."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Json
from batchrunner.core.status import Report
from tests.e2e.runs import no_byte_holds
from tests.providers.task_servers import MODEL, PROMPT, SEED, SERVERS
from tests.support.json_lines import json_lines
from tests.support.task_server import Played, played, png_of

KEY, KEY_ENV = "canary-5f1d7c3e-must-never-be-written", "TASK_TABLES_KEY"
PROMPTS = ["a cat", "a dog on a hill", "a pond"]


@dataclass(frozen=True, kw_only=True)
class Ran:
    report: Report
    folder: Path
    state: Played


def job_of(name: str, base_url: str) -> str:
    provider: dict[str, Json] = {"dialect": "task", "task": name, "base_url": base_url, "api_key_env": KEY_ENV}
    if name == "modelscope-images":
        provider = {"preset": "modelscope", "base_url": base_url, "api_key_env": KEY_ENV}
    if SERVERS[name].graph is not None:
        provider = {"dialect": "task", "task": name, "base_url": base_url, "body_file": "graph.json"}
    return json.dumps(
        {
            "provider": provider,
            "kind": "image",
            "model": MODEL,
            "prompts": PROMPTS,
            "params": {"seed": SEED} if SERVERS[name].graph is None else {},
            "timeouts": {"task_s": 60},
        }
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ran]]:
    """All servers at once: most of the time of a run is waiting for the next poll."""
    folder = tmp_path_factory.mktemp("task-tables")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_ENV, KEY)
        states = {name: stack.enter_context(played(server, key=KEY)) for name, server in SERVERS.items()}

        async def run(name: str) -> Ran:
            place = folder / name
            place.mkdir()
            path = place / "job.yaml"
            path.write_text(job_of(name, states[name].base_url))
            (place / "graph.json").write_text(json.dumps(SERVERS[name].graph).replace(PROMPT, "{{ prompt }}"))
            job = api.load_job(str(path), out=str(place / "out"))
            return Ran(report=await api.run(job, say=lambda _: None), folder=place / "out", state=states[name])

        async def all_of_them() -> dict[str, Ran]:
            found = await asyncio.gather(*map(run, SERVERS))
            return dict(zip(SERVERS, found, strict=True))

        yield asyncio.run(all_of_them())


@pytest.mark.parametrize("name", SERVERS)
def test_a_job_goes_from_order_to_picture_at_every_server(ran: dict[str, Ran], name: str) -> None:
    found, state = ran[name], ran[name].state
    rows = json_lines(found.folder / "results.jsonl")
    assert (found.report.exit_status, state.wrong) == (ExitStatus.DONE, [])
    assert sorted(state.orders) == sorted(PROMPTS)
    assert sorted(row["prompt"] for row in rows) == sorted(PROMPTS)
    for row in rows:
        task = row["task_id"]
        assert state.tasks[task] == row["prompt"]
        pictures = [(found.folder / picture["path"]).read_bytes() for picture in row["output"]["images"]]
        assert all(picture.startswith(png_of(row["prompt"])[:33]) for picture in pictures)
        assert state.downloads[task] == len(pictures) >= 1
    ends = next(place for place, reply in enumerate(SERVERS[name].polls) if reply[2] == "done")
    assert set(state.polls.values()) == {ends + 1}
    assert set(state.results.values()) == ({1} if SERVERS[name].result_path else set())


@pytest.mark.parametrize("name", SERVERS)
def test_the_key_is_sent_as_the_table_states_and_stands_nowhere(ran: dict[str, Ran], name: str) -> None:
    assert ran[name].state.wrong == []
    no_byte_holds(ran[name].folder, KEY)
