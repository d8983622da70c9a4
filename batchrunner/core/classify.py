"""What a refusal means, by the tables of `signs`. Reads plain values; opens, decodes and decides nothing."""

import re
from typing import Final, Literal

from batchrunner.core.error_policy import POLICY
from batchrunner.core.job import PresetName, Provider
from batchrunner.core.outcome import Adaptation, Hints, ProblemKind
from batchrunner.core.sign import Family, Form, Sign
from batchrunner.core.signs import SIGNS
from batchrunner.core.text import late_pattern

# Why an accepted task failed, as a kind of problem: judged by its words like a submit that is refused with them.
#
# A failed task has no status of its own, so words decide: the family's table first, then what picture services say
# about
# filters, parameters and load. What the machine behind it suffers (memory, CUDA, workers) is no fault of the item and
# stays `task_failed`, which is tried again.

K = ProblemKind

_FILTERED: Final = late_pattern(
    r"nsfw|content[ _]?(policy|filter|moderat|safety|violat|security)|net check failed|inappropriate|moderat|safety"
    r"|(?<!case.)sensitive|policy violation|violat\w* (of )?(our|the|usage|content)|prohibited|explicit content|harmful"
    r"|data_?inspection|risk control|illegal content|unsafe|blocked by|porn|nudity|copyright|risk not pass"
    r"|(prompt|input|output|content|image)s?[ _-]?(was |is |been |has been )?(blocked|flagged)"
    r"|(forbidden|banned|blocked|illegal|offensive) (words?|terms?|phrases?|keywords?|prompts?)\b"
    r"|(content|prompt|image|input|output)[^.;]{0,40}(not|n.t) comply|responsible ai|(community|content) guidelines"
    r"|(contain|depict|show|include)\w* (a |an |the )?(real (person|people)|minors?\b|celebrit|public figure)"
    r"|违规|敏感|审核|不合规|风控|涉黄|涉政|安全检查|违禁|违法|不良(信息|内容)|违反.{0,8}(规|法|政策|协议|条款|准则)"
    r"|ポリシーに?違反|不適切|センシティブ|정책.{0,4}위반|부적절|richtlinien|inappropri[ée]|inapropiad|inadequad|неприемлем",
    re.IGNORECASE,
)
_FILTER_BROKE: Final = late_pattern(
    r"(moderation|safety|filter|audit|inspection)( check\w*| service| system| model| api)* (is )?"
    r"(unavailable|not available|timed? ?out|timeout|crashed|error|failed to (load|start|respond|connect))",
    re.IGNORECASE,
)
_MACHINE: Final = late_pattern(
    r"cuda|cublas|cudnn|nccl|\bnpu\b|out of memory|\boom\b|illegal memory|device-side|segmentation fault|traceback"
    r"|broken pipe|connection (reset|refused|closed|aborted)|no space left|worker (died|lost|crashed|exited)"
    r"|internal (server )?error|invalid (memory|device|pointer)|index out of (range|bounds)|内部错误|显存",
    re.IGNORECASE,
)
_UNPAID: Final = late_pattern(
    r"arrear|overdue|\bunpaid\b|payment required|insufficient (funds|credits?)|(out of|not enough|no) credits?\b"
    r"|credits? (is |are |was |were |(has|have) been )?(exhausted|used up)|billing (hard limit|not active)"
    r"|account.{0,20}(suspended|disabled)|欠费|账户已停用",
    re.IGNORECASE,
)
_LIMITED: Final = late_pattern(
    r"too many (requests|calls|tasks|jobs|concurrent)|rate[ _]?limit|throttl|concurren\w+ (limit|exceed)|limit_burst"
    r"|quota|(daily|hourly|weekly|monthly|usage) limit|\bqps\b|slow down|flow control|magic ?cube"
    r"|(maximum|max) (number of )?(concurrent|simultaneous)"
    r"|(points|积分|次数) ?(not enough|不足|不够|用完|用尽|已达上限)"
    r"|频繁|限流|流控|并发|额度",
    re.IGNORECASE,
)
_TOO_MANY_THINGS: Final = late_pattern(
    r"too many (?!requests|calls|tasks|jobs|concurrent|(running|pending|queued|active) (requests|tasks|jobs))",
    re.IGNORECASE,
)
_BUSY: Final = late_pattern(
    r"overloaded|server is busy|too busy|queue is full|(at|no|insufficient) capacity|no available (worker|gpu|resource)"
    r"|resources? (is |are )?(exhausted|insufficient)|service unavailable|temporarily unavailable|capacity limit"
    r"|queue (is |was )?(full|timeout|timed out)|no (free|idle) (worker|gpu|resource|node)|繁忙|资源(不足|紧张)",
    re.IGNORECASE,
)
_MODEL: Final = late_pattern(
    r"(model|模型)[^.;]{0,80}(not (found|exist|available|supported)|does(n't| not) exist|no longer|offline|不存在|下线)"
    r"|\bmodel\b[^.;]{0,80}(not online|(is|was|been) (deprecated|retired|decommissioned|discontinued|disabled))"
    r"|no such model|unknown model|unsupported model",
    re.IGNORECASE,
)
_OTHER_PARTS: Final = late_pattern(r"lora|checkpoint|scheduler|sampler|size|parameter|controlnet|vae", re.IGNORECASE)
_MEDIA: Final = late_pattern(
    r"(unable|failed|could ?n.t|cannot|timeout|timed out|error).{0,20}(download|fetch|load\w*).{0,40}"
    r"(image|media|file|url|picture|content)"
    r"|(image|media|file|url|picture)\w* (could ?n.t|could not|cannot|can not) be (download|fetch|load|retriev)\w*"
    r"|(image|media|file|url|picture)\w* (is |was )?(not accessible|inaccessible|not reachable|unreachable)"
    r"|download\w* (the )?(image|media|file|url|picture|content)[^.;]{0,40}(timed? ?out|timeout|fail)"
    r"|下载.{0,6}(失败|超时)|无法(下载|访问)",
    re.IGNORECASE,
)
_REFUSED: Final = late_pattern(
    r"\binvalid|\bunsupported|not (be )?(supported|compatible|valid|allowed|permitted)|incompatible"
    r"|does(n't| not) (support|exist)|\bmust (be|have|not|contain)|should be (in|between|a|an|less|greater)"
    r"|out of range|not in (the )?range|exceeds|exceed the (max|limit)|too (long|large|small|short|big|many|low|high)"
    r"|should be (<|>|=|at (least|most))|(divisible|multiples?) (by|of)|expected \d+ channels?|cannot identify image"
    r"|malformed|bad request|validation error|cannot be (empty|blank|null)"
    r"|(is|are) (required|missing)|missing (required|param|argument|field)|unknown (param|lora|argument|field|size)"
    r"|unrecogni[sz]ed|(lora|checkpoint|scheduler|sampler)[^.;]{0,60}not found|unprocessable"
    r"|不支持|参数错误|无效|非法|不合法|超出|不能为空|过长",
    re.IGNORECASE,
)
_REFUSING_STATUSES: Final = frozenset({400, 402, 403, 413, 422, 429, 503, 529})
"""Statuses in a failure's code that say more than unknown words."""


