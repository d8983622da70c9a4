"""Image tasks from their acceptance to their end: submit and poll replies, stubs included.

See docs/providers/modelscope.md#images.

A task's id carries enough to derive a finished picture (digest, time, size), so that a world made anew still knows the
tasks of an earlier one: a real provider forgets nothing because a client was started again. Their words are lost.
"""

from urllib.parse import unquote
from uuid import UUID

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass
from batchrunner.simulator.drawing import DEFAULT_SIZE, Paint, draw, picture_size
from batchrunner.simulator.films import film
from batchrunner.simulator.profiles import POLL_FAULTS, TASK_FAULTS, FaultRates, Latency
from batchrunner.simulator.refusals import REFUSALS, refuse
from batchrunner.simulator.requests import Chosen, Order
from batchrunner.simulator.script import (
    JSON_TYPE,
    RandomSource,
    Script,
    Send,
    Visit,
    as_object,
    as_text,
    digest_of,
    encode_json,
    json_script,
)

FILES_OF_OTHERS = "http://files.simulator.invalid/files"
_TASK_TYPE = "image_generation"
_MOST_KEPT = 200_000
_SLOW = 10.0
_FAILED_TEXT = "Model inference failed: out of memory"
_FAILURES: dict[str, dict[str, Json]] = {
    "img-fail": {"message": _FAILED_TEXT},
    "img-fail-empty-then-text": {"message": _FAILED_TEXT},
    "img-fail-nsfw": {"message": "NSFW content detected"},
    "img-fail-size": {"message": "The size is not supported by this model"},
    "img-fail-quota": {"message": "You have exceeded today's quota for model {model}, please try again tomorrow"},
    "img-fail-throttle": {"message": "We have to rate limit you for model {model}."},
    "img-fail-provider": {"message": "{model} has no provider supported"},
    "img-fail-balance": {"message": "insufficient balance"},
    "img-fail-cuda": {"message": "Model inference failed: CUDA error"},
}
"""Why tasks fail, by the scenario that asks for it."""
_STATES = {"img-moderated": "Content Moderated", "img-expired": "EXPIRED"}
"""How other APIs call ends."""
_SAME_ID = "7000000"
_WEIRD = ("QUEUEING", "", "WARMING_UP", "GENERATING")


@dataclass(slots=True, kw_only=True)
class Task:
    """An accepted task."""

    id: str
    content: int
    prompt: str
    size: tuple[int, int]
    seed: int
    accepted_at: float
    duration_s: float
    chosen: Chosen
    account: str | None
    """Token hash; None for a task of an earlier world, which anybody may ask for."""
    model: str
    fails: bool = False
    polls: int = 0
    downloads: int = 0
    first_failed_at: float | None = None
    paint: Paint = draw
    film: bool = False
    """A video comes of it instead of a picture."""
    seconds: str = "4"
    """How long a video of OpenAI's is said to be."""

    def result(self) -> bytes:
        """The PNG that comes of it, or the MP4."""
        if self.film:
            return film(self.paint, self.prompt, self.size, self.seed)
        return self.paint(self.prompt, self.size, self.seed)

    @property
    def media_type(self) -> str:
        """Of what comes of it."""
        return "video/mp4" if self.film else "image/png"

    def finished(self, now: float) -> bool:
        """Whether its end is reached."""
        return now >= self.accepted_at + self.duration_s

    @property
    def file(self) -> str:
        """Name of its result on the storage port."""
        return f"{self.id}_0.{'jpg' if 'dl-wrong-ext' in self.chosen else 'mp4' if self.film else 'png'}"


