"""A server of asynchronous tasks as data: where a task is ordered, how it is asked for, what its words mean.

`dialect: task` reads such a table (`providers/tasks.py`). It says where things stand in requests and replies; what
follows from them is code. See docs/providers/tasks.md.

A *pointer* is a path of keys joined by dots, `*` for every entry of a list or every value of an object.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from batchrunner.core.job import Json

TaskWord: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "filtered", "gone"]
"""How a task stands. `gone`: the server does not know it any more."""
RefusalKind: TypeAlias = Literal[
    "auth",
    "bad_request",
    "billing",
    "content_filter",
    "model_not_found",
    "overloaded",
    "quota_account",
    "quota_model",
    "task_failed",
    "throttle",
]
"""The kinds of problems that a table may give names of its own to."""
Pointer: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Path: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^/[!-~]*$", max_length=500)]


class _TablePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of all parts of a table."""


class TaskAuth(_TablePart, frozen=True):
    """How the key is sent."""

    header: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]+$", max_length=100)] = "Authorization"
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[ -~]*$", max_length=40)] = "Bearer "
    key_env: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = None
    """The environment variable of the key unless the job names one."""


class TaskSubmit(_TablePart, frozen=True):
    """The paid POST, and what its reply names."""

    path: Path
    """Holes: `{model}`."""
    body: dict[str, Json]
    """`$prompt`, `$model`, `$params`, `$params.NAME`, `$image`, `$images` and `$body` stand for the item's own; a key
    `...` takes all of a mapping's entries."""
    id: tuple[Pointer, ...]
    headers: dict[str, str] = {}
    poll_url: Pointer | None = None
    poll_hosts: tuple[Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9.-]+\.[a-z0-9-]+$")], ...] = ()
    """Domains besides the base's own host at which a task may be asked for, with the key, over https."""
    result_url: Pointer | None = None
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    """The field of the body in which the client chooses the task's id."""


class TaskFlag(_TablePart, frozen=True):
    """A field whose value says how the task stands, where no word does."""

    at: Pointer
    value: bool | int | str
    state: TaskWord


class TaskQueue(_TablePart, frozen=True):
    """Where the ids of tasks stand that `poll.path` does not know yet."""

    path: Path
    ids: tuple[Pointer, ...]


class TaskPoll(_TablePart, frozen=True):
    """The free GET that asks how a task stands."""

    path: Path | None = None
    """Holes: `{id}`. None: only the address in the reply to the order can be asked."""
    headers: dict[str, str] = {}
    id: tuple[Pointer, ...] | None = None
    """Where a reply names its task; None: where the reply to the order does."""
    state: tuple[Pointer, ...] = ()
    flags: tuple[TaskFlag, ...] = ()
    otherwise: TaskWord | None = None
    """What holds where flags are there and none of them has its value."""
    root: str | None = None
    """The key of the reply below which it is about the task; hole: `{id}`. Without it the task is not known there."""
    queue: TaskQueue | None = None
    """Asked where `root` is missing; a task that is not there either is gone."""
    wait: Pointer | None = None
    """Seconds that the server asks to wait."""
    per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Polls of one account unless the job says otherwise."""


class TaskResult(_TablePart, frozen=True):
    """What a finished task gave, or why it gave nothing."""

    path: Path | None = None
    """Of one more GET that gives the result; holes: `{id}`. So does the address at `submit.result_url`."""
    urls: tuple[Pointer, ...] = ()
    b64: tuple[Pointer, ...] = ()
    files: Pointer | None = None
    """Objects whose fields fill `url`."""
    url: Path | None = None
    message: tuple[Pointer, ...] = ()
    code: tuple[Pointer, ...] = ()
    keep_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How long a result can be fetched; None: at least a day."""


