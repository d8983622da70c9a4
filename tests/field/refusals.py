"""What servers and machines on the way say when they refuse: replies as they were reported, and what is right.

Bodies are written for this table after public reports (`reference`); nothing is copied but the words that have to be
recognised.
"""

from dataclasses import replace
from typing import Any, Final

from tests.field.runs import Case
from tests.field.server import HELLO, Asked, Script, delta, http, json_reply, sse, to_requests

TWELVE: Final = {"prompts": [f"p{number}" for number in range(12)], "limits": {"concurrency": 1}}
THREE: Final = {"prompts": ["p0", "p1", "p2"], "limits": {"concurrency": 1}}
MANY: Final = {"prompts": [f"p{number}" for number in range(40)]}


def error(message: str, status: int, /, **more: object) -> bytes:
    """The usual shape: `error` with a message."""
    return json_reply({"error": {"message": message, **more}}, status=status)


def page(title: str, status: int, /, **headers: str) -> bytes:
    """A web page."""
    text = f"<!DOCTYPE html>\n<html>\n<head><title>{title}</title></head>\n<body><h1>{title}</h1></body>\n</html>\n"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http(text, status=status, kind="text/html", headers=named)


def _of_one_item(name: str, reply: bytes, reference: str, kind: str = "content_filter") -> Case:
    """It goes to the sixth, seventh and eighth of twelve items: three fail as what they are, nine are done."""
    return Case(
        name=name,
        reply=reply,
        script=to_requests(reply, 6, 7, 8, others=HELLO),
        job=TWELVE,
        requests=12,
        exit_status=1,
        done=9,
        failed=3,
        failure={"error.class": kind},
        reference=reference,
    )


def _on_the_way(name: str, reply: bytes, reference: str) -> tuple[Case, Case]:
    """Before any answer the job is wrong; after some it is an outage, and no item pays for it."""
    first = Case(
        name=f"{name}, at once", reply=reply, job=THREE, requests=3, exit_status=2, done=0, reference=reference
    )
    later = Case(
        name=f"{name}, later",
        reply=reply,
        script=to_requests(reply, 6, 7, 8, others=HELLO),
        job=TWELVE,
        requests=15,
        done=12,
        reference=reference,
    )
    return first, later


def _no_model(name: str, reply: bytes, reference: str) -> Case:
    return Case(
        name=name,
        reply=reply,
        job=THREE,
        requests=2,
        exit_status=1,
        done=0,
        failed=3,
        failure={"error.class": "model_not_found"},
        reference=reference,
    )


def _passes(name: str, reply: bytes, reference: str, **changes: Any) -> Case:
    case = Case(name=name, reply=reply, times=1, requests=2, text="hello world", reference=reference)
    return replace(case, **changes)


def limit(name: str, reply: bytes, reference: str, **changes: Any) -> Case:
    """A refusal that says nothing of the item: no try is charged, nothing counts as perhaps paid."""
    return _passes(name, reply, reference, row={"attempts": 1, "ambiguous": 0}, **changes)


def _unless_streamed(refusal: bytes) -> Script:
    def answer(asked: Asked) -> bytes:
        return refusal if asked.json["stream"] is True else HELLO

    return answer


def _unstreamed(name: str, reply: bytes, reference: str) -> Case:
    """The second and the third item are sent without a stream at once."""
    return Case(
        name=name, reply=reply, script=_unless_streamed(reply), job=THREE, requests=4, done=3, reference=reference
    )


def _inside_200(name: str, reply: bytes, reference: str) -> Case:
    job = {"retry": {"attempts": 2}}
    return limit(name, reply, reference, times=2, requests=3, job=job)


def _broken_for_all(name: str, reply: bytes, reference: str) -> Case:
    """Nothing ever comes through: the lane closes with the words, and no item has failed."""
    return Case(name=name, reply=reply, job=MANY, requests=None, exit_status=3, done=0, reference=reference)


def wrapped(code: int, words: str) -> bytes:
    """As MiniMax refuses: a 200 with counts of nothing and `base_resp`."""
    told = {"status_code": code, "status_msg": words}
    return json_reply({"id": "r1", "choices": None, "usage": {"total_tokens": 0}, "base_resp": told})


def tencent(code: str, words: str) -> bytes:
    return json_reply({"Response": {"Error": {"Code": code, "Message": words}, "RequestId": "r1"}})


