"""The one place that reads refusals: error bodies of every shape, breaks of the network, replies that are no JSON.

What the words mean is looked up in `core.classify`; what follows from it is decided in the engine. Nothing here raises,
whatever the bytes are. See docs/providers/README.md#how-a-refusal-is-read.
"""

import html
import re
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import urlsplit

from batchrunner.core.classify import adaptation_of, classify
from batchrunner.core.error_policy import POLICY
from batchrunner.core.http import Interrupted, ResponseHead
from batchrunner.core.job import Json
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.sign import Family, Form
from batchrunner.core.text import late_pattern, without_lone_surrogates
from batchrunner.core.values import dataclass, replace
from batchrunner.providers.json_bodies import NotJson, at, cut_value, decode, encode, is_object, whole_number
from batchrunner.providers.rate_headers import (
    LONGEST_WAIT_S,
    hints_of,
    reset_wait_s,
    server_time,
    should_retry,
    wait_in_prose_s,
    wait_s,
)
from batchrunner.providers.sse import SseParser

KEPT_OF_REFUSAL_BYTES: Final = 1024 * 1024
"""What is kept of a refusal's body; the rest is read over. Some servers quote the whole request in their message."""

_TEXT_BYTES: Final = 500
_MESSAGE_CHARS: Final = 1000
_NAME_CHARS: Final = 200

