"""One row of the tables by which refusals are known, and how its conditions are written."""

from typing import Final, Literal

from batchrunner.core.outcome import ProblemKind
from batchrunner.core.values import dataclass

Family = Literal["modelscope", "openai", "anthropic", "simulator"]
Form = Literal["json", "text", "page", "nothing"]
"""What the body of a refusal is: the API's JSON, plain text, a web page, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A row. Empty conditions hold for everything; words are lower case and looked for anywhere in the message."""

    kind: ProblemKind
    statuses: frozenset[int | None] = frozenset()
    """HTTP statuses; None stands for an error that came without one, inside a stream or a 200."""
    words: tuple[str, ...] = ()
    """One of these is in the message."""
    exact: frozenset[str] = frozenset()
    """The whole message is one of these."""
    also: tuple[str, ...] = ()
    """And one of these."""
    names: frozenset[str] = frozenset()
    """The error's code or type is one of these."""
    spent: Literal["model", "account"] | None = None
    """The headers say that nothing is left today."""
    forms: frozenset[Form] = frozenset()
    """The body is one of these."""
    waits: bool = False
    """The reply says when to come back."""


def on(*statuses: int | None) -> frozenset[int | None]:
    """These statuses."""
    return frozenset(statuses)


def named(*names: str) -> frozenset[str]:
    """These codes or types, in lower case."""
    return frozenset(names)


ANY_4XX: Final = frozenset[int | None]({*range(400, 500), None})
ANY_5XX: Final = frozenset[int | None]({*range(500, 600), None})
ANY: Final = ANY_4XX | ANY_5XX


# What is said of an account's money, and of quotas that come back by themselves: see `signs`.

K = ProblemKind

QUOTA_WITH_WINDOW: Final = Sign(
    kind=K.THROTTLE,
    statuses=on(403, 429, None),
    words=("quota", "limit", "credit", "billing", "too many"),
    waits=True,
)
"""Whatever it says of plans and bills: a refusal that names the moment at which it ends is a wait."""

QUOTA_OF_A_WINDOW: Final = Sign(
    kind=K.THROTTLE,
    statuses=on(403, 429, None),
    words=("quota", "rate limit"),
    also=("perminute", "per minute", "perhour", "per hour", "perday", "per day", "per_minute", "per_day"),
)
"""The name of the quota shows that it comes back by itself."""

UNPAID: Final = (
    # by name
    Sign(
        kind=K.BILLING,
        names=named(
            "1113",  # Zhipu: no balance, said with a 429
            "30001",  # SiliconFlow: balance, said with a 403
            "arrearage",
            "accountoverdueerror",
            "blocked_api_access",  # Groq: the organization's own spend limit
            "budget_exceeded",  # LiteLLM
            "credit_limit",  # Together
            "billing_error",
            "billing_not_active",
            "exceeded_current_quota_error",
            "failedoperation.resourcepackexhausted",  # Tencent
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_funds",
            "insufficient_user_quota",
            "no_credits",
            "out_of_credits",
            "payment_required",
            "pre_consume_token_quota_failed",
            "user_quota_exhausted",
            *("1309", "11200"),  # the plans of Zhipu and of Spark have ended
        ),
    ),
    QUOTA_WITH_WINDOW,
    # by words
    Sign(
        kind=K.BILLING,
        statuses=ANY,
        words=(
            "base_resp 1008",  # MiniMax
            *("spark 11200", "qianfan 19", "appidnoautherror"),  # no rights, or no calls, are left
            "total request limit reached",
            "account is in arrears",
            "account overdue",
            "credit limit exceeded",
            "reached your credit limit",
            "free trial quota",
            "inactive subscription",
            "inarrears",
            "chargeresourceexhaust",
            *("api usage limits", "exhausted its usage limit"),
            "billing to be enabled",
            "budget has been exceeded",
            "crossed spend within budget",
            "invalid_payment_instrument",
            "out of balance",
            "subscription suspended",
            "account is overdue",
            "overdue balance",
            "overdue payment",
            "is in good standing",
            "balance is insufficient",
            "balance is too low",
            "insufficient balance",
            "insufficient account balance",
            "insufficient credit",
            "insufficient funds",
            "not enough balance",
            "not enough credit",
            "credits are depleted",
            "credits have been depleted",
            "credits exhausted",
            "out of credit",
            "run out of credit",
            "ran out of credit",
            "used all available credits",
            "any credits or licenses",
            "no remaining credits",
            "add more credits",
            "add credits",
            "purchase credits",
            "purchase more credits",
            "quota is not enough",
            "preconsumedquota",
            "key limit exceeded",
            "monthly included credits",
            "spending limit",
            "spend limit",
            "billing hard limit",
            "plan and billing details",
            "payment required",
            "payment method",
            "unpaid invoice",
            "please recharge",
            "recharge your account",
            "top up your",
            "use free tier only",
            "余额不足",
            "欠费",
            "续费",
            "余量已用尽",
            "后付费",
            "充值",
            "额度不足",
            "额度已用尽",
            "额度已用完",
            "额度用尽",
            "资源包已用尽",
        ),
    ),
)
"""Unpaid is unpaid, whatever the status."""
