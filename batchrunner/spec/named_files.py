"""Files that a job file names: where they are, and whether they are there. Opens none of them."""

import os
from pathlib import Path, PurePath


def located(folder: PurePath, name: str) -> str:
    """The path of a file that a job file in `folder` names: absolute, or relative to the working directory."""
    return os.path.normpath(folder / name)


def is_there(path: str, *, as_file: bool = False) -> bool:
    """True when something stands there, a file if asked; a name that no file can have is not there."""
    try:
        return Path(path).is_file() if as_file else Path(path).exists()
    except (OSError, ValueError):
        return False
