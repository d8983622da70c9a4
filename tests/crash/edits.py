"""Hands that change a run's directory between two lives of a process, by seed, and what must hold all the same.

Nothing that has a row, and nothing that was acknowledged as done, is sent again without being asked for; no life that
calls the job done leaves an item without its row; a run whose ledger is gone sends nothing at all.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

from batchrunner.core.errors import BatchrunnerError, ExitStatus
from batchrunner.core.part import RunRequest
from tests.crash.invariant_error import Violation, need
from tests.crash.invariants import ENDS, check_end
from tests.crash.jobs import RUN, shape_of
from tests.crash.ledger_tail import rows_on
from tests.crash.lives import CrashHarness
from tests.crash.seeded_runs import any_ending, calm, world_of
from tests.support.crashing_disk import CrashingDisk
from tests.support.disk_state import File, Folder

RESULTS = RUN / "results.jsonl"
KINDS = ("chat", "chat-each", "image", "whole", "pictures")
_MOST_LIVES = 40
Hand = Callable[[CrashingDisk, random.Random], None]


def _folder(disk: CrashingDisk, path: Path) -> Folder:
    node = disk._find(path)
    assert isinstance(node, Folder)
    return node


def put(disk: CrashingDisk, path: Path, data: bytes) -> None:
    """Save a file as an editor does: a new one in its place, on the platter."""
    folder = _folder(disk, path.parent)
    folder.sync()
    file = File(0o600, seen=bytearray(data), durable=bytearray(data), number=next(disk._inodes))
    folder.seen[path.name] = folder.durable[path.name] = file
    folder.changes += 1


def remove(disk: CrashingDisk, path: Path) -> None:
    folder = _folder(disk, path.parent)
    folder.sync()
    folder.seen.pop(path.name, None)
    folder.durable.pop(path.name, None)
    folder.changes += 1


def _text(disk: CrashingDisk) -> bytes:
    return disk.bytes_of(RESULTS, on_the_disk=False) if disk.exists(RESULTS) else b""


def _lines(change: Callable[[list[bytes], random.Random], list[bytes]]) -> Hand:
    def hand(disk: CrashingDisk, rng: random.Random) -> None:
        if lines := _text(disk).splitlines(keepends=True):
            put(disk, RESULTS, b"".join(change(lines, rng)))

    return hand


def _without_one(lines: list[bytes], rng: random.Random) -> list[bytes]:
    gone = rng.randrange(len(lines))
    return [*lines[:gone], *lines[gone + 1 :]]


def _edited(lines: list[bytes], rng: random.Random) -> list[bytes]:
    one = rng.randrange(len(lines))
    try:
        row = json.loads(lines[one])
    except ValueError:  # a torn end
        return lines
    return [*lines[:one], json.dumps(row | {"note": "mine"}, sort_keys=True).encode() + b"\n", *lines[one + 1 :]]


def _picture(disk: CrashingDisk, rng: random.Random) -> None:
    if disk.exists(RUN / "images") and (names := sorted(disk.names(RUN / "images"))):
        remove(disk, RUN / "images" / rng.choice(names))


HANDS: dict[str, Hand] = {
    "deleted": lambda disk, _: remove(disk, RESULTS),
    "emptied": _lines(lambda lines, _: []),
    "a row removed": _lines(_without_one),
    "sorted": _lines(lambda lines, _: sorted(lines, reverse=True) if lines[-1].endswith(b"\n") else lines),
    "byte order mark": _lines(lambda lines, _: [b"\xef\xbb\xbf", *lines]),
    "carriage returns": _lines(lambda lines, _: [line.replace(b"\n", b"\r\n") for line in lines]),
    "no last newline": _lines(lambda lines, _: [*lines[:-1], lines[-1].rstrip(b"\n")]),
    "a row edited": _lines(_edited),
    "a picture removed": _picture,
    "run.json removed": lambda disk, _: remove(disk, RUN / "run.json"),
}


def keys_with_rows(harness: CrashHarness) -> set[bytes]:
    return {bytes.fromhex(row["key"]) for row in rows_on(harness.disk)}


def quiet_life(harness: CrashHarness, hand: str, **life: object) -> ExitStatus | None:
    """One life, after which what had a row, or was done, must not have been sent again."""
    settled = keys_with_rows(harness) | harness.witness.done
    before = dict(harness.witness.posts)
    ended = harness.live(**life)  # type: ignore[arg-type]  # as the run has it
    for body, keys in harness.bodies.items():
        more = harness.witness.posts[body] - before.get(body, 0)
        need(3, f"after `{hand}`: {more} requests for what was paid for", holds=not more or not keys <= settled)
    return ended


def seeded_run_with_edits(seed: int) -> CrashHarness:
    """Some lives that end badly, hands in between; then what is lost is paid again on purpose. Raises `Violation`."""
    rng = random.Random(f"hands {seed}")
    shape = shape_of(rng, kinds=KINDS)
    harness = CrashHarness(seed, shape=shape, items=rng.randint(2, 6), world=world_of(seed, rng, None))
    hand = "nothing"
    for _ in range(rng.randint(1, 4)):
        ending = any_ending(rng)
        quiet_life(
            harness,
            hand,
            trouble=ending.trouble,
            dies_at_s=ending.dies_at_s,
            dies_at_post=ending.dies_at_post,
            asked_at_s=ending.asked_at_s,
        )
        harness.wake(power_was_lost=False)
        if harness.disk.exists(RUN / "ledger") and harness.disk.names(RUN / "ledger"):
            hand = rng.choice(tuple(HANDS))
            HANDS[hand](harness.disk, rng)
    harness.turn(hold=False, budget_calls=None, window=None)
    calm(harness.world)
    for _ in range(_MOST_LIVES):
        ended = quiet_life(harness, hand, run_request=RunRequest(resend_held=True))
        if ended in ENDS or (ended is ExitStatus.STOPPED and _lost(harness)):
            break
        harness.wall += 86_400.0 / 3
    else:
        raise Violation(20, f"after `{hand}` it does not end")
    if ended in ENDS:
        _nothing_is_missing(harness, hand)
    for _ in range(_MOST_LIVES):
        ended = harness.live(run_request=RunRequest(resend_lost=True, resend_held=True))
        if ended in ENDS:
            break
        harness.wall += 86_400.0 / 3
    check_end(harness, ended)
    return harness


def _lost(harness: CrashHarness) -> bool:
    return harness.status is not None and harness.status.items.lost > 0


def _nothing_is_missing(harness: CrashHarness, hand: str) -> None:
    rows = keys_with_rows(harness)
    for item in harness.present:
        key = bytes.fromhex(item.key)
        there = key in rows or key in harness.witness.failed
        need(5, f"after `{hand}` the job is called done without a row of `{item.id}`", holds=there)


def seeded_run_with_ledger_edits(seed: int) -> CrashHarness:
    """A life, and then its ledger is gone: nothing is sent until somebody adopts the rows. Raises `Violation`."""
    rng = random.Random(f"ledger {seed}")
    harness = CrashHarness(seed, kind=rng.choice(("chat", "image")), items=rng.randint(2, 5))
    harness.live(dies_at_s=rng.choice((1.0, 20.0, 1000.0)))
    harness.wake(power_was_lost=False)
    if not rows_on(harness.disk):
        return harness
    names = sorted(harness.disk.names(RUN / "ledger"))
    for name in names:
        remove(harness.disk, RUN / "ledger" / name)
    posts, rows = harness.witness.posts.total(), keys_with_rows(harness)
    try:
        ended: object = harness.live()
    except BatchrunnerError as error:
        ended = error.exit_status
    need(3, f"without its ledger it ended with {ended}", holds=ended is ExitStatus.STOPPED)
    need(3, "without its ledger it sent something", holds=harness.witness.posts.total() == posts)
    harness.witness.done &= rows
    before = dict(harness.witness.posts)
    harness.live(run_request=RunRequest(adopt_rows=True))
    for body, keys in harness.bodies.items():
        again = harness.witness.posts[body] - before.get(body, 0)
        need(3, "a row was paid again although rows were adopted", holds=not again or not keys <= rows)
    return harness
