"""Where a job's API keys come from: variables, files and commands, each key an account of its own.

A key itself is never in a job file. What stands there names the account, in the ledger and in messages.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, TypeAlias

from batchrunner.core.job import COMMAND_ACCOUNT, FILE_ACCOUNT
from batchrunner.core.presets import Preset
from batchrunner.spec.job_errors import SpecError, names_variable, opaque, shows_secret
from batchrunner.spec.partial import located
from batchrunner.spec.sending_keys import ProviderSpec

if TYPE_CHECKING:
    from batchrunner.core.task_table import TaskTable

KEY_SOURCES: Final = ("api_key_env", "api_key_file", "api_key_cmd")
SHELL_WORDS: Final = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1"})
"""Words that only a shell understands."""


def key_variables(own: ProviderSpec, preset: Preset, table: "TaskTable | None" = None) -> tuple[str, ...]:
    """The environment variables with keys: the job's own, else those of its table or preset."""
    if own.auth == "none" or (table is not None and table.auth == "none" and own.auth is None):
        return ()
    match own.api_key_env:
        case str() as name:
            return (name,)
        case list() as names:
            return tuple(names)
        case None if own.api_key_file is not None or own.api_key_cmd is not None:
            return ()
        case None if table is not None:
            default = None if table.auth == "none" else table.auth.key_env
            return (default,) if default else ()
        case None:
            default = preset.key_env
            return (default,) if default and own.preset else ()


def _listed(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _absolute(folder: PurePath, name: str) -> str:
    return str(Path(located(folder, name)).absolute())


def files_of_keys(own: ProviderSpec, folder: PurePath) -> dict[str, str]:
    """Files with keys by account. What begins with `~` or a variable is no path below the job file's folder."""
    if own.auth == "none":
        return {}
    return {
        f"{FILE_ACCOUNT}{name}": name if name.startswith(("~", "$")) else _absolute(folder, name)
        for name in _listed(own.api_key_file)
    }


def commands_of_keys(own: ProviderSpec, folder: PurePath) -> dict[str, tuple[str, ...]]:
    """By account: the words of each command."""
    found: dict[str, tuple[str, ...]] = {}
    for given in _listed(own.api_key_cmd) if own.auth != "none" else ():
        program, *rest = shlex.split(given)
        if os.sep in program:
            program = _absolute(folder, program)
        found[f"{COMMAND_ACCOUNT}{given.strip()}"] = (program, *rest)
    return found


def key_source_faults(own: ProviderSpec) -> Iterator[SpecError]:
    """What is wrong with the names of variables, files and commands. Nothing is read or run."""
    for key in KEY_SOURCES:
        given: str | list[str] | None = getattr(own, key)
        names = _listed(given)
        for place, name in enumerate(names):
            if shows_secret(name):
                continue  # said already, by the search for literal secrets
            found = _FAULT_OF_SOURCE[key](name)
            if found is None and name in names[:place]:
                found = (f"names {name} twice", None, None)
            if found is not None:
                path = ("provider", key, *((place,) if isinstance(given, list) else ()))
                yield SpecError(path=path, problem=found[0], expected=found[1], hint=found[2])
        if names and own.auth == "none":
            yield SpecError(path=("provider", "auth"), problem=f"is `none` although `{key}` names a key")


_Fault: TypeAlias = tuple[str, str | None, str | None]
"""(problem, expected, hint)."""
_IN_A_SHELL = "name the shell: sh -c '…', or put it into a script"


def _fault_of_variable(name: str) -> _Fault | None:
    if names_variable(name):
        return None
    problem = "is not the name of an environment variable; it may be a key itself"
    return problem, "a name like MODELSCOPE_API_KEY", None


def _fault_of_file(name: str) -> _Fault | None:
    if not name.strip() or not name.isprintable():
        return "is not the path of a file", "a path like secrets/openai.key", None
    if "/" not in name and opaque(name):
        return "looks like a key itself", "the path of a file that holds the key", None
    return None


def _fault_of_command(given: str) -> _Fault | None:
    try:
        words = shlex.split(given)
    except ValueError:
        return "has a quote that is not closed", None, None
    if not words or not words[0].strip() or not given.strip().isprintable():
        return "is not a command", "a command like pass show openai", None
    if SHELL_WORDS & set(words) or given.rstrip().endswith((";", "&")):
        return "uses shell syntax, but no shell runs it", None, _IN_A_SHELL
    return None


_FAULT_OF_SOURCE: dict[str, Callable[[str], _Fault | None]] = {
    "api_key_env": _fault_of_variable,
    "api_key_file": _fault_of_file,
    "api_key_cmd": _fault_of_command,
}
