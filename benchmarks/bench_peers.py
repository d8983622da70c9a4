"""The peers of `bench`: each in an environment of its own below `.bench/peers`, with its durable output on."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench_runs import CannotMeasureError, Took, run_process


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What to install, and the script that asks COUNT prompts of URL, 64 at once; it prints its span as JSON."""

    packages: tuple[str, ...]
    script: str
    keeps: str
    """What its durable output is."""
    durable: bool = False
    """Whether an answer that it has kept survives the end of its process at any moment."""


_INSTALL_S: Final = 1200.0

_HEAD = """
import asyncio, json, os, sys, time
url, count = sys.argv[1], int(sys.argv[2])
prompts = [f"What is the sum of the first numbers, please? Answer in one sentence. {n}" for n in range(count)]
os.environ.update(OPENAI_API_KEY="sk-bench", OPENAI_API_BASE=url + "/v1", OPENAI_BASE_URL=url + "/v1")
def ended(began, done):
    took = time.perf_counter() - began
    assert done == count, f"{done} of {count}"
    print("\\n" + json.dumps({"span_s": took}))
"""

_LM_DELUGE = (
    _HEAD
    + """
from lm_deluge import LLMClient
from lm_deluge.cache import SqliteCache
from lm_deluge.models import register_model
register_model(id="bench", name="bench", api_base=url + "/v1", api_key_env_var="OPENAI_API_KEY", api_spec="openai",
               supports_json=False, supports_logprobs=False, supports_responses=False,
               input_cost=0, output_cost=0)
client = LLMClient(["bench"], max_requests_per_minute=10**7, max_tokens_per_minute=10**10,
                   max_concurrent_requests=64, cache=SqliteCache("cache.db"))
began = time.perf_counter()
answers = asyncio.run(client.process_prompts_async(prompts, show_progress=False))
ended(began, sum(answer is not None and bool(answer.completion) for answer in answers))
"""
)

_ASYNC_BATCH_LLM = (
    _HEAD
    + """
from async_batch_llm import ArtifactIdentity, JsonlArtifactStore, ResumePolicy, llm, process_prompts
async def main():
    strategy = llm("openai-compatible:m", base_url=url + "/v1", api_key="sk-bench")
    store = JsonlArtifactStore("kept.jsonl", identity=ArtifactIdentity(provider="bench", model="m"))
    return await process_prompts(strategy, prompts, concurrency=64, artifact_store=store,
                                 resume=ResumePolicy.REUSE_SUCCESSES)
began = time.perf_counter()
batch = asyncio.run(main())
ended(began, sum(1 for result in batch.results if result.success))
"""
)

_LITELLM = (
    _HEAD
    + """
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
kept = open("kept.jsonl", "w")
async def work(numbers, answers):
    for number in numbers:
        reply = await litellm.acompletion(model="openai/m",
                                          messages=[{"role": "user", "content": prompts[number]}])
        answers.append(reply.choices[0].message.content)
        kept.write(json.dumps({"number": number, "answer": answers[-1]}) + "\\n")
        kept.flush()
async def main():
    answers, numbers = [], iter(range(count))
    await asyncio.gather(*(work(numbers, answers) for _ in range(64)))
    return answers
began = time.perf_counter()
ended(began, len(asyncio.run(main())))
"""
)

_INSPECT_AI = (
    _HEAD
    + """
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.solver import generate
task = Task(dataset=MemoryDataset([Sample(input=text) for text in prompts]), solver=[generate()])
began = time.perf_counter()
(log,) = eval(task, model="openai-api/bench/m", model_base_url=url + "/v1", model_args={"api_key": "sk-bench"},
              max_connections=64, max_samples=64, log_dir="kept", display="none", fail_on_error=True)
ended(began, log.results.completed_samples if log.results else 0)
"""
)

_CURATOR = (
    _HEAD
    + """
os.environ.update(CURATOR_CACHE_DIR=os.getcwd() + "/kept", CURATOR_DISABLE_RICH_DISPLAY="1", TELEMETRY_ENABLED="0")
from bespokelabs import curator
asker = curator.LLM(model_name="m", backend="openai", backend_params={
    "base_url": url + "/v1", "max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10,
    "max_concurrent_requests": 64})
began = time.perf_counter()
answers = asker(prompts)
ended(began, len(getattr(answers, "dataset", answers)))
"""
)

_FLEXLLM = (
    _HEAD
    + """
from flexllm import LLMClient
async def main():
    client = LLMClient(base_url=url + "/v1", model="m", api_key="sk-bench", concurrency_limit=64, max_qps=100000)
    messages = [[{"role": "user", "content": text}] for text in prompts]
    return await client.chat_completions_batch(messages, output_jsonl="kept.jsonl", show_progress=False)
began = time.perf_counter()
ended(began, sum(answer is not None for answer in asyncio.run(main())))
"""
)

PEERS: Final = {
    "lm-deluge": Peer(packages=("lm-deluge",), script=_LM_DELUGE, keeps="a commit to SQLite an answer", durable=True),
    "bespokelabs-curator": Peer(
        packages=("bespokelabs-curator",), script=_CURATOR, keeps="a line of JSON an answer, without fsync"
    ),
    "litellm": Peer(
        packages=("litellm",), script=_LITELLM, keeps="none of its own: the script appends a line an answer"
    ),
    "inspect_ai": Peer(
        packages=("inspect-ai", "openai"), script=_INSPECT_AI, keeps="a log of samples, written in batches"
    ),
    "async-batch-llm": Peer(
        packages=("async-batch-llm[openai]",),
        script=_ASYNC_BATCH_LLM,
        keeps="a line of JSON an answer, flushed, without fsync",
        durable=True,
    ),
    "flexllm": Peer(
        packages=("flexllm",), script=_FLEXLLM, keeps="lines of JSON, flushed once a second, without fsync"
    ),
}


def peer_took(name: str, *, home: Path, url: str, count: int, core: int | None) -> Took:
    """Run a peer from nothing. Raises CannotMeasureError with the reason where it cannot be installed or used."""
    peer = PEERS[name]
    folder = home / "peers" / name
    python = folder / "venv/bin/python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages]
        try:
            done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
        except subprocess.TimeoutExpired:
            raise CannotMeasureError(f"pip has not installed it in {_INSTALL_S:.0f} s") from None
        if done.returncode:
            raise CannotMeasureError(f"pip cannot install it: {done.stderr.strip()[-200:]}")
        (folder / "ready").touch()
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "run.py").write_text(peer.script)
    took = run_process([str(python), "run.py", url, str(count)], cwd=work, core=core, limit_s=900.0)
    took.span_s = json.loads(took.said.strip().splitlines()[-1])["span_s"]
    return took
