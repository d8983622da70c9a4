"""The rows of `bench`: what is measured, against what, and what it shall reach."""

import json
import random
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench_peers import PEERS, peer_took
from bench_report import Figure, curves
from bench_runs import KEYS, PROGRAM, PROMPT, CannotMeasureError, OwnJob, Took, bare, floor, instructions, run_process
from bench_servers import most_open

CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the rows measure with."""

    home: Path
    nginx: str
    stub: str
    files: Path
    core: int | None
    quick: bool
    rounds: int

    def size(self, quick: int, full: int) -> int:
        return quick if self.quick else full

    def bare(self, way: str, url: str, count: int, at_once: int) -> Took:
        return bare(way, url, count, at_once, core=self.core)

    def own(self, url: str, count: int, **job: object) -> Took:
        return OwnJob(home=self.home, url=url, count=count, **job).run(core=self.core)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row; `slow`: left out of the quick run unless it is named."""

    name: str
    title: str
    measure: Callable[[Bench], list[Figure]]
    slow: bool = False


def _against_bare(
    name: str,
    title: str,
    *,
    least: float,
    at_once: int = 64,
    count: tuple[int, int] = (3000, 20000),
    **job: object,
) -> Row:
    def measure(bench: Bench) -> list[Figure]:
        number = bench.size(*count)
        ratios, cpu, rates = [], [], []
        for _ in range(bench.rounds):
            loop = bench.bare("json", bench.nginx + CHAT, number, at_once)
            own = bench.own(bench.nginx, number, **{"concurrency": at_once, **job})
            ratios.append(loop.span_s / own.span_s)
            cpu.append(own.cpu_s / loop.cpu_s)
            rates.append(number / own.span_s)
        note = f"{number:,} items; {sorted(rates)[len(rates) // 2]:,.0f} a second"
        return [
            Figure(name=name, title=title, values=ratios, least=least, note=note),
            Figure(
                name=f"{name}:cpu",
                title=f"{title}: CPU of the whole process",
                values=cpu,
                less_is_better=True,
                least=1.3 if name == "chat-key" else None,
                note="per request, to the bare loop's",
            ),
        ]

    return Row(name=name, title=title, measure=measure)


def _against_own(
    name: str,
    title: str,
    *,
    least: float,
    stub: bool = False,
    count: tuple[int, int] = (3000, 20000),
    first: dict[str, object],
    second: dict[str, object],
) -> Row:
    """`second` to `first`, both by this program."""

    def measure(bench: Bench) -> list[Figure]:
        number, url = bench.size(*count), f"{bench.stub}/flushed" if stub else bench.nginx
        ratios = []
        for _ in range(bench.rounds):
            before = bench.own(url, number, **first)
            after = bench.own(url, number, **second)
            ratios.append(before.span_s / after.span_s)
        return [Figure(name=name, title=title, values=ratios, least=least, note=f"{number:,} items")]

    return Row(name=name, title=title, measure=measure)


def _slow_1000(bench: Bench) -> list[Figure]:
    number, at_once, wait_s = bench.size(10_000, 20_000), 1000, 0.2
    url = f"{bench.stub}/later/{wait_s * 1000:.0f}"
    ideal = number / at_once * wait_s
    own, loops = [], []
    for _ in range(bench.rounds):
        loops.append(ideal / bench.bare("json", url + CHAT, number, at_once).span_s)
        own.append(ideal / bench.own(url, number, concurrency=at_once).span_s)
    note = f"{number:,} items, ideal {ideal:.0f} s; bare loop {sorted(loops)[len(loops) // 2]:.2f}"
    return [Figure(name="slow-1000", title=_SLOW, values=own, least=0.74, note=note)]


