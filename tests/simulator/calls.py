"""Calls to a world, as the tests of this folder make them."""

import json

from batchrunner.core.job import Json
from batchrunner.simulator.script import Call, Script
from batchrunner.simulator.world import World

NOW = 1_790_000_000.0
CHAT = "/v1/chat/completions"
IMAGES = "/v1/images/generations"
ASYNC = {"x-modelscope-async-mode": "true"}
POLL = {"x-modelscope-task-type": "image_generation"}


def ask(
    world: World, *, model: str = "Qwen/Qwen3-8B", prompt: str = "hi", token: str = "", now: float = NOW, **more: Json
) -> Script:
    """A chat call that is over at once."""
    script = ask_and_stay(world, model=model, prompt=prompt, token=token, now=now, **more)
    world.leave(script)
    return script


def ask_and_stay(
    world: World, *, model: str = "Qwen/Qwen3-8B", prompt: str = "hi", token: str = "", now: float = NOW, **more: Json
) -> Script:
    """A chat call that stays in flight."""
    body: dict[str, Json] = {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
    return post(world, CHAT, body, headers=bearer(token), now=now)


def submit(
    world: World,
    *,
    model: str = "Qwen/Qwen-Image",
    prompt: str = "a cat",
    headers: dict[str, str] = ASYNC,
    now: float = NOW,
    **more: Json,
) -> Script:
    """An image task."""
    script = post(world, IMAGES, {"model": model, "prompt": prompt, **more}, headers=headers, now=now)
    world.leave(script)
    return script


def post(world: World, path: str, body: Json, *, headers: dict[str, str] | None = None, now: float = NOW) -> Script:
    """Any POST."""
    return world.answer(Call(method="POST", path=path, headers=headers or {}, body=json.dumps(body).encode()), now)


def get(world: World, path: str, *, headers: dict[str, str] | None = None, now: float = NOW) -> Script:
    """A GET at the API's port."""
    return world.answer(Call(method="GET", path=path, headers=headers or {}), now)


def fetch(world: World, url: str, *, headers: dict[str, str] | None = None, now: float = NOW) -> Script:
    """A GET at the storage port."""
    path = url.removeprefix(world.files_base)
    return world.answer(Call(method="GET", path=path, headers=headers or {}, role="files"), now)


def poll(world: World, task_id: object, *, now: float = NOW, headers: dict[str, str] = POLL) -> Script:
    """How a task stands."""
    return get(world, f"/v1/tasks/{task_id}", headers=headers, now=now)


def bearer(token: str) -> dict[str, str]:
    """The header of a token; nothing for none."""
    return {"authorization": f"Bearer {token}"} if token else {}


def reply(script: Script) -> dict[str, Json]:
    """The JSON object in a reply."""
    value = json.loads(script.body)
    assert isinstance(value, dict)
    return value


def first(value: Json, *path: str | int) -> Json:
    """What stands at a path within JSON."""
    for step in path:
        if isinstance(step, int):
            assert isinstance(value, list)
            value = value[step]
        else:
            assert isinstance(value, dict)
            value = value[step]
    return value


def text_of(script: Script) -> Json:
    """The text of a chat answer."""
    return first(reply(script), "choices", 0, "message", "content")


def error_of(script: Script) -> str:
    """The message of a refusal, whatever its shape."""
    body = reply(script)
    return str(first(body.get("errors") or body.get("error"), "message"))


def events_of(script: Script) -> list[dict[str, Json]]:
    """The chunks of a plainly framed stream, without [DONE]."""
    datas = [line[6:] for line in script.body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(data) for data in datas if data != "[DONE]"]


def streamed_text(script: Script) -> str:
    """The text of a plainly framed stream."""
    deltas = [first(event, "choices", 0, "delta") for event in events_of(script) if event.get("choices")]
    return "".join(str(delta.get("content") or "") for delta in deltas if isinstance(delta, dict))
