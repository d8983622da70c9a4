"""What the page says about a run as a whole. No path of this machine and no key may come into it.

`run.json` and a status name folders; paths are left out here or cut to their last part, and commands are shown only
with relative paths.
"""

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Final

from batchrunner.core import VERSION
from batchrunner.core.budget import Price
from batchrunner.core.events import Done
from batchrunner.core.job import Json
from batchrunner.core.status import BatchStatus, Status
from batchrunner.page.ledger_timeline import PriceOf
from batchrunner.report.summary import BATCH_WORDS, STATES
from batchrunner.report.wording import jsonable
from batchrunner.stores.run_file import RunFile, run_around

_LEFT_OUT: Final = frozenset(
    {"file", "folder", "former_dirs", "picture_folders", "images_from", "notify", "headers", "path"}
)
"""Keys of the job as resolved that hold paths, or what only its owner needs."""
_PATH_KEYS: Final = frozenset({"dir", "ca_file", "shown", "proxy"})
_ENTRIES_SHOWN: Final = 20
_BATCHES_SHOWN: Final = 500
_ANY_RUN: Final = "batchrunner run JOB"
_PER: Final = 1_000_000.0


def hide_paths(*folders: Path) -> Callable[[str], str]:
    """A function that cuts the paths of these folders, as given and as they really are, out of a text."""
    known = {
        path for folder in folders for path in (str(folder), os.path.realpath(folder)) if PurePath(path).is_absolute()
    }
    parents = {str(Path(path).parent) for path in known} - {"/"}
    ordered = sorted((path + "/" for path in known | parents), key=len, reverse=True)

    def hide(text: str) -> str:
        if "/" in text:
            for path in ordered:
                text = text.replace(path, "")
            for path in known:
                text = text.replace(path, Path(path).name)
        return text

    return hide


def folders_of(folder: Path, run: RunFile) -> tuple[Path, ...]:
    """The folders that messages about a run may name."""
    told = (run.typed_in, None if run.job_path is None else str(Path(run.job_path).parent), run.job.get("folder"))
    return (folder, Path.home(), *(Path(path) for path in told if isinstance(path, str) and path))


def shown_command(run: RunFile) -> str:
    """The command that continues the run, without a path of this machine."""
    if run.command is None:
        return _ANY_RUN
    try:
        words = shlex.split(run.command)
    except ValueError:
        return _ANY_RUN
    if words and PurePath(words[0]).name == "batchrunner":
        words[0] = "batchrunner"
    if any(PurePath(word.partition("=")[2] or word).is_absolute() or "\n" in word for word in words):
        return _ANY_RUN
    return shlex.join(words)


def shown_job(job: Mapping[str, Json]) -> dict[str, Json]:
    """The job as resolved, for people: without paths, without long lists of prompts, without what is not set."""
    shown = _without_paths(dict(job))
    assert isinstance(shown, dict), "a mapping stays one"
    prompts = shown.get("prompts")
    entries = prompts.get("entries") if isinstance(prompts, dict) else None
    if isinstance(prompts, dict) and isinstance(entries, list) and len(entries) > _ENTRIES_SHOWN:
        prompts["entries"] = [*entries[:_ENTRIES_SHOWN], f"and {len(entries) - _ENTRIES_SHOWN:,} more"]
    return shown


def _without_paths(value: Json, key: str = "") -> Json:
    match value:
        case dict():
            inside = {
                name: _without_paths(inner, name)
                for name, inner in value.items()
                if name not in _LEFT_OUT and inner not in (None, [], {}, "")
            }
            return {name: inner for name, inner in inside.items() if inner not in (None, {}, [])}
        case list():
            return [_without_paths(inner, key) for inner in value]
        case str() if key in _PATH_KEYS or key == "images":
            return PurePath(value).name if PurePath(value).is_absolute() else value
        case _:
            return value


def price_function(job: Mapping[str, Json]) -> tuple[PriceOf | None, str]:
    """(what an answer of a model cost, the currency) by the job's `budget.prices`; (None, "") without prices."""
    budget = job.get("budget")
    prices = budget.get("prices") if isinstance(budget, dict) else None
    if not isinstance(budget, dict) or not isinstance(prices, dict) or not prices:
        return None, ""
    known = {
        model: Price(**{name: float(figure) for name, figure in price.items() if isinstance(figure, int | float)})
        for model, price in prices.items()
        if isinstance(price, dict)
    }

    batched = {model: price.in_batches() for model, price in known.items()}

    def cost(model: str, event: Done, *, in_batch: bool = False) -> float:
        price = (batched if in_batch else known).get(model)
        if price is None:
            return 0.0
        asked = price.input_cost(event.input_tokens or 0, event.cache_read or 0, event.cache_write or 0)
        answered = (event.output_tokens or 0) * price.output_per_million / _PER
        return asked + answered + event.images * price.per_picture + price.per_call

    return cost, str(budget.get("currency") or "")


def page_meta(
    folder: Path, run: RunFile, status: Status, *, written: str, hide: Callable[[str], str]
) -> dict[str, Json]:
    """What does not depend on rows; `report_file` adds `rows`, `columns`, `axes` and what else it counted."""
    told = jsonable(status)
    assert isinstance(told, dict), "a status becomes a mapping"
    return {
        "format": 1,
        "job": run.job_name,
        "run": f"{run.digest[:16]}-{run.created}",
        "simulated": run.simulated,
        "kind": str(run.job.get("kind") or "chat"),
        "state": status.state,
        "stateWords": STATES[status.state],
        "message": None if status.message is None else hide(status.message),
        "notes": [hide(note) for note in status.notes],
        "items": told["items"],
        "sends": told["sends"],
        "usage": told["usage"],
        "budget": told["budget"],
        "lanes": told["lanes"],
        "batches": [_batch(batch, hide) for batch in status.batches[-_BATCHES_SHOWN:]],
        "waiting": told["waiting"],
        "unaccounted": status.unaccounted_max,
        "failures": [{**group, "message": hide(str(group.get("message")))} for group in _groups(told["failures"])],
        "held": [{**group, "message": hide(str(group.get("message")))} for group in _groups(told["held"])],
        "folder": Path(os.path.realpath(folder)).name,
        "command": shown_command(run),
        "created": run.created,
        "written": written,
        "program": VERSION,
        "jobFile": None if run.job_path is None else PurePath(run.job_path).name,
        "definition": shown_job(run.job),
    }


def _batch(batch: BatchStatus, hide: Callable[[str], str]) -> Json:
    told = jsonable(batch)
    assert isinstance(told, dict), "a batch becomes a mapping"
    reason = None if batch.reason is None else hide(batch.reason)
    return {**told, "stateWords": BATCH_WORDS[batch.state], "reason": reason}


def _groups(value: Json) -> list[dict[str, Json]]:
    return [group for group in value if isinstance(group, dict)] if isinstance(value, list) else []


def taken_by(out: Path, *, copy: bool) -> str | None:
    """What would be lost by writing a page into this folder; with `copy`, pictures too."""
    if run_around(out / "index.html") is not None:
        return "is inside the directory of another run, whose files are not to be replaced"
    page = out / "index.html"
    if page.exists():
        return None if is_our_page(page) else "has an index.html that is no page of a run"
    if copy and any((out / name).exists() for name in ("images", "thumbs")):
        return "has pictures already, and no page of a run"
    return None


def is_our_page(path: Path) -> bool:
    """Whether a file is a page that this program wrote."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return _GENERATOR in file.read(_HEAD_BYTES)
    except OSError:
        return False


_GENERATOR: Final = b'<meta name="generator" content="batchrunner">'
_HEAD_BYTES: Final = 1024
