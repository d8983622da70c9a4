"""A server of asynchronous tasks as data: where a task is ordered, how it is asked for, what its words mean.

`dialect: task` reads such a table (`providers/tasks.py`). It says where things stand in requests and replies; what
follows from them is code. See docs/providers/tasks.md.

A *pointer* is a path of keys joined by dots, `*` for every entry of a list or every value of an object.
"""

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
Pointer: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|[^.*\[\]$/][^.*\[\]]*)(\.(\*|[^.*\[\]]+))*$",
        max_length=200,
        description="keys joined by dots, such as `data.images.0.url`; `*` alone is every entry",
    ),
]
Path: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^/[!-~]*$",
        max_length=500,
        description="a path such as `/v1/tasks`, without spaces",
    ),
]
Word: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^\S(.*\S)?$", max_length=80, description="a word, without spaces around it")
]


class _TablePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of all parts of a table."""


class TaskAuth(_TablePart, frozen=True):
    """How the key is sent."""

    header: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9-]+$", max_length=100, description="the name of a header, such as `Authorization`"
        ),
    ] = "Authorization"
    prefix: Annotated[
        str, msgspec.Meta(pattern=r"^[ -~]*$", max_length=40, description="at most 40 characters of ASCII")
    ] = "Bearer "
    key_env: (
        Annotated[
            str,
            msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$", description="the name of an environment variable"),
        ]
        | None
    ) = None
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
    poll_hosts: tuple[
        Annotated[
            str,
            msgspec.Meta(
                pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]([a-z0-9-]*[a-z0-9])$",
                max_length=253,
                description="a domain in small letters, such as `example.com`; no address of numbers, no port",
            ),
        ],
        ...,
    ] = ()
    """Domains besides the base's own host at which a task may be asked for, with the key, over https."""
    result_url: Pointer | None = None
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=100, description="a field of the body")] | None = (
        None
    )
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
    per_second: Annotated[float, msgspec.Meta(gt=0, le=1000, description="a number above 0, at most 1000")] | None = (
        None
    )
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
    content: Path | None = None
    """Of a GET, with the key, whose reply is the file itself; holes: `{id}`."""
    message: tuple[Pointer, ...] = ()
    code: tuple[Pointer, ...] = ()
    keep_s: Annotated[float, msgspec.Meta(gt=0, le=1e9, description="seconds, more than 0")] | None = None
    """How long a result can be fetched; None: at least a day."""


class TaskRefusal(_TablePart, frozen=True):
    """Words of a refusal or a failure, and what kind of problem they are. All that is given must hold."""

    kind: RefusalKind
    status: Annotated[int, msgspec.Meta(ge=300, le=599, description="a status from 300 to 599")] | None = None
    code: Annotated[str, msgspec.Meta(min_length=1, description="a code, not empty")] | None = None
    text: Annotated[str, msgspec.Meta(min_length=3, description="a text of at least 3 characters")] | None = None
    """Part of the message, whatever its case."""


class TaskCancel(_TablePart, frozen=True):
    """What asks the server to end a task that it has accepted."""

    path: Path
    """Holes: `{id}`. With `after` it follows that address instead of the base."""
    after: Literal["poll_url", "result_url"] | None = None
    """The address in the reply to the order; where that had none, the task cannot be cancelled."""
    method: Literal["POST", "PUT", "DELETE"] = "POST"
    body: dict[str, Json] | None = None
    """`$id` stands for the task's id."""
    only: tuple[Literal["queued", "running"], ...] = ()
    """The states in which the server is asked to, by a look beforehand; without them it is asked whatever the state.

    For servers that take the same request, once a task has ended, for the wish to delete what it made.
    """


class TaskTable(_TablePart, frozen=True):
    """One server."""

    base: Annotated[
        str, msgspec.Meta(pattern=r"^https?://[!-~]+$", description="an address such as `https://api.example.com`")
    ]
    source: Annotated[str, msgspec.Meta(min_length=1, description="where you read what the server says")]
    """Where its author read what the server says."""
    submit: TaskSubmit
    poll: TaskPoll
    result: TaskResult
    states: dict[TaskWord, tuple[Word, ...]] = {}
    """The server's words, whatever their case. One that is not here is unknown: the task is asked for again."""
    auth: TaskAuth | Literal["none"] = TaskAuth()
    errors: tuple[TaskRefusal, ...] = ()
    cancel: TaskCancel | None = None
    """None: the server is not known to end a task when it is asked."""

    def holes(self) -> frozenset[str]:
        """What of the item the body has a place for, such as `prompt`, `params` and `params.seed`."""
        return frozenset(holes_in(self.submit.body))


MERGED: Final = "..."
"""The key of a body whose value is merged into its mapping."""


def holes_in(value: Json) -> Iterator[str]:
    """What stands for the item's own in a body, without its `$`."""
    match value:
        case str() if value.startswith("$"):
            yield value[1:]
        case list():
            for entry in value:
                yield from holes_in(entry)
        case dict():
            for entry in value.values():
                yield from holes_in(entry)
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


def is_content(url: str, base_url: str, table: TaskTable) -> bool:
    """Whether an address is that of a task's file at the API itself, which wants the key."""
    if table.result.content is None:
        return False
    before, _, after = table.result.content.partition("{id}")
    start, end = base_url + before, after
    task_id = url[len(start) : len(url) - len(end)]
    return url.startswith(start) and url.endswith(end) and len(task_id) > 0 and not set(task_id) & set("/?#\\")


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
