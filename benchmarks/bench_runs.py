"""What `bench` measures with: processes of the client's core, their CPU and memory, and jobs run by the program."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

KEY: Final = "BENCH_API_KEY"
KEYS: Final = {KEY: "sk-bench-0123456789abcdef0123456789"}
HERE: Final = Path(__file__).resolve().parent
PROGRAM: Final = [
    "-c",
    "import sys; from batchrunner.__main__ import main; sys.argv[0] = 'batchrunner'; sys.exit(main())",
]
_SAMPLED: Final = """
import asyncio, json, os, time
import batchrunner.api
run = batchrunner.api.run
async def sampled(job, **options):
    lags = []
    async def sample():
        while True:
            asked, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.005)
            lag = time.perf_counter() - asked - 0.005
            lags.append((lag, max(0.0, min(lag, time.process_time() - used - 0.005))))
    sampling = asyncio.create_task(sample())
    try:
        return await run(job, **options)
    finally:
        sampling.cancel()
        with open("lags.json", "w") as out:
            json.dump(lags, out)
batchrunner.api.run = sampled
"""
"""Put before the program: how much later than asked the event loop woke a timer, every 5 ms.

And how much of that the process itself was busy with: on a machine that others use, too, the rest is theirs.
"""
PROMPT: Final = "What is the sum of the first numbers, please? Answer in one sentence. "


class CannotMeasureError(Exception):
    """A figure cannot be had here; the message says why."""


@dataclass(slots=True, kw_only=True)
class Took:
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    said: str
    span_s: float = 0.0
    """First intent to last done, or what the process itself measured."""
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """Of a sampled run: seconds that the event loop kept a timer waiting, and those of the process's own CPU."""


def cores() -> tuple[int | None, int | None]:
    """(of the client, of the servers); None, None where there is one core only: then both share it."""
    found = sorted(os.sched_getaffinity(0))
    return (found[0], found[1]) if len(found) > 1 else (None, None)


def compiled() -> None:
    """Compile the package to byte code, so that no measured process does; it writes whatever the environment says."""
    folders = [str(HERE.parent / "batchrunner"), str(HERE)]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True)


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """That of measured processes: what is not compiled yet, of a library or a peer, is compiled and kept once."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **(more or {})}


def run_process(
    words: list[str], *, cwd: Path, core: int | None, env: dict[str, str] | None = None, limit_s: float = 3600.0
) -> Took:
    """Run it to its end on a core. Raises CannotMeasureError, with the end of what it said, when it fails."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen([*pin, *words], cwd=cwd, env=environment(env), stdout=out, stderr=err)
        usage = _waited(process, limit_s)
        wall_s = time.perf_counter() - began
        out.seek(0)
        err.seek(0)
        said, complained = out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")
    if process.returncode:
        raise CannotMeasureError(f"{words[0]} ended with {process.returncode}: {(complained or said).strip()[-400:]}")
    return Took(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss / 1024, said=said)


def _waited(process: subprocess.Popen[bytes], limit_s: float) -> "os.struct_rusage":  # type: ignore[name-defined]
    until = time.monotonic() + limit_s
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > until:
            process.send_signal(signal.SIGKILL)
            until = float("inf")
        time.sleep(0.002)


def bare(way: str, url: str, count: int, at_once: int, *, core: int | None) -> Took:
    """A bare loop, see `bench_bare`."""
    words = [sys.executable, str(HERE / "bench_bare.py"), way, url, str(count), str(at_once)]
    took = run_process(words, cwd=HERE, core=core)
    took.span_s = json.loads(took.said)["span_s"]
    return took


def floor(words: list[str], *, core: int | None) -> Took:
    """What the promises alone cost, see `bench_floor`: `span_s`, or `stalls`."""
    took = run_process([sys.executable, str(HERE / "bench_floor.py"), *words], cwd=HERE, core=core, env=KEYS)
    said = json.loads(took.said)
    took.span_s = said.get("span_s", 0.0)
    took.stalls = [(lag, own) for lag, own in said.get("stalls", ())]
    return took