def failed_task_kind(
    family: Family,
    *,
    message: str,
    code: str | None,
    error_type: str | None,
    status: int | None,
    hints: Hints | None = None,
) -> ProblemKind:
    """The kind of a task's failure. `status` is the one inside the reply, if there is any; `hints` are of the poll."""
    text = f"{message} {code or ''} {error_type or ''}"
    if _FILTERED.search(text) and not _FILTER_BROKE.search(text):
        return K.CONTENT_FILTER
    kind = classify(family, status=None, message=message, code=code, error_type=error_type, hints=hints)
    if not POLICY[kind].vague and not (kind is K.THROTTLE and _TOO_MANY_THINGS.search(text)):
        return kind
    for pattern, meant in (
        (_UNPAID, K.BILLING),
        (_LIMITED, classify(family, status=429, message=message, code=code, error_type=error_type, hints=hints)),
        (_MACHINE, K.TASK_FAILED),
        (_BUSY, K.OVERLOADED),
        (_MEDIA, K.MEDIA_FETCH),
    ):
        if pattern.search(text):
            return meant
    if _MODEL.search(text) and not _OTHER_PARTS.search(text):
        return K.MODEL_NOT_FOUND
    if _REFUSED.search(text):
        return K.BAD_REQUEST
    if status in _REFUSING_STATUSES:
        kind = classify(family, status=status, message=message, code=code, error_type=error_type, hints=None)
        return K.TASK_FAILED if POLICY[kind].vague else kind
    return K.TASK_FAILED


FAMILIES: Final[dict[PresetName, Family]] = {
    "modelscope": "modelscope",
    "modelscope-anthropic": "modelscope",
    "openai": "openai",
    "azure": "openai",
    "gemini": "openai",
    "anthropic": "anthropic",
    "simulator": "simulator",
}

_ADAPTATIONS: Final[tuple[tuple[tuple[str, ...], Adaptation], ...]] = (
    (("enable thinking can not be support when", "stream=false"), "stream"),
    (("enable_thinking", "must be set to false for non-streaming"), "stream"),
    (("enable_thinking", "restricted to true"), "no_thinking_switch"),
    (("stream_options",), "no_stream_options"),
    *(
        ((words,), "no_stream")
        for words in (
            "verified to stream",
            "not support stream",
            "streaming is not supported",
            "streaming not supported",
            "streaming is unsupported",
            "streaming is not available",
            "streaming is not allowed",
            "streaming is disabled",
            "stream is not supported",
            "stream is not allowed",
            "stream mode is not supported",
            "stream mode not supported",
            "stream must be false",
            "stream=true is not",
            "'stream' does not support true",
            "set stream to false",
            "set stream=false",
            "disable streaming",
        )
    ),
)
"""All the words of a row, and what to change."""

