"""Ways to damage a run's directory, each with the kinds of findings that an audit must make of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """Something that happened to a directory."""

    name: str
    happens: Callable[[Path], None]
    found: frozenset[str]
    """Of these kinds at least one is found."""


def segment(out: Path, number: int = 1) -> Path:
    return out / "ledger" / f"{number:06d}.jsonl"


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def flip(path: Path, place: float) -> None:
    text = bytearray(path.read_bytes())
    text[int(place * (len(text) - 1))] ^= 0x10
    path.write_bytes(bytes(text))


def without_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number]
    path.write_bytes(b"".join(lines))


def doubled_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[: number + 1], *lines[number:]]))


def edited_row(out: Path) -> None:
    """One letter of an answer, by a person who saved the file."""
    path = out / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b'"index":1', b'"index":9', 1).replace(b'"attempts":1', b'"attempts":2', 1)
    path.write_bytes(b"".join(lines))


def repeated_id(out: Path) -> None:
    path = out / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first, second = (json.loads(line)["id"].encode() for line in lines[:2])
    lines[1] = lines[1].replace(b'"id":"' + second, b'"id":"' + first, 1)
    path.write_bytes(b"".join(lines))


def first_picture(out: Path) -> Path:
    return min((out / "images").iterdir())


def first_answer(out: Path) -> Path:
    return min((out / "answers").iterdir())


ROWS = (
    Damage("ledger flipped at its beginning", lambda out: flip(segment(out), 0.02), frozenset({"ledger_damaged"})),
    Damage("ledger flipped in its middle", lambda out: flip(segment(out), 0.5), frozenset({"ledger_damaged"})),
    Damage("ledger line dropped", lambda out: without_line(segment(out), 2), frozenset({"ledger_damaged"})),
    Damage("ledger line doubled", lambda out: doubled_line(segment(out), 2), frozenset({"ledger_damaged"})),
    Damage("ledger emptied", lambda out: put(segment(out), b""), frozenset({"row_unknown", "torn_tail"})),
    Damage("ledger removed", lambda out: segment(out).unlink(), frozenset({"ledger_missing"})),
    Damage("results removed", lambda out: (out / "results.jsonl").unlink(), frozenset({"row_missing"})),
    Damage(
        "results cut",
        lambda out: put(out / "results.jsonl", (out / "results.jsonl").read_bytes()[:300]),
        frozenset({"row_missing"}),
    ),
    Damage("row dropped", lambda out: without_line(out / "results.jsonl", 1), frozenset({"row_missing"})),
    Damage("row doubled", lambda out: doubled_line(out / "results.jsonl", 1), frozenset({"row_repeated"})),
    Damage("row edited", edited_row, frozenset({"row_changed"})),
    Damage("id repeated", repeated_id, frozenset({"id_repeated"})),
    Damage(
        "row flipped",
        lambda out: flip(out / "results.jsonl", 0.3),
        frozenset({"row_changed", "row_unreadable", "row_missing", "row_files"}),
    ),
)
PICTURES = (
    Damage("picture removed", lambda out: first_picture(out).unlink(), frozenset({"file_missing"})),
    Damage(
        "picture cut",
        lambda out: put(first_picture(out), first_picture(out).read_bytes()[:-9]),
        frozenset({"file_changed"}),
    ),
    Damage("picture flipped", lambda out: flip(first_picture(out), 0.5), frozenset({"file_changed"})),
)
ANSWERS = (
    Damage("answer removed", lambda out: first_answer(out).unlink(), frozenset({"answer_missing"})),
    Damage(
        "answer edited",
        lambda out: put(first_answer(out), b"else"),
        frozenset({"answer_changed"}),
    ),
)
FAILURES = (
    Damage("failures removed", lambda out: (out / "failures.jsonl").unlink(), frozenset({"failure_missing"})),
    Damage("failure dropped", lambda out: without_line(out / "failures.jsonl", 0), frozenset({"failure_missing"})),
)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below, for comparing."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
