"""OpenAI's videos as a server answers them: an order, looks, the file's bytes at the API itself, deletion.

They are tasks like those of pictures, with a film as their result. See docs/media.md.
"""

from collections.abc import Callable
from typing import Final

from batchrunner.core.job import Json
from batchrunner.simulator.refusals import Refusal, refuse
from batchrunner.simulator.requests import Order
from batchrunner.simulator.script import Script, Send, Visit, as_text, json_script
from batchrunner.simulator.simulated_tasks import SimulatedTasks, Task

_PREFIX: Final = "video_"
_SECONDS: Final = ("4", "8", "12")
_SIZES: Final = ("720x1280", "1280x720", "1024x1792", "1792x1024")
_LONGEST_PROMPT: Final = 32_000
_KEPT_S: Final = 3600
_MODERATED: Final = "img-fail-nsfw"


def check_video(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    body = order.body
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return _invalid("Missing required parameter: 'prompt'.", "missing_required_parameter")
    if len(prompt) > _LONGEST_PROMPT:
        return _invalid(f"'prompt' must be at most {_LONGEST_PROMPT} characters.", "string_above_max_length")
    if "seconds" in body and body["seconds"] not in _SECONDS:
        return _invalid(f"Invalid value for 'seconds': supported values are {_listed(_SECONDS)}.", "invalid_value")
    if "size" in body and body["size"] not in _SIZES:
        return _invalid(f"Invalid value for 'size': supported values are {_listed(_SIZES)}.", "invalid_value")
    return None


def order_video(order: Order, tasks: SimulatedTasks) -> tuple[Task, Script]:
    """A new task and the reply that names it."""
    task = tasks.finished(order) if "img-sync-result" in order.chosen else tasks.accept(order)[0]
    task.film = True
    task.seconds = as_text(order.body.get("seconds")) or _SECONDS[0]
    return task, json_script(_shown(task, order.now))


def look(tasks: SimulatedTasks, visit: Visit, account: str) -> Script:
    """How it stands."""
    task = _found(tasks, visit, account, visit.path.rpartition("/")[2])
    return _missing(visit) if task is None else json_script(_shown(task, visit.now))


def content(tasks: SimulatedTasks, visit: Visit, account: str) -> Script:
    """The film itself."""
    task = _found(tasks, visit, account, visit.path.rsplit("/", 2)[1])
    if task is None:
        return _missing(visit)
    if task.fails or not task.finished(visit.now):
        message = "Video is not ready yet, use GET /v1/videos/{video_id} to check status."
        return refuse(_invalid(message, "video_not_ready"), model="", request_id=visit.request_id)
    task.downloads += 1
    return Script(headers={"content-type": "video/mp4"}, steps=(Send(piece=task.result()),))


def delete(tasks: SimulatedTasks, visit: Visit, account: str) -> Script:
    """Gone, with its film; one that is under way stays."""
    name = visit.path.rpartition("/")[2]
    task = _found(tasks, visit, account, name)
    if task is None:
        return _missing(visit)
    if not task.finished(visit.now):
        message = "Video is being processed, and cannot be deleted."
        return refuse(_invalid(message, "video_not_ready"), model="", request_id=visit.request_id)
    tasks.forget(task.id)
    return json_script({"id": name, "deleted": True, "object": "video.deleted"})


STEPS: Final[tuple[tuple[str, str, str, Callable[[SimulatedTasks, Visit, str], Script]], ...]] = (
    ("GET", "/v1/videos/", "poll", look),
    ("GET", "/v1/videos/*/content", "download", content),
    ("DELETE", "/v1/videos/", "delete", delete),
)
"""(method, path, kind, what answers it)."""


def _found(tasks: SimulatedTasks, visit: Visit, account: str, name: str) -> Task | None:
    task = tasks.find(name.removeprefix(_PREFIX), now=visit.now) if name.startswith(_PREFIX) else None
    if task is None or not tasks.knows(task.id) or task.account not in (None, account):
        return None
    task.polls += 1
    return task


def _shown(task: Task, now: float) -> Json:
    done = task.finished(now)
    begun = now >= task.accepted_at + 0.2 * task.duration_s
    state = ("failed" if task.fails else "completed") if done else "in_progress" if begun else "queued"
    part = 1.0 if done or not task.duration_s else max(0.0, now - task.accepted_at) / task.duration_s
    width, height = task.size
    moderated = _MODERATED in task.chosen
    error: Json = {
        "code": "moderation_blocked" if moderated else "video_generation_failed",
        "message": "Your request was blocked by our moderation system." if moderated else "Video generation failed.",
    }
    return {
        "id": f"{_PREFIX}{task.id}",
        "object": "video",
        "model": task.model,
        "status": state,
        "progress": int(100 * part),
        "created_at": int(task.accepted_at),
        "completed_at": int(task.accepted_at + task.duration_s) if done else None,
        "expires_at": int(task.accepted_at + task.duration_s) + _KEPT_S if done and not task.fails else None,
        "prompt": task.prompt,
        "seconds": task.seconds,
        "size": f"{width}x{height}",
        "error": error if state == "failed" else None,
        "remixed_from_video_id": None,
    }


def _missing(visit: Visit) -> Script:
    refusal = Refusal(
        status=404,
        shape="C",
        message="Video with this id was not found.",
        code="not_found",
        type="invalid_request_error",
    )
    return refuse(refusal, model="", request_id=visit.request_id)


def _invalid(message: str, code: str) -> Refusal:
    return Refusal(status=400, shape="C", message=message, code=code, type="invalid_request_error")


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(repr(word) for word in words)