_MESSAGES: Final = (
    ("error", "message"),
    ("errors", "message"),
    ("message",),
    ("Message",),
    ("msg",),
    ("detail",),
    ("detail", "message"),
    ("detail", "msg"),
    ("detail", "error"),
    ("message", "message"),
    ("message", "detail"),
    ("message", "detail", "msg"),
    ("header", "message"),
    ("error",),
    ("errors",),
    ("error", "msg"),
    ("error", "error"),
    ("base_resp", "status_msg"),
    ("Response", "Error", "Message"),
    ("promptFeedback", "blockReasonMessage"),
    ("promptFeedback", "blockReason"),
    ("status", "message"),
    ("error_msg",),
    ("errmsg",),
    ("title",),
)
_CODES: Final = (
    ("error", "details", "error_code"),
    ("error", "code"),
    ("errors", "code"),
    ("code",),
    ("error_code",),
    ("error", "error_code"),
    ("base_resp", "status_code"),
    ("Response", "Error", "Code"),
    ("header", "code"),
    ("errcode",),
    ("reason",),
    ("Code",),
)
_TYPES: Final = (
    ("error", "type"),
    ("errors", "type"),
    ("type",),
    ("error", "status"),
    ("error_type",),
    ("__type",),
    ("detail", "type"),
    ("name",),
)
_STATUSES: Final = (
    ("error", "http_code"),
    ("error", "status_code"),
    ("error", "status"),
    ("error", "code"),
    ("errors", "http_code"),
    ("errors", "code"),
    ("status_code",),
    ("code",),
)
_PAGE_BYTES: Final = 16 * 1024
_PAGE: Final = late_pattern(
    r"<!doctype html|<\?xml[^>]*>\s*<!doctype html|<!--"
    r"|<(?:html|head|body|title|meta|script|noscript|style|link|base|iframe|frameset|form|center|div|table|h1|h2)[\s/>]",
    re.IGNORECASE,
)
_XML_ERROR: Final = late_pattern(r"<(?:\w+:)?Error(?:Response)?[\s>].*", re.DOTALL)
"""Amazon's, and of the storages that copy it."""
_XML_FIELD: Final = late_pattern(r"<(Code|Message)>([^<]{0,1000})</\1>")
_FORBIDDEN: Final = 403
_BLOCKED: Final = late_pattern(r"\b(forbidden|denied|blocked|banned|firewall)\b", re.IGNORECASE)
_TITLE: Final = late_pattern(r"<(title|h1|h2)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)
_TAG: Final = late_pattern(r"<[^>]*>")
_LOOK_AT: Final = {407: "provider.proxy"}
_REQUEST_IDS: Final = (("request_id",), ("errors", "request_id"), ("error", "request_id"), ("RequestId",))
_REQUEST_ID_HEADERS: Final = ("x-request-id", "request-id", "x-modelscope-request-id", "x-dashscope-request-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """What an error body says, whatever its shape. `status` is the one inside the body, if any."""

    message: str
    code: str | None = None
    error_type: str | None = None
    status: int | None = None
    param: str | None = None
    """The request's parameter that it complains of."""
    details: str = ""
    """Further words that say what kind of refusal it is, such as the name of a quota or an inner code."""
    form: Form = "json"
    body: Json = None


def read_fault(body: bytes) -> ErrorBody:
    """Shapes A to F: JSON objects, JSON inside one event of a stream, plain text, nothing."""
    value = decode(body)
    if isinstance(value, NotJson) and body.lstrip()[:5] in {b"data:", b"event", b"id: ", b"id:1\n"}:
        parser = SseParser(cap_bytes=KEPT_OF_REFUSAL_BYTES)
        events = [*parser.feed(body), *parser.end()]
        value = next((found for event in events if not isinstance(found := decode(event.data), NotJson)), value)
    if isinstance(value, NotJson) and len(body) >= KEPT_OF_REFUSAL_BYTES:
        whole = cut_value(body.rstrip(b"\\") + b'"')  # what was read over begins within the message, most likely
        value = value if whole is None else decode(whole)
    return _not_json(body) if isinstance(value, NotJson) else fault_in(value)


def fault_in(value: Json) -> ErrorBody:
    """What a JSON error says; the JSON itself when no message stands where one is looked for."""
    plain = _with_firsts(value)
    error_type = _name(plain, _TYPES)
    message = message_in(plain)
    raw = _raw(plain)
    return ErrorBody(
        message=_both_ends(": ".join(filter(None, (message, raw))), _MESSAGE_CHARS)
        or (_shown(encode(value)) if value else ""),
        code=_name(plain, _CODES),
        error_type=None if error_type == "error" else error_type,
        status=_status(plain),
        param=_text(plain, ("error", "param")) or None,
        details=_details(plain),
        body=plain,
    )


def message_in(value: Json) -> str:
    """The first non-empty message among the places where servers put one; empty when there is none."""
    plain = _with_firsts(value)
    return next((text for path in _MESSAGES if (text := _text(plain, path))), "")


def refusal(family: Family, head: ResponseHead, body: bytes) -> Problem:
    """The problem that a reply outside 2xx states."""
    if 300 <= head.status < 400:  # noqa: PLR2004 - the class of redirects, as HTTP numbers it
        return _redirect(head)
    return problem_of(family, head, read_fault(body), status=head.status)


def problem_of(
    family: Family, head: ResponseHead, fault: ErrorBody, *, status: int | None, under_way: bool = False
) -> Problem:
    """The problem that a fault states. `status` None: it stood inside a 2xx, and only its own status counts.

    `under_way`: a part of the answer had come before it.
    """
    counted = status if status is not None else fault.status
    hints = hints_of(head)
    wait = _plausible(wait_s(head, fault.body))
    prose = _plausible(wait_in_prose_s(fault.message, received_at=server_time(head)))
    kind = classify(
        family,
        status=counted,
        message=f"{fault.message} {fault.details}" if fault.details else fault.message,
        code=fault.code,
        error_type=fault.error_type or _amazon_error(head),
        hints=hints,
        param=fault.param,
        form=fault.form,
        waits=wait is not None or prose is not None,
    )
    if POLICY[kind].limit_resets and wait is None:
        given = (prose, _plausible(reset_wait_s(head, fault.body)))
        wait = max((each for each in given if each is not None), default=None)
    return Problem(
        kind=kind,
        message=_worded(kind, fault, counted or head.status),
        status=counted or head.status,
        code=fault.code or fault.error_type,
        request_id=request_id_of(head, fault.body),
        wait_s=wait,
        should_retry=should_retry(head),
        adaptation=adaptation_of(fault.message, param=fault.param) if kind is ProblemKind.ADAPTABLE else None,
        hints=hints,
        under_way=under_way,
        look_at=_LOOK_AT.get(counted or 0, "provider.base_url") if POLICY[kind].wrong_address else None,
    )


def _plausible(wait: float | None) -> float | None:
    return wait if wait is None or wait <= LONGEST_WAIT_S else None


def unreadable(family: Family, head: ResponseHead, body: bytes) -> Problem:
    """The problem of a 2xx whose body is not JSON: an error text if its words say so, else a corrupt answer."""
    if not body.strip():
        return plain_problem(ProblemKind.EMPTY_RESPONSE, "the server's answer is empty", head=head)
    fault = _not_json(body)
    if fault.form == "page":
        message = f"HTTP {head.status} with a web page instead of an answer: {fault.message}"
        return replace(plain_problem(ProblemKind.NOT_REACHED, message, head=head), look_at="provider.base_url")
    problem = problem_of(family, head, fault, status=None)
    if problem.kind is not ProblemKind.SERVER_ERROR:
        return problem
    kind = head.headers.get("content-type", "no content type")
    message = f"HTTP {head.status} with an answer that is not JSON ({_cut(kind, _NAME_CHARS)}): {problem.message}"
    return replace(problem, kind=ProblemKind.STREAM_CORRUPT, message=message)


def broken_problem(ending: Interrupted, *, head: ResponseHead | None) -> Problem:
    """The problem of an exchange that broke. Whatever its cause, one that was never sent is CONNECT."""
    if ending.look_at is not None and not ending.sent:
        return replace(plain_problem(ProblemKind.NOT_REACHED, ending.message, head=head), look_at=ending.look_at)
    if not ending.sent:
        kind = ProblemKind.CONNECT
    else:
        kind = _BROKEN[ending.cause] if head is None else _BROKEN_LATER[ending.cause]
    return plain_problem(kind, ending.message, head=head)


def plain_problem(kind: ProblemKind, message: str, *, head: ResponseHead | None, code: str | None = None) -> Problem:
    """A problem in our own words, with the hints of the head."""
    if head is None:
        return Problem(kind=kind, message=_cut(message, _MESSAGE_CHARS), code=code)
    return Problem(
        kind=kind,
        message=_cut(message, _MESSAGE_CHARS),
        status=head.status,
        code=code,
        request_id=request_id_of(head, None),
        hints=hints_of(head),
    )


def request_id_of(head: ResponseHead, body: Json) -> str | None:
    """What to quote to the server's people: from the body, else from a header."""
    ids = [at(body, *path) for path in _REQUEST_IDS] + [head.headers.get(name) for name in _REQUEST_ID_HEADERS]
    return next((_cut(found, _NAME_CHARS) for found in ids if isinstance(found, str) and found), None)


Cause = Literal["connect", "timeout", "reset", "too_large"]

_BROKEN: Final[dict[Cause, ProblemKind]] = {
    # bytes left, so it is no proof that nothing happened
    "connect": ProblemKind.RESET,
    "timeout": ProblemKind.TIMEOUT,
    "reset": ProblemKind.RESET,
    "too_large": ProblemKind.TOO_LARGE,
}
_BROKEN_LATER: Final[dict[Cause, ProblemKind]] = {
    "connect": ProblemKind.STREAM_CUT,
    "timeout": ProblemKind.TIMEOUT,
    "reset": ProblemKind.STREAM_CUT,
    "too_large": ProblemKind.TOO_LARGE,
}


def _redirect(head: ResponseHead) -> Problem:
    try:
        host = urlsplit(head.headers.get("location", "")).hostname
    except ValueError:
        host = None
    where = f"to {_cut(host, _NAME_CHARS)}" if host else "to another address"
    message = f"HTTP {head.status} redirects {where}; redirects are not followed; set base_url to the final address"
    return replace(plain_problem(ProblemKind.NOT_REACHED, message, head=head), look_at="provider.base_url")


def _not_json(body: bytes) -> ErrorBody:
    """A body that is not JSON: a page by its title, else its text."""
    start = body[:_PAGE_BYTES].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not start:
        return ErrorBody(message="", form="nothing")
    if (error := _XML_ERROR.search(start)) is not None:
        fields = {name.lower(): html.unescape(said).strip() for name, said in _XML_FIELD.findall(error[0])}
        words = [fields[name] for name in ("code", "message") if fields.get(name)]
        return ErrorBody(
            message=_cut(": ".join(words), _MESSAGE_CHARS) or _shown(body), code=fields.get("code"), form="text"
        )
    if not _PAGE.match(start):
        return ErrorBody(message=_shown(body), form="text")
    found = _TITLE.search(start)
    title = " ".join(html.unescape(_TAG.sub(" ", found.group(2))).split()) if found else ""
    return ErrorBody(message=_cut(title, _NAME_CHARS) or _shown(body), form="page")


def _worded(kind: ProblemKind, fault: ErrorBody, status: int) -> str:
    """The message for a person; with an explanation if it was not the API that replied."""
    if kind is ProblemKind.NOT_REACHED and status == _FORBIDDEN and _BLOCKED.search(fault.message):
        return f"HTTP {status} from a gateway or a firewall in front of the API: {fault.message}"
    if kind is ProblemKind.NO_SUCH_PATH or (kind is ProblemKind.NOT_REACHED and fault.form == "json"):
        return f"HTTP {status}: the server does not know this path: {fault.message}"
    if kind is ProblemKind.NOT_REACHED:
        said = {"page": f"a web page, {fault.message!r}", "nothing": "an empty body"}.get(
            fault.form, repr(fault.message)
        )
        return f"HTTP {status} with {said}: not a reply of the API, but of a proxy, a gateway or a login page"
    if fault.form == "page":
        return f"HTTP {status} with a web page: {fault.message}"
    return fault.message or f"HTTP {status} without a message"


def _raw(value: Json) -> str:
    """The message of the server behind a router, where the router passes it on (`error.metadata.raw`)."""
    raw = at(value, "error", "metadata", "raw")
    if isinstance(raw, str):
        inner = decode(raw.encode("utf-8", "surrogatepass"))
        return _both_ends((message_in(inner) if is_object(inner) else "") or raw, _TEXT_BYTES)
    return message_in(raw) if is_object(raw) else ""


def _details(value: Json) -> str:
    """Inner codes, reasons and names of quotas, for the tables of words."""
    found: list[Json] = [at(value, "error", "innererror", "code"), at(value, "error", "status")]
    if (code := at(value, "base_resp", "status_code")) is not None:
        found.append(f"base_resp {code}")  # numbers that mean other things at other servers
    if (code := at(value, "header", "code")) is not None:
        found.append(f"spark {code}")
    if is_object(value) and "error_msg" in value:
        found.append(f"qianfan {value.get('error_code')}")
    found.append(at(value, "Response", "Error", "Code"))
    if at(value, "cloudflare_error") is True or "cloudflare" in str(at(value, "type")):
        found.append("by cloudflare")
    found += _listed(at(value, "error", "metadata", "reasons"))
    for detail in _listed(at(value, "error", "details")):
        found.append(at(detail, "reason"))
        found += [at(violation, "quotaId") for violation in _listed(at(detail, "violations"))]
    return _cut(" ".join(text for text in found if isinstance(text, str)), _MESSAGE_CHARS)


def _listed(value: Json) -> list[Json]:
    return value[:20] if isinstance(value, list) else []


def _amazon_error(head: ResponseHead) -> str | None:
    """The name of an error as Amazon's services give it beside the body."""
    return head.headers.get("x-amzn-errortype", "").partition(":")[0] or None


def _with_firsts(value: Json) -> Json:
    """The value with each list of errors replaced by its first entry."""
    plain = _first_of(value)
    if not is_object(plain):
        return plain
    return {
        **plain,
        **{key: _first_of(plain[key]) for key in ("error", "errors", "detail") if key in plain},
        **_message_of(plain),
    }


def _message_of(value: dict[str, Json]) -> dict[str, Json]:
    """A message that is an object, with its list of details replaced by the first."""
    message = value.get("message")
    return {"message": {**message, "detail": _first_of(message.get("detail"))}} if is_object(message) else {}


def _first_of(value: Json) -> Json:
    return value[0] if isinstance(value, list) and value else value


def _text(value: Json, path: tuple[str, ...]) -> str:
    found = at(value, *path)
    return _both_ends(found.strip(), _MESSAGE_CHARS) if isinstance(found, str) else ""


def _name(value: Json, paths: Iterable[tuple[str, ...]]) -> str | None:
    for path in paths:
        found = at(value, *path)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return _cut(str(found), _NAME_CHARS)
    return None


def _status(value: Json) -> int | None:
    for path in _STATUSES:
        found = at(value, *path)
        if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) == len("429"):
            found = int(found)
        status = whole_number(found)
        if status is not None and 400 <= status < 600:  # noqa: PLR2004 - errors, as HTTP numbers them
            return status
    return None


def _shown(body: bytes) -> str:
    beginning = body[:_TEXT_BYTES].decode("utf-8", "replace").strip()
    if len(body) <= 2 * _TEXT_BYTES:
        return beginning
    return f"{beginning} … {body[-_TEXT_BYTES // 2 :].decode('utf-8', 'ignore').strip()}"


def _both_ends(text: str, chars: int) -> str:
    """The text, shortened in its middle: what a long one is about stands at its beginning or at its end."""
    tail = chars // 3
    return without_lone_surrogates(text if len(text) <= chars else f"{text[: chars - tail - 3]} … {text[-tail:]}")


def _cut(text: str, chars: int) -> str:
    return without_lone_surrogates(text if len(text) <= chars else text[: chars - 1] + "…")


# Errors in the events of a stream, which is a reply of status 200.

_NO_ERROR_WORDS: Final = frozenset({"", "0", "200", "ok", "success", "null", "none", "no error"})
_NO_ERROR: Final[tuple[object, ...]] = (None, False, 0, 200)


def is_blank(error: object) -> bool:
    """An `error` that says nothing: empty, null inside, or a code that means success."""
    if is_object(error):
        return all(is_blank(value) for value in error.values())
    if isinstance(error, list):
        return all(is_blank(value) for value in error)
    return error in _NO_ERROR or (isinstance(error, str) and error.strip().lower() in _NO_ERROR_WORDS)


def has_words(value: dict[str, Json]) -> bool:
    """Whether an event that is not part of an answer is more than a sign of life."""
    return value.get("type") != "ping" and any(isinstance(said, str | dict) and said for said in value.values())


def reports_error(value: dict[str, Json]) -> bool:
    """Whether an event that is not part of an answer says that something went wrong, in any server's own shape."""
    if value.get("success") is False or not is_blank(value.get("detail")):
        return True
    if not is_blank(at(value, "base_resp", "status_code")) or not is_blank(at(value, "Response", "Error")):
        return True  # the wrappers of MiniMax and Tencent
    if not is_blank(at(value, "header", "code")):
        return True  # Spark's
    if not is_blank(at(value, "promptFeedback", "blockReason")):
        return True  # Gemini: nothing is answered to what it withholds
    codes = [value.get(name) for name in ("code", "error_code", "status_code", "errcode", "status")]
    words = [value.get(name) for name in ("message", "msg", "error_msg", "error_message", "errmsg", "Message")]
    has_words = any(isinstance(said, str) and said.strip() for said in words)
    numbers = (int(code) if isinstance(code, str) and code.isdecimal() else code for code in codes)
    named = any(not is_blank(code) and not isinstance(code, bool) for code in numbers)
    return has_words and named
