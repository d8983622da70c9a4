"""What is wrong with the table of a task server: every fault with its place, what is expected and what to do.

The types of `core/task_table.py` say what a table may hold. msgspec stops at the first part that does not fit, and says
so in words for programmers: here the parts that do not fit are looked for one by one. Then follow rules that no type
says, such as a path that asks about no task in particular.
"""

import json
import re
import types
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from batchrunner.core.job import Json
from batchrunner.core.task_table import MERGED, TaskTable, TaskWord, holes_in

Path: TypeAlias = tuple[str | int, ...]


class TableFault(msgspec.Struct, frozen=True):
    """What is wrong with a table, and where."""

    path: Path
    problem: str
    expected: str | None = None
    hint: str | None = None


_HOLES: Final = frozenset({"prompt", "model", "params", "image", "images", "body"})
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_MOST_FAULTS: Final = 20
_SHOWN_CHARS: Final = 60
_OWN_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "cookie", "te"}
)


def table_of(tree: dict[str, Json]) -> TaskTable | tuple[TableFault, ...]:
    """The table that a mapping holds, or what is wrong with it."""
    try:
        table = msgspec.convert(tree, TaskTable)
    except msgspec.ValidationError:
        return tuple(islice(_unfit(tree, TaskTable, ()), _MOST_FAULTS))
    return tuple(islice(_meaningless(table), _MOST_FAULTS)) or table


