"""Where the files that a job names lie, and where its results go, wherever the person stands. Opens none of them.

A job file that is a link is the file that it leads to: the same job has the same sources and the same outputs under
every name, so that nothing is paid for twice.
"""

import os
import stat
from pathlib import Path, PurePath

_JOBS = "jobs"
"""A folder of this name holds the job files of the project around it."""
_TWO_UP = str(PurePath("..", ".."))


def real_name(file: str) -> PurePath:
    """The job file itself: where links lead to, as it was named where there are none; in `.` when it is no file.

    Pipes (`/dev/stdin`, `<(...)`) have no folder of their own: the working directory is theirs.
    """
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):
            return PurePath(PurePath(file).name)
        real = Path(file).resolve()
        return PurePath(file) if real == Path(file).absolute() else real
    except (OSError, ValueError):
        return PurePath(file)


def project_folder(folder: PurePath) -> str:
    """The folder of the project whose job file lies in `folder`: that one or, where it is called `jobs`, its parent."""
    project = PurePath(os.path.realpath(folder))
    return str(project.parent if project.name == _JOBS else project)


def folder_of(path: str) -> str:
    """The path itself where it is a folder, else the one in which it lies."""
    try:
        return path if Path(path).is_dir() else os.path.dirname(path) or os.curdir  # noqa: PTH120 - text in, text out
    except (OSError, ValueError):
        return path


def results_folder(folder: PurePath, name: str) -> str:
    """The path of a results folder that a job file in `folder` names; relative to the working directory where short.

    It lies below the project: `folder` itself or, where that is called `jobs`, the one around it.
    """
    try:
        place = os.path.normpath(PurePath(project_folder(folder)) / name)
        short = os.path.relpath(place)
    except (OSError, ValueError):  # the working directory is gone, or on another drive
        return os.path.normpath(Path(folder).absolute() / name)
    return place if PurePath(name).is_absolute() or short.startswith(_TWO_UP) else short


def former_folders(folder: PurePath, name: str, *, but: str) -> tuple[str, ...]:
    """Where earlier versions may have put these results, run from here or from the job file's folder."""
    taken = {os.path.realpath(but)}
    found: list[str] = []
    for place in (name, located(folder, name)):
        real = os.path.realpath(place)
        if real not in taken:
            taken.add(real)
            found.append(place)
    return tuple(found)


def located(folder: PurePath, name: str) -> str:
    """The path of a file that a job file in `folder` names: absolute, or relative to the working directory."""
    return os.path.normpath(folder / name)


def is_there(path: str, *, as_file: bool = False) -> bool:
    """True when something stands there, a file if asked; a name that no file can have is not there."""
    try:
        return Path(path).is_file() if as_file else Path(path).exists()
    except (OSError, ValueError):
        return False
