"""`DIR/control/`: commands of other processes to a run, as files, and what became of them.

`ID.json` is a command, written whole under its name; `ID.done.json` is the reply; `state.json` is what stays in force.
The run's own thread lists the folder once a second: a listing and no `stat`, because network disks show the names of a
folder that is opened as they are now, and its time of change from a cache. Works over shared disks and ssh, outlives
the process, needs no port. A file that is no command, or another user's, is answered with the reason; nothing in here
can end a run.
"""

import asyncio
import errno
import getpass
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from batchrunner.core.control import (
    UNCONTROLLED,
    Command,
    ControlError,
    ControlState,
    Reply,
    command_from,
    state_from,
)
from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.core.job import Job, Json
from batchrunner.core.values import replace
from batchrunner.stores.files import DISK, PRIVATE_FILE, PRIVATE_FOLDER, broken, write_whole

CONTROL: Final = "control"
_COMMAND: Final = ".json"
_DONE: Final = ".done.json"
_STATE: Final = "state.json"
_LOOK_EVERY_S: Final = 1.0
_MOST_BYTES: Final = 1 << 20
_SIGNED_BYTES: Final = 1024
"""For who gave a command, and when."""
_KEPT_S: Final = 24 * 3600.0
"""Commands that were answered so long ago are removed."""
_TRIES: Final = 3
_MOST_REFUSED: Final = 100
"""Files that are no commands, answered at one look; the others wait for the next ones."""
_ROOT: Final = 0
_NO_FILE: Final = frozenset({errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EPERM})
"""Errors of what is not a file that this user may read: a link, a folder, a pipe."""


