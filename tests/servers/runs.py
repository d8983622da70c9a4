"""Jobs against a server that no one here wrote, and what their runs left; skips where the server is not installed."""

import json
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import KEY_NAME, environment, program, shared_file
from tests.support.json_lines import json_lines

_MISSING = [name for name in ("xllamacpp", "gguf") if find_spec(name) is None]
needs_llama = pytest.mark.skipif(
    bool(_MISSING), reason=f"the extra `servers` is not installed ({', '.join(_MISSING)}): run `make test-servers`"
)
DIALECTS = ("openai-chat", "anthropic-messages")


def write_job(
    folder: Path, root: str, *, dialect: str = "openai-chat", items: int, rest: str = "", params: str
) -> Path:
    """A job of real questions for the server at `root`; `params` is the inside of a mapping, `rest` more YAML."""
    source = shared_file("gsm8k_test.jsonl")
    path = folder / "questions.yaml"
    path.write_text(f"""
provider: {{dialect: {dialect}, base_url: "{root}/v1", api_key_env: {KEY_NAME}}}
model: random
prompts: {{file: "{source}", template: "{{{{ question }}}}", id: "q{{{{ row }}}}", limit: {items}}}
params: {{{params}}}
{rest}
""")
    return path


def outputs(job: Path) -> Path:
    """Where the job's results are."""
    return job.parent / "outputs" / job.stem


def answers(job: Path) -> list[dict[str, Any]]:
    """The rows of its results."""
    return json_lines(outputs(job) / "results.jsonl")


def failures(job: Path) -> list[dict[str, Any]]:
    """The rows of its failures."""
    return json_lines(outputs(job) / "failures.jsonl")


def ledger(job: Path) -> list[dict[str, Any]]:
    """The records of its ledger so far; a line that is being written is left out."""
    return [
        json.loads(line)
        for segment in sorted((outputs(job) / "ledger").glob("*.jsonl"))
        for line in segment.read_bytes().split(b"\n")[:-1]
    ]


def refusals(job: Path) -> Counter[str]:
    """Kinds of the refusals in its ledger."""
    return Counter(record["kind"] for record in ledger(job) if record["e"] == "refused")


def intents(job: Path) -> int:
    """How many requests left, or were about to."""
    return sum(record["e"] == "intent" for record in ledger(job))


def audit(job: Path) -> None:
    """The program's own audit finds nothing."""
    command = program("verify", str(outputs(job)), "--json")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