class SimulatedTasks:
    """All tasks that were accepted, by id."""

    def __init__(
        self, *, seed: int, faults: FaultRates, latency: Latency, paint: Paint = draw, films: bool = False
    ) -> None:
        self.paint = paint
        self._films = films
        self._seed = seed
        self._faults = faults
        self._latency = latency
        self._tasks: dict[str, Task] = {}
        self._deleted: set[str] = set()
        self.most_polls = 0

    def __repr__(self) -> str:
        return f"SimulatedTasks({len(self._tasks)} tasks)"

    def accept(self, order: Order) -> tuple[Task, Script]:
        """A new task and the reply with its id."""
        at_once = "img-sync-result" in order.chosen or "img-with-picture" in order.chosen
        task = self._kept(self._make(order, at_once=at_once))
        return task, _odd_submit(task, order.request_id) or json_script(self._submit_body(task, order))

    def finished(self, order: Order) -> Task:
        """A task that is at its end as soon as it is ordered: its picture is there."""
        task = self._kept(self._make(order, at_once=True))
        task.fails = False
        return task

    def forget(self, task_id: str) -> None:
        """A task that was deleted; its id alone does not bring it back."""
        self._tasks.pop(task_id, None)
        self._deleted.add(task_id)

    def knows(self, task_id: str) -> bool:
        """Whether it was not deleted."""
        return task_id not in self._deleted

    def _kept(self, task: Task) -> Task:
        self._tasks[task.id] = task
        if len(self._tasks) > _MOST_KEPT:
            del self._tasks[next(iter(self._tasks))]
        return task

    def adopt(self, task_id: str, *, model: str, accepted_at: float) -> None:
        """Continue a task that another provider accepted."""
        self._tasks[task_id] = Task(
            id=task_id,
            content=digest_of(task_id),
            prompt="",
            size=DEFAULT_SIZE,
            seed=self._seed,
            accepted_at=accepted_at,
            duration_s=self._latency.task_s,
            chosen={},
            account=None,
            model=model,
            paint=self.paint,
            film=self._films,
        )

    def find(self, task_id: str, *, now: float) -> Task | None:
        """The task, also one of an earlier world."""
        if (task := self._tasks.get(task_id)) is not None:
            return task
        task = _recall(task_id, self._seed, self._latency.task_s)
        if task is None or task.accepted_at > now + 1.0:
            return None
        task.paint = self.paint
        task.film = self._films
        self._tasks[task_id] = task
        return task

    def model_of(self, path: str) -> str:
        """The model of the task that a poll's path names; "" when it is not known."""
        task = self._tasks.get(_task_id(path))
        return task.model if task else ""

    def poll(self, visit: Visit, *, account: str, files_base: str) -> Script:
        """How the task stands. `account` is the hash of the token that asks."""
        if visit.call.headers.get("x-modelscope-task-type") != _TASK_TYPE:
            return json_script(_STUB)
        task = self.find(_task_id(visit.path), now=visit.now)
        if task is None or task.account not in (None, account):
            return refuse(REFUSALS["task-not-found"], model="", request_id=visit.request_id)
        task.polls += 1
        self.most_polls = max(self.most_polls, task.polls)
        if (script := self._poll_fault(task, visit)) is not None:
            return script
        task_state = {**_task_state(task, visit.now, files_base), "request_id": visit.request_id}
        return json_script(_wrapped(task_state) if "img-wrapped" in task.chosen else task_state)

    def _make(self, order: Order, *, at_once: bool) -> Task:
        fault = self._faults.pick(order.random_source, TASK_FAULTS)
        duration_s = order.figure("img-slow", order.latency.task_s * (_SLOW if fault == "task_slow" else 1.0))
        size = picture_size(order.body)
        seed = order.body.get("seed")
        return Task(
            id=self._name_of(order, size),
            content=order.random_source.content,
            prompt=as_text(order.body.get("prompt")),
            size=size,
            seed=seed if isinstance(seed, int) else self._seed,
            accepted_at=order.now,
            duration_s=0.0 if at_once else order.random_source.spread(duration_s, order.latency.spread, "task"),
            chosen=order.chosen,
            account=order.lane.account.hash,
            model=order.model,
            fails=fault == "task_fail" or failure_asked_of(order) is not None,
            paint=self.paint,
            film=self._films,
        )

    def _name_of(self, order: Order, size: tuple[int, int]) -> str:
        if "img-id-number" in order.chosen:
            return str(digest_of(f"{order.random_source.content}/{order.nth}") % 9_000_000 + 1_000_000)
        if "img-same-id" in order.chosen:
            return _SAME_ID
        return _name(order.random_source.content, order.now, size, order.nth, self._seed)

    def _submit_body(self, task: Task, order: Order) -> Json:
        if "img-sync-result" in task.chosen:
            return {"images": [{"url": f"{order.files_base}/files/{task.file}"}], "request_id": order.request_id}
        task_id: Json = int(task.id) if "img-id-number" in task.chosen else task.id
        if "img-with-picture" in task.chosen:
            urls: list[Json] = [f"{order.files_base}/files/{task.file}"]
            return {"task_id": task_id, "task_status": "SUCCEED", "output_images": urls, "request_id": order.request_id}
        if "img-wrapped" in task.chosen:
            return {"code": 200, "data": {"status": "submitted", "task_id": task_id}}
        if "img-submit-says-succeed" in task.chosen:
            return {"task_status": "SUCCEED", "task_id": task_id, "request_id": order.request_id}
        return {"task_id": task_id, "request_id": order.request_id}

    def _poll_fault(self, task: Task, visit: Visit) -> Script | None:
        request_id = visit.request_id
        grace_s = _figure(task, "img-notfound-grace", 5.0)
        if "img-poll-401" in task.chosen:
            return refuse(REFUSALS["bad-token"], model="", request_id=request_id)
        if task.polls <= (_figure(task, "img-other-task", 1.0) or 0.0):
            other: list[Json] = [f"{FILES_OF_OTHERS}/other.png"]
            return json_script({"task_id": f"9{task.id}", "task_status": "SUCCEED", "output_images": other})
        page_s = _figure(task, "img-page-404", 50.0)
        if page_s is not None and task.polls > 1 and visit.now < task.accepted_at + page_s:
            return refuse(REFUSALS["no-page"], model="", request_id=request_id)
        if (
            "img-with-picture" in task.chosen
            or "img-gone" in task.chosen
            or (grace_s is not None and visit.now < task.accepted_at + grace_s)
        ):
            return refuse(REFUSALS["task-not-found"], model="", request_id=request_id)
        if "img-stub" in task.chosen:
            return json_script(_STUB)
        throttled = _figure(task, "img-poll-429", 1.0)
        struck = self._faults.pick(RandomSource(seed=self._seed, content=task.content, nth=task.polls), POLL_FAULTS)
        if struck == "poll_throttle" or (throttled is not None and task.polls <= throttled):
            return refuse(REFUSALS["T2"], model="", request_id=request_id)
        return refuse(REFUSALS["busy"], model="", request_id=request_id) if struck == "poll_error" else None