ONE_ITEM: Final = (
    _of_one_item("MiniMax's filter, in a 200", wrapped(1026, "input new_sensitive"), "platform.minimaxi.com: errors"),
    _of_one_item("MiniMax's filter of answers", wrapped(1027, "output new_sensitive"), "platform.minimaxi.com: errors"),
    _of_one_item(
        "Gemini's feedback, in a 200",
        json_reply({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"totalTokenCount": 9}}),
        "ai.google.dev/api/generate-content",
    ),
    _of_one_item(
        "a guardrail",
        json_reply(
            {"message": "The content was blocked by guardrail policy", "__type": "ValidationException"}, status=400
        ),
        "docs.aws.amazon.com/bedrock: guardrails",
    ),
    _of_one_item(
        "SiliconFlow's 451",
        json_reply({"code": 20015, "message": "content risk", "data": None}, status=451),
        "docs.siliconflow.cn",
    ),
    _of_one_item(
        "moderation of a router",
        error("m requires moderation. Your input was flagged.", 403, code=403, metadata={"reasons": ["violence"]}),
        "openrouter.ai/docs/api-reference/errors",
    ),
    _of_one_item(
        "usage guidelines",
        json_reply(
            {
                "code": "The caller does not have permission to execute the specified operation",
                "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
            },
            status=403,
        ),
        "github.com/UKGovernmentBEIS/inspect_ai/pull/2267",
    ),
    _of_one_item(
        "content management policy",
        error(
            "The response was filtered due to the prompt triggering the content management policy.",
            400,
            code="content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
        "learn.microsoft.com/azure/ai-services/openai/concepts/content-filter",
    ),
    _of_one_item("content exists risk", error("Content Exists Risk", 400), "github.com/deepseek-ai/DeepSeek-V3"),
    _of_one_item(
        "considered high risk",
        error("The request was rejected because it was considered high risk", 400, type="content_filter"),
        "platform.moonshot.cn/docs/api/chat",
    ),
    _of_one_item(
        "no picture at this endpoint",
        error("No endpoints found that support image input", 404, code=404),
        "OpenRouter, for models without pictures",
        kind="bad_request",
    ),
    _of_one_item("forbidden for one", error("not for you", 403), "any API key with rules", kind="forbidden_model"),
    _of_one_item("unknown model for one", error("model not found", 404), "any router", kind="model_not_found"),
    _of_one_item("JSON 404 for one", error("no such conversation", 404), "any API with resources", kind="no_such_path"),
)