@dataclass(slots=True, kw_only=True)
class OwnJob:
    """A job for this program, made anew for each run."""

    home: Path
    url: str
    count: int
    concurrency: int | str = 64
    key: bool = True
    stream: bool = False
    dialect: str = "openai-chat"
    kind: str = "chat"
    source: str = "jsonl"
    more: dict[str, object] = field(default_factory=dict)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.home / "work"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        auth = {"anthropic-messages": "x-api-key"}.get(self.dialect, "bearer")
        provider: dict[str, object] = {"base_url": f"{self.url}/v1", "dialect": self.dialect}
        provider |= {"api_key_env": KEY, "auth": auth} if self.key else {"api_key_env": [], "auth": "none"}
        job: dict[str, object] = {"kind": self.kind, "model": "m", "provider": provider}
        job |= {"limits": {"concurrency": self.concurrency}, "output": {"dir": "out", "report": False}}
        job |= {"stream": self.stream} if self.kind == "chat" else {}
        job["prompts"] = self._source()
        (self.folder / "job.yaml").write_text(json.dumps({**job, **self.more}))

    def _source(self) -> dict[str, str]:
        if self.source == "csv":
            with (self.folder / "prompts.csv").open("w") as out:
                out.write("number,ask\n")
                out.writelines(f'{number},"{PROMPT}"\n' for number in range(self.count))
            return {"file": "prompts.csv", "template": "{{ ask }}{{ number }}"}
        with (self.folder / "prompts.jsonl").open("w") as out:
            out.writelines(f'{{"prompt": "{PROMPT}{number}"}}\n' for number in range(self.count))
        return {"file": "prompts.jsonl"}

    def run(self, *, core: int | None, before: list[str] | None = None, sampled: bool = False) -> Took:
        """Run it from nothing; every item must be done.

        `before` is put before the interpreter, for valgrind; `sampled`: the event loop's stalls are measured, too.
        """
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        program = [PROGRAM[0], (_SAMPLED if sampled else "") + PROGRAM[1]]
        words = [*(before or []), sys.executable, *program, "run", "job.yaml"]
        took = run_process(words, cwd=self.folder, core=core, env=KEYS)
        took.stalls = (
            [(lag, own) for lag, own in json.loads((self.folder / "lags.json").read_text())] if sampled else []
        )
        took.span_s, done = span_of(self.folder / "out/ledger")
        if done != self.count:
            raise CannotMeasureError(f"{done} of {self.count} items are done")
        return took


def span_of(ledger: Path) -> tuple[float, int]:
    """Seconds from the first intent to the last done by the ledger's own stamps, and how many are done."""
    first, last, done = float("inf"), 0.0, 0
    for segment in sorted(ledger.glob("*.jsonl")):
        with segment.open("rb") as lines:
            for line in lines:
                if b'"e":"done"' in line:
                    last = float(line[line.index(b'"t":') + 4 :].split(b",", 1)[0])
                    done += 1
                elif done == 0 and first == float("inf") and b'"e":"intent"' in line:
                    first = float(line[line.index(b'"t":') + 4 :].split(b",", 1)[0])
    return last - first, done


def instructions(words: list[str], *, cwd: Path, core: int | None, env: dict[str, str] | None = None) -> float:
    """How many instructions a process takes, by callgrind. Raises CannotMeasureError where valgrind is not there.

    With a fixed seed of hashes: sets and dicts of start-up, a multiple of what is looked for, are then the same.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CannotMeasureError("valgrind is not installed")
    with tempfile.NamedTemporaryFile() as out:
        before = [valgrind, "--tool=callgrind", f"--callgrind-out-file={out.name}"]
        run_process([*before, *words], cwd=cwd, core=core, env={**(env or {}), "PYTHONHASHSEED": "0"})
        for line in Path(out.name).read_text(errors="replace").splitlines():
            if line.startswith(("summary:", "totals:")):
                return float(line.split()[1])
    raise CannotMeasureError("callgrind wrote no totals")