class TaskRefusal(_TablePart, frozen=True):
    """Words of a refusal or a failure, and what kind of problem they are. All that is given must hold."""

    kind: RefusalKind
    status: Annotated[int, msgspec.Meta(ge=300, le=599)] | None = None
    code: str | None = None
    text: Annotated[str, msgspec.Meta(min_length=3)] | None = None
    """Part of the message, whatever its case."""


class TaskTable(_TablePart, frozen=True):
    """One server."""

    base: Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]+$")]
    source: str
    """Where its author read what the server says."""
    submit: TaskSubmit
    poll: TaskPoll
    result: TaskResult
    states: dict[TaskWord, tuple[str, ...]] = {}
    """The server's words, whatever their case. One that is not here is unknown: the task is asked for again."""
    auth: TaskAuth | Literal["none"] = TaskAuth()
    errors: tuple[TaskRefusal, ...] = ()

    def holes(self) -> frozenset[str]:
        """What of the item the body has a place for, such as `prompt`, `params` and `params.seed`."""
        return frozenset(_holes(self.submit.body))


class TableFault(msgspec.Struct, frozen=True):
    """What is wrong with a table, and where."""

    path: tuple[str | int, ...]
    problem: str


MERGED: Final = "..."
"""The key of a body whose value is merged into its mapping."""
_HOLES: Final = frozenset({"prompt", "model", "params", "image", "images", "body"})
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_PLACE: Final = re.compile(r"^(?P<said>.*?)(?: - at `(?:key` in `)?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([\w-]+)|\[(\d+|\.\.\.)\]")
_PLAIN: Final = (("`array`", "a list"), ("`object`", "a mapping"), ("`str`", "text"), ("`int`", "a whole number"))
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_MOST_FAULTS: Final = 20


def table_of(tree: dict[str, Json]) -> TaskTable | tuple[TableFault, ...]:
    """The table that a mapping holds, or what is wrong with it: one fault for each part."""
    parts = ((name, tree[name], kind) for name, kind in _PARTS.items() if name in tree)
    faults = [fault for part in parts if (fault := _part_fault(*part)) is not None]
    broken = {fault.path[0] for fault in faults}
    try:
        table = msgspec.convert({name: value for name, value in tree.items() if name not in broken}, TaskTable)
    except msgspec.ValidationError as error:
        fault = _fault(str(error), ())
        faults += [] if fault.path and fault.path[0] in broken else [fault]
    else:
        faults += [] if broken else _meaningless(table)
        if not faults:
            return table
    return tuple(faults[:_MOST_FAULTS])


_PARTS: Final[dict[str, object]] = {
    "auth": TaskAuth | Literal["none"],
    "submit": TaskSubmit,
    "poll": TaskPoll,
    "states": dict[TaskWord, tuple[str, ...]],
    "result": TaskResult,
    "errors": tuple[TaskRefusal, ...],
}


def _part_fault(name: str, value: Json, kind: object) -> TableFault | None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _fault(str(error), (name,))
    return None


def _fault(said: str, before: tuple[str | int, ...]) -> TableFault:
    """In plain words; the place that msgspec's end with is a path."""
    found = _PLACE.match(said)
    assert found is not None, "every text matches"
    steps = [name or place for name, place in _STEP.findall(found["path"] or "")]
    path = *before, *(int(step) if step.isdigit() else step for step in steps if step != "...")
    problem = found["said"]
    if unknown := _UNKNOWN.match(problem):
        return TableFault((*path, unknown[1]), "is no key of a table")
    if missing := _MISSING.match(problem):
        return TableFault((*path, missing[1]), "is missing")
    for word, plain in _PLAIN:
        problem = problem.replace(word, plain)
    return TableFault(path, problem[:1].lower() + problem[1:])


