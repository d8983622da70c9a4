"""What the disk knows of the claims that a job's coordinator gave: `shards/I-of-N/claim-E.json`, one for each epoch.

A claim's file is made exclusively before its worker hears of it, so that no two coordinators give one epoch; how it
ended is written over it. A coordinator that begins again knows from them which shards somebody may still work on.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from batchrunner.core.coordination_messages import Counts
from batchrunner.core.part import Shard
from batchrunner.core.values import dataclass, field
from batchrunner.stores.files import DISK, SHARED_FILE, broken, write_whole
from batchrunner.stores.lock import dead_holder_of, holder_of
from batchrunner.stores.row_codec import UNREADABLE
from batchrunner.stores.run_file import SHARDS, make_run_folder
from batchrunner.stores.shards import epochs_of, make_once

_CLAIM: Final = re.compile(r"claim-([1-9][0-9]{0,8})\.json")


class ClaimFile(msgspec.Struct, frozen=True, kw_only=True):
    """`claim-E.json`."""

    version: int = 1
    worker: str
    job: str
    """Digest of the job file's meaning."""
    at: str
    """UTC, RFC 3339."""
    ended: Literal["", "finished", "paused", "failed", "lost"] = ""
    """Empty while somebody has it."""
    counts: Counts | None = None
    """Where the shard stood then."""


@dataclass(slots=True, kw_only=True)
class KnownClaims:
    """What a coordinator begins with; shards by number."""

    epochs: dict[int, int] = field(default_factory=dict)
    goes_on: set[int] = field(default_factory=set)
    """Put down in order: the same epoch goes on."""
    finished: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    """Somebody may still work on them."""
    counts: dict[int, Counts] = field(default_factory=dict)
    """Where those stood that were put down."""


class ClaimFiles:
    """The claims of a job in this directory. Every method blocks, and raises StoreBrokenError."""

    def __init__(self, base: Path, *, shards: int, job: str) -> None:
        self._base, self._of, self._job = base, shards, job

    def __repr__(self) -> str:
        return f"<ClaimFiles of {self._of} shards in {self._base}>"

    def known(self, *, locks_tell: bool, keep_finished: bool) -> KnownClaims:
        """What is there.

        Args:
            locks_tell: every worker runs on this machine, so that a shard with no lock is nobody's.
            keep_finished: shards that were finished are not gone through again.
        """
        known = KnownClaims()
        for number in range(self._of):
            shard = Shard(number=number, of=self._of)
            folders = epochs_of(self._base, shard)
            newest_folder = int(folders[0].name.removeprefix("epoch-")) if folders else 0
            newest = max([newest_folder, *self._epochs(shard)])
            if not newest:
                continue
            known.epochs[number] = newest
            claim = self._read(shard, newest)
            ended = claim.ended if claim is not None else ""
            if claim is not None and claim.counts is not None and claim.job == self._job:
                known.counts[number] = claim.counts
            if keep_finished and claim is not None and ended == "finished" and claim.job == self._job:
                known.finished.add(number)
            elif newest_folder and holder_of(folders[0]) is not None:
                known.held.add(number)
            elif ended in {"finished", "paused", "failed"} or (claim is None and newest == newest_folder):
                known.goes_on.add(number)  # without a claim: a run with --shard, whose lock is free
            elif not ended and not locks_tell:
                known.held.add(number)
        return known

    def give(self, number: int, epoch: int, *, worker: str, at: str, again: bool) -> bool:
        """Note who has it; False where another coordinator has given this epoch. `again`: it goes on."""
        shard = Shard(number=number, of=self._of)
        path = self._path(shard, epoch)
        text = msgspec.json.encode(ClaimFile(worker=worker, job=self._job, at=at)) + b"\n"
        make_run_folder(path.parent)
        try:
            if again:
                write_whole(DISK, path, text, SHARED_FILE)
                return True
            return make_once(path, text)
        except OSError as error:
            raise broken(path, error, sending=False) from error

    def ended(
        self,
        number: int,
        epoch: int,
        outcome: Literal["finished", "paused", "failed", "lost"],
        *,
        counts: Counts | None = None,
    ) -> None:
        """Note how it ended."""
        shard = Shard(number=number, of=self._of)
        claim = self._read(shard, epoch)
        if claim is None:
            return
        path = self._path(shard, epoch)
        text = msgspec.json.encode(msgspec.structs.replace(claim, ended=outcome, counts=counts)) + b"\n"
        try:
            write_whole(DISK, path, text, SHARED_FILE)
        except OSError as error:
            raise broken(path, error, sending=False) from error

    def died(self, number: int, epoch: int) -> bool:
        """Whether the process that worked on it, by this claim, ran on this machine and is dead."""
        shard = Shard(number=number, of=self._of)
        holder = dead_holder_of(self._base / SHARDS / shard.folder / f"epoch-{epoch}")
        if holder is None:
            return False
        claim = self._read(shard, epoch)
        return claim is None or holder.since >= claim.at  # else it is the one before, whose epoch goes on

    def newest(self, number: int) -> int:
        """The newest epoch of a shard for which there is a claim or a folder; 0: none."""
        shard = Shard(number=number, of=self._of)
        folders = epochs_of(self._base, shard)
        return max([int(folders[0].name.removeprefix("epoch-")) if folders else 0, *self._epochs(shard)])

    def _epochs(self, shard: Shard) -> Iterator[int]:
        folder = self._base / SHARDS / shard.folder
        try:
            names = DISK.names(folder) if DISK.exists(folder) else []
        except OSError as error:
            raise broken(folder, error, sending=False) from error
        return (int(found[1]) for name in names if (found := _CLAIM.fullmatch(name)))

    def _path(self, shard: Shard, epoch: int) -> Path:
        return self._base / SHARDS / shard.folder / f"claim-{epoch}.json"

    def _read(self, shard: Shard, epoch: int) -> ClaimFile | None:
        """None where it is not there, or is damaged: then nothing is known of it, and its number counts."""
        path = self._path(shard, epoch)
        try:
            with suppress(*UNREADABLE):
                return msgspec.json.decode(path.read_bytes(), type=ClaimFile)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise broken(path, error, sending=False) from error
        return None