def _stream(bench: Bench) -> list[Figure]:
    number, url = bench.size(1500, 10_000), f"{bench.stub}/flushed"
    ratios, floors = [], []
    for _ in range(bench.rounds):
        loop = bench.bare("stream", url + CHAT, number, 64)
        ratios.append(loop.span_s / bench.own(url, number, stream=True).span_s)
        job = OwnJob(home=bench.home, url=url, count=number, stream=True)
        least = floor(["stream", str(job.folder / "job.yaml"), "64"], core=bench.core)
        floors.append(loop.span_s / least.span_s)
    return [
        Figure(name="stream", title=_STREAM, values=ratios, least=1.2, note=f"{number:,} items"),
        Figure(name="stream:floor", title=f"{_STREAM}: floor", values=floors, note=_STREAM_FLOOR),
    ]


def _process(source: str) -> Callable[[Bench], list[Figure]]:
    def measure(bench: Bench) -> list[Figure]:
        number = bench.size(3000, 10_000)
        ratios, peaks = [], []
        for _ in range(bench.rounds):
            loop = bench.bare("json", bench.nginx + CHAT, number, 64)
            own = bench.own(bench.nginx, number, source=source)
            ratios.append(loop.wall_s / own.wall_s)
            peaks.append(own.peak_mb)
        name = f"process-{source}"
        note = f"{number:,} items, start-up and planning included"
        return [
            Figure(name=name, title=_PROCESS[source], values=ratios, least=0.65, note=note),
            Figure(name=f"{name}:memory", title=f"{_PROCESS[source]}: peak memory", unit="MB", values=peaks),
        ]

    return measure


def _in_flight(bench: Bench) -> list[Figure]:
    number, at_once = 10_000, bench.size(2000, 10_000)
    number = at_once
    most_open(bench.stub)
    small = bench.own(f"{bench.stub}/later/{5000}", 50, concurrency=50)
    most_open(bench.stub)
    big = bench.own(f"{bench.stub}/later/{5000}", number, concurrency=at_once, more={"timeouts": {"first_byte_s": 60}})
    most = most_open(bench.stub)
    each = (big.peak_mb - small.peak_mb) * 1024 / at_once
    return [
        Figure(
            name="in-flight", title=_IN_FLIGHT, unit="open at the server", values=[float(most)], least=float(at_once)
        ),
        Figure(
            name="in-flight:kb",
            title=f"{_IN_FLIGHT}: memory of each",
            unit="KB",
            values=[each],
            least=20.0,
            less_is_better=True,
        ),
    ]


def _pictures(bench: Bench) -> list[Figure]:
    number = bench.size(60, 300)
    make_picture(bench.files / "picture.png")
    figures: list[Figure] = []
    for name, way, title, thumbnails in (
        ("pictures", "pictures", _PICTURES, False),
        ("pictures:thumbnails", "thumbnails", _THUMBNAILS, True),
    ):
        ratios, cpu, stalls, by_itself, floors, floors_by_itself = [], [], [], [], [], []
        for _ in range(bench.rounds):
            alone = bench.bare(way, str(bench.files), number, 1)
            more = {"output": {"dir": "out", "report": thumbnails}}
            job = OwnJob(
                home=bench.home,
                url=bench.nginx,
                count=number,
                kind="image",
                dialect="openai-images",
                concurrency=8,
                more=more,
            )
            own = job.run(core=bench.core, sampled=True)
            ratios.append(alone.span_s / own.span_s)
            cpu.append(alone.cpu_s / own.cpu_s)
            stalls.append(_percentile_99([lag for lag, _ in own.stalls]) * 1000.0)
            by_itself.append(_percentile_99([busy for _, busy in own.stalls]) * 1000.0)
            words = ["pictures", str(bench.files), str(number), *(["--thumbnails"] if thumbnails else [])]
            least = floor(words, core=bench.core)
            floors.append(_percentile_99([lag for lag, _ in least.stalls]) * 1000.0)
            floors_by_itself.append(_percentile_99([busy for _, busy in least.stalls]) * 1000.0)
        size = (bench.files / "picture.png").stat().st_size / 1e6
        note = f"{number} pictures of {size:.1f} MB, one core"
        figures += [
            Figure(name=name, title=title, values=cpu, least=0.85, note=f"{note}; CPU of the whole process"),
            Figure(name=f"{name}:span", title=f"{title}: span", values=ratios, note="with waits for the disk"),
            Figure(
                name=f"{name}:stalls",
                title=f"{title}: the event loop's stalls, p99",
                unit="ms",
                values=stalls,
                least=15.0,
                less_is_better=True,
                note=f"a timer every 5 ms; {statistics.median(by_itself):.1f} ms of them by the process's own CPU",
            ),
            Figure(
                name=f"{name}:stalls-floor",
                title=f"{title}: the event loop's stalls, p99: floor",
                unit="ms",
                values=floors,
                note="two bare threads with the same pictures, a loop with nothing to do; "
                f"{statistics.median(floors_by_itself):.1f} ms by the process's own CPU",
            ),
        ]
    return figures


