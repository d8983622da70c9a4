"""Why a task failed, in the words of many servers: what an order more would not change is not ordered again."""

import pytest

from batchrunner.core.classify import failed_task_kind
from batchrunner.core.outcome import ProblemKind

K = ProblemKind

WORDS: tuple[tuple[ProblemKind, tuple[str, ...]], ...] = (
    (
        K.CONTENT_FILTER,
        (
            "Your request was rejected as a result of our safety system.",
            "prompt_blocked",
            "the image was flagged: sexual",
            "Sorry, your prompt may violate our community guidelines",
            "input image may contain a real person's face, please use another",
            "image rejected: contains a minor",
            "Text prompt contains forbidden words",
            "banned words in prompt: xyz",
            "Post Img Risk Not Pass",
            "The generated content does not comply with regulations",
            "Responsible AI practices: the prompt could not be submitted",
            "内容违反相关规定",
            "您的输入包含违禁词",
            "图片涉及违法信息",
            "Ihr Prompt verstößt gegen die Inhaltsrichtlinien",
            "Contenu inapproprié détecté",
            "コンテンツポリシーに違反しています",
            "정책 위반",
        ),
    ),
    (
        K.THROTTLE,
        (
            "Daily limit reached",
            "You've hit your daily limit of 50 images",
            "You have reached your free usage limit, try again tomorrow",
            "Magic cubes not enough",
            "QPS limit exceeded",
            "请求太频繁",
            "too many running tasks, max 5",
            "Maximum number of concurrent jobs reached",
            "Slow down",
            "flow control",
        ),
    ),
    (K.BILLING, ("credit exhausted", "Not enough credits", "余额不足")),
    (
        K.MODEL_NOT_FOUND,
        (
            "model Qwen/x is not online",
            "model has been deprecated",
            "the model x was retired",
            "Model is disabled",
            "模型已下线",
        ),
    ),
    (
        K.BAD_REQUEST,
        (
            "image resolution too low",
            "cannot identify image file",
            "steps should be <= 50",
            "图片尺寸不合法",
            "Value error, width not in range",
            "width must be divisible by 8",
            "expected 3 channels but got 4",
            "too many loras: 7",
        ),
    ),
    (
        K.MEDIA_FETCH,
        ("The image url is not accessible", "Download the media resource timed out", "无法下载图片"),
    ),
    (
        K.OVERLOADED,
        ("system capacity limit", "ModelServingError: queue full", "queue timeout", "服务器繁忙，请稍后再试"),
    ),
    (
        K.TASK_FAILED,
        (
            "CUDA out of memory",
            "Invalid memory access",
            "list index out of range",
            "Task timed out",
            "node restarted",
            "model loaded with a deprecated loader, then the worker was lost",
            "child process ended with status 9",
            "a minor fault in the scheduler",
            "failed to load model weights: no space left on device",
            "生成失败",
        ),
    ),
)


@pytest.mark.parametrize(("kind", "message"), [(kind, message) for kind, messages in WORDS for message in messages])
def test_the_words_of_a_failed_task_state_whether_an_order_more_may_help(kind: ProblemKind, message: str) -> None:
    assert failed_task_kind("modelscope", message=message, code=None, error_type=None, status=None) is kind