_STUB: Json = {"request_id": "", "task_id": "", "task_status": "PROCESSING", "outputs": {}}
"""What a poll without the task-type header always gets."""


def _task_id(path: str) -> str:
    return unquote(path.rpartition("/")[2])


def _task_state(task: Task, now: float, files_base: str) -> dict[str, Json]:
    if not task.finished(now):
        started = now >= task.accepted_at + 0.2 * task.duration_s
        plain = ("RUNNING" if task.polls % 2 else "PROCESSING") if started else "PENDING"
        weird = "img-status-weird" in task.chosen
        return {"task_id": task.id, "task_status": _WEIRD[task.polls % len(_WEIRD)] if weird else plain}
    for scenario, word in _STATES.items():
        if scenario in task.chosen:
            return {"task_id": task.id, "task_status": word}
    if task.fails:
        return {"task_id": task.id, "task_status": "FAILED", "errors": _errors(task, now)}
    if "img-status-weird" in task.chosen and task.polls <= len(_WEIRD):
        return {"task_id": task.id, "task_status": _WEIRD[task.polls - 1]}
    late_s = _figure(task, "img-late", 20.0)
    if late_s is not None and now < task.accepted_at + task.duration_s + late_s:
        return {"task_id": task.id, "task_status": "SUCCEED", "output_images": None}
    urls: list[Json] = [] if "img-no-urls" in task.chosen else [f"{files_base}/files/{task.file}"]
    taken_ms = round(task.duration_s * 1000.0, 2)
    return {"task_id": task.id, "task_status": "SUCCEED", "output_images": urls, "time_taken": taken_ms}


