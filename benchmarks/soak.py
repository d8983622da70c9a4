"""Ten real minutes of answers and pictures, with faults: does the program's size, or the number of its files, grow?

Two jobs of one process (`run --parallel`) against the HTTP simulator in another one. Prints resident size and open
descriptors every half minute, and the last third of the time over the first. Linux: it reads /proc.
Run: python benchmarks/soak.py [SECONDS]
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CHAT_A_SECOND, PICTURES_A_SECOND = 60, 10
HALF_MINUTE_S = 30.0
SAMPLES_AT_LEAST = 20
FAULTS = (
    "throttle=0.01,5xx=0.02,reset=0.01,cut=0.01,shell=0.01,retry_after=1,"
    "task-fail=0.02,task-slow=0.02,poll-5xx=0.02,poll-429=0.01,dl-truncated=0.02,dl-404=0.01"
)
CHAT, PICTURES = "kind: chat\nmodel: sim/chat", "kind: image\nmodel: Qwen/Qwen-Image\nparams: {size: 256x256}"


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batchrunner", *arguments]


def write_job(folder: Path, name: str, kind: str, base_url: str, *, a_second: int, seconds: float) -> None:
    items = int(1.5 * a_second * seconds) + 100
    lines = (json.dumps({"prompt": f"{number}: what follows from {number * 7}?"}) for number in range(items))
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    preset = "openai" if name == "answers" else "modelscope"
    (folder / f"{name}.yaml").write_text(
        f"name: {name}\nprovider: {{preset: {preset}, base_url: '{base_url}', api_key_env: [], auth: none}}\n{kind}\n"
        f"prompts: {{file: {name}.jsonl}}\n"
        f"limits: {{concurrency: 32, requests_per_minute: {60 * a_second}}}\nretry: {{attempts: 12}}\n"
    )


def address_of(log: Path) -> str:
    for _ in range(600):
        for line in log.read_text().splitlines():
            if line.strip().startswith("base_url:"):
                return line.split()[1]
        time.sleep(0.05)
    raise SystemExit(f"the simulator did not start: {log.read_text()}")


def sample(process: "subprocess.Popen[bytes]") -> tuple[float, int]:
    """(resident megabytes, open descriptors)"""
    status = Path(f"/proc/{process.pid}/status").read_text()
    megabytes = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return megabytes, len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def watch(process: "subprocess.Popen[bytes]", folder: Path, seconds: float) -> list[tuple[float, int]]:
    every_s = min(HALF_MINUTE_S, seconds / SAMPLES_AT_LEAST)
    began = time.monotonic()
    seen: list[tuple[float, int]] = []
    print(f"  {'seconds':>8} {'MB':>7} {'files':>6} {'answers':>8} {'pictures':>8}")
    while (now := time.monotonic() - began) < seconds:
        time.sleep(min(every_s, seconds - now + 0.01))
        if process.poll() is not None:
            raise SystemExit(f"the program ended early with {process.returncode}: {(folder / 'run.log').read_text()}")
        seen.append(sample(process))
        rows = [count(folder / "outputs" / name / "results.jsonl") for name in ("answers", "pictures")]
        print(
            f"  {time.monotonic() - began:8.0f} {seen[-1][0]:7.1f} {seen[-1][1]:6} {rows[0]:8} {rows[1]:8}", flush=True
        )
    return seen


def count(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def trend(name: str, figures: list[float]) -> None:
    # the first samples see it grow into its work; what matters is whether it ever stops
    settled = figures[len(figures) // 10 :]
    third = max(1, len(settled) // 3)
    first, last = statistics.mean(settled[:third]), statistics.mean(settled[-third:])
    print(
        f"  {name}: first third {first:.1f}, last third {last:.1f}, ratio {last / first:.3f}, most {max(figures):.1f}"
    )


def soak(folder: Path, base_url: str, seconds: float) -> None:
    write_job(folder, "answers", CHAT, base_url, a_second=CHAT_A_SECOND, seconds=seconds)
    write_job(folder, "pictures", PICTURES, base_url, a_second=PICTURES_A_SECOND, seconds=seconds)
    with (folder / "run.log").open("w") as log:
        command = program("run", "answers.yaml", "pictures.yaml", "--parallel", "--quiet")
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            seen = watch(process, folder, seconds)
            process.send_signal(signal.SIGINT)
            status = process.wait(timeout=120)
        finally:
            process.kill()
    trend("resident MB", [megabytes for megabytes, _ in seen])
    trend("descriptors", [float(descriptors) for _, descriptors in seen])
    told = [
        json.loads(subprocess.check_output(program("status", "--json", f"outputs/{name}"), cwd=folder))
        for name in ("answers", "pictures")
    ]
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/_simulator/stats") as reply:
        paid_twice = json.load(reply)["paid_twice"]
    possible = sum(each["sends"]["possible_duplicates"] for each in told)
    done = [each["items"]["done"] for each in told]
    print(f"  ended with {status}: {done[0]} answers, {done[1]} pictures; {paid_twice} paid twice, {possible} told")


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        latency = "first=0.2,task=3,poll=0.02,download=0.05,spread=0.5"
        with (folder / "simulator.log").open("w") as log:
            command = program("simulate", "--port", "0", "--faults", FAULTS, "--latency", latency)
            simulator = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            print(f"{seconds:g} seconds, {CHAT_A_SECOND} answers and {PICTURES_A_SECOND} pictures a second at most")
            soak(folder, address_of(folder / "simulator.log"), seconds)
        finally:
            simulator.terminate()
            simulator.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=600.0, help="how long; default: 600")
    main(parser.parse_args().seconds)
