"""What refusals are known by, as tables per family of servers: `classify` reads them from the top.

The same words mean opposite things in different houses (`insufficient_quota` passes within a minute at ModelScope and
is an unpaid bill at OpenAI), so each family has a table of its own and all share the last one. The first row whose
every condition holds gives the kind. No row guesses from a status alone where the words say more, and none takes a
model's name in the text for a sign of spent quota: the burst throttle names it too.
"""

from typing import Final

from batchrunner.core.outcome import ProblemKind
from batchrunner.core.sign import (
    ANY,
    ANY_4XX,
    ANY_5XX,
    QUOTA_OF_A_WINDOW,
    QUOTA_WITH_WINDOW,
    UNPAID,
    Family,
    Sign,
    named,
    on,
)

K = ProblemKind

_ODD: Final = on(408, 409, 423, 424, 425, 440, 444, 449, 460, 499)
"""Trouble on the way or at the server that passes, by numbers that look like a client's mistake."""
_LIMITED: Final = on(402, 403, 429, None)
"""Where ModelScope means a quota; guides name 402 beside 429."""

_MODELSCOPE: Final = (
    Sign(kind=K.QUOTA_MODEL, statuses=on(402, 429), spent="model"),
    Sign(kind=K.QUOTA_ACCOUNT, statuses=on(402, 429), spent="account"),
    Sign(kind=K.QUOTA_MODEL, statuses=_LIMITED | ANY_5XX, words=("today's quota",), also=("for model",)),
    Sign(kind=K.QUOTA_ACCOUNT, statuses=_LIMITED | ANY_5XX, words=("today's quota",)),
    Sign(
        kind=K.QUOTA_ACCOUNT,
        statuses=_LIMITED,
        words=("magicube", "魔粒"),
        also=("insufficient", "not enough", "exhaust", "used up", "run out", "不足", "不够", "用完", "用尽", "耗尽"),
    ),
    Sign(kind=K.MODEL_SUSPENDED, statuses=ANY_4XX, words=("insufficient balance",)),
    Sign(kind=K.MODEL_SUSPENDED, statuses=ANY_4XX, names=named("insufficient_balance_error")),
    Sign(
        kind=K.THROTTLE,
        statuses=_LIMITED,
        words=(
            "rate limit",
            "request limit exceeded",
            "too many",
            "increased too quickly",
            "allocated quota exceeded",
            "current quota",
        ),
    ),
    Sign(kind=K.THROTTLE, statuses=_LIMITED, names=named("insufficient_quota")),
    Sign(kind=K.QUOTA_ACCOUNT, statuses=on(402), words=("quota",)),
    Sign(
        kind=K.AUTH,
        statuses=ANY_4XX,
        words=("valid modelscope token", "bind your alibaba cloud account", "real-name verified"),
    ),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=ANY_4XX, words=("has no provider supported", "invalid model id")),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=ANY_4XX, names=named("40212")),
    Sign(kind=K.CONFIGURATION, statuses=ANY_4XX, words=("does not support synchronous calls",)),
)

_TOO_MUCH: Final = Sign(
    kind=K.BAD_REQUEST, statuses=on(413, 429), words=("request too large for",), also=("requested",)
)
"""More than the limit of a whole minute: it never passes, whatever its name says of limits."""

_GEMINI: Final = (
    Sign(kind=K.BILLING, statuses=on(429), words=("monthly spending cap", "spend cap", "credits are depleted")),
    Sign(kind=K.BILLING, statuses=on(429), words=("limit: 0,", "limit: 0\n"), also=("quota exceeded for metric",)),
    Sign(kind=K.AUTH, statuses=on(400, 403), words=("reported as leaked", "missing or invalid authorization header")),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=on(404), words=("requested entity was not found",)),
)
"""Of Gemini's OpenAI face. A quota of zero is one that this account does not have: no waiting helps."""

