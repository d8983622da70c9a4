"""What a refusal means, as tables per family of servers. Reads plain values; opens, decodes and decides nothing.

The same words mean opposite things in different houses (`insufficient_quota` passes within a minute at ModelScope and
is an unpaid bill at OpenAI), so each family has a table of its own and all share the last one. A table is read from
the top; the first row whose every condition holds gives the kind. It refuses to guess from a status alone where the
words say more, and never takes a model's name in the text for a sign of spent quota: the burst throttle names it too.

Sources: PROTOCOL 3.4, 3.5, 4.7, 5.4, 8.
"""

from dataclasses import dataclass
from typing import Final, Literal

from batchrunner.core.job import PresetName, Provider
from batchrunner.core.outcome import Adaptation, Hints, ProblemKind

Family = Literal["modelscope", "openai", "anthropic", "simulator"]

K = ProblemKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A row. Empty conditions hold for everything; words are lower case and looked for anywhere in the message."""

    kind: ProblemKind
    statuses: frozenset[int | None] = frozenset()
    """HTTP statuses; None stands for an error that came without one, inside a stream or a 200."""
    words: tuple[str, ...] = ()
    """One of these is in the message."""
    also: tuple[str, ...] = ()
    """And one of these."""
    names: frozenset[str] = frozenset()
    """The error's code or type is one of these."""
    spent: Literal["model", "account"] | None = None
    """The headers say that nothing is left today."""


def _on(*statuses: int | None) -> frozenset[int | None]:
    return frozenset(statuses)


def _named(*names: str) -> frozenset[str]:
    return frozenset(names)


_ANY_4XX: Final = frozenset[int | None]({*range(400, 500), None})
_ANY_5XX: Final = frozenset[int | None]({*range(500, 600), None})
_LIMITED: Final = _on(402, 403, 429, None)
"""Where ModelScope speaks of quota; guides name 402 beside 429 (PROTOCOL 3.5)."""

_MODELSCOPE: Final = (
    Sign(kind=K.QUOTA_MODEL, statuses=_on(402, 429), spent="model"),
    Sign(kind=K.QUOTA_ACCOUNT, statuses=_on(402, 429), spent="account"),
    Sign(kind=K.QUOTA_MODEL, statuses=_LIMITED, words=("today's quota",), also=("for model",)),
    Sign(kind=K.QUOTA_ACCOUNT, statuses=_LIMITED, words=("today's quota",)),
    Sign(
        kind=K.QUOTA_ACCOUNT,
        statuses=_LIMITED,
        words=("magicube", "魔粒"),
        also=("insufficient", "not enough", "exhaust", "used up", "run out", "不足", "不够", "用完", "用尽", "耗尽"),
    ),
    Sign(kind=K.MODEL_SUSPENDED, statuses=_ANY_4XX, words=("insufficient balance",)),
    Sign(kind=K.MODEL_SUSPENDED, statuses=_ANY_4XX, names=_named("insufficient_balance_error")),
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
    Sign(kind=K.THROTTLE, statuses=_LIMITED, names=_named("insufficient_quota")),
    Sign(kind=K.QUOTA_ACCOUNT, statuses=_on(402), words=("quota",)),
    Sign(
        kind=K.AUTH,
        statuses=_ANY_4XX,
        words=("valid modelscope token", "bind your alibaba cloud account", "real-name verified"),
    ),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=_ANY_4XX, words=("has no provider supported", "invalid model id")),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=_ANY_4XX, names=_named("40212")),
    Sign(kind=K.CONFIGURATION, statuses=_ANY_4XX, words=("does not support synchronous calls",)),
)

_OPENAI: Final = (
    # an Alibaba server behind this family's dialect: its link marks the per-minute limit
    Sign(kind=K.THROTTLE, words=("#token-limit",)),
    Sign(
        kind=K.BILLING,
        names=_named(
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
        ),
    ),
    Sign(
        kind=K.BILLING, statuses=_on(402, 403, 429, None), words=("exceeded your current quota", "billing hard limit")
    ),
    Sign(kind=K.THROTTLE, names=_named("rate_limit_exceeded", "slow_down")),
    Sign(kind=K.OVERLOADED, names=_named("server_is_overloaded")),
    Sign(kind=K.AUTH, statuses=_ANY_4XX, names=_named("invalid_api_key", "account_deactivated")),
    Sign(kind=K.AUTH, statuses=_on(403, None), names=_named("unsupported_country_region_territory")),
    Sign(kind=K.AUTH, statuses=_on(403), words=("country, region, or territory not supported",)),
    Sign(kind=K.BAD_REQUEST, statuses=_ANY_4XX, names=_named("context_length_exceeded")),
)

