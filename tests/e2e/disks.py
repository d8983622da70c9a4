"""A real small file system that a test can fill and grow, in a mount namespace of its own.

A shell in the namespace holds it and mounts on demand; what it mounted is seen by nobody else and is gone when the
shell ends, also when the tests are killed. Skips with the reason where the system allows no mount.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ANSWERED = "=="
_MEGABYTE = 1024 * 1024
_WAYS = (
    (("unshare", "--mount"), ()),
    (("unshare", "--user", "--map-root-user", "--mount"), ("--user", "--preserve-credentials")),
)
"""Ways into a namespace, with what `nsenter` needs beyond the mount namespace: as root, as anybody."""


@dataclass(frozen=True)
class SmallDisk:
    """Mounted at `there` for whoever enters by `door`; everybody else reads the same files at `here`."""

    door: tuple[str, ...]
    there: Path
    here: Path
    grow: Callable[[], None]
    do: Callable[[str], str]
    """A command where it is mounted; what it says, "" when it went well."""


@dataclass(frozen=True)
class _Shell:
    process: "subprocess.Popen[str]"
    options: tuple[str, ...]

    def do(self, command: str) -> str:
        """Run a command in the namespace; what it says, "" when it went well and said nothing."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{{ {command}; }} 2>&1 || echo failed\necho {_ANSWERED}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return "the shell has ended"
        said: list[str] = []
        for line in self.process.stdout:
            if line.strip() == _ANSWERED:
                return "".join(said).strip()
            said.append(line)
        return "".join(said).strip() or "the shell has ended"

    @property
    def door(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.process.pid), "--mount", *self.options)


@contextlib.contextmanager
def _namespace(way: tuple[str, ...], options: tuple[str, ...]) -> Iterator[_Shell]:
    process = subprocess.Popen(
        [*way, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield _Shell(process, options)
        finally:
            process.kill()


def _memory(shell: _Shell, there: Path, _spare: Path, size_bytes: int) -> tuple[str, Callable[[], None]]:
    said = shell.do(f"mount -t tmpfs -o size={size_bytes} none '{there}'")
    return said, lambda: _must(shell.do(f"mount -o remount,size={64 * _MEGABYTE} '{there}'"))


def _ext4(shell: _Shell, there: Path, spare: Path, size_bytes: int) -> tuple[str, Callable[[], None]]:
    """A file as a disk; what lies on it besides is removed to make room."""
    said = shell.do(
        f"truncate -s {48 * _MEGABYTE} '{spare}' && mkfs.ext4 -q -m 0 '{spare}' && mount -o loop '{spare}' '{there}'"
        f" && fallocate -l $(( $(df --output=avail -B1 '{there}' | tail -1) - {size_bytes} )) '{there}/ballast'"
    )
    return said, lambda: _must(shell.do(f"rm '{there}/ballast'"))


KINDS = {"tmpfs": _memory, "ext4": _ext4}


@contextlib.contextmanager
def small_disk(folder: Path, kind: str, *, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount one with so much room; `grow` gives it tens of megabytes."""
    for program in ("unshare", "nsenter", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"no small file system can be mounted: there is no `{program}` here")
    there = folder / "disk"
    there.mkdir()
    reasons: list[str] = []
    for way, options in _WAYS:
        with _namespace(way, options) as shell:
            said, grow = KINDS[kind](shell, there, folder / "disk.image", size_bytes)
            if not said:
                here = Path(f"/proc/{shell.process.pid}/root") / there.relative_to("/")
                yield SmallDisk(door=shell.door, there=there, here=here, grow=grow, do=shell.do)
                return
            reasons.append(f"{' '.join(way)}: {said}")
    pytest.skip(f"no {kind} can be mounted: {'; '.join(reasons)}")


def _must(said: str) -> None:
    assert not said, said
