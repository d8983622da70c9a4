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

PEERS: Final = {
    "lm-deluge": Peer(packages=("lm-deluge",), script=_LM_DELUGE),
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
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
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
