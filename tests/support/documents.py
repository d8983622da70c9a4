"""The documents taken apart: their pages, blocks of code, and the console sessions among them, run for real."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TOP: Final = [ROOT / name for name in ("README.md", "README.zh.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
USING: Final = sorted((ROOT / "docs").glob("*.md"))
PAGES: Final = [
    *TOP,
    *USING,
    *sorted((ROOT / "docs" / "providers").glob("*.md")),
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
    ROOT / "tests" / "README.md",
]
_BLOCK: Final = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SAVED: Final = re.compile(r"as `(\w+\.yaml)`")
_KILLED: Final = re.compile(r"timeout -s KILL \d+ ")
_ROWS_BEFORE_THE_KILL: Final = 50
VARIES: Final = "<!-- figures vary -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code."""

    language: str
    code: str
    before: str
    """The text between the block before and this one."""

    @property
    def saved_as(self) -> str | None:
        """The name of the file in which the reader is to save it."""
        names = _SAVED.findall(self.before.replace("\n", " "))
        return names[-1] if self.language == "yaml" and names else None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """In order; of these languages only, if any is given."""
    text, found, end = page.read_text("utf-8"), [], 0
    for match in _BLOCK.finditer(text):
        code = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(language=match[2], code=code, before=text[end : match.start()]))
        end = match.end()
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _BLOCK.sub("", page.read_text("utf-8"))


def sessions(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that are shown below it.

    What make starts counts as a command; what make itself says (`== …`) belongs to nothing.
    """
    command, shown = "", list[str]()
    for line in block.code.splitlines():
        if line.startswith(("$ ", ".venv/bin/batchrunner ")):
            if command:
                yield command, shown
            command, shown = line.removeprefix("$ ").removeprefix(".venv/bin/"), []
        elif not line.startswith("== "):
            shown.append(line)
    if command:
        yield command, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Somebody who follows a page, in a folder with the example jobs."""

    folder: Path

    def prepare(self) -> None:
        shutil.copytree(ROOT / "jobs", self.folder / "jobs", dirs_exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        own = Path(sys.executable).parent
        return {"PATH": f"{own}:{os.environ['PATH']}", "LANG": "C.UTF-8", "HOME": str(self.folder), "COLUMNS": "120"}

    def save(self, block: Block) -> None:
        assert block.saved_as
        (self.folder / block.saved_as).write_text(block.code, encoding="utf-8")

    def type(self, command: str) -> list[str]:
        """What the terminal shows; the time that begins lines where there is none is left out, as on the pages."""
        killed = _KILLED.match(command)
        with (self.folder / "shown").open("w+b") as shown:
            process = subprocess.Popen(
                shlex.split(command[killed.end() :] if killed else command),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=subprocess.STDOUT,
            )
            if killed:
                self._kill(process)
            process.wait(timeout=120)
            shown.seek(0)
            return [_STAMP.sub("", line) for line in shown.read().decode().splitlines()]

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        """As soon as there are some rows: how long that takes is the machine's business."""
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            rows = list(self.folder.glob("outputs/*/results.jsonl"))
            if any(path.read_bytes().count(b"\n") >= _ROWS_BEFORE_THE_KILL for path in rows if "big" in str(path)):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")


def same(shown: list[str], expected: list[str]) -> bool:
    """Whether the terminal shows this: `…` stands for anything in a line, and alone for any lines."""
    lines = [
        r"(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.rstrip().split("…"))) + r" *\n"
        for line in expected
    ]
    return re.fullmatch("".join(lines), "".join(f"{line}\n" for line in shown)) is not None


def alike(shown: list[str], expected: list[str]) -> bool:
    """The same with other figures. Lines between the first and the last one may be missing where their figure is 0."""
    have, want = [[_without_figures(line) for line in lines] for lines in (shown, expected)]
    rest = iter(want)
    return bool(have) and have[-1] == want[-1] and all(line in rest for line in have)


def _without_figures(line: str) -> str:
    """One request and two requests read the same."""
    return re.sub(r"\b(N \w+?)s\b", r"\1", re.sub(r"\d[\d,]*", "N", line))
