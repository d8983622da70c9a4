"""OpenAI's image generations as a server answers them: the pictures stand in the reply.

The path is the one where ModelScope takes tasks. ModelScope's models are all called `Owner/Name`, so a name without a
slash, or a scenario of this table, means this kind. Pictures are PNG whatever `output_format` asks for.
"""

import base64
import re

from batchrunner.core.job import Json
from batchrunner.simulator.answers import count_tokens
from batchrunner.simulator.drawing import picture_size
from batchrunner.simulator.refusals import Refusal
from batchrunner.simulator.requests import Order
from batchrunner.simulator.script import JSON_TYPE, SSE_TYPE, Delay, Script, Send, as_text, encode_json
from batchrunner.simulator.simulated_tasks import SimulatedTasks, failure_asked_of

_SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
_LONGEST_SIDE = 3840
_LONGEST_PROMPTS = (("dall-e-2", 1000), ("dall-e-3", 4000), ("", 32_000))
_FORMATS = ("png", "jpeg", "webp")
_TOKENS_OF_A_PICTURE = 1056
_FIRST_DAY = 1_760_000_000


def wants_pictures_at_once(order: Order) -> bool:
    """Whether the order is of this kind."""
    return "/" not in order.base_model or any(name.startswith("oi-") for name in order.chosen)


def check_pictures(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    body = order.body
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return _invalid("Missing required parameter: 'prompt'.", "missing_required_parameter")
    longest = next(chars for name, chars in _LONGEST_PROMPTS if order.base_model.startswith(name))
    if len(prompt) > longest:
        return _invalid(f"'prompt' must be at most {longest} characters.", "string_above_max_length")
    count = body.get("n", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _most(order):
        return _invalid(f"'n' must be between 1 and {_most(order)}.", "invalid_value")
    if "response_format" in body and not _gives_urls(order.base_model):
        return _invalid("Unknown parameter: 'response_format'.", "unknown_parameter")
    size = body.get("size", "auto")
    if size != "auto" and (not _SIZE.fullmatch(as_text(size)) or max(picture_size(body)) > _LONGEST_SIDE):
        return _invalid("Invalid value for 'size'.", "invalid_value")
    if body.get("output_format", "png") not in _FORMATS:
        return _invalid(f"'output_format' must be one of {', '.join(_FORMATS)}.", "invalid_value")
    if (failure := failure_asked_of(order)) is not None and failure[0] != "img-fail-nsfw":
        return Refusal(status=500, shape="C", message=failure[1], code="server_error", type="server_error")
    if "oi-moderation" in order.chosen or failure is not None:
        message = "Your request was rejected by the safety system."
        return Refusal(
            status=400, shape="C", message=message, code="moderation_blocked", type="image_generation_user_error"
        )
    return None


def answer_pictures(order: Order, tasks: SimulatedTasks) -> Script:
    """The pictures, streamed when that was asked for."""
    wait_s = order.random_source.spread(order.latency.task_s, order.latency.spread, "task")
    early = (Delay(seconds=wait_s),) if wait_s else ()
    if order.body.get("stream") is True:
        headers = {"content-type": f"{SSE_TYPE}; charset=utf-8"}
        return Script(headers=headers, early=early, steps=tuple(Send(piece=piece) for piece in _events(order, tasks)))
    body = encode_json(_body(order, tasks))
    return Script(headers={"content-type": JSON_TYPE}, early=early, steps=(Send(piece=body),))


def _invalid(message: str, code: str) -> Refusal:
    return Refusal(status=400, shape="C", message=message, code=code, type="invalid_request_error")


def _most(order: Order) -> int:
    return 1 if order.base_model.startswith("dall-e-3") else 10


def _gives_urls(model: str) -> bool:
    """GPT-image models always send base64 and refuse to be asked."""
    return not model.startswith(("gpt-image", "chatgpt-image"))


def _body(order: Order, tasks: SimulatedTasks) -> dict[str, Json]:
    count = order.body.get("n", 1)
    assert isinstance(count, int)
    by_url = _gives_urls(order.base_model) and order.body.get("response_format", "url") == "url"
    data: Json = _urls(order, tasks, count) if by_url else _packed(order, tasks, count)
    if "oi-empty" in order.chosen:
        data = None
    if "oi-part-failed" in order.chosen and isinstance(data, list):
        data[-1] = {"error": {"code": "content_policy_violation", "message": "This picture was withheld."}}
    width, height = picture_size(order.body)
    return {
        "created": _FIRST_DAY + order.random_source.content % 10_000_000,
        "data": data,
        "output_format": "png",
        "size": f"{width}x{height}",
        "quality": as_text(order.body.get("quality")) or "medium",
        "background": "opaque",
        "usage": _usage(order, count),
    }


def _usage(order: Order, count: int) -> dict[str, Json]:
    asked, drawn = count_tokens(as_text(order.body.get("prompt"))), count * _TOKENS_OF_A_PICTURE
    details: Json = {"image_tokens": 0, "text_tokens": asked}
    counts: dict[str, Json] = {"input_tokens": asked, "output_tokens": drawn, "total_tokens": asked + drawn}
    return {**counts, "input_tokens_details": details}


def _urls(order: Order, tasks: SimulatedTasks, count: int) -> list[Json]:
    """On the storage host, as the finished task that this order would have been elsewhere."""
    task = tasks.finished(order)
    return [{"url": f"{order.files_base}/files/{task.id}_{at}.png"} for at in range(count)]


def _packed(order: Order, tasks: SimulatedTasks, count: int) -> list[Json]:
    return [{"b64_json": _drawn(order, tasks, at)} for at in range(count)]


def _drawn(order: Order, tasks: SimulatedTasks, at: int) -> str:
    picture = tasks.paint(as_text(order.body.get("prompt")), picture_size(order.body), order.random_source.seed + at)
    return base64.b64encode(picture).decode()


def _events(order: Order, tasks: SimulatedTasks) -> list[bytes]:
    said = order.body.get("partial_images", 0)
    partial = said if isinstance(said, int) else 0
    packed = _drawn(order, tasks, 0)
    about: dict[str, Json] = {"b64_json": packed, "created_at": _FIRST_DAY, "output_format": "png"}
    events: list[dict[str, Json]] = [
        {"type": "image_generation.partial_image", **about, "partial_image_index": at} for at in range(partial)
    ]
    events.append({"type": "image_generation.completed", **about, "usage": _usage(order, 1)})
    return [f"event: {event['type']}\ndata: {encode_json(event).decode()}\n\n".encode() for event in events]
