"""Servers of asynchronous tasks: the order that each must get, its replies, and what each reply must come to.

The shapes are those of the servers' documents and SDKs (each table names its own), not of recorded traffic. `TASK` is
the task's id, `https://api.example` the server, `https://files.example` its storage.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from batchrunner.core.job import Json

Verdict: TypeAlias = Literal[
    "queued", "running", "unknown", "done", "failed", "cancelled", "filtered", "gone", "of the poll"
]
Reply: TypeAlias = tuple[int, Json, Verdict]

API = "https://api.example"
FILE = "https://files.example/1.png"
OTHER = "https://files.example/2.png"
MODEL, PROMPT, SEED = "maker/one", "a cat", 7


@dataclass(frozen=True, kw_only=True)
class TaskServer:
    """What one server takes and says, for the model, the prompt and the seed above."""

    path: str
    body: dict[str, Json]
    submit: dict[str, Json]
    poll_path: str
    polls: list[Reply]
    """In the order of a task's life where one is played: the first `done` is its end."""
    headers: dict[str, str] = field(default_factory=dict)
    key: tuple[str, str] = ("Authorization", "Bearer KEY")
    poll_headers: dict[str, str] = field(default_factory=dict)
    result_path: str = ""
    content_path: str = ""
    """Of the file itself, where the API holds it and wants the key."""
    results: list[Reply] = field(default_factory=list)
    """Of the second request, where the result is not in the reply to the poll."""
    graph: Json = None
    """The body file with the prompt in it, where there is one."""
    queue: list[Reply] = field(default_factory=list)
    """Of the request for what waits, where the first poll does not know the task yet."""


_SEEDED: dict[str, Json] = {"model": MODEL, "prompt": PROMPT, "seed": SEED}
_DASHSCOPE = {"X-DashScope-Async": "enable"}
_RUNWAY = {"X-Runway-Version": "2024-11-06"}
_QUEUE = "/maker/one/requests/TASK"
_VIDEO: dict[str, Json] = {
    "id": "TASK", "object": "video", "model": "sora-2", "created_at": 1764327000, "seconds": "4", "size": "720x1280",
    "prompt": PROMPT, "completed_at": None, "expires_at": None, "error": None, "remixed_from_video_id": None,
}  # fmt: skip