_ADAPTED_PARAMS: Final[dict[str, Adaptation]] = {"stream": "no_stream", "stream_options": "no_stream_options"}
"""What to change where only the parameter is named; a request that did not stream cannot be helped so."""
_ADAPTABLE: Final = frozenset[int | None]({400, 403, 405, 422, 501, None})

_FAULT_OF_REQUESTS: Final = frozenset({500, 501})
"""Statuses by which some servers refuse what they cannot do; gateways report outages with others."""
_SERVER_TROUBLE: Final = (
    # as the standard, proxies and frameworks word a 5xx
    *("internal error", "internal server", "server error", "server failure", "service error", "internal failure"),
    *("bad gateway", "gateway timeout", "gateway error", "upstream", "proxy error", "backend error", "no healthy"),
    *("web page", "without a message"),  # what providers/error_bodies.py says of a reply without words
    # it passes, or the same request is to be sent again
    *("temporar", "try again", "retry", "try later", "again later", "a later time", "try your request again"),
    *("overload", "busy", "no capacity", "at capacity", "maintenance", "unavailable", "starting up", "shutting down"),
    *("restarting", "is loading", "still loading", "not ready", "out of memory", "resource exhausted"),
    # a connection, a process or a machine behind it is gone
    *("timeout", "timed out", "deadline exceeded", "connection", "connect to", "connecterror", "econn", "socket hang"),
    *("socket closed", "broken pipe", "network error", "dial tcp", "no route to host", "name resolution"),
    *("unexpected eof", "crashed", "worker", "enginecore", "engine is dead", "engine dead", "background loop", "cuda"),
    *("hip error", "nccl", "no space left", "database"),
    *("unexpected error", "unknown error", "unexpected condition", "unhandled", "went wrong", "on our side", "our end"),
    *("processing your request", "processing the request", "processing this request"),
    *("内部错误", "服务器错误", "服务异常", "系统异常", "系统错误", "繁忙", "超时", "稍后", "稍候", "重试", "不可用"),
    *("サーバーエラー", "しばらく", "내부 오류", "서버 오류", "잠시 후"),
)
"""A 500 with one of these is about the server's own trouble, which may pass; any other is about the request."""
_NO_WORDS: Final = late_pattern(
    r"(?:error|errors|err|http|https|status|code|type|detail|details|message|msg|internal|unknown|fail|failed|failure"
    r"|exception|occurred|an|has|server|param|request|id|none|null|false|true|ok|[\W\d_])*"
)
"""A message that says nothing."""


def family_of(provider: Provider) -> Family:
    """Whose words a provider's refusals are; a `base_url` of one's own keeps the preset's family.

    The simulator has ModelScope's quotas and throttles in every dialect, and Anthropic's bills.
    """
    return FAMILIES[provider.preset]


def classify(
    family: Family,
    *,
    status: int | None,
    message: str,
    code: str | None,
    error_type: str | None,
    hints: Hints | None,
    param: str | None = None,
    form: Form = "json",
    waits: bool = False,
) -> ProblemKind:
    """The kind of a refusal. `status` is None for an error inside a 200: unless it names itself, the server failed.

    `message` may be longer than what people are shown; `param` is the parameter that the server complains of.
    """
    text = _plain(message)
    if status in _ADAPTABLE and adaptation_of(message, param=param) is not None:
        return K.ADAPTABLE
    names = {name.lower() for name in (code, error_type) if name}
    for sign in SIGNS[family]:
        if _holds(sign, status=status, text=text, names=names, hints=hints) and (
            (not sign.forms or form in sign.forms) and (waits or not sign.waits)
        ):
            return sign.kind
    return K.SERVER_ERROR


def adaptation_of(message: str, *, param: str | None = None) -> Adaptation | None:
    """What a server asks to be changed before it takes the request, if that is what its message says."""
    text = _plain(message)
    for words, adaptation in _ADAPTATIONS:
        if all(word in text for word in words):
            return adaptation
    return _ADAPTED_PARAMS.get(param or "")


def is_about_the_request(status: int | None, message: str) -> bool:
    """Whether a fault of the server, said of every request alike, means what they ask for and no outage.

    `status` and `message` are those of a `SERVER_ERROR`; words of the server's own trouble, or none, mean an outage.
    """
    text = _plain(message)
    if status not in _FAULT_OF_REQUESTS or _NO_WORDS.fullmatch(text):
        return False
    return not any(word in text for word in _SERVER_TROUBLE)


def _holds(sign: Sign, *, status: int | None, text: str, names: set[str], hints: Hints | None) -> bool:
    return (
        (not sign.statuses or status in sign.statuses)
        and (not sign.words or any(word in text for word in sign.words))
        and (not sign.exact or text.strip(" .") in sign.exact)
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