ON_THE_WAY: Final = (
    *_on_the_way(
        "a captive portal",
        http('<script>location="http://portal.example/login"</script>', kind="text/html"),
        "hotel and campus networks",
    ),
    *_on_the_way(
        "a captive portal that refreshes",
        http('<meta http-equiv="refresh" content="0;url=http://portal.example/">', kind="text/html"),
        "hotel and campus networks",
    ),
    *_on_the_way(
        "a captive portal that says so",
        page("Network Authentication Required", 511),
        "RFC 6585: Network Authentication",
    ),
    *_on_the_way("nginx 403", page("403 Forbidden", 403), "nginx.org: deny"),
    *_on_the_way("nginx 404", page("404 Not Found", 404), "nginx.org: no location"),
    *_on_the_way("nginx 405", page("405 Not Allowed", 405), "nginx.org: static location"),
    *_on_the_way("a login", http(status=302, headers={"Location": "https://login.example/?next=/v1"}), "any SSO proxy"),
    *_on_the_way("a moved API", http(status=308, headers={"Location": "/v2/chat"}), "any API behind a rewrite"),
    *_on_the_way(
        "Cloudflare, just a moment", page("Just a moment...", 403), "github.com/anthropics/claude-code/issues/30437"
    ),
    *_on_the_way(
        "Cloudflare, access denied",
        page("Access denied | api.example used Cloudflare to restrict access", 403),
        "github.com/JohnnyZ93/oai-compatible-copilot/issues/287",
    ),
    *_on_the_way("Cloudflare, a bare code", http("error code: 1010", status=403, kind="text/plain"), "cloudflare 1010"),
    *_on_the_way("squid", page("ERROR: The requested URL could not be retrieved", 403), "squid-cache.org"),
    *_on_the_way("a proxy's password", page("Proxy Authentication Required", 407), "squid-cache.org"),
    *_on_the_way("Envoy without words", http(status=404, kind=None), "envoyproxy.io: no route"),
    *_on_the_way("Istio", http("RBAC: access denied", status=403, kind="text/plain"), "istio.io: authorization"),
    *_on_the_way("Traefik", http("404 page not found\n", status=404, kind="text/plain"), "traefik.io: no router"),
    *_on_the_way(
        "Kong", json_reply({"message": "no Route matched with those values"}, status=404), "docs.konghq.com: no route"
    ),
    *_on_the_way("FastAPI", json_reply({"detail": "Not Found"}, status=404), "github.com/fastapi/fastapi"),
    *_on_the_way(
        "FastAPI, 405", json_reply({"detail": "Method Not Allowed"}, status=405), "github.com/fastapi/fastapi"
    ),
    *_on_the_way("a web application's page", page("My Chat UI", 200), "a base_url without /v1"),
    *_on_the_way(
        "LM Studio, 200 for any path",
        json_reply({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
        "github.com/lmstudio-ai/lmstudio-bug-tracker/issues/618",
    ),
    *_on_the_way(
        "AWS's gateway, no such path",
        json_reply({"message": "Missing Authentication Token"}, status=403),
        "repost.aws/knowledge-center/api-gateway-authentication-token-errors",
    ),
)

NO_MODEL: Final = (
    _no_model(
        "litellm",
        error(
            "/chat/completions: Invalid model name passed in model=m. Call `/v1/models` to view models.",
            400,
            code="400",
        ),
        "github.com/BerriAI/litellm/issues/9663",
    ),
    _no_model(
        "litellm, older",
        json_reply({"detail": {"error": "Invalid model name passed in"}}, status=400),
        "github.com/BerriAI/litellm/issues/2398",
    ),
    _no_model(
        "LM Studio",
        error('Invalid model identifier "m". Please specify a valid downloaded model.', 400, code="model_not_found"),
        "github.com/assafelovic/gpt-researcher/issues/1556",
    ),
    _no_model("a router", error("m is not a valid model ID", 400), "github.com/continuedev/continue/issues/10322"),
    _no_model(
        "Bedrock",
        json_reply({"message": "The provided model identifier is invalid."}, status=400),
        "github.com/earendil-works/pi/issues/4993",
    ),
    _no_model(
        "transformers serve",
        json_reply(
            {"detail": "m is not a local folder and is not a valid model identifier listed on the hub"}, status=400
        ),
        "github.com/huggingface/transformers",
    ),
    _no_model(
        "a reason beside the words",
        json_reply({"message": "Invalid model. Please select another.", "reason": "INVALID_MODEL_ID"}, status=400),
        "github.com/decolua/9router/issues/1187",
    ),
    _no_model(
        "vLLM", error("The model `m` does not exist.", 404, type="NotFoundError"), "github.com/vllm-project/vllm"
    ),
    _no_model("Ollama", error('model "m" not found, try pulling it first', 404), "github.com/ollama/ollama"),
    _no_model("DeepSeek", error("Model Not Exist", 400), "api-docs.deepseek.com"),
    _no_model(
        "SiliconFlow",
        json_reply({"code": 20012, "message": "Model does not exist. Please check it carefully."}, status=400),
        "docs.siliconflow.cn",
    ),
    _no_model("Zhipu", error("模型不存在，请检查模型代码。", 400, code="1211"), "docs.bigmodel.cn"),
    _no_model("Mistral", error("Invalid model: m", 400, type="invalid_model"), "docs.mistral.ai"),
    _no_model(
        "Azure",
        error("The API deployment for this resource does not exist.", 404, code="DeploymentNotFound"),
        "learn.microsoft.com",
    ),
    _no_model("no endpoints for it", error("No endpoints found for m.", 404, code=404), "openrouter.ai/docs"),
)

PASSING: Final = (
    *(
        _passes(f"{status}", json_reply({"error": {"message": "interrupted"}}, status=status), "gateways and CDNs")
        for status in (408, 409, 423, 424, 425, 444, 460, 499, 500, 502, 504, *range(520, 529), 530)
    ),
    limit("498, no room in the tier", error("capacity exceeded", 498), "console.groq.com/docs/errors"),
    limit("529", error("Overloaded", 529, type="overloaded_error"), "docs.anthropic.com: errors"),
    _passes(
        "TGI's 424",
        json_reply(
            {"error": "Request failed during generation: out of memory", "error_type": "generation"}, status=424
        ),
        "github.com/huggingface/text-generation-inference",
    ),
    _passes(
        "Groq, a tool call that failed",
        error("Failed to call a function. Please adjust your prompt.", 400, code="tool_use_failed"),
        "github.com/lucagrippa/obsidian-ai-tagger/issues/34",
    ),
    _passes(
        "Groq, JSON that failed",
        error("Failed to generate JSON. Please adjust your prompt.", 400, code="json_validate_failed"),
        "github.com/thepersonalaicompany/amurex-backend/issues/38",
    ),
    _passes(
        "LM Studio, a crash",
        json_reply({"error": "The model has crashed without additional information. (Exit code: 1)"}, status=400),
        "github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1057",
    ),
    limit(
        "Bedrock's throttle with 400",
        json_reply({"message": "Too many requests, please wait.", "__type": "ThrottlingException"}, status=400),
        "docs.aws.amazon.com/bedrock: troubleshooting",
    ),
    limit(
        "Bedrock's throttle by its header",
        json_reply({"message": "try later"}, status=400, headers={"x-amzn-ErrorType": "ThrottlingException:http://x"}),
        "docs.aws.amazon.com/bedrock: troubleshooting",
    ),
    limit("throttled with 403", error("Rate limit exceeded for this key", 403), "gateways"),
    limit(
        "throttled with 500",
        error("litellm.RateLimitError", 500, code="rate_limit_exceeded"),
        "github.com/BerriAI/litellm",
    ),
    limit("nginx's bare 503", page("503 Service Temporarily Unavailable", 503), "nginx.org: limit_req"),
    limit("503 without a body", http(status=503, kind=None), "HAProxy, Envoy"),
    limit("a 503 of any words", error("no healthy upstream", 503), "envoyproxy.io"),
    limit(
        "a wait that speaks of billing",
        json_reply(
            [
                {
                    "error": {
                        "code": 429,
                        "message": "You exceeded your current quota, please check your plan and billing details.",
                        "status": "RESOURCE_EXHAUSTED",
                        "details": [
                            {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},
                            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "4s"},
                        ],
                    }
                }
            ],
            status=429,
        ),
        "github.com/google-gemini/gemini-cli/issues/8437",
        not_before_s=4.0,
    ),
)

INSIDE_200: Final = (
    _inside_200("MiniMax's requests", wrapped(1002, "rate limit"), "platform.minimaxi.com: errors"),
    _inside_200("MiniMax's tokens", wrapped(1039, "token limit"), "platform.minimaxi.com: errors"),
    _inside_200(
        "MiniMax in a stream",
        sse({"id": "r1", "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, done=False),
        "platform.minimaxi.com: errors",
    ),
    _inside_200(
        "Qianfan's rate",
        json_reply({"error_code": 18, "error_msg": "Open api qps request limit reached"}),
        "cloud.baidu.com/doc/WENXINWORKSHOP",
    ),
    _inside_200("Tencent's rate", tencent("RequestLimitExceeded", "too fast"), "cloud.tencent.com/document/api"),
    _inside_200("a 429 in a whole reply", error("Rate limit exceeded", 200, code=429), "openrouter.ai/docs"),
    _inside_200(
        "a 429 in a stream", sse({"error": {"message": "Rate limit exceeded", "code": 429}}), "openrouter.ai/docs"
    ),
    _inside_200(
        "a 429 after an empty delta",
        sse(delta(role="assistant", content=""), {"error": {"message": "Too many requests", "code": 429}}),
        "openrouter.ai/docs",
    ),
    _inside_200("a 503 in a whole reply", error("no capacity", 200, code=503), "openrouter.ai/docs"),
    _inside_200(
        "overloaded in a stream", sse({"error": {"type": "overloaded_error", "message": "o"}}), "docs.anthropic.com"
    ),
)

UNSTREAMED: Final = (
    _unstreamed(
        "an organisation that is not verified",
        error(
            "Your organization must be verified to stream this model.", 400, param="stream", code="unsupported_value"
        ),
        "github.com/charmbracelet/crush/issues/422",
    ),
    _unstreamed("by the parameter alone", error("Unsupported value", 400, param="stream"), "platform.openai.com"),
    _unstreamed("not supported", error("Streaming is not supported for this model.", 400), "gateways"),
    _unstreamed("422", json_reply({"detail": "this model does not support streaming"}, status=422), "gateways"),
)

BROKEN_FOR_ALL: Final = (
    _broken_for_all(
        "llama.cpp without a projector",
        error("image input is not supported - hint: you may need to provide the mmproj", 500, type="server_error"),
        "github.com/ggml-org/llama.cpp/issues/15377",
    ),
    _broken_for_all(
        "llama.cpp, a URL", error("failed to load image: cannot make GET request", 500), "github.com/ggml-org/llama.cpp"
    ),
    _broken_for_all("a bad parameter", error("Unsupported parameter: top_kk", 500), "servers that answer 500 to it"),
    _broken_for_all("not implemented", error("chat is not implemented", 501), "servers with half an API"),
)

REFUSALS: Final = (
    *ONE_ITEM,
    *ON_THE_WAY,
    *NO_MODEL,
    *PASSING,
    *INSIDE_200,
    *UNSTREAMED,
    *BROKEN_FOR_ALL,
)