def _meaningless(table: TaskTable) -> Iterator[TableFault]:
    """What the types allow and no server can mean."""
    yield from _unknown_holes(table)
    poll, result = table.poll, table.result
    if not table.submit.id:
        yield TableFault(("submit", "id"), "is empty: without its id no task can be asked for")
    if poll.path is None and table.submit.poll_url is None:
        yield TableFault(("poll",), "needs `path`, or `submit` needs `poll_url`: else no task can be asked for")
    if not poll.state and not poll.flags:
        yield TableFault(("poll",), "needs `state` or `flags`: else no reply says how a task stands")
    if poll.state and "done" not in table.states:
        yield TableFault(("states",), "needs words for `done`")
    if not (result.urls or result.b64 or result.files):
        yield TableFault(("result",), "needs `urls`, `b64` or `files`: else nothing says where a result stands")
    yield from _unpaired(table)
    yield from _two_meanings(table)
    for place, refusal in enumerate(table.errors):
        if refusal.status is None and refusal.code is None and refusal.text is None:
            yield TableFault(("errors", place), "needs `status`, `code` or `text`")


def _unpaired(table: TaskTable) -> Iterator[TableFault]:
    """Keys that mean something together only."""
    poll, result = table.poll, table.result
    if table.submit.client_id is not None and poll.path is None:
        yield TableFault(("submit", "client_id"), "needs `poll.path`: a task is asked for by its id alone")
    if (poll.root is None) != (poll.queue is None):
        yield TableFault(("poll",), "needs `root` and `queue` together: the one is asked where the other is missing")
    if (result.files is None) != (result.url is None):
        yield TableFault(("result",), "needs `files` and `url` together: the fields of the one fill the other")


def _unknown_holes(table: TaskTable) -> Iterator[TableFault]:
    for hole in sorted(_holes(table.submit.body)):
        name, dot, of = hole.partition(".")
        if name not in _HOLES or (dot and (name != "params" or not of)):
            known = ", ".join(f"${each}" for each in sorted(_HOLES))
            yield TableFault(("submit", "body"), f"`${hole}` stands for nothing; known are {known} and $params.NAME")
    for path, text, known in (
        (("submit", "path"), table.submit.path, "model"),
        (("poll", "path"), table.poll.path, "id"),
        (("poll", "root"), table.poll.root, "id"),
        (("result", "path"), table.result.path, "id"),
    ):
        for hole in _BRACES.findall(text or ""):
            if hole != known:
                yield TableFault(path, f"`{{{hole}}}` stands for nothing; known is {{{known}}}")


def _two_meanings(table: TaskTable) -> Iterator[TableFault]:
    words: dict[str, TaskWord] = {}
    for state, listed in table.states.items():
        for place, word in enumerate(listed):
            if words.setdefault(word.lower(), state) != state:
                yield TableFault(("states", state, place), f"{word!r} also means `{words[word.lower()]}`")


def _holes(value: Json) -> Iterator[str]:
    match value:
        case str() if value.startswith("$"):
            yield value[1:]
        case list():
            for entry in value:
                yield from _holes(entry)
        case dict():
            for entry in value.values():
                yield from _holes(entry)
        case _:
            return


def at_pointer(value: Json, pointer: str) -> Iterator[Json]:
    """All that stands at a pointer, in order."""
    found: list[Json] = [value]
    for step in pointer.split("."):
        following: list[Json] = []
        for here in found:
            match here:
                case dict() if step == "*":
                    following += here.values()
                case dict() if step in here:
                    following.append(here[step])
                case list() if step == "*":
                    following += here
                case list() if step.isdigit() and int(step) < len(here):
                    following.append(here[int(step)])
                case _:
                    pass
        found = following
    return iter(found)


def is_keyed(url: str, base_url: str, table: TaskTable) -> bool:
    """Whether an address in a reply may be asked, with the key.

    On the server's own origin, or over https on a domain that the table names.
    """
    try:
        parts, base = urlsplit(url), urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if "@" in parts.netloc or "\\" in url:
        return False
    if url.startswith(f"{base.scheme}://{base.netloc}/"):
        return True
    below = any(host == domain or host.endswith(f".{domain}") for domain in table.submit.poll_hosts)
    return parts.scheme == "https" and port in {None, 443} and below