SERVERS: dict[str, TaskServer] = {
    "modelscope-images": TaskServer(
        path="/v1/images/generations",
        body=_SEEDED,
        headers={"X-ModelScope-Async-Mode": "true"},
        submit={"task_id": "TASK", "request_id": "r", "task_status": "SUCCEED"},
        poll_path="/v1/tasks/TASK",
        poll_headers={"X-ModelScope-Task-Type": "image_generation"},
        polls=[
            (200, {"task_status": "PROCESSING"}, "running"),
            (200, {"task_status": "SUCCEED", "output_images": [FILE]}, "done"),
            (200, {"task_status": "FAILED", "errors": {"message": "m"}}, "failed"),
        ],
    ),
    "dashscope-images": TaskServer(
        path="/api/v1/services/aigc/text2image/image-synthesis",
        body={"model": MODEL, "input": {"prompt": PROMPT}, "parameters": {"seed": SEED}},
        headers=_DASHSCOPE,
        submit={"output": {"task_id": "TASK", "task_status": "PENDING"}, "request_id": "r"},
        poll_path="/api/v1/tasks/TASK",
        polls=[
            (200, {"output": {"task_status": "RUNNING"}}, "running"),
            (
                200,
                {
                    "output": {
                        "task_status": "SUCCEEDED",
                        "results": [{"url": FILE}, {"code": "DataInspectionFailed", "message": "x"}],
                        "task_metrics": {"TOTAL": 2, "SUCCEEDED": 1, "FAILED": 1},
                    }
                },
                "done",
            ),
            (200, {"output": {"task_status": "FAILED", "code": "InvalidParameter", "message": "m"}}, "failed"),
            (200, {"output": {"task_status": "UNKNOWN"}}, "gone"),
        ],
    ),
    "dashscope-videos": TaskServer(
        path="/api/v1/services/aigc/video-generation/video-synthesis",
        body={"model": MODEL, "input": {"prompt": PROMPT}, "parameters": {"seed": SEED}},
        headers=_DASHSCOPE,
        submit={"output": {"task_id": "TASK", "task_status": "PENDING"}},
        poll_path="/api/v1/tasks/TASK",
        polls=[
            (200, {"output": {"task_status": "PENDING"}}, "queued"),
            (200, {"output": {"task_status": "SUCCEEDED", "video_url": FILE}}, "done"),
            (200, {"output": {"task_status": "CANCELED"}}, "cancelled"),
        ],
    ),
    "replicate": TaskServer(
        path="/v1/models/maker/one/predictions",
        body={"input": {"prompt": PROMPT, "seed": SEED}},
        submit={
            "id": "TASK",
            "status": "starting",
            "urls": {"get": f"{API}/v1/predictions/TASK", "cancel": f"{API}/v1/predictions/TASK/cancel"},
        },
        poll_path="/v1/predictions/TASK",
        polls=[
            (200, {"status": "processing", "output": None}, "running"),
            (200, {"status": "succeeded", "output": [FILE, OTHER]}, "done"),
            (200, {"status": "succeeded", "output": FILE}, "done"),
            (200, {"status": "failed", "error": "CUDA"}, "failed"),
            (200, {"status": "aborted"}, "cancelled"),
            (404, {"detail": "not found"}, "gone"),
            (429, {"detail": "throttled"}, "of the poll"),
        ],
    ),
    "fal-queue": TaskServer(
        path="/maker/one",
        body={"prompt": PROMPT, "seed": SEED},
        key=("Authorization", "Key KEY"),
        submit={
            "request_id": "TASK",
            "status": "IN_QUEUE",
            "status_url": f"{API}{_QUEUE}/status",
            "response_url": f"{API}{_QUEUE}",
            "cancel_url": f"{API}{_QUEUE}/cancel",
        },
        poll_path=f"{_QUEUE}/status",
        polls=[
            (202, {"status": "IN_QUEUE", "queue_position": 3}, "queued"),
            (202, {"status": "IN_PROGRESS"}, "running"),
            (200, {"status": "COMPLETED"}, "done"),
        ],
        result_path=_QUEUE,
        results=[
            (200, {"images": [{"url": FILE, "width": 1}]}, "done"),
            (422, {"detail": [{"msg": "bad size", "loc": ["body"]}]}, "failed"),
        ],
    ),
    "bfl": TaskServer(
        path="/v1/maker/one",
        body={"prompt": PROMPT, "seed": SEED},
        key=("x-key", "KEY"),
        submit={"id": "TASK", "polling_url": f"{API}/eu/v1/get_result?id=TASK"},
        poll_path="/eu/v1/get_result?id=TASK",
        polls=[
            (200, {"id": "TASK", "status": "Pending"}, "queued"),
            (200, {"status": "Ready", "result": {"sample": FILE}}, "done"),
            (200, {"status": "Content Moderated"}, "filtered"),
            (200, {"status": "Task not found"}, "gone"),
            (200, {"status": "Error"}, "failed"),
        ],
    ),
    "zhipu-images": TaskServer(
        path="/async/images/generations",
        body=_SEEDED,
        submit={"id": "TASK", "task_status": "PROCESSING", "model": "cogview-4", "request_id": "q"},
        poll_path="/async-result/TASK",
        polls=[
            (200, {"task_status": "PROCESSING"}, "running"),
            (200, {"task_status": "SUCCESS", "image_result": [{"url": FILE}]}, "done"),
            (200, {"task_status": "FAIL"}, "failed"),
        ],
    ),
    "zhipu-videos": TaskServer(
        path="/videos/generations",
        body=_SEEDED,
        submit={"id": "TASK", "task_status": "PROCESSING"},
        poll_path="/async-result/TASK",
        polls=[
            (200, {"task_status": "SUCCESS", "video_result": [{"url": FILE, "cover_image_url": OTHER}]}, "done"),
            (200, {"task_status": "FAIL"}, "failed"),
        ],
    ),
    "ark-videos": TaskServer(
        path="/api/v3/contents/generations/tasks",
        body={"model": MODEL, "content": [{"type": "text", "text": PROMPT}], "seed": SEED},
        submit={"id": "TASK"},
        poll_path="/api/v3/contents/generations/tasks/TASK",
        polls=[
            (200, {"status": "queued"}, "queued"),
            (200, {"status": "running"}, "running"),
            (200, {"status": "succeeded", "content": {"video_url": FILE}}, "done"),
            (200, {"status": "failed", "error": {"code": "c", "message": "m"}}, "failed"),
            (200, {"status": "expired"}, "gone"),
        ],
    ),
    "minimax-videos": TaskServer(
        path="/v2/video_generation",
        body=_SEEDED,
        submit={"task_id": "TASK"},
        poll_path="/v2/query/video_generation/TASK",
        polls=[
            (200, {"task": {"id": "TASK", "status": "running"}}, "running"),
            (200, {"task": {"id": "TASK", "status": "succeeded", "content": {"video_url": FILE}}}, "done"),
            (200, {"task": {"id": "TASK", "status": "failed", "error": {"message": "x"}}}, "failed"),
        ],
    ),
    "runway-images": TaskServer(
        path="/v1/text_to_image",
        body={"model": MODEL, "promptText": PROMPT, "seed": SEED},
        headers=_RUNWAY,
        submit={"id": "TASK"},
        poll_path="/v1/tasks/TASK",
        poll_headers=_RUNWAY,
        polls=[
            (200, {"status": "THROTTLED"}, "queued"),
            (200, {"status": "SUCCEEDED", "output": [FILE]}, "done"),
            (200, {"status": "FAILED", "failure": "f", "failureCode": "SAFETY.INPUT.TEXT"}, "filtered"),
        ],
    ),
    "runway-videos": TaskServer(
        path="/v1/text_to_video",
        body={"model": MODEL, "promptText": PROMPT, "seed": SEED},
        headers=_RUNWAY,
        submit={"id": "TASK"},
        poll_path="/v1/tasks/TASK",
        poll_headers=_RUNWAY,
        polls=[
            (200, {"id": "TASK", "status": "PENDING", "createdAt": "2026-11-28T11:00:00Z"}, "queued"),
            (200, {"id": "TASK", "status": "THROTTLED", "createdAt": "2026-11-28T11:00:00Z"}, "queued"),
            (200, {"id": "TASK", "status": "RUNNING", "progress": 0.4}, "running"),
            (200, {"id": "TASK", "status": "SUCCEEDED", "output": [FILE], "cost": {"credits": 25}}, "done"),
            (200, {"id": "TASK", "status": "CANCELLED", "cost": {"credits": 0}}, "cancelled"),
            (200, {"id": "TASK", "status": "FAILED", "failure": "f", "failureCode": "INTERNAL.BAD_OUTPUT"}, "failed"),
        ],
    ),
    "runway-image-videos": TaskServer(
        path="/v1/image_to_video",
        body={"model": MODEL, "promptText": PROMPT, "seed": SEED},
        headers=_RUNWAY,
        submit={"id": "TASK"},
        poll_path="/v1/tasks/TASK",
        poll_headers=_RUNWAY,
        polls=[
            (200, {"id": "TASK", "status": "RUNNING", "progress": 0.4}, "running"),
            (200, {"id": "TASK", "status": "SUCCEEDED", "output": [FILE]}, "done"),
            (200, {"id": "TASK", "status": "FAILED", "failure": "f", "failureCode": "SAFETY.INPUT.IMAGE"}, "filtered"),
        ],
    ),
    "openai-videos": TaskServer(
        path="/videos",
        body=_SEEDED,
        submit={**_VIDEO, "status": "queued", "progress": 0},
        poll_path="/videos/TASK",
        polls=[
            (200, {**_VIDEO, "status": "queued", "progress": 0}, "queued"),
            (200, {**_VIDEO, "status": "in_progress", "progress": 33}, "running"),
            (200, {**_VIDEO, "status": "completed", "progress": 100, "expires_at": 1764330000}, "done"),
            (
                200,
                {**_VIDEO, "status": "failed", "error": {"code": "moderation_blocked", "message": "blocked"}},
                "filtered",
            ),
            (200, {**_VIDEO, "status": "failed", "error": {"code": "internal_error", "message": "m"}}, "failed"),
            (404, {"error": {"message": "Video with this id was not found.", "code": "not_found"}}, "gone"),
        ],
        content_path="/videos/TASK/content",
    ),
    "luma": TaskServer(
        path="/generations",
        body=_SEEDED,
        submit={"id": "TASK", "state": "queued"},
        poll_path="/generations/TASK",
        polls=[
            (200, {"state": "dreaming"}, "running"),
            (200, {"state": "completed", "assets": {"image": FILE, "video": None}}, "done"),
            (200, {"state": "failed", "failure_reason": "x"}, "failed"),
        ],
    ),
    "horde": TaskServer(
        path="/v2/generate/async",
        body={"prompt": PROMPT, "models": [MODEL], "params": {"seed": SEED}},
        key=("apikey", "KEY"),
        submit={"id": "TASK", "kudos": 5},
        poll_path="/v2/generate/check/TASK",
        polls=[
            (200, {"done": False, "faulted": False, "is_possible": True, "wait_time": 1}, "queued"),
            (200, {"done": True, "faulted": False, "is_possible": True}, "done"),
            (200, {"done": False, "is_possible": False, "wait_time": 0}, "failed"),
        ],
        result_path="/v2/generate/status/TASK",
        results=[(200, {"generations": [{"img": FILE, "state": "ok"}]}, "done")],
    ),
    "comfyui": TaskServer(
        path="/prompt",
        body={"prompt": {"6": {"inputs": {"text": PROMPT}}}, "client_id": "batchrunner"},
        graph={"6": {"inputs": {"text": PROMPT}}},
        key=("Authorization", ""),
        submit={"prompt_id": "TASK", "number": 1, "node_errors": {}},
        poll_path="/history/TASK",
        polls=[
            (200, {}, "queued"),
            (
                200,
                {
                    "TASK": {
                        "status": {"status_str": "success", "completed": True},
                        "outputs": {"9": {"images": [{"filename": "TASK a&b.png", "subfolder": "", "type": "output"}]}},
                    }
                },
                "done",
            ),
            (
                200,
                {
                    "TASK": {
                        "status": {
                            "status_str": "error",
                            "messages": [["execution_error", {"exception_message": "Allocation failed"}]],
                        },
                        "outputs": {},
                    }
                },
                "failed",
            ),
        ],
        queue=[
            (200, {"queue_running": [], "queue_pending": [[4, "TASK", {}, {}, ["9"]]]}, "queued"),
            (200, {"queue_running": [[4, "TASK", {}, {}, ["9"]]], "queue_pending": []}, "queued"),
            (200, {"queue_running": [[3, "OTHER", {}]], "queue_pending": []}, "gone"),
            (500, {"error": "x"}, "of the poll"),
        ],
    ),
    "baidu-images": TaskServer(
        path="/beta/image/qianfan-image-v1",
        body={"model_name": MODEL, "prompt": PROMPT, "seed": SEED},
        submit={"code": 0, "message": "success", "request_id": "r", "data": {"task_id": "TASK"}},
        poll_path="/beta/image/qianfan-image-v1?task_id=TASK",
        polls=[
            (200, {"code": 0, "message": "success", "data": {"task_id": "TASK", "task_status": "submitted"}}, "queued"),
            (200, {"code": 0, "data": {"task_id": "TASK", "task_status": "processing"}}, "running"),
            (
                200,
                {
                    "code": 0,
                    "message": "success",
                    "data": {
                        "task_id": "TASK",
                        "task_status": "succeed",
                        "task_info": {},
                        "task_result": {"images": [{"index": 0, "url": FILE}]},
                        "usage": {"model_name": MODEL, "credits": 4},
                    },
                },
                "done",
            ),
            (
                200,
                {"code": 0, "message": "success", "data": {"task_status": "failed", "task_status_msg": "GPU lost"}},
                "failed",
            ),
        ],
    ),
}
"""By the name of the table; ModelScope's dialect is code, and stands here to be held to the same."""
