"""Which order a request is: the same one again, or one that goes on from another.

Knows nothing of models and answers. What changes how an answer travels (`stream`) does not make another order.
"""

import json
from collections.abc import Mapping

from batchrunner.core.job import Json
from batchrunner.simulator.dice import digest_of
from batchrunner.simulator.script import as_list, as_object

_STREAM_KEYS = frozenset({"stream", "stream_options"})

_sorted = json.JSONEncoder(sort_keys=True).encode


def content_of(account: str, body: Mapping[str, Json]) -> int:
    """The digest of account and body: equal for equal orders."""
    matter = {name: value for name, value in body.items() if name not in _STREAM_KEYS}
    return digest_of(account, _sorted(matter))


def content_before(account: str, body: Mapping[str, Json]) -> int | None:
    """The digest of the order that this one goes on from: without the last answer and what was said to it.

    None when the conversation has only begun.
    """
    turns = as_list(body.get("messages"))[:-1]
    if turns and as_object(turns[-1]).get("role") == "assistant":
        turns.pop()
    return content_of(account, {**body, "messages": turns}) if turns else None
