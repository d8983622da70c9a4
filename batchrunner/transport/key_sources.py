"""Reads the API keys of a job: from environment variables, from files, and from commands that print them.

No key is in what is said of it. Blocks: a command may ask a person, and has a minute.
"""

import os
import selectors
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template
from typing import Final

from batchrunner.core.errors import Mistake
from batchrunner.core.job import COMMAND_ACCOUNT, FILE_ACCOUNT, Provider, setting_of_account
from batchrunner.core.text import MASK
from batchrunner.core.values import dataclass, field
from batchrunner.transport.secrets import Secret, clean_key, fits_header

LIMIT_S: Final = 60.0
"""For a command: it may ask a person for a password."""
_MOST_BYTES: Final = 64 * 1024
_LOOK_EVERY_S: Final = 0.1
_SHOWN_CHARS: Final = 200
_COMMAND_ENDS: Final = "a command that prints the key and ends with exit status 0"
_NO_KEY: Final = "one word of printable ASCII"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundKeys:
    """The keys of a provider, by account."""

    keys: dict[str, Secret] = field(default_factory=dict)
    missing: tuple[Mistake, ...] = ()
    """One for each account whose key cannot be had."""
    notes: tuple[str, ...] = ()
    """What a person should know of the others: a key that everybody can read."""
    accounts: tuple[str, ...] = ()
    """All that have a key, and those whose command was not asked for it."""


