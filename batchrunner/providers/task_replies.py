"""What a reply about a task says, whatever it is wrapped in: the task's id, how it stands, and why it failed.

Gateways put the API's reply below `data`, `result`, `response` and the like, and call its fields otherwise. Rules find
them; ids of requests, logs and users are never taken for a task's.
"""

import json
import re
from collections.abc import Iterator
from typing import Final, Literal

from batchrunner.core.job import Json
from batchrunner.core.text import late_pattern, without_lone_surrogates
from batchrunner.core.values import dataclass, replace
from batchrunner.providers.error_bodies import ErrorBody, fault_in, message_in
from batchrunner.providers.json_bodies import NotJson, decode, is_object
from batchrunner.providers.result_pictures import RESULT_LISTS, by_plain_name, plain_name

TaskState = Literal["queued", "running", "succeeded", "failed", "refused", "filtered", "cancelled", "gone"]

_WORDS: Final[dict[TaskState, str]] = {
    "queued": "PENDING QUEUED QUEUEING CREATED SUBMITTED IN_QUEUE WAITING SCHEDULED SUSPENDED THROTTLED ACCEPTED"
    " NOT_START NOT_STARTED 排队中 等待中 待处理",
    "running": "RUNNING PROCESSING IN_PROGRESS GENERATING STARTING STARTED 处理中 生成中 进行中 运行中",
    "succeeded": "SUCCEED SUCCEEDED SUCCESS SUCCESSFUL COMPLETED COMPLETE DONE READY FINISHED FINISH 成功 已完成 完成",
    "failed": "FAILED FAIL FAILURE ERROR ERRORED REVOKED TIMEOUT TIMED_OUT EXPIRED EXCEPTION FAULTED CRASHED 失败",
    "refused": "REJECTED REJECT REFUSED INVALID DENIED",
    "filtered": "CONTENT_MODERATED REQUEST_MODERATED MODERATED CONTENT_FILTERED CONTENT_FILTER FILTERED CONTENT_BLOCKED"
    " BLOCKED NSFW SENSITIVE UNSAFE CONTENT_POLICY_VIOLATION MODERATION_BLOCKED 违规 审核不通过",
    "cancelled": "CANCELED CANCELLED CANCEL ABORTED ABORT STOPPED TERMINATED KILLED DELETED 已取消",
    "gone": "TASK_NOT_FOUND NOT_FOUND",
}
TASK_STATES: Final[dict[str, TaskState]] = {
    word: task_state for task_state, words in _WORDS.items() for word in words.split()
}
"""The servers' words, upper-cased, with `_` for spaces and hyphens. Any other is unknown: the task is asked again."""