_OPENAI: Final = (
    _TOO_MUCH,
    *_GEMINI,
    # an Alibaba server behind this family's dialect: its link, or its code, marks the per-minute limit
    Sign(kind=K.THROTTLE, words=("#token-limit",)),
    Sign(kind=K.THROTTLE, names=named("throttling", "throttling.allocationquota", "throttling.ratequota")),
    Sign(
        kind=K.BILLING,
        names=named(
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
        ),
    ),
    QUOTA_WITH_WINDOW,
    QUOTA_OF_A_WINDOW,
    Sign(kind=K.BILLING, statuses=on(402, 403, 429, None), words=("exceeded your current quota", "billing hard limit")),
    Sign(kind=K.THROTTLE, names=named("rate_limit_exceeded", "slow_down")),
    Sign(kind=K.OVERLOADED, names=named("server_is_overloaded", "resource_unavailable")),
    Sign(kind=K.OVERLOADED, statuses=on(429, None), words=("resource unavailable", "resource is unavailable")),
    Sign(kind=K.AUTH, statuses=ANY_4XX, names=named("invalid_api_key", "account_deactivated")),
    Sign(kind=K.AUTH, statuses=on(403, None), names=named("unsupported_country_region_territory")),
    Sign(kind=K.AUTH, statuses=on(403), words=("country, region, or territory not supported",)),
    Sign(kind=K.BAD_REQUEST, statuses=ANY_4XX, names=named("context_length_exceeded")),
)

_ANTHROPIC: Final = (
    Sign(kind=K.BILLING, names=named("enforced_spend_limit_reached", "billing_error")),
    Sign(
        kind=K.BILLING,
        statuses=on(400, 402, 403, 429, None),
        words=("spend limit", "api usage limits", "credit balance is too low"),
    ),
)

_MEDIA: Final = (
    "unable to download",
    "failed to download",
    "error while downloading",
    "timeout while downloading",
    "timed out",
)

_FILTERED: Final = (
    Sign(
        kind=K.CONTENT_FILTER,
        statuses=ANY,
        names=named(
            "1301",  # Zhipu
            "content_filter",
            "content_filtered",
            "content_moderation",
            "content_policy_violation",
            "content_violation",
            "data_inspection_failed",
            "datainspectionfailed",
            "inputimagesensitivecontentdetected",
            "inputtextsensitivecontentdetected",
            "hooks_failed",  # Portkey's guardrails
            "moderation_blocked",
            "prompt_threat_detected",  # Helicone
            "outputtextsensitivecontentdetected",
            "prompt_blocked",
            "responsibleaipolicyviolation",
            "safety_violation",
            "sensitivecontentdetected",
            "unsafe_request",
        ),
    ),
    Sign(
        kind=K.CONTENT_FILTER,
        statuses=(ANY_4XX - on(401, 402, 407, 429)) | on(451),
        forms=frozenset({"json", "text"}),
        words=(
            "datainspectionfailed",
            "inappropriate content",
            "content filter",
            "content_filter",
            "content management policy",
            "content moderation",
            "content policy",
            "content violates",
            *("base_resp 1026", "base_resp 1027"),  # MiniMax: the input, the output
            *("spark 10013", "spark 10014", "spark 10019", "qianfan 336104"),
            "blocked input",
            "illegaldetected",
            "content audit",
            "requires moderation",
            "moderation system",
            "moderation policy",
            "failed moderation",
            "was flagged",
            "flagged by moderation",
            *("blocked by guardrail", "guardrail policy", "guardrail check"),
            *("pattern is blocked", "prompt threat"),  # Kong, Helicone
            "prompt blocked",
            "prohibited_content",
            "been flagged",
            "usage guidelines",
            "usage polic",
            "safety system",
            "safety check",
            "safety_check",
            "safety policy",
            "content exists risk",
            "considered high risk",
            "sensitive content",
            "request moderated",
            "responsibleai",
            "unsafe content",
            "prohibited content",
            "敏感内容",
            "敏感信息",
            "敏感词",
            "违规内容",
            "内容违规",
            "内容安全",
        ),
    ),
)
"""What was withheld or flagged is about the item, whatever the status."""

