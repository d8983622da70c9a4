"""The program's values as JSON: what commands print, and what a notified command reads."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath

from batchrunner.core.job import Json


def jsonable(value: object) -> Json:
    """Dataclasses by their field names, tuples as lists, paths and enums as their values.

    Raises:
        TypeError: something else; what a command prints is made of these.
    """
    if isinstance(value, Enum):
        return jsonable(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a JSON object")