class ControlFolder:
    """Implements `core.ports.Control`; for the holder of the run's lock. `begin`, then `start`, then `close`."""

    def __init__(self, folder: Path, *, resolve: Callable[[Mapping[str, Json]], Job]) -> None:
        self._folder = folder / CONTROL
        self._resolve = resolve
        self.state = UNCONTROLLED
        """What is in force: also by the commands in `early`."""
        self.early: tuple[Command, ...] = ()
        self._in_force = UNCONTROLLED
        """What `state.json` has."""
        self._writing = threading.Lock()
        """For `state.json`: its thread restores it, the loop's executor changes it."""
        self._seen: set[str] = set()
        self._torn: dict[str, bytes] = {}
        """What could not be read as JSON when it was first seen: it may be being written."""
        self._ended = threading.Event()
        self._came: asyncio.Queue[Command] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<ControlFolder {self._folder}: {self.state}>"

    def begin(self) -> None:
        """Read what is in force, and what was asked for while no process worked here. Blocks.

        Raises:
            StoreBrokenError: the folder, or `state.json`, cannot be read: a pause must not be overlooked.
        """
        try:
            self._forget_answered()  # first: it raises where the folder is a link, which `state_of` would follow
            self._in_force = self.state = state_of(self._folder)
            self.early = tuple(self._look(patient=False))
        except OSError as error:
            raise broken(self._folder, error, sending=False) from error
        for command in self.early:
            state = self.state.after(command)
            if state.settings != self.state.settings:
                with suppress(JobMistakesError):  # the engine answers it
                    self._resolve(state.settings)
                    self.state = state
            else:
                self.state = state

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for commands from now on, in a thread of its own."""
        threading.Thread(target=self._watch, args=(loop,), name="control", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    async def next(self) -> Command:
        """See `core.ports.Control`."""
        return await self._came.get()

    def resolved(self, settings: Mapping[str, Json]) -> Job:
        """See `core.ports.Control`."""
        return self._resolve(settings)

    async def acknowledge(self, command: Command, reply: Reply, state: ControlState) -> None:
        """See `core.ports.Control`."""
        await asyncio.get_running_loop().run_in_executor(None, self._answer, command.id, command, reply, state)

    # -- in the thread

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            try:
                for command in self._look(patient=True):
                    loop.call_soon_threadsafe(self._came.put_nowait, command)
            except OSError:
                continue  # a disk that is away for a moment; the next look may find it again
            except RuntimeError:
                return  # the loop has ended

    def _look(self, *, patient: bool) -> list[Command]:
        """The commands that nobody has seen, in the order of their names; what is none is answered here."""
        self._restore_state()
        found, wrong = list[Command](), list[tuple[str, str]]()
        for name in unanswered(self._folder):
            if name in self._seen:
                continue
            try:
                text = _text_of(self._folder / f"{name}{_COMMAND}")
                if patient and not _is_json(text) and self._torn.get(name) != text:
                    self._torn[name] = text
                    continue
                command = _parsed(name, text)
            except OSError as error:
                if error.errno not in _NO_FILE:
                    continue  # taken back meanwhile, or a disk that is away: the next look may read it
                wrong.append((name, f"cannot be read: {error.strerror}"))
            except ControlError as error:
                wrong.append((name, str(error)))
            else:
                found.append(command)
                self._noted(name)
        for name, why in wrong[:_MOST_REFUSED]:  # each is a write that is synced, and the next command waits for them
            self._refuse(name, why)
            self._noted(name)
        return found

    def _noted(self, name: str) -> None:
        self._seen.add(name)
        self._torn.pop(name, None)

    def _refuse(self, name: str, why: str) -> None:
        with suppress(OSError):
            self._answer(name, None, Reply(ok=False, message=f"{name}{_COMMAND}: {why}"), self._in_force)

    def _answer(self, name: str, command: Command | None, reply: Reply, state: ControlState) -> None:
        with self._writing:
            if state != self._in_force:
                _write(self._folder / _STATE, state.as_json())
                self._in_force = state
        action: dict[str, Json] = {"action": command.action} if command is not None else {}
        _write(self._folder / f"{name}{_DONE}", {"version": 1, "id": name, **action, **reply.as_json(), "at": _now()})

    def _restore_state(self) -> None:
        """Write `state.json` again where somebody removed it meanwhile: a pause must outlive this process."""
        with self._writing:
            if self._in_force != UNCONTROLLED and _STATE not in _names(self._folder):
                DISK.make_folder(self._folder, PRIVATE_FOLDER)
                _write(self._folder / _STATE, self._in_force.as_json())

    def _forget_answered(self) -> None:
        """Remove commands, with their replies, that were answered a day ago."""
        before = time.time() - _KEPT_S
        for name in _names(self._folder):
            if not name.endswith(_DONE):
                continue
            with suppress(OSError):
                if (self._folder / name).lstat().st_mtime < before:
                    (self._folder / f"{name.removesuffix(_DONE)}{_COMMAND}").unlink(missing_ok=True)
                    (self._folder / name).unlink()


# For whoever gives commands, or asks what is in force.


def state_of(control: Path) -> ControlState:
    """What `state.json` in the folder `control` says is in force. Raises StoreBrokenError."""
    path = control / _STATE
    try:
        return state_from(json.loads(_text_of(path)))
    except FileNotFoundError:
        return UNCONTROLLED
    except OSError as error:
        raise broken(path, error, sending=False) from error
    except (ValueError, RecursionError) as error:
        raise StoreBrokenError(
            f"{path}: cannot be read ({error}); remove it: then the run is not paused and has no settings of "
            "`batchrunner set`"
        ) from None


def state_in(folder: Path) -> ControlState:
    """What is in force in a run's directory, also by commands that no process has seen yet. Raises StoreBrokenError."""
    control = folder / CONTROL
    try:
        names = unanswered(control)
    except OSError as error:
        raise broken(control, error, sending=False) from error
    state, noted = state_of(control), 0
    for name in names:
        with suppress(OSError, ControlError):
            state = state.after(_parsed(name, _text_of(control / f"{name}{_COMMAND}")))
            noted += 1
    return replace(state, noted=noted) if noted else state


def unanswered(control: Path) -> list[str]:
    """Names of the commands in the folder that have no reply, in their order."""
    names = _names(control)
    done = {name.removesuffix(_DONE) for name in names if name.endswith(_DONE)}
    commands = {
        name.removesuffix(_COMMAND)
        for name in names
        if name.endswith(_COMMAND) and not name.endswith(_DONE) and not name.startswith(".") and name != _STATE
    }
    return sorted(commands - done)


