"""Figures of `bench` as lines, as a table and as docs/benchmarks.md."""

import math
import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import yaml

NOTES: Final = Path(__file__).with_name("notes.yaml")


@dataclass(slots=False, kw_only=True)
class Figure:
    """One measured figure: a value a round, of which the median counts."""

    name: str
    """The row's name, and after a colon which of its figures."""
    title: str
    unit: str = "x"
    values: list[float] = field(default_factory=list)
    least: float | None = None
    """What it shall reach; for a figure where less is better, what it shall not exceed."""
    less_is_better: bool = False
    note: str = ""
    left_out: str = ""
    """Why there is no value."""
    quick: bool = False
    at: str = ""
    load: float | None = None
    """Processes that wanted a core when it was measured, on average of the last five minutes; None: not noted."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def shown(self) -> str:
        """The median with its spread."""
        if not self.values:
            return "-"
        text = _number(self.median)
        if len(self.values) > 1:
            text += f" ({_number(min(self.values))} to {_number(max(self.values))})"
        return f"{text} {self.unit}".strip()

    @property
    def missed(self) -> bool:
        """Whether there is a goal, and the median does not reach it."""
        if self.least is None or not self.values:
            return False
        return self.median > self.least if self.less_is_better else self.median < self.least

    def goal(self) -> str:
        """What it shall be, and whether it is."""
        if self.least is None or not self.values:
            return ""
        return f"{'≤' if self.less_is_better else '≥'} {_number(self.least)}{' (missed)' if self.missed else ''}"

    def circumstances(self) -> str:
        """What stands beside it in the page."""
        rounds = f"{len(self.values)} round{'s' * (len(self.values) > 1)}"
        measured = f"{rounds} at a load of {self.load:.0f}" if self.load is not None else ""
        return "; ".join(part for part in (self.note, "small sizes" if self.quick else "", measured) if part)

    def line(self) -> str:
        if self.left_out:
            return f"{self.title}: left out: {self.left_out}"
        return f"{self.title}: {self.shown()}  {self.goal()}  {self.note}".rstrip()


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(figures: list[Figure]) -> str:
    """All of them, for a screen."""
    width = max((len(figure.title) for figure in figures), default=0)
    lines = []
    for figure in figures:
        end = (
            f"left out: {figure.left_out}"
            if figure.left_out
            else f"{figure.shown():32} {figure.goal():18} {figure.note}"
        )
        lines.append(f"{figure.title:{width}}  {end}{' [quick]' if figure.quick else ''}".rstrip())
    return "\n".join(lines)


def machine() -> list[str]:
    """The kind of machine, without its name."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next(
        (int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0.0
    )
    packages = []
    for name in ("aiohttp", "uvloop", "msgspec", "Pillow", "pydantic"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return [
        f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GB of memory",
        f"{system}, {python}, {', '.join(packages)}",
    ]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


_ABOUT = """# Benchmarks

Written by `make bench`; not by hand. One machine, one run: compare ratios, not rates.

How it is measured:

- The client runs on one core, the servers on another. Whole answers come from nginx (`return 200`); answers that wait
  or are flushed chunk by chunk from an asyncio stub on uvloop, on the server's core too.
- The measure is a bare loop: aiohttp on uvloop, answers kept in memory and forgotten (`resp.json()`; streamed answers
  by `readany()`, split at line ends, `json.loads` for each data line). The program writes intents, rows and ledger.
- Rounds alternate between the two; each ratio is of one round; the figure is the median, its spread in brackets.
- *span*: from the first intent to the last `done`, by the ledger's own stamps; without start-up and planning.
  *Whole process*: from nothing to the end of the process, with both.
- Jobs have `output.report: false`. The page that a run otherwise writes when it ends is outside of every span; it costs
  the process up to 100 µs a row, measured below under *The page*.
- Instructions are counted by callgrind, as the difference between two sizes, divided by the items between them; a
  third size between the two tells whether they grow evenly.
- The package is compiled to byte code before anything is measured.
- Beside a figure: how many rounds, and the load of the machine meanwhile (processes that wanted a core, average of five
  minutes). Where nothing is said: five rounds of an earlier run.

Two tools show where a figure comes from, whatever else the machine does: `python benchmarks/calls.py` lists every
Python and C function that a run calls for an item, by how often (`--help` has other dialects, streams, images and
`rehearse`); `python benchmarks/bench.py instructions` counts the instructions of the whole. What they found beside a
missed figure stands in `benchmarks/notes.yaml`, written by hand, and below the table.
"""


_COLOURS = ("#1b6ca8", "#c44536", "#2a9d8f", "#8e6c8a", "#e09f3e", "#5f6b6d", "#111111")


def curves(found: dict[int, dict[str, dict[str, float]]], *, names: tuple[str, ...]) -> str:
    """An SVG of CPU seconds over items, both by powers of ten; `found` by items and by what was measured."""
    sizes = sorted(found)
    values = [told[name]["cpu_s"] for told in found.values() for name in names if name in told]
    low, high = math.floor(math.log10(max(0.01, min(values)))), math.ceil(math.log10(max(values)))
    left, top, width, height = 60, 20, 480, 300
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])

    def at(size: int, seconds: float) -> str:
        across = (math.log10(size) - first) / (last - first or 1)
        up = (math.log10(max(0.01, seconds)) - low) / (high - low or 1)
        return f"{left + across * width:.1f},{top + (1 - up) * height:.1f}"

    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="370" font-family="sans-serif" font-size="12">',
        '<rect width="760" height="370" fill="white"/>',
    ]
    for power in range(low, high + 1):
        y = at(sizes[0], 10.0**power).split(",")[1]
        lines.append(f'<path d="M{left},{y} h{width}" stroke="#dddddd"/><text x="8" y="{y}">{10.0**power:g} s</text>')
    for size in sizes:
        x = at(size, 1.0).split(",")[0]
        lines.append(f'<text x="{x}" y="{top + height + 20}" text-anchor="middle">{size:,}</text>')
    lines.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">items</text>')
    for place, name in enumerate(names):
        points = [at(size, found[size][name]["cpu_s"]) for size in sizes if name in found[size]]
        colour, y = _COLOURS[place % len(_COLOURS)], top + 12 + place * 20
        lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{left + width + 16}" y="{y}" fill="{colour}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


