"""What came of a request, as values. A dialect makes them, the engine decides what follows; see `rules`."""

from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypeAlias

from batchrunner.core.http import Decoder, Request
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field


class ProblemKind(StrEnum):
    """Everything that can be wrong with a request, an answer, a task or a picture; `error_policy` has what follows."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    RESET = "reset"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    THROTTLE = "throttle"
    QUOTA_MODEL = "quota_model"
    QUOTA_ACCOUNT = "quota_account"
    MODEL_SUSPENDED = "model_suspended"
    AUTH = "auth"
    BILLING = "billing"
    FORBIDDEN_MODEL = "forbidden_model"
    MODEL_NOT_FOUND = "model_not_found"
    BAD_REQUEST = "bad_request"
    CONFIGURATION = "configuration"
    NOT_REACHED = "not_reached"
    NO_SUCH_PATH = "no_such_path"
    ADAPTABLE = "adaptable"
    CONTENT_FILTER = "content_filter"
    MEDIA_FETCH = "media_fetch"
    EMPTY_RESPONSE = "empty_response"
    STREAM_CUT = "stream_cut"
    STREAM_CORRUPT = "stream_corrupt"
    TOO_LARGE = "too_large"
    SCHEMA_MISS = "schema_miss"
    NOT_UNDERSTOOD = "not_understood"
    TASK_FAILED = "task_failed"
    TASK_CANCELLED = "task_cancelled"
    TASK_EXPIRED = "task_expired"
    TASK_NOT_FOUND = "task_not_found"
    TASK_NOT_TAKEN = "task_not_taken"
    POLL_STUB = "poll_stub"
    WRONG_TASK = "wrong_task"
    UNKNOWN_STATUS = "unknown_status"
    EMPTY_RESULT = "empty_result"
    DOWNLOAD_FAILED = "download_failed"
    BAD_PICTURE = "bad_picture"
    INTERNAL = "internal"
    """A fault of this program in the item's own work."""


Adaptation = Literal["stream", "no_stream", "no_stream_options", "no_thinking_switch", "json_object"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What a reply's headers say about limits. None is unknown, never zero. Times are seconds from the reply."""

    model_remaining: int | None = None
    """Calls left today for this model (ModelScope)."""
    account_remaining: int | None = None
    requests_remaining: int | None = None
    """Requests left in the server's current window."""
    tokens_remaining: int | None = None
    requests_reset_s: float | None = None
    """An upper bound: when the bucket is full again."""
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the server counted them; None if it did not say."""

    input_tokens: int | None = None
    """All that was read, what came from a cache included."""
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    """Of the input: what came from a cache. None if there was none, or the server did not say."""
    cache_write_tokens: int | None = None
    """Of the input: what went into a cache, where that has a price of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asks for. `arguments` is the text as sent, which may be invalid JSON."""

    id: str | None
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureUrl:
    """A picture that lies on a storage host."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureBytes:
    """A picture that came in the answer itself."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBytes:
    """Sound that came in the answer itself."""

    data: bytes
    format: str | None = None
    """What the server or the request calls it, such as `wav` or `pcm16`; the bytes have the last word."""
    transcript: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One of several answers to one request (`n`)."""

    index: int
    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    truncated: bool = False
    parsed: Json = None
    extras: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole chat answer."""

    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Json = None
    """The validated value when the job has a schema."""
    finish_reason: str | None = None
    truncated: bool = False
    usage: Usage | None = None
    flags: tuple[str, ...] = ()
    """What was odd about an answer that is whole all the same, like `no_done`."""
    hints: Hints | None = None
    pictures: tuple[PictureUrl | PictureBytes, ...] = ()
    sounds: tuple[AudioBytes, ...] = ()
    choices: tuple[Alternative, ...] = ()
    """All of them where there is more than one; the answer itself is the first that is sound."""
    extras: dict[str, Json] = field(default_factory=dict)
    """What was paid for besides, under the server's own names: `logprobs`, `annotations`, `reasoning_details` …"""
    embedding: tuple[float, ...] = ()
    """The vector of a text, where that was asked for; never with a text."""


class TaskAddresses(NamedTuple):
    """Where one task is asked for, in its server's own words; empty where its id is enough."""

    poll: str = ""
    result: str = ""
    """Of what it gave, where that is a request of its own."""


NO_ADDRESSES: Final = TaskAddresses()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccepted:
    """The server took an image task; its id must be durable before its first poll."""

    task_id: str
    guess: bool = False
    """True when the field's name did not say that it is a task's id: if no such task is known, the item is held."""
    others: tuple[str, ...] = ()
    """Ids of further tasks that the same request made, which are not followed."""
    addresses: TaskAddresses = NO_ADDRESSES
    sought: bool = False
    """It has the id that the request asked for, and no reply said so."""
    hints: Hints | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of a finished image request, at least one."""

    refs: tuple[PictureUrl | PictureBytes, ...]
    task_id: str = ""
    """Of the task that a reply to a submit named beside its pictures."""
    usage: Usage | None = None
    flags: tuple[str, ...] = ()
    hints: Hints | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A poll says that the task is not finished. `state` is `queued`, `running` or `unknown`."""

    state: Literal["queued", "running", "unknown"]
    raw: str = ""
    """The server's own word."""
    hint_s: float | None = None
    stub: bool = False
    """The reply names no task at all: the stub of docs/providers/modelscope.md#poll."""
    shows: tuple[PictureUrl, ...] = ()
    """Results in a reply whose word is unknown: those of a task that is done, or previews."""
    hints: Hints | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """A poll was answered, and what its task gave is one more free GET away."""

    request: Request
    decoder: "Decoder[PollOutcome]" = field(compare=False)


DAMAGED: Final = "damaged"
"""The code of a BAD_PICTURE of which the bytes are there and broken: no later run can fetch better ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a request gave nothing usable."""

    kind: ProblemKind
    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    wait_s: float | None = None
    """How long the server asks to wait, whatever form the hint had."""
    should_retry: bool | None = None
    """`x-should-retry`, when the server sent it."""
    adaptation: Adaptation | None = None
    """Set for ADAPTABLE: what to change before the one resend. Beside EMPTY_RESPONSE: what may have caused it."""
    correction: "Correction | None" = None
    """Set for SCHEMA_MISS: the correction for the model when it is asked again."""
    usage: Usage | None = None
    hints: Hints | None = None
    under_way: bool = False
    """A part of the answer had come: the server had begun the work, and may charge for it whatever it says now."""
    look_at: str | None = None
    """The key of the job that is probably wrong, such as `provider.base_url`."""
    of_task: bool = False
    """It is the end of an accepted task, in the words of its API; a poll's own trouble is none."""
    unexplained: bool = False
    """The task failed and gave no reason: it may come with the next poll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A re-ask after an answer that broke the schema: the model's own text and the validator's words."""

    said: str
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """How a resend differs from the item as written. Empty for the first send."""

    adapted: frozenset[Adaptation] = field(default_factory=frozenset)
    correction: Correction | None = None
    task_id: str = ""
    """The id that its task is to have, at a server that lets the client choose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldItem:
    """Why an item waits for a person, whatever `on_ambiguous` says."""

    item_id: str
    kind: str
    message: str


SendOutcome: TypeAlias = Answer | TaskAccepted | Pictures | Problem
"""What a paid POST comes to."""
PollOutcome: TypeAlias = Pending | Pictures | Problem | FollowUp
"""What a poll comes to; a follow-up comes to no other one. A problem `of_task` is the task's end, TASK_NOT_FOUND and
EMPTY_RESULT become it if they stay; any other problem is about the poll itself and never ends the task."""
