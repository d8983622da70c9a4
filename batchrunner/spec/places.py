"""Where a mistake is: paths of keys, and a fault before it is tied to a file."""

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

from batchrunner.core.job import Json
from batchrunner.spec.hiding import hidden

KeyPath: TypeAlias = tuple[str | int, ...]
"""From the root of a job file to a value: keys of mappings and 0-based places in lists."""

_PLAIN_KEY = re.compile(r"[\w-]+")
_SHOWN_CHARS = 60
_DEEPEST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A mistake at a path; its file and line are looked up when all are known."""

    path: KeyPath
    problem: str
    expected: str | None = None
    hint: str | None = None
    line: int | None = None
    """Set where the path alone does not say it, as for the second of two equal keys."""


def dotted(path: KeyPath) -> str:
    """The path as people write it: `prompts[2].params.seed`."""
    shown = ""
    for step in path:
        match step:
            case int():
                shown += f"[{step}]"
            case str() if _PLAIN_KEY.fullmatch(step):
                shown += f".{step}" if shown else step
            case str():
                shown += f"[{short(step)}]"
    return shown


def short(value: Json) -> str:
    """A value as a message shows it: JSON, without secrets, cut."""
    text = hidden(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def parsed_path(text: str) -> KeyPath | None:
    """`limits.concurrency` or `prompts[0].id` as a path; None when it is none."""
    if not re.fullmatch(r"[^.\[\]]+(\[\d{1,6}\]|\.[^.\[\]]+)*", text):
        return None
    if text.count(".") + text.count("[") > _DEEPEST:
        return None
    return tuple(int(place) if place else key for key, place in re.findall(r"([^.\[\]]+)(?=\.|\[|$)|\[(\d+)\]", text))