def notes(path: Path = NOTES) -> dict[str, dict[str, str]]:
    """What notes.yaml says beside missed figures, by the figure's name. Raises ValueError for another shape."""
    found = yaml.safe_load(path.read_text()) or {}
    for name, note in found.items():
        if not isinstance(note, dict) or not (note.keys() <= {"floor", "profile"} or note.keys() == {"title", "text"}):
            raise ValueError(f"{path.name}: {name}: expected `floor`, `profile` or both, or `title` and `text`")
    return found


def _reasons(figures: list[Figure], why: dict[str, dict[str, str]]) -> list[str]:
    """The missed figures that have a note: their floor, and the profile that shows it."""
    lines: list[str] = []
    for figure in figures:
        note = why.get(figure.name)
        if not figure.missed or note is None:
            continue
        lines += ["", f"### {figure.title}", "", f"Measured {figure.shown()}, goal {figure.goal()}."]
        if "floor" in note:
            lines[-1] += f" Floor: {note['floor'].strip()}"
        if "profile" in note:
            lines += ["", note["profile"].strip()]
    return ["", "## Why a figure is missed: the floor that it meets, and the profile", *lines] if lines else []


def document(figures: list[Figure], why: dict[str, dict[str, str]] | None = None) -> str:
    """docs/benchmarks.md; `why` are the notes beside missed figures, see `notes`."""
    lines = [_ABOUT, "The machine:", ""]
    lines += [f"- {line}" for line in machine()]
    lines += ["", "| measured | median (spread) | goal | |", "|---|---|---|---|"]
    for figure in figures:
        if figure.left_out:
            reason = " ".join(figure.left_out.split())[:200].replace("|", "/")
            lines.append(f"| {figure.title} | left out | | {reason} |")
        else:
            lines.append(f"| {figure.title} | {figure.shown()} | {figure.goal()} | {figure.circumstances()} |")
    if any(figure.name.startswith("scale:") for figure in figures):
        lines += ["", "CPU over the number of items:", "", "![CPU seconds over items](benchmarks-scale.svg)"]
    lines += _reasons(figures, why or {})
    for note in (why or {}).values():
        if "title" in note:
            lines += ["", f"## {note['title']}", "", note["text"].strip()]
    return "\n".join([*lines, ""])
