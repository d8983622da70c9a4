"""Why an accepted task failed, as a kind of problem: judged by its words like a submit that is refused with them.

A failed task has no status of its own, so words decide: the family's table first, then what picture services say about
filters, parameters and load. What the machine behind it suffers (memory, CUDA, workers) is no fault of the item and
stays `task_failed`, which is tried again.
"""

import re
from typing import Final

from batchrunner.core.classify import Family, classify
from batchrunner.core.outcome import Hints, ProblemKind

K = ProblemKind

_FILTERED: Final = re.compile(
    r"nsfw|content[ _]?(policy|filter|moderat|safety|violat|security)|net check failed|inappropriate|moderat|safety"
    r"|(?<!case.)sensitive|policy violation|violat\w* (of )?(our|the|usage|content)|prohibited|explicit content|harmful"
    r"|data_?inspection|risk control|illegal content|unsafe|blocked by|porn|nudity|copyright"
    r"|违规|敏感|审核|不合规|风控|涉黄|安全检查",
    re.IGNORECASE,
)
_FILTER_BROKE: Final = re.compile(
    r"(moderation|safety|filter|audit|inspection)( check\w*| service| system| model| api)* (is )?"
    r"(unavailable|not available|timed? ?out|timeout|crashed|error|failed to (load|start|respond|connect))",
    re.IGNORECASE,
)
_MACHINE: Final = re.compile(
    r"cuda|cublas|cudnn|nccl|\bnpu\b|out of memory|\boom\b|illegal memory|device-side|segmentation fault|traceback"
    r"|broken pipe|connection (reset|refused|closed|aborted)|no space left|worker (died|lost|crashed|exited)"
    r"|internal (server )?error|内部错误|显存",
    re.IGNORECASE,
)
_UNPAID: Final = re.compile(
    r"arrear|overdue|\bunpaid\b|payment required|insufficient (funds|credits?)|(out of|not enough|no) credits?\b"
    r"|billing (hard limit|not active)|account.{0,20}(suspended|disabled)|欠费|账户已停用",
    re.IGNORECASE,
)
_LIMITED: Final = re.compile(
    r"too many (requests|calls|tasks|jobs|concurrent)|rate[ _]?limit|throttl|concurren\w+ (limit|exceed)|limit_burst"
    r"|quota|请求过于频繁|限流|并发|额度",
    re.IGNORECASE,
)
_TOO_MANY_THINGS: Final = re.compile(r"too many (?!requests|calls|tasks|jobs|concurrent)", re.IGNORECASE)
_BUSY: Final = re.compile(
    r"overloaded|server is busy|too busy|queue is full|(at|no|insufficient) capacity|no available (worker|gpu|resource)"
    r"|resources? (is |are )?(exhausted|insufficient)|service unavailable|temporarily unavailable|服务繁忙|系统繁忙",
    re.IGNORECASE,
)
_MODEL: Final = re.compile(
    r"(model|模型)[^.;]{0,80}(not (found|exist|available|supported)|does(n't| not) exist|no longer|offline|不存在|下线)"
    r"|no such model|unknown model|unsupported model",
    re.IGNORECASE,
)
_OTHER_PARTS: Final = re.compile(r"lora|checkpoint|scheduler|sampler|size|parameter|controlnet|vae", re.IGNORECASE)
_MEDIA: Final = re.compile(
    r"(unable|failed|could ?n.t|cannot|timeout|timed out|error).{0,20}(download|fetch|load\w*).{0,40}"
    r"(image|media|file|url|picture|content)"
    r"|(image|media|file|url|picture)\w* (could ?n.t|could not|cannot|can not) be (download|fetch|load|retriev)\w*"
    r"|下载.{0,6}(失败|超时)",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(
    r"\binvalid|\bunsupported|not (be )?(supported|compatible|valid|allowed|permitted)|incompatible"
    r"|does(n't| not) (support|exist)|\bmust (be|have|not|contain)|should be (in|between|a|an|less|greater)"
    r"|out of range|exceeds|exceed the (max|limit)|too (long|large|small|short|big|many)"
    r"|malformed|bad request|validation error|cannot be (empty|blank|null)"
    r"|(is|are) (required|missing)|missing (required|param|argument|field)|unknown (param|lora|argument|field|size)"
    r"|unrecogni[sz]ed|(lora|checkpoint|scheduler|sampler)[^.;]{0,60}not found|unprocessable"
    r"|不支持|参数(错误|无效|不合法)|无效|非法|超出|不能为空|过长",
    re.IGNORECASE,
)
_REFUSING_STATUSES: Final = frozenset({400, 402, 403, 413, 422, 429, 503, 529})
"""Statuses in a failure's code that say more than words that nobody knows."""
_SILENT: Final = frozenset({K.SERVER_ERROR, K.ADAPTABLE, K.MEDIA_FETCH, K.CONFIGURATION})


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
    told = classify(family, status=None, message=message, code=code, error_type=error_type, hints=hints)
    if told not in _SILENT and not (told is K.THROTTLE and _TOO_MANY_THINGS.search(text)):
        return told
    for pattern, kind in (
        (_UNPAID, K.BILLING),
        (_LIMITED, classify(family, status=429, message=message, code=code, error_type=error_type, hints=hints)),
        (_MACHINE, K.TASK_FAILED),
        (_BUSY, K.OVERLOADED),
        (_MEDIA, K.MEDIA_FETCH),
    ):
        if pattern.search(text):
            return kind
    if _MODEL.search(text) and not _OTHER_PARTS.search(text):
        return K.MODEL_NOT_FOUND
    if _REFUSED.search(text):
        return K.BAD_REQUEST
    if status in _REFUSING_STATUSES:
        told = classify(family, status=status, message=message, code=code, error_type=error_type, hints=None)
        return K.TASK_FAILED if told in _SILENT else told
    return K.TASK_FAILED
