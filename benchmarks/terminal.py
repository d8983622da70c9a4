"""How soon a run follows a command, and how soon a Tab has its offers: `python benchmarks/terminal.py`.

By the clock, so on a quiet machine. The rows are those of the table in docs/benchmarks.md.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import batchrunner

PROGRAM = [sys.executable, "-m", "batchrunner"]
AT_ONCE = 1_000
RUNS = 50
ROUNDS = 21
TAB = """
source {script}
COMP_WORDS=(batchrunner status "$1"); COMP_CWORD=2
compopt() {{ :; }}
_batchrunner
"""


def timed_ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def shown(found: list[float], ceiling: str, what: str) -> None:
    print(f"| {what} | {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) ms | {ceiling} |")


def round_trips(work: Path) -> list[float]:
    """Pause and resume, in turn, of a run with 1,000 requests in flight that nobody answers."""
    command = [*PROGRAM, "simulate", "--port", "0", "--latency", "first=600", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        provider = {"preset": "openai", "base_url": json.loads(server.stdout.readline())["base_url"], "api_key_env": []}
        job = {"name": "held", "provider": provider, "model": "sim/talker", "limits": {"concurrency": AT_ONCE}}
        prompts = [f"Question {number}?" for number in range(2 * AT_ONCE)]
        (work / "job.yaml").write_text(json.dumps({**job, "prompts": prompts}))
        out = work / "out"
        words = ["run", str(work / "job.yaml"), "--out", str(out), "--quiet", "--progress", "none"]
        with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while sum(path.read_text().count('"intent"') for path in out.glob("ledger/*.jsonl")) < AT_ONCE:
                if run.poll() is not None:
                    raise SystemExit("the run has ended: " + " ".join(words))
                time.sleep(0.05)
            found = [
                timed_ms(lambda action=action: batchrunner.control(str(out), action, wait_s=60))
                for action in ("pause", "resume") * (ROUNDS // 2)
            ]
            run.kill()
        server.kill()
    return found


def tabs(work: Path) -> list[float]:
    """Tab after `batchrunner status outputs/`, in a shell of its own; less what an empty shell takes."""
    script = work / "batchrunner.bash"
    script.write_bytes(subprocess.run([*PROGRAM, "completion", "bash"], capture_output=True, check=True).stdout)
    for number in range(RUNS):
        (work / "outputs" / f"run-{number}").mkdir(parents=True)
        (work / "outputs" / f"run-{number}" / "run.json").touch()

    def bash(lines: str) -> float:
        return timed_ms(
            lambda: subprocess.run(["bash", "--norc", "-c", lines, "bash", "outputs/"], cwd=work, check=True)
        )

    return [bash(TAB.format(script=script)) - bash(":") for _ in range(ROUNDS)]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        trips = round_trips(Path(place))
        shown(trips, "2,000 ms", f"`pause` and `resume` with {AT_ONCE:,} in flight: until the run has answered")
        if shutil.which("bash"):
            shown(tabs(Path(place)), "50 ms", f"a Tab in bash over {RUNS} run directories, less an empty shell")


if __name__ == "__main__":
    main()
