"""A server's error replies: messages and shapes of bodies, as a table.

See docs/providers/modelscope.md#refusals.
"""

from collections.abc import Callable

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, replace
from batchrunner.simulator.script import JSON_TYPE, Script, Send, encode_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reply that gives nothing. `{model}` in the message is filled in with the model as it was sent."""

    status: int
    shape: str
    """A key of SHAPES."""
    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    http_code: str | None = None
    """Said in the body as a string, as one back end does."""
    headers: tuple[tuple[str, str], ...] = ()
    quiet: bool = False
    """True: no rate headers go with it."""

    def with_header(self, name: str, value: str) -> "Refusal":
        """The same with one more header."""
        return replace(self, headers=(*self.headers, (name, value)))


def refuse(refusal: Refusal, *, model: str, request_id: str) -> Script:
    """The reply that says so."""
    said = replace(refusal, message=refusal.message.replace("{model}", model))
    media_type, body = SHAPES[refusal.shape](said, request_id)
    headers = {"content-type": media_type, "x-request-id": request_id, **dict(refusal.headers)}
    return Script(status=refusal.status, headers=headers, steps=(Send(piece=body),))


def _plural(refusal: Refusal, request_id: str) -> tuple[str, bytes]:
    return JSON_TYPE, encode_json({"errors": {"message": refusal.message, "request_id": request_id}})


def _plural_outside(refusal: Refusal, request_id: str) -> tuple[str, bytes]:
    return JSON_TYPE, encode_json({"errors": {"message": refusal.message}, "request_id": request_id})


def _singular(refusal: Refusal, request_id: str) -> tuple[str, bytes]:
    return JSON_TYPE, encode_json({"error": {"message": refusal.message}, "request_id": request_id})


def _passed_through(refusal: Refusal, request_id: str) -> tuple[str, bytes]:
    error: dict[str, Json] = {"message": refusal.message, "type": refusal.type}
    if refusal.param is not None:
        error["param"] = refusal.param
    if refusal.code is not None:
        error = {"code": refusal.code, **error}
    if refusal.http_code is not None:
        error = {"http_code": refusal.http_code, **error}
    return JSON_TYPE, encode_json({"error": error, "request_id": request_id})


def _anthropic(refusal: Refusal, request_id: str) -> tuple[str, bytes]:
    error: dict[str, Json] = {"type": refusal.type or "invalid_request_error", "message": refusal.message}
    if refusal.code is not None:
        error["details"] = {"error_code": refusal.code}
    return JSON_TYPE, encode_json({"type": "error", "error": error, "request_id": request_id})


def _nothing(_refusal: Refusal, _request_id: str) -> tuple[str, bytes]:
    return "text/plain", b""


def _page(refusal: Refusal, _request_id: str) -> tuple[str, bytes]:
    title = refusal.message
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><center><h1>{title}</h1></center></body>\r\n</html>"
    return "text/html", page.encode()


def _google(refusal: Refusal, _request_id: str) -> tuple[str, bytes]:
    """`code` is how long to wait, such as `4s`."""
    quota: Json = {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}
    details: list[Json] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [quota]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": refusal.code},
    ]
    error: Json = {
        "code": refusal.status,
        "message": refusal.message,
        "status": "RESOURCE_EXHAUSTED",
        "details": details,
    }
    return JSON_TYPE, encode_json([{"error": error}])


def _detail(refusal: Refusal, _request_id: str) -> tuple[str, bytes]:
    return JSON_TYPE, encode_json({"detail": refusal.message})


def _loading(refusal: Refusal, _request_id: str) -> tuple[str, bytes]:
    """`code` is how long the loading of the model takes, in seconds."""
    return JSON_TYPE, encode_json({"error": refusal.message, "estimated_time": float(refusal.code or 0)})


SHAPES: dict[str, Callable[[Refusal, str], tuple[str, bytes]]] = {
    "A": _plural,
    "A-outside": _plural_outside,
    "B": _singular,
    "C": _passed_through,
    "D": _anthropic,
    "E": _nothing,
    "F": _page,
    "G": _google,
    "H": _detail,
    "I": _loading,
}
"""Bodies of refusals as they were seen: name to (content type, body)."""

_BAD_TOKEN = "Authentication failed, please make sure that a valid ModelScope token is supplied."  # noqa: S105 - a message
_T1 = (
    "We have to rate limit you for model {model}. If you need higher limits, please consider other (commercial)"
    " API providers."
)
_T3 = (
    "You exceeded your current quota, please check your plan and billing details. For details, see:"
    " https://help.aliyun.com/zh/model-studio/error-code#token-limit"
)

REFUSALS: dict[str, Refusal] = {
    "T1": Refusal(status=429, shape="A", message=_T1),
    "T2": Refusal(status=429, shape="A", message="Request limit exceeded."),
    "T2-quiet": Refusal(status=429, shape="A", message="Request limit exceeded.", quiet=True),
    "T3": Refusal(status=429, shape="C", message=_T3, code="insufficient_quota", type="insufficient_quota"),
    "unpaid": Refusal(
        status=429,
        shape="C",
        message="You exceeded your current quota, please check your plan and billing details.",
        code="insufficient_quota",
        type="insufficient_quota",
        quiet=True,
    ),
    "T4": Refusal(
        status=429,
        shape="C",
        message="Request rate increased too quickly. To ensure system stability, please raise the rate smoothly.",
        code="limit_burst_rate",
        type="limit_burst_rate",
    ),
    "Q1": Refusal(
        status=429, shape="B", message="You have exceeded today's quota for model {model}, please try again tomorrow"
    ),
    "X1": Refusal(
        status=429,
        shape="C",
        message="insufficient balance (1008)",
        type="insufficient_balance_error",
        http_code="429",
    ),
    "E": Refusal(status=429, shape="E"),
    "no-token": Refusal(status=401, shape="B", message=_BAD_TOKEN),
    "bad-token": Refusal(status=401, shape="B", message=_BAD_TOKEN),
    "bad-token-A": Refusal(status=401, shape="A", message=_BAD_TOKEN),
    "unbound": Refusal(
        status=401,
        shape="B",
        message="Please bind your Alibaba Cloud account before use: the account must be bound and real-name verified.",
    ),
    "forbidden": Refusal(status=403, shape="B", message="You have no permission to access model {model}."),
    "no-provider": Refusal(status=400, shape="A", message="Model id : {model}, has no provider supported"),
    "bad-model-id": Refusal(status=400, shape="B", message="Invalid model id: {model}"),
    "needs-stream": Refusal(
        status=400,
        shape="C",
        message="enable thinking can not be support when `stream=False`.",
        code="invalid_parameter_error",
        type="invalid_request_error",
    ),
    "stream-options": Refusal(
        status=400,
        shape="C",
        message="Unrecognized request argument supplied: stream_options",
        code="invalid_parameter_error",
        type="invalid_request_error",
    ),
    "json-schema": Refusal(
        status=400,
        shape="C",
        message="Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        code="invalid_parameter_error",
        type="invalid_request_error",
    ),
    "needs-async": Refusal(
        status=400,
        shape="A-outside",
        message="image-gen task currently does not support synchronous calls. Please set the header"
        " X-ModelScope-Async-Mode: true",
    ),
    "task-not-found": Refusal(status=404, shape="A-outside", message="task not found"),
    "server-error": Refusal(status=500, shape="B", message="Internal server error, please try again later."),
    "busy": Refusal(status=503, shape="A", message="Server is busy, please try again later"),
    "bad-gateway": Refusal(status=502, shape="F", message="502 Bad Gateway"),
    "no-path": Refusal(status=404, shape="B", message="The requested path was not found."),
    "no-page": Refusal(status=404, shape="F", message="404 Not Found"),
    "bare-503": Refusal(status=503, shape="F", message="503 Service Temporarily Unavailable", quiet=True),
    "page-403": Refusal(status=403, shape="F", message="403 Forbidden", quiet=True),
    "page-200": Refusal(status=200, shape="F", message="Log in", quiet=True),
    "login": Refusal(
        status=302, shape="E", headers=(("location", "https://login.example.invalid/?next=%2Fv1"),), quiet=True
    ),
    "no-route": Refusal(status=404, shape="H", message="Not Found", quiet=True),
    "moderated": Refusal(
        status=403, shape="C", message="{model} requires moderation. Your input was flagged.", code="403"
    ),
    "no-quota-403": Refusal(
        status=403, shape="C", message="user quota is not enough", code="insufficient_user_quota", type="new_api_error"
    ),
    "window": Refusal(
        status=429,
        shape="G",
        message="You exceeded your current quota, please check your plan and billing details.",
        quiet=True,
    ),
    "in-200": Refusal(status=200, shape="C", message="Rate limit exceeded", code="429"),
    "no-pictures": Refusal(status=500, shape="C", message="image input is not supported", type="server_error"),
    "cancelled": Refusal(status=499, shape="C", message="Request was cancelled upstream", code="499"),
    "tool-use": Refusal(
        status=400,
        shape="C",
        message="Failed to call a function. Please adjust your prompt.",
        code="tool_use_failed",
        type="invalid_request_error",
    ),
    "unverified": Refusal(
        status=400,
        shape="C",
        message="Your organization must be verified to stream this model.",
        code="unsupported_value",
        type="invalid_request_error",
        param="stream",
    ),
    "not-listed": Refusal(
        status=400,
        shape="C",
        message="/chat/completions: Invalid model name passed in model={model}. Call `/v1/models` to view models.",
        code="400",
    ),
    "slow": Refusal(status=429, shape="B", message="slow down", quiet=True),
    "cloudflare-522": Refusal(
        status=522,
        shape="F",
        message="api.example | 522: Connection timed out",
        headers=(("server", "cloudflare"), ("cf-ray", "8f2d1c0a9b7e6d54-HKG")),
        quiet=True,
    ),
    "loading": Refusal(status=503, shape="I", message="Model {model} is currently loading", quiet=True),
    "prose": Refusal(
        status=429, shape="B", message="Rate limit reached for model `{model}`. Please try again in ", quiet=True
    ),
    "no-file": Refusal(status=404, shape="F", message="404 NoSuchKey"),
}
"""Everything that this world refuses with, by a short name."""


def invalid(message: str, *, shape: str = "C") -> Refusal:
    """A 400 about the body."""
    return Refusal(
        status=400, shape=shape, message=message, code="invalid_parameter_error", type="invalid_request_error"
    )