def give(folder: Path, command: Command) -> Command:
    """Write a command into a run's directory; its id follows all that are there.

    Raises:
        StoreBrokenError: the directory cannot be written.
        ControlError: the command is larger than a run reads.
    """
    control = folder / CONTROL
    if len(_as_text(command.as_json())) > _MOST_BYTES - _SIGNED_BYTES:
        raise ControlError(f"the command is larger than {_MOST_BYTES:,} bytes; give the ids in several commands")
    try:
        DISK.make_folder(control, PRIVATE_FOLDER)
        given = replace(
            command,
            id=_next_id(_names(control)),
            by=_who(),
            at=_now(),
        )
        _write(control / f"{given.id}{_COMMAND}", given.as_json())
    except OSError as error:
        raise broken(control, error, sending=False) from error
    return given


def take_back(folder: Path, command: Command) -> bool:
    """Remove a command that nobody has answered; False if it was answered meanwhile."""
    control = folder / CONTROL
    with suppress(OSError):
        (control / f"{command.id}{_COMMAND}").unlink()
    return not (control / f"{command.id}{_DONE}").exists()


def reply_to(folder: Path, command: Command) -> Reply | None:
    """What became of a command; None while nobody has said."""
    try:
        said = json.loads(_text_of(folder / CONTROL / f"{command.id}{_DONE}"))
        return Reply(ok=bool(said["ok"]), message=str(said["message"]), changed=said["changed"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _names(control: Path) -> list[str]:
    """What lies in the folder. Raises OSError, also for a link: commands lie in the run's own directory."""
    try:
        if stat.S_ISLNK(control.lstat().st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(control))
        return os.listdir(control)  # noqa: PTH208 - names are wanted, not paths
    except FileNotFoundError:
        return []


def _text_of(path: Path) -> bytes:
    """The content of a small file of this user. Raises OSError, ControlError."""
    descriptor = DISK.open_read(path)
    try:
        owner = os.fstat(descriptor).st_uid
        if owner not in {os.geteuid(), _ROOT}:
            raise ControlError(f"belongs to another user (uid {owner}); commands must come from uid {os.geteuid()}")
        text = os.pread(descriptor, _MOST_BYTES + 1, 0)
    finally:
        os.close(descriptor)
    if len(text) > _MOST_BYTES:
        raise ControlError(f"is larger than {_MOST_BYTES:,} bytes")
    return text


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(name: str, text: bytes) -> Command:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"is not valid JSON ({error})") from None
    return command_from(name, given)


def _write(path: Path, content: Mapping[str, Json]) -> None:
    """Raises OSError. A run that starts removes half-written files: then it is written once more."""
    text = _as_text(content)
    for left in reversed(range(_TRIES)):
        try:
            return write_whole(DISK, path, text, PRIVATE_FILE)
        except FileNotFoundError:
            if not left:
                raise
    return None


def _as_text(content: Mapping[str, Json]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"


def _next_id(names: Collection[str]) -> str:
    """A UUID of version 7, which sorts by time, after those that are there although a clock may have been set back."""
    now_ns = time.time_ns()
    stamp = (now_ns // 1_000_000 << 12) | (now_ns % 1_000_000 * 4096 // 1_000_000)
    known = [name[:18].replace("-", "") for name in names if len(name) > len(_ID) and name[14] == "7"]
    for each in known:
        with suppress(ValueError):
            stamp = max(stamp, (int(each[:12], 16) << 12 | int(each[13:16], 16)) + 1)
    variant = 0x8000 | int.from_bytes(os.urandom(2)) & 0x3FFF
    digits = f"{stamp >> 12:012x}7{stamp & 0xFFF:03x}{variant:04x}{os.urandom(6).hex()}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_ID: Final = "00000000-0000-7000-8000-000000000000"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _who() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # no such user on this machine
        name = str(os.geteuid())
    return f"{name}@{socket.gethostname()}"
