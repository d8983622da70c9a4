"""The example jobs pass `check`, run simulated and do what they promise; the starting file; defaults by kind."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Job, Limits, Listing, Output, RetryPolicy, Source, Timeouts, Turn
from batchrunner.core.status import Report
from batchrunner.engine.work_queue import LoopClock
from batchrunner.simulator.in_process import SimulatedDownloads, SimulatedTransport
from batchrunner.simulator.world import World
from batchrunner.spec import load_job, starter_job
from tests.support.virtual_time import run_virtual

Load = Callable[..., Job]

JOBS = Path(__file__).parents[2] / "jobs"
CHAT = "provider: simulator\nmodel: m\nprompts: [a]\n"


SHOWS: dict[str, Callable[[dict[str, Any]], object]] = {
    "anthropic-messages": lambda row: row["output"]["reasoning"] and row["messages"],
    "batch-rehearsal": lambda row: row["output"]["text"] and row["vars"]["question"],
    "comfyui": lambda row: row["output"]["images"] and row["params"]["steps"] == 25,
    "compare": lambda row: row["vars"]["answer"] and row["system"],
    "captions-for-lora": lambda row: (
        len(row["images"]) == 1 and row["from"]["run"].endswith("modelscope-images.simulated")
    ),
    "compare-models": lambda row: row["messages"],
    "critique": lambda row: row["from"] and row["vars"]["question"] and 1 <= row["output"]["parsed"]["score"] <= 5,
    "demo-chat": lambda row: row["output"]["text"],
    "demo-images": lambda row: row["output"]["images"],
    "describe-pictures": lambda row: len(row["images"]) == 1 and row["output"]["path"],
    "edit-pictures": lambda row: row["images"] and row["output"]["images"],
    "transcribe": lambda row: row["output"]["segments"] and row["output"]["path"] and row["files"],
    "video": lambda row: row["output"]["media"],
    "embed": lambda row: len(row["output"]["embedding"]) == 256 and row["usage"]["input_tokens"],
    "evaluate-gsm8k": lambda row: row["vars"]["answer"] and row["vars"]["style"] in row["system"],
    "fallback": lambda row: row["model"] == "Qwen/Qwen3-32B" and "fallback_of" not in row,
    "judge": lambda row: row["output"]["text"] and row["system"],
    "local-server": lambda row: row["output"]["text"],
    "modelscope-chat": lambda row: row["output"]["text"],
    "modelscope-images": lambda row: row["output"]["images"],
    "openai-batch-file": lambda row: row["id"].startswith("row-"),
    "openai-responses": lambda row: row["output"]["reasoning"] and row["output"]["parsed"]["rivers"],
    "openai-images": lambda row: [picture["format"] for picture in row["output"]["images"]] == ["WEBP"] * 2,
    "pictures-from-csv": lambda row: len(row["images"]) == 2,
    "qa-from-texts": lambda row: row["output"]["parsed"]["items"][0]["question"],
    "questions-from-csv": lambda row: row["output"]["parsed"],
    "questions-from-parquet": lambda row: row["vars"]["level"],
    "read-documents": lambda row: len(row["files"]) == 1 and row["files"][0]["name"].endswith(".pdf"),
    "structured-answers": lambda row: set(row["output"]["parsed"]) == {"answer", "confidence", "doubts"},
    "task-server": lambda row: row["output"]["images"] and row["params"]["seed"] in {1, 2},
    "texts-from-folder": lambda row: row["output"]["path"].startswith("titles/"),
    "tools": lambda row: row["output"]["tool_calls"][0]["name"] == "weather",
}
"""What the rows of an example have that it is there to show."""


def test_every_example_shows_something() -> None:
    assert {path.stem for path in JOBS.glob("*.yaml")} == set(SHOWS)


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_passes_check_and_runs_simulated(name: str, tmp_path: Path) -> None:
    job = api.load_job(str(JOBS / f"{name}.yaml"), simulate=True, out=str(tmp_path / "out"))
    if isinstance(job.prompts, Source) and job.prompts.run:  # the example that it reads comes first
        before = Path(job.prompts.path.removesuffix(".simulated")).name
        simulated(api.load_job(str(JOBS / f"{before}.yaml"), simulate=True, out=f"{tmp_path / before}.simulated"))
        here = (f"prompts.run={tmp_path / before}",)
        job = api.load_job(str(JOBS / f"{name}.yaml"), simulate=True, out=str(tmp_path / "out"), overrides=here)
    checked = asyncio.run(api.check(job))
    assert (checked.mistakes, checked.items > 0) == ((), True)
    report = simulated(job, limit=2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert (report.exit_status, len(rows)) == (ExitStatus.DONE, 2)
    assert all(SHOWS[name](row) for row in rows)


def simulated(job: Job, *, limit: int | None = None) -> Report:
    """Run a job in virtual time."""

    async def main() -> Report:
        clock, world = LoopClock(wall_at_zero=1_795_000_000.0), World()
        network = (
            SimulatedTransport(world, clock, timeouts=job.timeouts),
            SimulatedDownloads(world, clock, timeouts=job.timeouts),
        )
        return await api.run(job, clock=clock, network=network, say=lambda _: None, limit=limit)

    return run_virtual(main)


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_loads_really_and_simulated(path: Path) -> None:
    job = load_job(str(path))
    assert job.name == path.stem
    assert job.folder == PurePath(path.parent)
    assert load_job(str(path), simulate=True).output.dir == f"outputs/{path.stem}.simulated"


def test_the_starting_file_passes(load: Load) -> None:
    job = load(starter_job())
    assert isinstance(job.prompts, Listing)
    assert job.prompts.entries[2].vars == {"thing": "a lighthouse in fog"}


def test_the_demos_ask_nothing_real() -> None:
    chat, images = (load_job(str(JOBS / f"demo-{kind}.yaml")) for kind in ("chat", "images"))
    assert (chat.kind, chat.simulated, chat.provider.key_env) == ("chat", True, ())
    assert (images.kind, images.simulated, images.params["size"]) == ("image", True, "512x512")
    assert (chat.output.dir, images.output.dir) == ("outputs/demo-chat.simulated", "outputs/demo-images.simulated")


def test_a_source_is_resolved_against_the_job_files_folder() -> None:
    job = load_job(str(JOBS / "questions-from-csv.yaml"))
    assert isinstance(job.prompts, Source)
    assert (job.prompts.path, job.prompts.shown) == (str(JOBS / "data" / "questions.csv"), "data/questions.csv")


def test_the_defaults_are_those_of_the_contract(load: Load, tmp_path: Path) -> None:
    job = load(CHAT)
    assert (job.name, job.kind, job.stream, job.durability, job.replicas, job.breaker) == (
        "job",
        "chat",
        True,
        "result",
        1,
        20,
    )
    assert (job.on_ambiguous, job.on_quota, job.schema, job.scenario) == ("resend", "wait", None, None)
    assert (job.limits, job.retry, job.timeouts) == (Limits(), RetryPolicy(), Timeouts())
    place = str(tmp_path / "outputs" / "job.simulated")
    assert job.output == Output(dir=place, former_dirs=("outputs/job.simulated",))
    assert job.file == str(tmp_path / "job.yaml")
    picture = load(CHAT + "kind: image")
    assert (picture.stream, picture.durability) == (False, "full")


@pytest.mark.parametrize(
    ("more", "simulate", "out", "expected"),
    [
        ("", False, None, "outputs/job"),
        ("name: cats\n", False, None, "outputs/cats"),
        ("name: cats\n", True, None, "outputs/cats.simulated"),
        ("output: {dir: mine/}\n", False, None, "mine"),
        ("output: {dir: mine/}\n", True, None, "mine.simulated"),
        ("output: {dir: mine}\n", True, "there", "there"),
    ],
)
def test_results_of_simulated_runs_go_elsewhere_unless_out_names_another_place(
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    more: str,
    *,
    simulate: bool,
    out: str | None,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load(CHAT.replace("simulator", "openai") + more, simulate=simulate, out=out)
    assert (job.output.dir, job.simulated) == (expected, simulate)


def test_messages_images_and_scenario_arrive(load: Load) -> None:
    job = load(
        CHAT.replace("[a]", "\n- {id: x, vars: {q: 1}, images: [a.png]}\n- plain\n")
        + "messages: [{role: system, content: s}, {role: user, content: '{{ q }}'}]\n"
        + "images: ['{{ photo }}']\nscenario: throttle:3\n"
    )
    assert job.messages == (Turn(role="system", content="s"), Turn(role="user", content="{{ q }}"))
    assert (job.images, job.scenario) == (("{{ photo }}",), "throttle:3")
    assert isinstance(job.prompts, Listing)
    first, second = job.prompts.entries
    assert (first.id, first.prompt, first.vars, first.images, first.line) == ("x", None, {"q": 1}, ("a.png",), 4)
    assert (second.id, second.prompt, second.images, second.line) == (None, "plain", None, 5)


def test_a_simulated_run_may_be_given_a_scenario(load: Load) -> None:
    job = load(CHAT.replace("simulator", "modelscope"), simulate=True, overrides=["scenario=throttle:3"])
    assert job.scenario == "throttle:3"