def _unfit(value: Json, kind: Any, path: Path) -> Iterator[TableFault]:
    """Every part of a value that is not of its kind. Kinds are those of the table's fields."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        pass
    else:
        return
    origin, inner = get_origin(kind), get_args(kind)
    match value:
        case dict() if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _unfit_fields(value, kind, path)
        case dict() if origin is dict:
            yield from _unfit_entries(value, inner[0], inner[1], path)
        case list() if origin is tuple:
            for place, entry in enumerate(value):
                yield from _unfit(entry, inner[0], (*path, place))
        case _ if origin in {Union, types.UnionType} and (part := _part_for(value, inner)) is not None:
            yield from _unfit(value, part, path)
        case _:
            expected = _words(kind)
            yield TableFault(path, f"is {_short(value)}", expected, _hint(value, kind))


def _unfit_fields(value: dict[str, Json], kind: type[msgspec.Struct], path: Path) -> Iterator[TableFault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, entry in value.items():
        if name in fields:
            yield from _unfit(entry, fields[name].type, (*path, name))
        else:
            yield TableFault((*path, name), "is no key of a table", _listed(fields), _meant(name, fields))
    for name, field in fields.items():
        if field.required and name not in value:
            yield TableFault((*path, name), "is missing", _words(field.type))


def _unfit_entries(value: dict[str, Json], names: Any, entries: Any, path: Path) -> Iterator[TableFault]:
    known = get_args(names) if get_origin(names) is Literal else ()
    for name, entry in value.items():
        if known and name not in known:
            yield TableFault((*path, name), "is no state of a task", _listed(known), _meant(name, known))
        else:
            yield from _unfit(entry, entries, (*path, name))


def _part_for(value: Json, kinds: tuple[Any, ...]) -> Any:
    """Which of several kinds the value was meant to be: a mapping where one can be, else the only one but null."""
    if isinstance(value, dict):
        return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)
    filled = [kind for kind in kinds if kind is not type(None)]
    return filled[0] if len(filled) == 1 else None


_PLAIN: Final[dict[object, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}


def _words(kind: Any) -> str:
    """What is expected of a kind."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = next((meta.description for meta in inner[1:] if isinstance(meta, msgspec.Meta)), None)
        return said or _words(inner[0])
    if origin is Literal:
        return _listed(inner)
    if origin is tuple:
        return f"a list; in it {_words(inner[0])}"
    if origin in {Union, types.UnionType}:
        return ", or ".join(_words(part) for part in inner if part is not type(None))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"a mapping with {_listed(field.encode_name for field in msgspec.structs.fields(kind))}"
    return "a mapping" if origin is dict else _PLAIN.get(kind, "text")


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _hint(value: Json, kind: Any) -> str | None:
    """What to write instead, where that is plain."""
    if get_origin(kind) is tuple and isinstance(value, str):
        return f"write it as a list: [{value}]"
    if get_origin(kind) is Literal and isinstance(value, str):
        return _meant(value, get_args(kind))
    if isinstance(value, bool | int | float) and "text" in _PLAIN.get(_bare(kind), ""):
        return "put it in quotes"
    if isinstance(value, str) and "keys joined by dots" in _words(kind):
        plain = re.sub(r"\[(\w+|\*)\]", r".\1", value.removeprefix("$").strip("./")).replace("/", ".")
        plain = ".".join("*" if set(step) == {"*"} else step for step in plain.split(".") if step)
        return f"write `{plain}`" if plain and plain != value else None
    return None


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _meant(given: str, known: Any) -> str | None:
    close = get_close_matches(given.lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None


# What the types allow and no server can mean.


def _meaningless(table: TaskTable) -> Iterator[TableFault]:
    yield from _addresses(table)
    yield from _unknown_holes(table)
    yield from _body(table)
    poll, result = table.poll, table.result
    if not table.submit.id:
        yield TableFault(
            ("submit", "id"),
            "is empty: without its id no task can be asked for",
            "at least one place of the id in the reply to the order, such as `data.task_id`",
        )
    if poll.path is None and table.submit.poll_url is None:
        yield TableFault(
            ("poll",),
            "needs `path`, or `submit` needs `poll_url`: else no task can be asked for",
            "a path such as `/v1/tasks/{id}`",
        )
    if not (result.urls or result.b64 or result.files or result.content):
        yield TableFault(
            ("result",),
            "needs `urls`, `b64`, `files` or `content`: else nothing says where a result stands",
            "places in the reply, such as `urls: [data.images.*.url]`",
        )
    yield from _states(table)
    yield from _unpaired(table)
    for place, refusal in enumerate(table.errors):
        if refusal.status is None and refusal.code is None and refusal.text is None:
            yield TableFault(
                ("errors", place),
                "needs `status`, `code` or `text`: else it is about no reply in particular",
                "at least one of them, such as `status: 402`",
            )


def _addresses(table: TaskTable) -> Iterator[TableFault]:
    if (problem := _base_problem(table.base)) is not None:
        expected = "scheme and host, and a path if need be, such as `https://api.example.com/v1`"
        yield TableFault(("base",), problem, expected, "write what follows `?` into each path")
    if table.auth != "none" and table.auth.header.lower() in _OWN_HEADERS:
        problem = f"is {table.auth.header!r}, a header that batchrunner sets itself"
        yield TableFault(("auth", "header"), problem, "the header that carries the key, such as `Authorization`")
    for path, text, about_task in _paths(table):
        if text is None:
            continue
        before_query = text.partition("?")[0]
        expected = "one `/` between the parts of a path, no `#`, no `..`"
        if "//" in before_query or "#" in text or ".." in before_query.split("/") or "\\" in text:
            yield TableFault(path, f"is {_short(text)}, which is no plain path", expected)
        if about_task and "{id}" not in text:
            yield TableFault(
                path,
                f"is {_short(text)}, which is the same for every task",
                "`{id}`, the task's id, somewhere in it, such as `/v1/tasks/{id}`",
                "put `{id}` where the server wants the id",
            )


def _paths(table: TaskTable) -> Iterator[tuple[Path, str | None, bool]]:
    """(where, the path, whether it must say which task it is about)."""
    poll, result = table.poll, table.result
    of_all = poll.root is not None and "{id}" in poll.root  # one reply with every task, each below its id
    yield ("submit", "path"), table.submit.path, False
    yield ("poll", "path"), poll.path, not of_all
    yield ("poll", "queue", "path"), poll.queue.path if poll.queue is not None else None, False
    yield ("result", "path"), result.path, True
    yield ("result", "content"), result.content, True
    if (cancel := table.cancel) is not None:  # else it would end every task at once
        about_task = cancel.after is None and "id" not in holes_in(cancel.body or {})
        yield ("cancel", "path"), cancel.path, about_task
    yield ("result", "url"), result.url, False


def _base_problem(base: str) -> str | None:
    try:
        parts = urlsplit(base)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"is {_short(base)}, which is no address"
    if "?" in base or "#" in base:
        return f"is {_short(base)}: what follows `?` or `#` cannot stand before a path"
    if not host or "@" in parts.netloc or "\\" in base or "//" in parts.path:
        return f"is {_short(base)}, which is no address of a server"
    return None


def _states(table: TaskTable) -> Iterator[TableFault]:
    """That some reply means that a task is done, and no word two things."""
    poll = table.poll
    example = "the server's words for it, such as `done: [succeeded]`"
    if not poll.state and not poll.flags:
        yield TableFault(
            ("poll",),
            "needs `state` or `flags`: else no reply says how a task stands",
            "where the word stands, such as `state: [data.status]`",
        )
    for state, words in table.states.items():
        if not words:
            yield TableFault(
                ("states", state), "is empty", example.replace("done", state), "leave the key out if there is none"
            )
    by_flags = poll.otherwise == "done" or any(flag.state == "done" for flag in poll.flags)
    if "done" not in table.states and not by_flags and (poll.state or poll.flags):
        where: Path = ("states",) if poll.state else ("poll", "flags")
        what = "needs words for `done`" if poll.state else "has no flag with `state: done`"
        yield TableFault(where, f"{what}: else no task ever ends", example if poll.state else "a flag for `done`")
    words_of: dict[str, TaskWord] = {}
    for state, words in table.states.items():
        for place, word in enumerate(words):
            if words_of.setdefault(word.lower(), state) != state:
                yield TableFault(
                    ("states", state, place),
                    f"{word!r} also means `{words_of[word.lower()]}`",
                    "one meaning for each word",
                    "remove it from one of the two",
                )


def _unpaired(table: TaskTable) -> Iterator[TableFault]:
    """Keys that mean something together only."""
    poll, result = table.poll, table.result
    if table.submit.client_id is not None and poll.path is None:
        yield TableFault(("submit", "client_id"), "needs `poll.path`: a task is asked for by its id alone")
    if (poll.root is None) != (poll.queue is None):
        yield TableFault(("poll",), "needs `root` and `queue` together: the one is asked where the other is missing")
    if poll.queue is not None and not poll.queue.ids:
        yield TableFault(("poll", "queue", "ids"), "is empty", "where ids of waiting tasks stand in its reply")
    if poll.otherwise is not None and not poll.flags:
        yield TableFault(("poll", "otherwise"), "needs `flags`: it holds where none of them fits")
    if table.cancel is not None and table.cancel.after is not None:
        missing = table.submit.poll_url if table.cancel.after == "poll_url" else table.submit.result_url
        if missing is None:
            problem = f"needs `submit.{table.cancel.after}`: the path follows that address"
            yield TableFault(("cancel", "after"), problem)
    if table.states and not poll.state:
        yield TableFault(("states",), "needs `poll.state`, the place in the reply where these words stand")
    if (result.files is None) != (result.url is None):
        yield TableFault(("result",), "needs `files` and `url` together: the fields of the one fill the other")
    if result.url is not None and not _BRACES.search(result.url):
        yield TableFault(
            ("result", "url"),
            f"is {_short(result.url)}, which is the same for every file",
            "fields of a file in holes, such as `/view?filename={filename}`",
        )


def _body(table: TaskTable) -> Iterator[TableFault]:
    holes = table.holes()
    if not holes & {"prompt", "body"}:
        yield TableFault(
            ("submit", "body"),
            "has no `$prompt`: every prompt would order the same",
            "a field with `$prompt`, or `$body` for a file that holds it",
            "write `prompt: $prompt`, with the field's name at this server",
        )
    yield from _merged(table.submit.body, ("submit", "body"))


def _merged(value: Json, path: Path) -> Iterator[TableFault]:
    """What `...` cannot merge would be left out in silence."""
    match value:
        case dict():
            for name, entry in value.items():
                one_value = isinstance(entry, str) and entry in {"$prompt", "$model", "$image", "$images"}
                if name == MERGED and (one_value or not (isinstance(entry, dict) or str(entry).startswith("$"))):
                    problem = f"is {_short(entry)}, which has no entries of its own"
                    yield TableFault((*path, name), problem, "`$params`, `$body` or a mapping")
                yield from _merged(entry, (*path, name))
        case list():
            for place, entry in enumerate(value):
                yield from _merged(entry, (*path, place))
        case _:
            return


def _unknown_holes(table: TaskTable) -> Iterator[TableFault]:
    known = ", ".join(f"`${each}`" for each in sorted(_HOLES))
    for hole in sorted(set(holes_in(table.submit.body))):
        name, dot, of = hole.partition(".")
        if name not in _HOLES or (dot and (name != "params" or not of)):
            hint = _meant(name, _HOLES)
            yield TableFault(
                ("submit", "body"),
                f"`${hole}` stands for nothing",
                f"{known} or `$params.NAME`",
                hint and hint.replace("`", "`$", 1),
            )
    poll, result = table.poll, table.result
    queue = poll.queue.path if poll.queue is not None else None
    holes: tuple[tuple[Path, str | None, str], ...] = (
        (("submit", "path"), table.submit.path, "model"),
        (("poll", "path"), poll.path, "id"),
        (("poll", "root"), poll.root, "id"),
        (("poll", "queue", "path"), queue, ""),
        (("result", "path"), result.path, "id"),
        (("result", "content"), result.content, "id"),
        (("cancel", "path"), table.cancel.path if table.cancel is not None else None, "id"),
    )
    for hole in holes_in(table.cancel.body or {}) if table.cancel is not None else ():
        if hole != "id":
            yield TableFault(("cancel", "body"), f"`${hole}` stands for nothing", "`$id`, the task's id")
    for path, text, known_hole in holes:
        expected = f"`{{{known_hole}}}`" if known_hole else "a path without holes"
        for hole in _BRACES.findall(text or ""):
            if hole != known_hole:
                yield TableFault(path, f"`{{{hole}}}` stands for nothing", expected)
    for path, text, _ in (*holes, (("result", "url"), result.url, "")):
        if text is not None and re.search(r"[{}]", _BRACES.sub("", text)):
            problem = f"is {_short(text)}, with a brace that stands for nothing"
            yield TableFault(path, problem, "holes such as `{id}`", "close the brace, or write %7B or %7D for it")