def _errors(task: Task, now: float) -> Json:
    """The details of a failure may come a second after the failure itself."""
    if task.first_failed_at is None:
        task.first_failed_at = now
    if "img-fail-empty-then-text" in task.chosen and now < task.first_failed_at + 1.0:
        return {"code": 0, "message": ""}
    asked = next((name for name in _FAILURES if name in task.chosen), "img-fail")
    return {name: as_text(text).replace("{model}", task.model) for name, text in _FAILURES[asked].items()}


def failure_asked_of(order: Order) -> tuple[str, str] | None:
    """(scenario, the server's words) where one wants this order to fail."""
    names = [name for name in _FAILURES if name in order.chosen and order.nth <= order.figure(name, float("inf"))]
    return (names[0], as_text(_FAILURES[names[0]]["message"]).replace("{model}", order.base_model)) if names else None


def _odd_submit(task: Task, request_id: str) -> Script | None:
    """Replies to orders that were taken all the same."""
    taken: Json = {"task_id": task.id, "task_status": "PENDING", "request_id": request_id}
    if "img-504-id" in task.chosen:
        return json_script({"errors": {"message": "upstream timed out"}, "task_id": task.id}, status=504)
    if "img-cut-id" in task.chosen:
        return Script(headers={"content-type": JSON_TYPE}, steps=(Send(piece=encode_json(taken)[:-40]),))
    if "img-no-words" in task.chosen:
        return json_script({"success": True, "message": "submitted"})
    if "img-refused-200" in task.chosen:
        return json_script({"success": False, "code": 40212, "message": "model not available through API"})
    return None


def _wrapped(task_state: dict[str, Json]) -> Json:
    """The same as gateways pass it on: below `data`, with other names and lists in lists."""
    data: dict[str, Json] = {"task_id": task_state["task_id"], "status": as_text(task_state["task_status"]).lower()}
    if urls := task_state.get("output_images"):
        data["result"] = {"images": [{"url": urls}]}
    if "errors" in task_state:
        data["fail_reason"] = as_object(task_state["errors"]).get("message")
    return {"code": 200, "message": "success", "data": data}


def _figure(task: Task, scenario: str, otherwise: float) -> float | None:
    """The scenario's figure; None when the task has not asked for it."""
    if scenario not in task.chosen:
        return None
    said = task.chosen[scenario]
    return otherwise if said is None else said


def _name(content: int, now: float, size: tuple[int, int], nth: int, seed: int) -> str:
    """A UUID of 5 bytes of content, 4 of time, 2 and 2 of size, 1 of repetition and 2 that check the rest."""
    facts = (content & (2**40 - 1)).to_bytes(5, "big") + (int(now) & (2**32 - 1)).to_bytes(4, "big")
    facts += size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big") + bytes([nth % 256])
    return str(UUID(bytes=facts + _check(facts, seed)))


def _recall(task_id: str, seed: int, duration_s: float) -> Task | None:
    try:
        raw = UUID(task_id).bytes
    except ValueError:
        return None
    if str(UUID(task_id)) != task_id or raw[14:] != _check(raw[:14], seed):
        return None
    size = (int.from_bytes(raw[9:11], "big"), int.from_bytes(raw[11:13], "big"))
    content = int.from_bytes(raw[:5], "big")
    return Task(
        id=task_id,
        content=content,
        prompt=f"A picture of an earlier session, number {content:010x}",
        size=size,
        seed=seed,
        accepted_at=float(int.from_bytes(raw[5:9], "big")),
        duration_s=duration_s,
        chosen={},
        account=None,
        model="",
    )


def _check(facts: bytes, seed: int) -> bytes:
    return digest_of(facts, f"{seed}").to_bytes(8, "big")[:2]
