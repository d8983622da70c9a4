"""What servers say of an account that is not paid, whatever the status: exit 5, and nothing failed."""

from typing import Final

from tests.field.refusals import THREE, error, tencent, wrapped
from tests.field.runs import Case
from tests.field.server import json_reply


def _unpaid(name: str, reply: bytes, reference: str) -> Case:
    return Case(name=name, reply=reply, job=THREE, requests=1, exit_status=5, done=0, reference=reference)


UNPAID: Final = (
    _unpaid("MiniMax in a 200", wrapped(1008, "insufficient balance"), "platform.minimaxi.com: errors"),
    _unpaid("MiniMax without words", wrapped(1008, ""), "platform.minimaxi.com: errors"),
    _unpaid(
        "Tencent in a 200",
        tencent("FailedOperation.ResourcePackExhausted", "资源包已用尽"),
        "cloud.tencent.com/document/product/1729",
    ),
    _unpaid(
        "Gemini without billing",
        error("This API method requires billing to be enabled.", 403, code=403, status="PERMISSION_DENIED"),
        "ai.google.dev/gemini-api/docs/troubleshooting",
    ),
    _unpaid(
        "Anthropic's monthly limit through a gateway",
        error("You have reached your specified API usage limits.", 400, type="invalid_request_error"),
        "docs.anthropic.com: errors",
    ),
    _unpaid(
        "LiteLLM's budget with 429",
        error("ExceededBudget: Crossed spend within budget", 429, type="budget_exceeded", code="429"),
        "docs.litellm.ai/docs/proxy/users",
    ),
    _unpaid(
        "LiteLLM's budget with 400",
        error(
            "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", 400, type="budget_exceeded", code="400"
        ),
        "docs.litellm.ai/docs/proxy/users",
    ),
    _unpaid(
        "Groq's spend limit",
        error("API calls are blocked by a spend alert of the organization", 400, code="blocked_api_access"),
        "console.groq.com/docs/spend-limits",
    ),
    _unpaid(
        "Groq's restricted organization",
        error("Organization has been restricted. Please reach out to support.", 400, code="organization_restricted"),
        "community.groq.com",
    ),
    _unpaid(
        "a payment instrument",
        json_reply({"message": "INVALID_PAYMENT_INSTRUMENT", "__type": "AccessDeniedException"}, status=403),
        "repost.aws: Bedrock marketplace",
    ),
    _unpaid(
        "new-api's quota",
        error("user quota is not enough", 403, type="new_api_error", code="insufficient_user_quota"),
        "github.com/songquanpeng/one-api/issues/1270",
    ),
    _unpaid(
        "one-api's reserved quota",
        error("user [1] quota [-5] preConsumedQuota [743] is not enough", 403),
        "github.com/songquanpeng/one-api/issues/1846",
    ),
    _unpaid(
        "new-api in Chinese",
        error("预扣费额度失败, 用户剩余额度不足", 403, code="pre_consume_token_quota_failed"),
        "github.com/QuantumNous/new-api/issues/7448",
    ),
    _unpaid("a key's limit", error("Key limit exceeded (total limit).", 403, code=403), "openrouter.ai/docs"),
    _unpaid(
        "arrears",
        error("Access denied, please make sure your account is in good standing.", 400, code="Arrearage"),
        "help.aliyun.com/zh/model-studio/error-code",
    ),
    _unpaid(
        "low credit",
        json_reply(
            {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low."}},
            status=400,
        ),
        "docs.anthropic.com: errors",
    ),
    _unpaid(
        "Zhipu with 429",
        error("余额不足或无可用资源包,请充值。", 429, code="1113"),
        "github.com/agentscope-ai/QwenPaw/issues/202",
    ),
    _unpaid(
        "Zhipu with 429, in English",
        error("Insufficient balance or no resource package. Please recharge.", 429, code="1113"),
        "github.com/zai-org/GLM-5/issues/148",
    ),
    _unpaid(
        "SiliconFlow's paid balance",
        json_reply(
            {"code": 30011, "message": "Your paid balance is insufficient. Please top up.", "data": None}, status=403
        ),
        "github.com/FoundationAgents/OpenManus/issues/438",
    ),
    _unpaid(
        "xAI without credits",
        json_reply(
            {"code": "no permission", "error": "Your team doesn't have any credits or licenses yet."}, status=403
        ),
        "github.com/pajeronda/xai_conversation/issues/7",
    ),
    _unpaid("402", error("Insufficient Balance", 402), "api-docs.deepseek.com/quick_start/error_codes"),
    _unpaid(
        "Moonshot with 429",
        error("Your account is suspended, please check your plan", 429, type="exceeded_current_quota_error"),
        "platform.moonshot.cn/docs/api/chat",
    ),
    _unpaid(
        "OpenAI with 429",
        error(
            "You exceeded your current quota, please check your plan and billing details.",
            429,
            code="insufficient_quota",
        ),
        "github.com/dev-hato/hato-bot/pull/4552",
    ),
    _unpaid("unpaid inside a 200", error("Insufficient credits", 200, code=402), "openrouter.ai/docs"),
    _unpaid("unpaid with 500", error("insufficient account balance", 500), "gateways that wrap every error"),
)
