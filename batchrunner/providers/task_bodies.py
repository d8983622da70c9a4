"""What a task table's bodies and addresses become for one item, one task or one file: holes are filled in."""

import re
from typing import Final
from urllib.parse import quote

from batchrunner.core.item import Item
from batchrunner.core.job import Json
from batchrunner.core.task_table import MERGED, TaskTable
from batchrunner.core.text import without_lone_surrogates
from batchrunner.providers.json_bodies import is_object

_PARAMS: Final = "params."
_HOLE: Final = re.compile(r"\{([^{}]+)\}")


class Filling:
    """The body of an order, with the item in its holes."""

    def __init__(self, item: Item, table: TaskTable) -> None:
        self._item = item
        picked = {hole.removeprefix(_PARAMS) for hole in table.holes() if hole.startswith(_PARAMS)}
        self._rest = {name: value for name, value in item.params.items() if name not in picked}

    def filled(self, value: Json) -> tuple[Json, bool]:
        """(the value, whether a hole in it had nothing to be filled with).

        A field whose hole has nothing is left out, and so is the whole entry of a list that holds it.
        """
        match value:
            case str() if value.startswith("$"):
                found = self._of_item(value[1:])
                return found, found is None
            case list():
                entries = [self.filled(entry) for entry in value]
                return [entry for entry, empty in entries if not empty], False
            case dict():
                return self._mapping(value)
            case _:
                return value, False

    def _mapping(self, value: dict[str, Json]) -> tuple[Json, bool]:
        made: dict[str, Json] = {}
        lost = False
        for name, entry in value.items():
            filled, empty = self.filled(entry)
            lost = lost or empty
            if name == MERGED:
                made.update(filled if is_object(filled) else {})
            elif not empty or (is_object(filled) and filled):
                made[name] = filled
        return made, lost

    def _of_item(self, hole: str) -> Json:
        item = self._item
        urls: list[Json] = [picture.url for picture in item.pictures]
        match hole:
            case "prompt":
                return item.prompt
            case "model":
                return item.model
            case "params":
                return self._rest
            case "image":
                return urls[0] if urls else None
            case "images":
                return urls or None
            case "body":
                return item.body
            case _:
                return item.params.get(hole.removeprefix(_PARAMS))


def with_id(value: Json, task_id: str) -> Json:
    """A body with the task's id at every `$id`."""
    match value:
        case "$id":
            return task_id
        case dict():
            return {name: with_id(entry, task_id) for name, entry in value.items()}
        case list():
            return [with_id(entry, task_id) for entry in value]
        case _:
            return value


def filled_url(path: str, fields: dict[str, Json]) -> str:
    """The address with an object's fields in its holes; empty where one is missing."""
    names = _HOLE.findall(path)
    if not all(isinstance(fields.get(name), str) for name in names):
        return ""
    return _HOLE.sub(lambda hole: quote(without_lone_surrogates(str(fields[hole[1]])), safe=""), path)
