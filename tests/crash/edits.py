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
from tests.crash.lives import CrashHouse
from tests.crash.stories import any_ending, calm, world_of
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


def keys_with_rows(house: CrashHouse) -> set[bytes]:
    return {bytes.fromhex(row["key"]) for row in rows_on(house.disk)}


def quiet_life(house: CrashHouse, hand: str, **life: object) -> ExitStatus | None:
    """One life, after which what had a row, or was done, must not have been sent again."""
    settled = keys_with_rows(house) | house.witness.done
    before = dict(house.witness.posts)
    ended = house.live(**life)  # type: ignore[arg-type]  # as the story has it
    for body, keys in house.bodies.items():
        more = house.witness.posts[body] - before.get(body, 0)
        need(3, f"after `{hand}`: {more} requests for what was paid for", holds=not more or not keys <= settled)
    return ended


def hands_story(seed: int) -> CrashHouse:
    """Some lives that end badly, hands in between; then what is lost is paid again on purpose. Raises `Violation`."""
    rng = random.Random(f"hands {seed}")
    shape = shape_of(rng, kinds=KINDS)
    house = CrashHouse(seed, shape=shape, items=rng.randint(2, 6), world=world_of(seed, rng, None))
    hand = "nothing"
    for _ in range(rng.randint(1, 4)):
        ending = any_ending(rng)
        quiet_life(
            house,
            hand,
            trouble=ending.trouble,
            dies_at_s=ending.dies_at_s,
            dies_at_post=ending.dies_at_post,
            asked_at_s=ending.asked_at_s,
        )
        house.wake(power_was_lost=False)
        if house.disk.exists(RUN / "ledger") and house.disk.names(RUN / "ledger"):
            hand = rng.choice(tuple(HANDS))
            HANDS[hand](house.disk, rng)
    house.turn(hold=False, budget_calls=None, window=None)
    calm(house.world)
    for _ in range(_MOST_LIVES):
        ended = quiet_life(house, hand, run_request=RunRequest(resend_held=True))
        if ended in ENDS or (ended is ExitStatus.STOPPED and _lost(house)):
            break
        house.wall += 86_400.0 / 3
    else:
        raise Violation(20, f"after `{hand}` it does not end")
    if ended in ENDS:
        _nothing_is_missing(house, hand)
    for _ in range(_MOST_LIVES):
        ended = house.live(run_request=RunRequest(resend_lost=True, resend_held=True))
        if ended in ENDS:
            break
        house.wall += 86_400.0 / 3
    check_end(house, ended)
    return house


def _lost(house: CrashHouse) -> bool:
    return house.status is not None and house.status.items.lost > 0


def _nothing_is_missing(house: CrashHouse, hand: str) -> None:
    rows = keys_with_rows(house)
    for item in house.present:
        key = bytes.fromhex(item.key)
        there = key in rows or key in house.witness.failed
        need(5, f"after `{hand}` the job is called done without a row of `{item.id}`", holds=there)


def ledger_story(seed: int) -> CrashHouse:
    """A life, and then its ledger is gone: nothing is sent until somebody adopts the rows. Raises `Violation`."""
    rng = random.Random(f"ledger {seed}")
    house = CrashHouse(seed, kind=rng.choice(("chat", "image")), items=rng.randint(2, 5))
    house.live(dies_at_s=rng.choice((1.0, 20.0, 1000.0)))
    house.wake(power_was_lost=False)
    if not rows_on(house.disk):
        return house
    names = sorted(house.disk.names(RUN / "ledger"))
    for name in names:
        remove(house.disk, RUN / "ledger" / name)
    posts, rows = house.witness.posts.total(), keys_with_rows(house)
    try:
        ended: object = house.live()
    except BatchrunnerError as error:
        ended = error.exit_status
    need(3, f"without its ledger it ended with {ended}", holds=ended is ExitStatus.STOPPED)
    need(3, "without its ledger it sent something", holds=house.witness.posts.total() == posts)
    house.witness.done &= rows
    before = dict(house.witness.posts)
    house.live(run_request=RunRequest(adopt_rows=True))
    for body, keys in house.bodies.items():
        again = house.witness.posts[body] - before.get(body, 0)
        need(3, "a row was paid again although rows were adopted", holds=not again or not keys <= rows)
    return house