_LIMITED_BY_NAME: Final = (
    _TOO_MUCH,
    Sign(
        kind=K.THROTTLE,
        names=named(
            "1302",  # Zhipu: too many at once; the next two: too many in a while
            "1303",
            "1305",
            "concurrency_limit_exceeded",
            "limit_burst_rate",
            "limit_requests",
            "rate_limit_error",
            "rate_limit_exceeded",
            "rate_limit_reached",
            "rate_limited",
            "requestlimitexceeded",
            "resource_exhausted",
            "slow_down",
            "throttled",
            "throttling",
            "throttling.allocationquota",
            "throttling.ratequota",
            "throttlingexception",
            "too_many_requests",
            "toomanyrequestsexception",
        ),
    ),
    Sign(kind=K.OVERLOADED, names=named("engine_overloaded_error", "model_overloaded", "modelnotreadyexception")),
    Sign(
        kind=K.THROTTLE,
        statuses=on(400, 403, None),
        words=(
            "too many requests",
            "rate limit",
            "rate exceeded",
            "ratelimit",
            "request limit reached",
            "throttl",
            "请求过于频繁",
            "并发",
            # MiniMax: requests, tokens, connections, growth, the plan's hours
            *(f"base_resp {code}" for code in (1002, 1039, 1041, 2045, 2056)),
            *(f"spark {code}" for code in (10007, 10008, 10110, 11201, 11202, 11203)),
            *("flow limit", "流量受限", "限频", "限流", "call volume quota", "requestlimitexceeded"),
        ),
    ),
    Sign(kind=K.THROTTLE, statuses=on(None), names=named("limitexceeded", "11201", "11202", "11203")),
    Sign(kind=K.MODEL_SUSPENDED, names=named("setlimitexceeded")),  # Ark: the person's own limit paused the model
)

_NO_MODEL: Final = (
    Sign(
        kind=K.MODEL_NOT_FOUND,
        statuses=ANY_4XX,
        names=named(
            "1211",  # Zhipu
            "20012",  # SiliconFlow
            "deploymentnotfound",
            "invalid_model",
            "invalid_model_id",
            "invalidendpointormodel.notfound",
            "model_not_available",
            "model_not_exist",
            "model_not_found",
            "modelnotfound",
            "modelnotfounderror",
            "unknown_model",
            "unsupported_model",
        ),
    ),
    Sign(
        kind=K.MODEL_NOT_FOUND,
        statuses=on(400, 403, 404, 410, 422, None),
        forms=frozenset({"json", "text"}),
        words=(
            "invalid model name",
            "invalid model id",
            "invalid model identifier",
            "invalid model:",
            "invalid model.",
            *("no models loaded", "no models are currently loaded", "allowed now, your model"),
            "model identifier is invalid",
            "not a valid model",
            "model not exist",
            "model not found",
            "model_not_found",
            "no such model",
            "unknown model",
            "unsupported model",
            "modelnotfound",
            "has no provider supported",
            "not supported by any provider",
            "no endpoints found for",
            "no allowed providers are available",
            "no router for requested model",
            "real modelid",
            "try pulling it first",
            "模型不存在",
        ),
    ),
    Sign(
        kind=K.MODEL_NOT_FOUND,
        statuses=on(400, 403, 404, 410, 422, None),
        forms=frozenset({"json", "text"}),
        words=("the model ", "model '", 'model "', "model=", "model:", "models/", "model id", "deployment", "模型"),
        also=(
            "does not exist",
            "doesn't exist",
            "do not have access to it",
            "not exist",
            "not found",
            "not been found",
            "not deployed",
            "not loaded",
            "no longer",
            "decommissioned",
            "not available",
            "unavailable for",
            "不存在",
            "未找到",
            "已下线",
        ),
    ),
    Sign(
        kind=K.MODEL_NOT_FOUND,
        statuses=on(404),
        forms=frozenset({"json", "text"}),
        words=("model", "deployment", "模型"),
    ),
)