class _NoKeyError(Exception):
    def __init__(self, problem: str, *, expected: str | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.expected, self.hint = problem, expected, hint


def read_keys(
    provider: Provider,
    environ: Mapping[str, str],
    *,
    only: Collection[str] | None = None,
    run_commands: bool = True,
    limit_s: float = LIMIT_S,
) -> FoundKeys:
    """The keys of a provider's accounts, or of `only` these, which may be accounts of an earlier run.

    Without `run_commands`, commands are looked for but not run, and their accounts have no key.
    """
    keys: dict[str, Secret] = {}
    missing: list[Mistake] = []
    notes: list[str] = []
    accounts: list[str] = []
    for account in provider.accounts if only is None else only:
        try:
            key, note = _looked_up(account, provider, environ, run_commands=run_commands, limit_s=limit_s)
        except _NoKeyError as error:
            missing.append(_mistake(account, error))
            continue
        accounts.append(account)
        keys |= {account: key} if key is not None else {}
        notes += [note] if note is not None else []
    return FoundKeys(keys=keys, missing=tuple(missing), notes=tuple(notes), accounts=tuple(accounts))


def _looked_up(
    account: str, provider: Provider, environ: Mapping[str, str], *, run_commands: bool, limit_s: float
) -> tuple[Secret | None, str | None]:
    """(key, note); no key where its command is not run. Raises _NoKeyError."""
    if account in provider.key_commands:
        words = provider.key_commands[account]
        _require_program(words[0], environ)
        return (_key_of(_printed(words, environ, limit_s), where="what it printed") if run_commands else None), None
    if account in provider.key_files:
        path = _filled_in(provider.key_files[account], environ)
        data, rights = _read(path)
        wide = f"{path} holds an API key, and others may read it (mode {rights:04o}): chmod 600 {path}"
        return _key_of(data, where=path), wide if rights & 0o077 else None
    if account.startswith((FILE_ACCOUNT, COMMAND_ACCOUNT)):
        raise _NoKeyError("the job does not name it any more", hint=f"add it to {setting_of_account(account)}")
    return _key_of_variable(account, environ), None


def _mistake(account: str, error: _NoKeyError) -> Mistake:
    where = account.partition(":")[2]
    names_itself = not where or where in error.problem  # a variable, or a file by its whole path
    problem = error.problem if names_itself else f"{where}: {error.problem}"
    return Mistake(problem=problem, key=setting_of_account(account), expected=error.expected, hint=error.hint)


def _key_of_variable(name: str, environ: Mapping[str, str]) -> Secret:
    text = clean_key(environ.get(name, ""))
    if not text:
        raise _NoKeyError(
            f"the environment variable {name} is empty" if name in environ else f"{name} is not set",
            expected="an environment variable that holds the key",
            hint=f"export {name}=YOUR_KEY",
        )
    if not fits_header(text):
        raise _NoKeyError(
            f"the key in {name} has white space, control or non-ASCII characters inside",
            expected=_NO_KEY,
            hint="copy it again from the provider's page",
        )
    return Secret(text)


def _key_of(data: bytes, *, where: str) -> Secret:
    """The key that these bytes are, without the end of its line."""
    try:
        text = clean_key(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        text = "\0"
    if not text:
        raise _NoKeyError(f"{where} is empty", expected="the key and nothing else")
    if "\0" in text:
        raise _NoKeyError(f"{where} is binary", expected="the key as text and nothing else")
    if len(lines := text.splitlines()) > 1:
        raise _NoKeyError(f"{where} has {len(lines)} lines", expected="the key and nothing else")
    if not fits_header(text):
        raise _NoKeyError(f"{where} has white space, control or non-ASCII characters inside", expected=_NO_KEY)
    return Secret(text)


# -- files


def _filled_in(path: str, environ: Mapping[str, str]) -> str:
    """The path with the variable or the `~` that it begins with. Raises _NoKeyError for a variable that is not set."""
    if not path.startswith(("~", "$")):
        return path  # the job file's own folder may have any name
    try:
        filled = Template(path).substitute(environ)
    except KeyError as error:
        name = str(error.args[0])
        hint = "systemd sets it for a unit with LoadCredential=" if name == "CREDENTIALS_DIRECTORY" else f"set {name}"
        raise _NoKeyError(f"{name} is not set", hint=hint) from None
    except ValueError:  # a $ that begins no name stands for itself
        filled = Template(path).safe_substitute(environ)
    return os.path.expanduser(filled)  # noqa: PTH111 - its text is shown as it is, without an error for an unknown user


def _read(path: str) -> tuple[bytes, int]:
    """(what it holds, its permission bits). Raises _NoKeyError for what cannot be read or is no file."""
    try:
        found = Path(path).stat()  # before it is opened: a named pipe without a writer would be waited for
        if not stat.S_ISREG(found.st_mode):
            raise _NoKeyError(f"{path} is no file", expected="a file that holds the key")
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _NoKeyError(f"{path} cannot be read: {reason}", expected="a file that holds the key") from None
    if len(data) > _MOST_BYTES:
        raise _NoKeyError(f"{path} has more than {_MOST_BYTES // 1024} KiB", expected="the key and nothing else")
    return data, stat.S_IMODE(found.st_mode)


# -- commands


def _require_program(name: str, environ: Mapping[str, str]) -> None:
    if shutil.which(name, path=environ.get("PATH")) is None:
        raise _NoKeyError(
            f"there is no program {name}",
            expected=_COMMAND_ENDS,
            hint="a list has a whole command in each text: [pass show one, pass show two]",
        )


def _printed(words: tuple[str, ...], environ: Mapping[str, str], limit_s: float) -> bytes:
    """What a command prints. Raises _NoKeyError where it fails, takes too long, or prints more than a key."""
    attended = _at_a_terminal()
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            words,
            stdin=None if attended else subprocess.DEVNULL,  # it may ask for a password
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            start_new_session=not attended,  # of a session of its own it could not ask
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _NoKeyError(f"could not be started: {reason}", expected=_COMMAND_ENDS) from None
    with process:
        try:
            printed, said = _outputs(process, limit_s)
        finally:
            if process.poll() is None:
                (process.kill if attended else lambda: os.killpg(process.pid, signal.SIGKILL))()
    if process.returncode != 0:
        ended = (
            f"ended with exit status {process.returncode}"
            if process.returncode > 0
            else f"was ended by signal {-process.returncode}"
        )
        raise _NoKeyError(f"{ended}{_last_line(said, printed)}", expected=_COMMAND_ENDS)
    return printed


def _outputs(process: subprocess.Popen[bytes], limit_s: float) -> tuple[bytes, bytes]:
    """Of stdout and of stderr. What the command leaves running may keep them open: nobody waits for that."""
    assert process.stdout is not None, "it is a pipe"
    assert process.stderr is not None, "as above"
    printed, said = bytearray(), bytearray()
    until_s = time.monotonic() + limit_s
    with selectors.DefaultSelector() as open_pipes:
        open_pipes.register(process.stdout, selectors.EVENT_READ, printed)
        open_pipes.register(process.stderr, selectors.EVENT_READ, said)
        while open_pipes.get_map() or process.poll() is None:
            ended = process.poll() is not None
            ready = open_pipes.select(_LOOK_EVERY_S) if open_pipes.get_map() else ()
            for pipe, _ in ready:
                data = os.read(pipe.fd, _MOST_BYTES)
                if not data:
                    open_pipes.unregister(pipe.fileobj)
                pipe.data.extend(data)
                del said[:-_MOST_BYTES]
            if len(printed) > _MOST_BYTES:
                raise _NoKeyError(f"prints more than {_MOST_BYTES // 1024} KiB", expected="the key and nothing else")
            if ended and not ready:
                break
            if time.monotonic() >= until_s:
                hint = "run it by hand: does it wait for a password?"
                raise _NoKeyError(f"took longer than {limit_s:g} s", expected=_COMMAND_ENDS, hint=hint)
            if not open_pipes.get_map() and not ended:
                time.sleep(_LOOK_EVERY_S)
    return bytes(printed), bytes(said)


def _last_line(said: bytes, printed: bytes) -> str:
    """The last that it said of its failure, as the end of a message; without what it printed, which may be a key."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return ""
    line = "".join(char if char.isprintable() else " " for char in lines[-1])
    for word in printed.decode("utf-8", "replace").split():
        line = line.replace(word, MASK)
    return f": {line[:_SHOWN_CHARS]}"


def _at_a_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False