def _percentile_99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def make_picture(path: Path) -> None:
    """A PNG of 1024 × 1024 and about 2 MB: smooth colours under noise, as diffusion models make them."""
    if path.exists():
        return
    from PIL import Image  # noqa: PLC0415 - for this row alone

    random_source = random.Random(1)
    rough = Image.frombytes("RGB", (64, 64), random_source.randbytes(64 * 64 * 3)).resize(
        (1024, 1024), Image.Resampling.BICUBIC
    )
    grain = Image.frombytes("RGB", (1024, 1024), bytes(value & 7 for value in random_source.randbytes(1024 * 1024 * 3)))
    Image.blend(rough, Image.eval(grain, lambda value: value * 32), 0.03).save(path)


def _rehearse(bench: Bench) -> list[Figure]:
    number = bench.size(2000, 10_000)
    OwnJob(home=bench.home, url=bench.nginx, count=number, stream=True)
    chats = [_rehearsed(bench) for _ in range(bench.rounds)]
    pictures = {"limits": {"requests_per_day": number // 3 + 1, "concurrency": 8}, "kind": "image"}
    OwnJob(home=bench.home, url=bench.nginx, count=number, kind="image", dialect="openai-images", more=pictures)
    days = [_rehearsed(bench) for _ in range(bench.rounds)]
    return [
        Figure(
            name="rehearse",
            title=_REHEARSE,
            unit="items/s",
            values=[number / took.wall_s for took in chats],
            least=3000.0,
            note=f"{number:,} chat items, by the clock",
        ),
        Figure(
            name="rehearse:cpu",
            title=f"{_REHEARSE}: by CPU, which is the clock's on a core of its own",
            unit="items/s",
            values=[number / took.cpu_s for took in chats],
            least=3000.0,
        ),
        Figure(
            name="rehearse:days",
            title=f"{_REHEARSE}: {number:,} images over three quota days",
            unit="s",
            values=[took.wall_s for took in days],
            least=5.0,
            less_is_better=True,
            note="by the clock",
        ),
        Figure(
            name="rehearse:days-cpu",
            title=f"{_REHEARSE}: {number:,} images over three quota days: CPU",
            unit="s",
            values=[took.cpu_s for took in days],
            least=5.0,
            less_is_better=True,
        ),
    ]


def _rehearsed(bench: Bench) -> Took:
    words = [sys.executable, *PROGRAM, "rehearse", "job.yaml"]
    return run_process(words, cwd=bench.home / "work", core=bench.core, env=KEYS)


def _start_up(bench: Bench) -> list[Figure]:
    folder = bench.home / "start"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "job.yaml").write_text('{"provider": "simulator", "model": "sim/talker", "prompts": ["Say hello."]}')
    ways = {
        "help": (["--help"], 9.0, "`--help`"),
        "check": (["check", "job.yaml"], 14.0, "`check` of one prompt"),
        "run": (["run", "job.yaml", "--out", "out"], 22.0, "one prompt on the simulator"),
    }
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(bench.rounds + 2):
        nothing = run_process([sys.executable, "-c", "pass"], cwd=folder, core=bench.core).cpu_s
        for name, (words, _, _) in ways.items():
            shutil.rmtree(folder / "out", ignore_errors=True)
            took = run_process([sys.executable, *PROGRAM, *words], cwd=folder, core=bench.core)
            ratios[name].append(took.cpu_s / nothing)
    return [
        Figure(
            name=f"start-up:{name}",
            title=f"Start-up, {title}: CPU to `python -c pass`",
            values=ratios[name],
            least=least,
            less_is_better=True,
        )
        for name, (_, least, title) in ways.items()
    ]


def _yaml(bench: Bench) -> list[Figure]:
    folder = bench.home / "yaml"
    folder.mkdir(exist_ok=True)
    number = 20_000
    text = PROMPT * 3
    lines = "".join(f'  - "Question {place}: {text}"\n' for place in range(number))
    (folder / "job.yaml").write_text(f"provider: openai\nmodel: m\nprompts:\n{lines}")
    took = [
        run_process([sys.executable, *PROGRAM, "check", "job.yaml"], cwd=folder, core=bench.core).wall_s
        for _ in range(bench.rounds)
    ]
    size = (folder / "job.yaml").stat().st_size / 1e6
    return [
        Figure(name="yaml", title=_YAML, unit="s", values=took, least=1.5, less_is_better=True, note=f"{size:.1f} MB")
    ]


def _instructions(bench: Bench) -> list[Figure]:
    sizes = (400, 1000, 1600) if bench.quick else (400, 1600, 2800)
    own, loops = [], []
    for number in sizes:
        job = OwnJob(home=bench.home, url=bench.nginx, count=number)
        words = [sys.executable, *PROGRAM, "run", "job.yaml"]
        own.append(instructions(words, cwd=job.folder, core=bench.core, env=KEYS))
        script = str(Path(__file__).parent / "bench_bare.py")
        words = [sys.executable, script, "json", bench.nginx + CHAT, str(number), "64"]
        loops.append(instructions(words, cwd=job.folder, core=bench.core))
    first, second, each = (_slope(sizes, own, *ends) for ends in ((0, 1), (1, 2), (0, 2)))
    note = f"bare loop {_slope(sizes, loops, 0, 2):.0f} k; between {sizes[0]} and {sizes[2]:,} items"
    if abs(first - second) > _UNEVEN * each:
        note += f"; uneven: {first:.0f} k up to {sizes[1]:,}, {second:.0f} k beyond"
    return [
        Figure(
            name="instructions",
            title=_INSTRUCTIONS,
            unit="k",
            values=[each],
            least=700.0,
            less_is_better=True,
            note=note,
        )
    ]


def _slope(sizes: tuple[int, ...], counts: list[float], start: int, end: int) -> float:
    """Thousands of instructions an item between two of the sizes."""
    return (counts[end] - counts[start]) / (sizes[end] - sizes[start]) / 1000


_UNEVEN: Final = 0.1
"""Slopes of two halves that differ by more than this share are both said."""


def _peers(bench: Bench) -> list[Figure]:
    number = bench.size(500, 2000)
    figures = []
    for name in PEERS:
        title = f"To {name}, its durable output on: rate, whole process"
        ratios = []
        try:
            for _ in range(min(3, bench.rounds)):
                peer = peer_took(name, home=bench.home, url=bench.nginx, count=number, core=bench.core)
                ratios.append(peer.span_s / bench.own(bench.nginx, number).span_s)
        except CannotMeasureError as error:
            figures.append(Figure(name=f"peers:{name}", title=title, left_out=str(error)))
        else:
            title = f"To {name}, its durable output on: rate"
            figures.append(
                Figure(name=f"peers:{name}", title=title, values=ratios, note=f"{number:,} items; {PEERS[name].keeps}")
            )
    measured = [each for each in figures if each.values and PEERS[each.name.split(":", 1)[1]].durable]
    if measured:
        fastest = min(measured, key=lambda figure: figure.median)
        figures.append(
            Figure(
                name="peers",
                title="To the fastest durable peer",
                values=fastest.values,
                least=25.0,
                note=fastest.name.split(":", 1)[1],
            )
        )
    return figures


def _scale(bench: Bench) -> list[Figure]:
    out = bench.home / "scale.json"
    sizes = ["1000", "10000"] if bench.quick else ["1000", "10000", "100000", "1000000"]
    words = [sys.executable, str(Path(__file__).parent / "scale.py"), "--first", "--json", str(out), *sizes]
    run_process(words, cwd=bench.home, core=None, limit_s=4 * 3600.0)
    found: dict[str, dict[str, dict[str, float]]] = json.loads(out.read_text())
    picture = bench.home.parent / "docs" / "benchmarks-scale.svg"
    picture.write_text(curves({int(size): told for size, told in found.items()}, names=_CURVES))
    most = max(found, key=int)
    return [
        Figure(
            name=f"scale:{what}",
            title=f"{int(most):,} items, {what}: CPU",
            unit="s",
            values=[found[most][what]["cpu_s"]],
            note=f"peak {found[most][what]['peak_mb']:.0f} MB",
        )
        for what in _CURVES
        if what in found[most]
    ]


_CURVES = ("first run", "resume, nothing to do", "resume after a kill", "status", "plan", "export", "bare msgspec loop")
_SLOW = "1,000 at once against 200 ms: ideal makespan to ours"
_STREAM = "Chat, streamed in 42 flushed chunks, to a bare loop: span"
_STREAM_FLOOR = "transport, decoder, ledger and results without the engine"
_IN_FLIGHT = "Requests in flight at once, answers after 5 s"
_PICTURES = "Images, 1024² PNGs, to verify + load + write alone"
_THUMBNAILS = "Images with thumbnails (default), to verify + load + thumbnail + write alone"
_REHEARSE = "`rehearse`"
_YAML = "20,000 prompts listed in YAML: `check`"
_INSTRUCTIONS = "Instructions an item, whole run, API key set"
_SCALE = "10^3 to 10^6 items: first run, resume, status, plan, export"
_PROCESS = {
    "jsonl": "Whole process from JSONL, to the bare loop's",
    "csv": "Whole process from CSV with a template, to the bare loop's",
}

_ALL: Final = (
    _against_bare("chat-key", "Chat, API key set, to a bare loop: span", least=0.85),
    _against_bare("chat", "Chat, no key, to a bare loop: span", least=0.95, key=False),
    _against_own("chat-auto", "`concurrency: auto` to 64: span", least=0.95, first={}, second={"concurrency": "auto"}),
    _against_bare("chat-512", "Chat, 512 at once, to a bare loop: span", least=1.1, at_once=512),
    Row(name="slow-1000", title=_SLOW, measure=_slow_1000),
    Row(name="stream", title=_STREAM, measure=_stream),
    _against_own(
        "anthropic",
        "Anthropic's dialect to OpenAI's: span",
        least=0.9,
        first={},
        second={"dialect": "anthropic-messages", "more": {"params": {"max_tokens": 100}}},
    ),
    _against_own(
        "anthropic-stream",
        "Anthropic's dialect to OpenAI's, streamed: span",
        least=0.9,
        stub=True,
        count=(1500, 10_000),
        first={"stream": True},
        second={"stream": True, "dialect": "anthropic-messages", "more": {"params": {"max_tokens": 100}}},
    ),
    _against_bare("full", "Chat, `durability: full`, to a bare loop: span", least=0.6, more={"durability": "full"}),
    Row(name="process-jsonl", title=_PROCESS["jsonl"], measure=_process("jsonl")),
    Row(name="process-csv", title=_PROCESS["csv"], measure=_process("csv")),
    Row(name="in-flight", title=_IN_FLIGHT, measure=_in_flight),
    Row(name="pictures", title=_PICTURES, measure=_pictures),
    Row(name="rehearse", title=_REHEARSE, measure=_rehearse),
    Row(name="start-up", title="Start-up: CPU to `python -c pass`", measure=_start_up),
    Row(name="yaml", title=_YAML, measure=_yaml),
    Row(name="instructions", title=_INSTRUCTIONS, measure=_instructions),
    Row(name="peers", title="To the peers, their durable output on", measure=_peers, slow=True),
    Row(name="scale", title=_SCALE, measure=_scale, slow=True),
)
ROWS: Final = {row.name: row for row in _ALL}