_NO_ACCOUNT: Final = (
    # of the key or the account, whatever the status
    Sign(
        kind=K.AUTH,
        statuses=ANY_4XX,
        names=named(
            "organization_restricted",
            "account_deactivated",
            "api_key_invalid",
            "unrecognizedclientexception",
            "incompletesignatureexception",
            "invalidsignatureexception",
            "expiredtokenexception",
            "invalid_iam_token",
        ),
    ),
    Sign(
        kind=K.AUTH,
        statuses=on(400, 403, None),
        forms=frozenset({"json"}),
        words=(
            *("base_resp 1004", "base_resp 2049"),  # MiniMax
            *("qianfan 110", "qianfan 111", "spark 10005", "spark 10313"),
            *("api key not valid", "api_key_invalid", "api key is invalid", "invalid api key", "api key expired"),
            *("api key is currently blocked", "api key has been", "consumer 'api_key", "consumer_suspended"),
            *("token seems invalid", "access token invalid", "access token expired", "security token included"),
            *("authfailure", "servicenotactivated", "not authorized to access this resource with an explicit deny"),
            *("user location is not supported", "it is disabled", "service_disabled", "permission 'aiplatform."),
        ),
    ),
    Sign(kind=K.FORBIDDEN_MODEL, names=named("model_terms_required", "model_permission_blocked_project")),
    Sign(kind=K.FORBIDDEN_MODEL, names=named("model_permission_blocked_org")),
    Sign(kind=K.FORBIDDEN_MODEL, statuses=on(None), words=("base_resp 2061",)),
    Sign(
        kind=K.BAD_REQUEST,
        statuses=on(None),
        words=(
            *("base_resp 2013", "base_resp 1042", "spark 10163", "spark 10907", "qianfan 336003", "qianfan 336007"),
            *("invalidparameter", "unsupportedparameter"),
        ),
    ),
)

_NOT_THE_API: Final = (
    # firewalls, whatever the status they block with
    Sign(
        kind=K.NOT_REACHED,
        statuses=ANY,
        forms=frozenset({"page"}),
        words=(
            *("zscaler", "fortiguard", "web filter", "web page blocked", "page blocked", "access blocked", "umbrella"),
            *("forcepoint", "web gateway", "site blocked", "website blocked", "netskope", "blocked by your"),
        ),
    ),
    Sign(
        kind=K.NOT_REACHED,
        statuses=on(401, 403),
        words=(
            *("owner has blocked access", "owner of this website has banned", "by cloudflare", "request blocked"),
            *("virtual network/firewall", "ip address is not allowed"),
        ),
    ),
    Sign(kind=K.NOT_REACHED, statuses=on(403), exact=frozenset({"forbidden", "403 forbidden", "access denied"})),
    Sign(kind=K.NOT_REACHED, statuses=on(463, 464, 561)),  # Amazon's balancer: headers, protocol, its own login
    # a web page, a bare status or a word of plain text comes from a proxy, a firewall, an ingress or a login
    Sign(kind=K.NOT_REACHED, statuses=frozenset({*range(300, 400), 407, 511})),
    Sign(
        kind=K.NOT_REACHED,
        statuses=on(*(set(range(400, 500)) - {401, 402, 408, 413, 414, 429, 431})) - _ODD,
        forms=frozenset({"page"}),
    ),
    Sign(kind=K.NOT_REACHED, statuses=on(403, 404, 405), forms=frozenset({"text", "nothing"})),
    Sign(kind=K.NOT_REACHED, statuses=on(405)),
    Sign(
        kind=K.NOT_REACHED,
        statuses=on(403, 404, None),
        words=(
            "no route matched",
            "missing authentication token",  # AWS's gateway, for a path that it does not know
            "rbac: access denied",
            "unexpected endpoint or method",
            "route not found",
        ),
    ),
    Sign(
        kind=K.NOT_REACHED,
        statuses=on(404),
        exact=frozenset(
            {"not found", "404 not found", "page not found", "404 page not found", "resource not found", "404"}
        ),
    ),
)

