"""Failed items grouped by cause, from `failures.jsonl`: what a person wants to know first."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from batchrunner.core.status import FailureGroup
from batchrunner.stores.results import iter_failures

_GROUPS_MAX: Final = 50
_MESSAGE_MAX: Final = 200


def failure_groups(folder: Path) -> tuple[FailureGroup, ...]:
    """Groups of equal class and message (numbers and ids in it aside), the largest first."""
    groups: dict[tuple[str, str], FailureGroup] = {}
    for row in iter_failures(folder):
        error = row.get("error")
        kind, message = (
            ("?", "") if not isinstance(error, dict) else (str(error.get("class")), str(error.get("message")))
        )
        comparable = re.sub(r"[0-9a-f]*\d[0-9a-f-]*", "#", message.lower())[:_MESSAGE_MAX]
        if (kind, comparable) not in groups and len(groups) >= _GROUPS_MAX:
            comparable, message = "", "other messages"
        known = groups.get((kind, comparable))
        groups[kind, comparable] = (
            replace(known, count=known.count + 1)
            if known
            else FailureGroup(kind=kind, message=message[:_MESSAGE_MAX], count=1, example=str(row.get("id")))
        )
    return tuple(sorted(groups.values(), key=lambda group: -group.count))
