"""What the tests of `examples/` share: a job against a metered server, scripts as processes, and what must hold."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrunner.stores.lock import holder_of
from tests.e2e.runs import program
from tests.support.json_lines import json_lines
from tests.support.metered_server import Meter
from tests.support.waiting import wait_until

HOME = Path(__file__).resolve().parents[2]
EXAMPLES = HOME / "examples"
PATIENCE_S = 180.0
MODEL = "metered"


def environment() -> dict[str, str]:
    """With `batchrunner` on the path, as after an installation."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        "PAUSE_S": "0",
    }


def write_job(folder: Path, root: str, *, items: int, per_minute: float) -> Path:
    """A job of so many different prompts for the server at `root`, with the rate that its shards divide."""
    (folder / "words.jsonl").write_text("".join(json.dumps({"word": f"w{n}"}) + "\n" for n in range(items)))
    path = folder / "job.yaml"
    path.write_text(f"""
name: words
provider: {{preset: openai, base_url: "{root}/v1", api_key_env: [], auth: none}}
model: {MODEL}
prompts: {{file: words.jsonl, template: "Explain {{{{ word }}}}.", id: "{{{{ word }}}}"}}
limits: {{requests_per_minute: {per_minute:g}, concurrency: 16}}
""")
    return path


def typed(*command: str | Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What a person types; the whole process is waited for."""
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run after `merge`: its rows, what `status --json` says, and what `verify --json` finds."""

    rows: list[dict[str, Any]]
    status: dict[str, Any]
    findings: list[dict[str, Any]]


def whole(out: Path) -> Whole:
    status, verified = (typed(*program(command, str(out), "--json"), folder=out) for command in ("status", "verify"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    return Whole(
        rows=json_lines(out / "results.jsonl"),
        status=json.loads(status.stdout),
        findings=json.loads(verified.stdout)["findings"],
    )


def assert_nothing_lost_or_paid_unseen(out: Path, meter: Meter, *, items: int) -> None:
    """Every item has one row, and every request that was paid beyond the items is flagged."""
    run = whole(out)
    assert [row["index"] for row in run.rows] == list(range(1, items + 1))
    assert len({row["key"] for row in run.rows}) == items
    assert len(meter.paid) == items
    flagged = run.status["sends"]["possible_duplicates"]
    assert meter.paid.total() - items <= flagged, (meter.figures(), run.status["sends"])


def wait_for(what: Callable[[], object], why: str) -> None:
    wait_until(what, why, patience_s=PATIENCE_S)


def holders(out: Path) -> dict[Path, int]:
    """The epochs' folders of the shards below `out` that are being worked on, with the process that does."""
    folders = sorted(out.glob("shards/*-of-*/epoch-*"))
    return {folder: holder.pid for folder in folders if (holder := holder_of(folder)) and holder.pid}


def kill_a_shard(out: Path, number: int) -> None:
    """Kill (-9) one of the processes that work on a shard below `out`, the n-th of those that there are."""
    wait_for(lambda: holders(out), "nobody works on a shard")
    pids = list(holders(out).values()) or [0]
    if pids != [0]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[number % len(pids)], signal.SIGKILL)