_NO_SUCH_PATH: Final = (
    # what is said of one request: the path is known
    Sign(
        kind=K.BAD_REQUEST,
        statuses=on(404),
        words=("no endpoints found", "support", "image", "audio", "file_id", "tool", "previous response"),
    ),
    Sign(kind=K.NO_SUCH_PATH, statuses=on(404)),
)

_SHARED: Final = (
    *UNPAID,
    *_FILTERED,
    *_LIMITED_BY_NAME,
    *_NO_MODEL,
    Sign(kind=K.CONTENT_FILTER, statuses=on(451), forms=frozenset({"json"})),
    Sign(kind=K.MEDIA_FETCH, statuses=on(400, 422), words=_MEDIA),
    Sign(kind=K.MEDIA_FETCH, statuses=on(400, 422), names=named("invalid_image_url")),
    # the model made no tool call or no JSON (Groq), or its process died (LM Studio): the next try may do better
    Sign(
        kind=K.SERVER_ERROR,
        statuses=on(400, 422, None),
        names=named("json_validate_failed", "tool_use_failed", "output_parse_failed", "modelerrorexception"),
    ),
    Sign(
        kind=K.SERVER_ERROR,
        statuses=on(400, 404, 422, None),
        words=(
            *("has crashed", "model crashed", "was unloaded while", "failed to load model", "out of memory"),
            "error due to high traffic",  # FastChat's worker, in a 400
        ),
    ),
    *_NO_ACCOUNT,
    *_NOT_THE_API,
    Sign(kind=K.AUTH, statuses=on(401)),
    Sign(kind=K.BILLING, statuses=on(402)),
    Sign(kind=K.FORBIDDEN_MODEL, statuses=on(403)),
    *_NO_SUCH_PATH,
    # a proxy or a scheduler gave the request up, or has no room for it yet
    Sign(kind=K.OVERLOADED, statuses=on(498)),
    Sign(kind=K.SERVER_ERROR, statuses=_ODD),
    Sign(kind=K.THROTTLE, statuses=on(429)),
    Sign(kind=K.BAD_REQUEST, statuses=frozenset(range(400, 500))),
    Sign(kind=K.OVERLOADED, statuses=on(529)),
    # Cloudflare got no connection to the server behind it: no work was begun (520 and 524 do not mean that)
    Sign(kind=K.OVERLOADED, statuses=on(521, 522, 523, 525, 526, 527, 530)),
    Sign(kind=K.OVERLOADED, statuses=ANY_5XX, names=named("overloaded_error", "server_is_overloaded", "overloaded")),
    Sign(kind=K.OVERLOADED, statuses=ANY_5XX, words=("overloaded", "server is busy", "too busy", "busy, please")),
    # nginx's limits, a full queue, a model that is still being read: no 503 means that work was done
    Sign(kind=K.THROTTLE, statuses=on(503), words=("rate limit", "too many", "throttl", "slow down")),
    Sign(kind=K.OVERLOADED, statuses=on(503)),
    Sign(kind=K.SERVER_ERROR, statuses=frozenset(range(500, 600))),
    # no status at all: only what the error calls itself is left
    Sign(kind=K.AUTH, names=named("authentication_error", "invalid_api_key")),
    Sign(kind=K.FORBIDDEN_MODEL, names=named("permission_error", "permission_denied_error")),
    Sign(kind=K.MODEL_NOT_FOUND, names=named("not_found_error")),
    Sign(kind=K.BAD_REQUEST, names=named("invalid_request_error", "request_too_large", "invalid_parameter_error")),
)

SIGNS: Final[dict[Family, tuple[Sign, ...]]] = {
    "modelscope": _MODELSCOPE + _SHARED,
    "simulator": _MODELSCOPE + _ANTHROPIC + _SHARED,
    "openai": _OPENAI + _SHARED,
    "anthropic": _ANTHROPIC + _SHARED,
}