_ANTHROPIC: Final = (
    Sign(kind=K.BILLING, names=_named("enforced_spend_limit_reached", "billing_error")),
    Sign(
        kind=K.BILLING,
        statuses=_on(400, 402, 403, 429, None),
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

_SHARED: Final = (
    Sign(
        kind=K.CONTENT_FILTER,
        statuses=_ANY_4XX,
        names=_named(
            "content_filter",
            "content_policy_violation",
            "moderation_blocked",
            "datainspectionfailed",
            "data_inspection_failed",
        ),
    ),
    Sign(kind=K.CONTENT_FILTER, statuses=_on(400, None), words=("datainspectionfailed", "inappropriate content")),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=_ANY_4XX, names=_named("model_not_found")),
    Sign(kind=K.MEDIA_FETCH, statuses=_on(400, 422), words=_MEDIA),
    Sign(kind=K.MEDIA_FETCH, statuses=_on(400, 422), names=_named("invalid_image_url")),
    Sign(kind=K.AUTH, statuses=_on(401)),
    Sign(kind=K.BILLING, statuses=_on(402)),
    Sign(kind=K.FORBIDDEN_MODEL, statuses=_on(403)),
    Sign(kind=K.MODEL_NOT_FOUND, statuses=_on(404)),
    Sign(kind=K.CONFIGURATION, statuses=frozenset({*range(300, 400), 405, 407})),
    Sign(kind=K.SERVER_ERROR, statuses=_on(408, 409, 425)),
    Sign(kind=K.THROTTLE, statuses=_on(429)),
    Sign(kind=K.BAD_REQUEST, statuses=frozenset(range(400, 500))),
    Sign(kind=K.OVERLOADED, statuses=_on(529)),
    Sign(kind=K.OVERLOADED, statuses=_ANY_5XX, names=_named("overloaded_error", "server_is_overloaded")),
    Sign(kind=K.OVERLOADED, statuses=_ANY_5XX, words=("overloaded", "server is busy", "too busy", "busy, please")),
    Sign(kind=K.OVERLOADED, statuses=_on(503), words=("busy",)),
    # a server that is still reading its model: llama.cpp by both, Ollama and Hugging Face by the words
    Sign(kind=K.OVERLOADED, statuses=_on(503), names=_named("unavailable_error")),
    Sign(kind=K.OVERLOADED, statuses=_on(503), words=("loading model", "currently loading")),
    Sign(kind=K.THROTTLE, statuses=_on(503), names=_named("slow_down")),
    Sign(kind=K.SERVER_ERROR, statuses=frozenset(range(500, 600))),
    # no status at all: only what the error calls itself is left (PROTOCOL 5.3, 5.4)
    Sign(kind=K.AUTH, names=_named("authentication_error", "invalid_api_key")),
    Sign(kind=K.BILLING, names=_named("billing_error")),
    Sign(kind=K.FORBIDDEN_MODEL, names=_named("permission_error", "permission_denied_error")),
    Sign(kind=K.MODEL_NOT_FOUND, names=_named("not_found_error")),
    Sign(kind=K.THROTTLE, names=_named("rate_limit_error", "rate_limit_exceeded", "slow_down")),
    Sign(kind=K.BAD_REQUEST, names=_named("invalid_request_error", "request_too_large", "invalid_parameter_error")),
)

SIGNS: Final[dict[Family, tuple[Sign, ...]]] = {
    "modelscope": _MODELSCOPE + _SHARED,
    "simulator": _MODELSCOPE + _ANTHROPIC + _SHARED,
    "openai": _OPENAI + _SHARED,
    "anthropic": _ANTHROPIC + _SHARED,
}

FAMILIES: Final[dict[PresetName, Family]] = {
    "modelscope": "modelscope",
    "modelscope-anthropic": "modelscope",
    "openai": "openai",
    "anthropic": "anthropic",
    "simulator": "simulator",
}

_ADAPTATIONS: Final[tuple[tuple[tuple[str, ...], Adaptation], ...]] = (
    (("enable thinking can not be support when", "stream=false"), "stream"),
    (("enable_thinking", "must be set to false for non-streaming"), "stream"),
    (("enable_thinking", "restricted to true"), "no_thinking_switch"),
    (("stream_options",), "no_stream_options"),
)
"""All the words of a row, and what to change (PROTOCOL 3.4, 3.6)."""

_ADAPTABLE: Final = _on(400, 422, None)


def family_of(provider: Provider) -> Family:
    """Whose words a provider's refusals are; a `base_url` of one's own keeps the preset's family.

    The simulator has ModelScope's quotas and throttles in every dialect, and Anthropic's bills.
    """
    return FAMILIES[provider.preset]


def classify(
    family: Family, *, status: int | None, message: str, code: str | None, error_type: str | None, hints: Hints | None
) -> ProblemKind:
    """The kind of a refusal. `status` is None for an error inside a 200: unless it names itself, the server failed."""
    text = _plain(message)
    if status in _ADAPTABLE and adaptation_of(message) is not None:
        return K.ADAPTABLE
    names = {name.lower() for name in (code, error_type) if name}
    for sign in SIGNS[family]:
        if _holds(sign, status=status, text=text, names=names, hints=hints):
            return sign.kind
    return K.SERVER_ERROR


def adaptation_of(message: str) -> Adaptation | None:
    """What a server asks to be changed before it takes the request, if that is what its message says."""
    text = _plain(message)
    for words, adaptation in _ADAPTATIONS:
        if all(word in text for word in words):
            return adaptation
    return None


def _holds(sign: Sign, *, status: int | None, text: str, names: set[str], hints: Hints | None) -> bool:
    return (
        (not sign.statuses or status in sign.statuses)
        and (not sign.words or any(word in text for word in sign.words))
        and (not sign.also or any(word in text for word in sign.also))
        and (not sign.names or not sign.names.isdisjoint(names))
        and (sign.spent is None or _spent(sign.spent, hints))
    )


def _spent(what: Literal["model", "account"], hints: Hints | None) -> bool:
    if hints is None:
        return False
    match what:
        case "model":
            return hints.model_remaining == 0
        case "account":
            return hints.account_remaining == 0


def _plain(message: str) -> str:
    return message.lower().replace("’", "'").replace("`", "")