_ID_CHARS: Final = 512
_ENUM_PREFIX: Final = late_pattern(r"^((TASK|JOB|PREDICTION|GENERATION)_)?(STATUS|STATE)_")
_ENDED_WELL: Final = frozenset(
    ["SUCCEED", "SUCCEEDED", "SUCCESS", "SUCCESSFULLY", "COMPLETED", "FINISHED", "PROCESSED", "GENERATED", "RENDERED"]
)
_ENDED_BADLY: Final = frozenset(["FAIL", "FAILED", "FAILURE"])
_FILTERING: Final = frozenset(["NSFW", "MODERATED", "FILTERED", "UNSAFE", "SENSITIVE"])
_NOT_YET: Final = frozenset(["NOT", "NO", "RETRY", "RETRYING", "WILL", "WAITING", "PENDING", "BEFORE", "UNTIL", "IN"])
_WRAPPERS: Final = (
    *("data", "result", "results", "output", "outputs", "response", "task", "job", "payload", "body"),
    *("prediction", "generation", "content", "reply", "resp", "rsp", "ret", "value", "item", "items"),
)
_NEVER_WRAP: Final = frozenset(
    {"input", "inputs", "request", "params", "parameters", "error", "errors", "usage", "config", "headers", "user"}
)
"""Keys below which an id is that of something else."""
_OF_A_TASK: Final = frozenset({"task", "job", "prediction", "generation"})
_TASK_IDS: Final = ("taskid", "taskids")
_OTHER_IDS: Final = ("jobid", "predictionid", "generationid", "promptid", "id")
_STATUSES: Final = ("taskstatus", "status", "state", "jobstatus")
_REASONS: Final = (
    "failreason",
    "failurereason",
    "failedreason",
    "taskerror",
    "errormessage",
    "errormsg",
    "failure",
    "reason",
    "statusmessage",
    "details",
    "taskmessage",
    "statusmsg",
    "error",
    "errors",
)
_REASON_CODES: Final = ("errorcode", "failurecode", "failcode", "code")
_IDLE_MESSAGES: Final = frozenset({"", "ok", "success", "succeeded", "succeed", "none", "null", "request success"})
"""`message` of replies without information."""
_DEEPEST: Final = 4
_MOST_LISTED: Final = 1000
_MESSAGE_CHARS: Final = 1000
_ID_IN_PIECES: Final = re.compile(
    rb"""["']task[_-]?id["']\s*:\s*(?:"([^"\\\x00-\x1f]{1,512})"|'([^'\\\x00-\x1f]{1,512})'|(\d{1,64})(?=\s*[,}\]]))""",
    re.IGNORECASE,
)
_GONE_STATUSES: Final = frozenset({404, 410})
_GONE: Final = late_pattern(
    r"not[ _]?found|(not|n't) exist|no such|unknown (task|job)|expired|no longer|\bgone\b|不存在|未找到|找不到|过期",
    re.IGNORECASE,
)
_A_TASK: Final = late_pattern(r"\b(task|job|prediction|generation)(_?id)?s?\b|任务", re.IGNORECASE)
_TASK_GONE: Final = late_pattern(
    r"\b(task|job|prediction)(_?id)?\b.{0,60}?(not[ _]?found|(not|n't) exist|expired|no longer exists|\bgone\b)"
    r"|(no such|unknown|could not find|(not|n't) find)( the)? (task|job|prediction)|任务(不存在|未找到|已?过期)",
    re.IGNORECASE,
)
_OTHER_PARTS: Final = late_pattern(r"fail|error|model|lora|file|image|picture|checkpoint|node", re.IGNORECASE)
"""Between `task` and `not found` these say that something else was not found."""
_OF_THE_WAY: Final = late_pattern(
    r"\b(path|route|url|uri|endpoint|page|resource|handler|method|upstream|backend|model|host|service)s?\b|路径|接口|模型",
    re.IGNORECASE,
)
_REPAIRED_BYTES: Final = 8192
_TOKEN: Final = late_pattern(r"(?=.*\d)[A-Za-z0-9][A-Za-z0-9_.:-]{5,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskName:
    """The id under which a task can be asked for."""

    id: str
    guess: bool
    """True when the field's name does not say that it is a task's."""
    others: tuple[str, ...] = ()
    """Further tasks that the same request made."""


def task_named_in(value: Json) -> TaskName | None:
    """The task that a reply to a submit names; None when it names none."""
    layers = list(_layers(value))
    for _, layer in layers:
        for name in _TASK_IDS:
            ids = [found for entry in _listed(layer.get(name)) if (found := _id_of_entry(entry))]
            if ids:
                return TaskName(id=ids[0], guess=False, others=tuple(ids[1:]))
    for _, layer in layers:
        if isinstance(tasks := layer.get("tasks"), list):
            ids = [found for entry in tasks if (found := _id_of_entry(entry))]
            if ids:
                return TaskName(id=ids[0], guess=False, others=tuple(ids[1:]))
    for place, layer in layers:
        for name in _OTHER_IDS:
            if (found := id_text(layer.get(name))) and not _is_of_something_else(name, layer, place, found):
                return TaskName(id=found, guess=True)
    return _named_deeper(value) or _bare_token(value)


def named_in_pieces(body: bytes) -> TaskName | None:
    """The task in a body that broke off or is no sound JSON; None when its id is not there in full.

    Before the JSON may stand what makes it an event of a stream, or keeps scripts from reading it.
    """
    start = min((place for mark in (b"{", b"[") if (place := body.find(mark)) >= 0), default=-1)
    if start < 0 or body.lstrip()[:1] == b"<":
        return None
    if found := _ID_IN_PIECES.search(body, start):
        return TaskName(id=id_text((found[1] or found[2] or found[3]).decode("utf-8", "replace")), guess=False)
    whole = decode(repaired(body[start : start + _REPAIRED_BYTES]))
    return None if isinstance(whole, NotJson) else task_named_in(whole)


def own_part(value: Json, task_id: str) -> Json:
    """Where a reply lists several tasks, what it says of this one; else the reply."""
    ahead: list[Json] = [value]
    for _ in range(_DEEPEST):
        for found in ahead:
            listed = found[:_MOST_LISTED] if isinstance(found, list) and len(found) > 1 else ()
            for entry in listed:
                if is_object(entry) and _id_of_entry(entry).lower() == task_id.lower():
                    return entry
        ahead = [
            entry
            for found in ahead
            if is_object(found)
            for name, entry in found.items()
            if plain_name(name) in _WRAPPERS or plain_name(name) == "tasks"
        ]
    return value


def mentions_another_task(value: Json, task_id: str) -> str:
    """The id of another task that a reply to a poll is about; empty if it is this one or none is named."""
    named: list[str] = []
    wanted = task_id.lower()
    for _, layer in _layers(value):
        for name in _TASK_IDS:
            named += [found for entry in _listed(layer.get(name)) if (found := _id_of_entry(entry))]
        if any(name in layer for name in _STATUSES):
            named += [found for name in _OTHER_IDS if (found := id_text(layer.get(name)))]
        named_too = [id_text(layer.get(name)) for name in (*_OTHER_IDS, "requestid")]
        if wanted in {found.lower() for found in (*named, *named_too)}:
            return ""
    return named[0] if named else ""


def word_in(value: Json) -> str:
    """The word that says how the task stands, as the server wrote it; empty when there is none.

    A wrapper's own `status: success` says that the question was understood: what stands deeper counts before it, and
    `task_status` before anything else.
    """
    words = [
        (name != "taskstatus", -depth, str(found))
        for depth, (_, layer) in enumerate(_layers(value))
        for name in _STATUSES
        if isinstance(found := layer.get(name), str | int) and not isinstance(found, bool) and str(found).strip()
    ]
    known = [word for word in words if task_state_of(word[2]) is not None]
    return min(known or words, default=(False, 0, ""))[2].strip()


def task_state_of(word: str) -> TaskState | None:
    """What a server's word means; None if it is unknown."""
    upper = _upper(word)
    return TASK_STATES.get(upper) or TASK_STATES.get(_ENUM_PREFIX.sub("", upper))


def likely_end(word: str) -> Literal["succeeded", "failed", "filtered"] | None:
    """The end that a word outside the tables means, such as `PARTIAL_SUCCESS`; None if it means none, or two.

    That a task succeeded is sure only beside its pictures: parts of it have their ends, too.
    """
    parts = frozenset(re.split(r"[^A-Z]+", _upper(word)))
    ends: list[Literal["succeeded", "failed", "filtered"]] = []
    if parts & _ENDED_WELL:
        ends.append("succeeded")
    if parts & _FILTERING:
        ends.append("filtered")
    elif parts & _ENDED_BADLY:
        ends.append("failed")
    return ends[0] if len(ends) == 1 and not parts & _NOT_YET else None


def _upper(word: str) -> str:
    return re.sub(r"[\s-]+", "_", word.strip()).upper()


def reason_in(value: Json) -> ErrorBody:
    """Why a task failed, wherever it stands; an empty message when no reason is given.

    What is called an error or a reason counts before what is called a message, which a wrapper may use for itself. Last
    comes what stands in the place of a single picture.
    """
    layers = [layer for _, layer in _layers(value)]
    for read in (_named_reason, _reason_text):
        for layer in reversed(layers):
            if message := read(layer):
                fault = fault_in(layer)
                code = next((str(found) for name in _REASON_CODES if _is_code(found := layer.get(name))), None)
                return replace(
                    fault,
                    message=_cut(message),
                    code=next(
                        (found for found in (fault.code, code) if found and found != "0" and " " not in found), None
                    ),
                )
    results = [entry for layer in layers for name in RESULT_LISTS for entry in _listed(layer.get(name))]
    reasons = (reason_in(entry) for entry in results if is_object(entry))
    return next((reason for reason in reasons if reason.message), ErrorBody(message=""))


def means_gone(value: Json, task_id: str, *, status: int | None) -> bool:
    """True when a JSON reply says that there is no such task. `status` None: it came with a 2xx.

    The 404 of a gateway or a framework is about its own paths and says nothing about a task.
    """
    layers = [layer for _, layer in _layers(value)]
    if not layers:
        return False
    said = " ".join(filter(None, (message_in(value), reason_in(value).message, word_in(value))))
    text = " ".join(word for word in said.split() if "/" not in word)  # paths and types are no words about the task
    gone = _GONE.search(text) is not None
    if any(_OTHER_PARTS.search(found[0]) is None for found in _TASK_GONE.finditer(text)):
        return True
    if status not in _GONE_STATUSES:
        return False
    if _A_TASK.search(text) or (task_id and task_id in text.split()):
        return True
    if any("path" in layer for layer in layers) or _OF_THE_WAY.search(text):
        return False
    named = any(id_text(layer.get(name)) == task_id for layer in layers for name in (*_TASK_IDS, *_OTHER_IDS))
    return gone or (named and bool(task_id))


def is_refusal(value: Json) -> bool:
    """True when a 2xx says itself that it is none: an error in it, a code, or `success: false`."""
    for _, layer in _layers(value):
        if layer.get("success") is False or layer.get("ok") is False:
            return True
        if any(_is_filled_error(layer.get(name)) for name in ("error", "errors", "errormessage", "errorcode")):
            return True
        code = layer.get("code", layer.get("statuscode"))
        if isinstance(code, int) and not isinstance(code, bool) and (code < 0 or code >= 400):  # noqa: PLR2004 - HTTP's
            return True
        if isinstance(code, str) and code.strip() and not _is_idle_code(code):
            return True
        if any(task_state_of(str(layer.get(name))) in {"failed", "refused", "filtered"} for name in _STATUSES):
            return True
    return False


def id_text(value: Json) -> str:
    """A task id as text; servers send strings, numbers and UUIDs."""
    if isinstance(value, str):
        return without_lone_surrogates(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else ""


def is_pollable(task_id: str) -> bool:
    """Whether an id can stand in an address."""
    return bool(task_id) and task_id not in {".", ".."} and len(task_id) <= _ID_CHARS


def _layers(value: Json) -> Iterator[tuple[str, dict[str, Json]]]:
    """(key, object by plain names) of the reply and of what it wraps, from the outside in; "" is the reply itself."""
    ahead: list[tuple[int, str, Json]] = [(0, "", value)]
    while ahead:
        depth, place, found = ahead.pop(0)
        if isinstance(found, str) and found.lstrip()[:1] == "{" and depth:  # JSON in a text, as some gateways pass on
            decoded = decode(found.encode("utf-8", "replace"))
            found = None if isinstance(decoded, NotJson) else decoded
        if isinstance(found, list):
            found = found[0] if found else None
        if not is_object(found):
            continue
        layer = by_plain_name(found)
        yield place, layer
        if depth < _DEEPEST:
            ahead += [(depth + 1, name, layer[name]) for name in _WRAPPERS if name in layer]


def repaired(body: bytes) -> bytes:
    """The part of a broken JSON body up to its last whole field, with its brackets closed."""
    open_brackets: list[int] = []
    repaired = b""
    in_text = escaped = False
    for place, byte in enumerate(body):
        if in_text:
            in_text = escaped or byte != ord('"')
            escaped = byte == ord("\\") and not escaped
        elif byte == ord('"'):
            in_text = True
        elif byte in b"{[":
            open_brackets.append(byte)
        elif byte in b"}]":
            if open_brackets:
                open_brackets.pop()
        elif byte == ord(","):
            closing = bytes(ord("}") if bracket == ord("{") else ord("]") for bracket in reversed(open_brackets))
            repaired = body[:place] + closing
    return repaired


def _listed(value: Json) -> list[Json]:
    return value[:16] if isinstance(value, list) else [value]


def _id_of_entry(value: Json) -> str:
    if not is_object(value):
        return id_text(value)
    layer = by_plain_name(value)
    return next((found for name in (*_TASK_IDS, *_OTHER_IDS) if (found := id_text(layer.get(name)))), "")


def _is_of_something_else(name: str, layer: dict[str, Json], place: str, found: str) -> bool:
    """Whether an `id` is that of an answer or of the request and not of a task."""
    if name != "id" or place in _OF_A_TASK:
        return False
    if "choices" in layer or found == id_text(layer.get("requestid")):
        return True
    return is_refusal(dict(layer))


def _named_deeper(value: Json) -> TaskName | None:
    """An id below unknown keys: only if the field itself says that it is a task's or a job's."""
    ahead: list[tuple[int, Json]] = [(0, value)]
    while ahead:
        depth, found = ahead.pop(0)
        for entry in found[:1] if isinstance(found, list) else [found]:
            if not is_object(entry):
                continue
            layer = by_plain_name(entry)
            for name in (*_TASK_IDS, *_OTHER_IDS[:-1]):
                if ids := [task_id for inner in _listed(layer.get(name)) if (task_id := _id_of_entry(inner))]:
                    return TaskName(id=ids[0], guess=name not in _TASK_IDS, others=tuple(ids[1:]))
            if depth < _DEEPEST:
                ahead += [(depth + 1, inner) for name, inner in layer.items() if name not in _NEVER_WRAP]
    return None


def _bare_token(value: Json) -> TaskName | None:
    """A reply whose result is one word, as some gateways send a task's id."""
    if not is_object(value) or is_refusal(value):
        return None
    for name in ("result", "data", "output", "task"):
        found = value.get(name)
        if isinstance(found, int) and not isinstance(found, bool) and found > 0 and name != "data":
            return TaskName(id=str(found), guess=True)
        if isinstance(found, str) and _TOKEN.fullmatch(found.strip()):
            return TaskName(id=found.strip(), guess=True)
    return None


def _named_reason(layer: dict[str, Json]) -> str:
    """What stands in a layer's fields for errors and reasons."""
    message = message_in({name: entry for name, entry in layer.items() if name in {"error", "errors", "detail"}})
    if message.lower() not in _IDLE_MESSAGES:
        return message
    return next((text for name in _REASONS if (text := _text_in(layer.get(name)))), "")


def _reason_text(layer: dict[str, Json]) -> str:
    """What stands in a layer's message, or at least in its code."""
    message = message_in({name: layer[name] for name in ("message", "msg") if name in layer})
    if message.lower() not in _IDLE_MESSAGES:
        return message
    codes = [found for name in _REASON_CODES if isinstance(found := layer.get(name), str)]
    return next((code for code in codes if not _is_idle_code(code)), "")


def _text_in(value: Json, *, depth: int = 0) -> str:
    """The words in a reason: a text, or the first text of an object or a list, some levels down."""
    if depth > _DEEPEST:
        return ""
    if isinstance(value, str):
        text = value.strip()
        return "" if text.lower() in _IDLE_MESSAGES else text
    if isinstance(value, list):
        return next((text for entry in value[:8] if (text := _text_in(entry, depth=depth + 1))), "")
    if is_object(value):
        if message := message_in(value):
            return message
        plain = by_plain_name(value)
        named = [
            plain[name] for name in ("message", "msg", "reason", "detail", "description", *_REASONS) if name in plain
        ]
        codes = [found for name in _REASON_CODES if isinstance(found := plain.get(name), str)]
        texts = [entry for entry in named if isinstance(entry, str)]
        return next((text for entry in [*texts, *named, *codes] if (text := _text_in(entry, depth=depth + 1))), "")
    return ""


def _is_filled_error(value: Json) -> bool:
    if is_object(value):
        return any(_is_filled_error(entry) for entry in value.values())
    if isinstance(value, list):
        return any(_is_filled_error(entry) for entry in value)
    if isinstance(value, str):
        return value.strip().lower() not in _IDLE_MESSAGES
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


def _is_code(value: Json) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value not in {"", 0}


def _is_idle_code(code: str) -> bool:
    plain = code.strip().lower()
    return plain in _IDLE_MESSAGES or (plain.isdigit() and int(plain[:9]) < 400)  # noqa: PLR2004 - errors, in HTTP


def _cut(text: str) -> str:
    return without_lone_surrogates(text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…")


def shown(value: Json, *, chars: int = 300) -> str:
    """The beginning of a reply, for a person to look at."""
    text = json.dumps(value, ensure_ascii=False)
    return _cut(text if len(text) <= chars else text[: chars - 1] + "…")
