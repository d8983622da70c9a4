"""More servers that no one here wrote: `llmock` (npm), LiteLLM's proxy and ogx; each in a process of its own.

`make test-servers` installs them into `.servers/` at the top of the repository; where one is absent its tests skip.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INSTALLED = Path(__file__).resolve().parents[2] / ".servers"
LLMOCK = INSTALLED / "node_modules/@copilotkit/aimock/dist/cli.js"
LITELLM = INSTALLED / "litellm/bin/litellm"
OGX = INSTALLED / "ogx/bin/ogx"
_NODE = shutil.which("node")
_PATIENCE_S = 120.0
_LOOK_S = 0.05

needs_llmock = pytest.mark.skipif(
    _NODE is None or not LLMOCK.exists(), reason="node or llmock is not installed: run `make test-servers`"
)
needs_litellm = pytest.mark.skipif(
    not LITELLM.exists(), reason="LiteLLM's proxy is not installed: run `make test-servers`"
)
needs_ogx = pytest.mark.skipif(
    not OGX.exists(), reason="ogx, which needs Python 3.12, is not installed: run `make test-servers`"
)


@contextlib.contextmanager
def llmock(fixtures: list[dict[str, Any]], *, port: int, folder: Path) -> Iterator[str]:
    """Start llmock with these fixtures (`match` and `response` each, the first that fits answers); gives its root."""
    script = folder / "fixtures.json"
    script.write_text(json.dumps({"fixtures": fixtures}))
    command = [str(_NODE), str(LLMOCK), "-f", str(script), "-p", str(port), "--log-level", "warn"]
    root = f"http://127.0.0.1:{port}"
    with _running(command, log=folder / "llmock.log", health=f"{root}/health"):
        yield root


@contextlib.contextmanager
def litellm(models: list[dict[str, Any]], *, port: int, folder: Path) -> Iterator[str]:
    """Start LiteLLM's proxy with these entries of its `model_list`; gives its root."""
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models, "litellm_settings": {"telemetry": False, "num_retries": 0}}))
    command = [str(LITELLM), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    root = f"http://127.0.0.1:{port}"
    offline = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks for prices over the network
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with _running(command, log=folder / "litellm.log", health=f"{root}/health/liveliness", more=offline):
        yield root


@contextlib.contextmanager
def ogx(upstream: str, *, port: int, folder: Path) -> Iterator[str]:
    """Start ogx with files and both kinds of batches in front of an OpenAI-like server; gives its root.

    It keeps everything below `folder`, so that another one there goes on with what this one left.
    """
    kept, sql = {"backend": "kv"}, {"backend": "sql"}

    def provider(kind: str, config: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"provider_id": kind.partition("::")[2], "provider_type": kind, "config": config}]

    config = {
        "version": 2,
        "distro_name": "tests",
        "apis": ["batches", "files", "inference", "messages"],
        "providers": {
            "inference": provider("remote::vllm", {"base_url": upstream, "api_token": "none"}),
            "files": provider(
                "inline::localfs",
                {"storage_dir": str(folder / "files"), "metadata_store": {**sql, "table_name": "files"}},
            ),
            "messages": provider("inline::builtin", {"kvstore": {**kept, "namespace": "messages"}}),
            "batches": provider("inline::reference", {"sqlstore": {**sql, "table_name": "batches"}}),
        },
        "storage": {
            "backends": {
                "kv": {"type": "kv_sqlite", "db_path": str(folder / "kv.db")},
                "sql": {"type": "sql_sqlite", "db_path": str(folder / "sql.db")},
            },
            "stores": {
                "metadata": {**kept, "namespace": "registry"},
                **{
                    name: {**sql, "table_name": name}
                    for name in ("inference", "conversations", "prompts", "connectors")
                },
            },
        },
        "registered_resources": {"models": []},
    }
    script = folder / "ogx.yaml"
    script.write_text(json.dumps(config))
    command = [str(OGX), "run", str(script), "--port", str(port), "--insecure"]
    root = f"http://127.0.0.1:{port}"
    with _running(command, log=folder / "ogx.log", health=f"{root}/v1/health"):
        yield root


@contextlib.contextmanager
def _running(command: list[str], *, log: Path, health: str, more: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(more or {})}, cwd=log.parent)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _answers(health):
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"{health} never answered"
            time.sleep(_LOOK_S)  # a real process is watched in real time
        yield
    finally:
        process.kill()  # it has nothing to put in order
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
