"""ModelScope's image tasks: every shape of submit and poll."""

import base64
import json

import pytest

from batchrunner.core.http import Completed, ResponseHead
from batchrunner.core.item import InputPicture
from batchrunner.core.job import Json
from batchrunner.core.outcome import (
    FollowUp,
    Hints,
    Pending,
    PictureBytes,
    Pictures,
    PictureUrl,
    PollOutcome,
    Problem,
    ProblemKind,
    Revision,
    SendOutcome,
    TaskAccepted,
)
from batchrunner.providers.modelscope_images import ModelScopeImages
from batchrunner.providers.task_replies import TASK_STATES
from tests.providers.reading import RESET, head, item, provider, read, read_every_way

K = ProblemKind
URL = "https://muse-ai.oss-cn-hangzhou.aliyuncs.com/img/d2fd.png"
PNG = b"\x89PNG\r\n\x1a\n rest"
PACKED = base64.b64encode(PNG).decode()
UUID = "ffb3ad4b-e760-45b0-9053-f330fa302c6d"

DIALECT = ModelScopeImages(provider(dialect="modelscope-images"))


def submitted(value: Json, *, reply: ResponseHead | None = None) -> SendOutcome:
    return read_every_way(lambda: DIALECT.decoder(item()), reply or head(), json.dumps(value).encode())


def polled(value: Json, *, reply: ResponseHead | None = None) -> PollOutcome:
    return read_every_way(DIALECT.poll_decoder, reply or head(), json.dumps(value).encode())


def test_a_submit_is_a_post_in_utf8_that_asks_to_be_accepted() -> None:
    params: dict[str, Json] = {"size": "1024x1024", "seed": 7, "loras": {"a/b": 0.6, "c/d": 0.4}, "unknown": None}
    request = DIALECT.encode(item("一只金猫", params=params, model="Qwen/Qwen-Image"), Revision())
    assert (request.method, request.url) == ("POST", "http://127.0.0.1:8000/v1/images/generations")
    assert request.headers == {"content-type": "application/json", "x-modelscope-async-mode": "true"}
    body = request.body or b""
    assert "一只金猫".encode() in body
    assert json.loads(body) == {"model": "Qwen/Qwen-Image", "prompt": "一只金猫", **params}


@pytest.mark.parametrize(
    ("urls", "params", "sent"),
    [
        (["https://x.example/a.png"], {}, "https://x.example/a.png"),
        (["data:image/png;base64,AA"], {}, ["data:image/png;base64,AA"]),
        (
            ["https://x.example/a.png", "https://x.example/b.png"],
            {},
            ["https://x.example/a.png", "https://x.example/b.png"],
        ),
        (["https://x.example/a.png"], {"image_url": "https://mine.example"}, "https://mine.example"),
    ],
)
def test_pictures_to_edit_go_as_image_url(urls: list[str], params: dict[str, Json], sent: Json) -> None:
    pictures = tuple(InputPicture(name=url, sha256="", url=url) for url in urls)
    request = DIALECT.encode(item(pictures=pictures, params=params), Revision())
    assert json.loads(request.body or b"")["image_url"] == sent


SUBMITS: dict[str, tuple[Json, SendOutcome]] = {
    "a string": ({"task_id": "5075521", "request_id": "4528"}, TaskAccepted(task_id="5075521")),
    "a number": ({"task_id": 1234567}, TaskAccepted(task_id="1234567")),
    "a number beyond 64 bits": ({"task_id": 2**80}, TaskAccepted(task_id=str(2**80))),
    "a number as a float": ({"task_id": 12.0}, TaskAccepted(task_id="12")),
    "SUCCEED means accepted": (
        {"task_status": "SUCCEED", "task_id": UUID, "request_id": "x"},
        TaskAccepted(task_id=UUID),
    ),
    "an id and pictures: finished": (
        {"task_id": "1", "output_images": [URL]},
        Pictures(refs=(PictureUrl(url=URL),), task_id="1"),
    ),
    "an id and pictures of a task that runs: accepted": (
        {"task_id": "1", "task_status": "RUNNING", "output_images": [URL]},
        TaskAccepted(task_id="1"),
    ),
    "an id wins over an error": ({"task_id": "1", "errors": {"message": "x"}}, TaskAccepted(task_id="1")),
    "nested": ({"output": {"task_id": UUID, "task_status": "PENDING"}}, TaskAccepted(task_id=UUID)),
    "synchronous, images": ({"images": [{"url": URL}], "request_id": "x"}, Pictures(refs=(PictureUrl(url=URL),))),
    "synchronous, output_images": ({"output_images": [URL]}, Pictures(refs=(PictureUrl(url=URL),))),
    "synchronous, data": (
        {"data": [{"url": URL}, {"b64_json": PACKED}]},
        Pictures(refs=(PictureUrl(url=URL), PictureBytes(data=PNG))),
    ),
    "synchronous, a data URL": (
        {"images": [{"url": f"data:image/png;base64,{PACKED}"}]},
        Pictures(refs=(PictureBytes(data=PNG),)),
    ),
    "two spellings, of which one is filled": (
        {"task_id": "1", "taskId": None, "TASK-ID": ""},
        TaskAccepted(task_id="1"),
    ),
    "an object as the id": ({"task_id": {"id": "1"}}, TaskAccepted(task_id="1")),
    "a list of objects": ({"task_ids": [{"id": "1"}, {"id": "2"}]}, TaskAccepted(task_id="1", others=("2",))),
    "in a list of its own": ([{"output_images": [URL]}], Pictures(refs=(PictureUrl(url=URL),))),
    "an empty id and pictures": ({"task_id": "", "output_images": [URL]}, Pictures(refs=(PictureUrl(url=URL),))),
}


@pytest.mark.parametrize(("value", "outcome"), SUBMITS.values(), ids=SUBMITS.keys())
def test_every_shape_of_a_taken_submit_is_understood(value: Json, outcome: SendOutcome) -> None:
    assert submitted(value) == outcome


REFUSED: dict[str, tuple[Json, ProblemKind]] = {
    "nothing": ({}, K.NOT_UNDERSTOOD),
    "a request id alone": ({"request_id": "x"}, K.NOT_UNDERSTOOD),
    "an id that is none": ({"task_id": True}, K.NOT_UNDERSTOOD),
    "an empty id": ({"task_id": " "}, K.NOT_UNDERSTOOD),
    "a status alone": ({"task_status": "SUCCEED"}, K.NOT_UNDERSTOOD),
    "pictures that are none": ({"images": [{"url": "ftp://x"}, None, 7], "data": "!"}, K.NOT_UNDERSTOOD),
    "no object": ([], K.NOT_UNDERSTOOD),
    "an error with 200": ({"errors": {"message": "Request limit exceeded."}}, K.THROTTLE),
    "an id that walks": ({"task_id": ".."}, K.NOT_UNDERSTOOD),
    "an id that never ends": ({"task_id": "9" * 600}, K.NOT_UNDERSTOOD),
}


@pytest.mark.parametrize(("value", "kind"), REFUSED.values(), ids=REFUSED.keys())
def test_a_submit_that_names_nothing_is_a_problem(value: Json, kind: ProblemKind) -> None:
    problem = submitted(value)
    assert isinstance(problem, Problem)
    assert problem.kind is kind


def test_an_accepted_task_is_kept_though_the_connection_broke_behind_it() -> None:
    assert read(DIALECT.decoder(item()), head(), [b'{"task_id": "1"}'], RESET) == TaskAccepted(task_id="1")


def test_half_a_reply_to_a_submit_is_no_task() -> None:
    problem = read(DIALECT.decoder(item()), head(), [b'{"task_id": "1'], RESET)
    assert isinstance(problem, Problem)
    assert problem.kind is K.STREAM_CUT


@pytest.mark.parametrize(
    ("status", "value", "kind"),
    [
        (400, {"errors": {"message": "image-gen task currently does not support synchronous calls."}}, K.CONFIGURATION),
        (400, {"errors": {"code": 40212, "message": "x"}}, K.MODEL_NOT_FOUND),
        (429, {"errors": {"message": "We have to rate limit you for model Qwen/Qwen-Image."}}, K.THROTTLE),
        (500, {"errors": {"message": "Server is busy, please try again later"}}, K.OVERLOADED),
        (500, {"errors": {"message": "You have exceeded today's quota, please try again tomorrow"}}, K.QUOTA_ACCOUNT),
    ],
)
def test_a_refused_submit_is_classified(status: int, value: Json, kind: ProblemKind) -> None:
    problem = submitted(value, reply=head(status))
    assert isinstance(problem, Problem)
    assert problem.kind is kind


def test_the_limits_in_the_headers_of_a_submit_are_reported() -> None:
    reply = head(200, modelscope_ratelimit_model_requests_remaining="49")
    assert submitted({"task_id": "1"}, reply=reply) == TaskAccepted(task_id="1", hints=Hints(model_remaining=49))


@pytest.mark.parametrize(
    ("task_id", "path"),
    [("5075521", "5075521"), (UUID, UUID), ("a/../b?c#d é", "a%2F..%2Fb%3Fc%23d%20%C3%A9"), ("\ud800", "%EF%BF%BD")],
)
def test_a_poll_is_a_get_with_the_task_type_and_an_escaped_id(task_id: str, path: str) -> None:
    request = DIALECT.poll(task_id)
    assert (request.method, request.url, request.body) == ("GET", f"http://127.0.0.1:8000/v1/tasks/{path}", None)
    assert request.headers == {"x-modelscope-task-type": "image_generation"}


def task(status: Json, **fields: Json) -> dict[str, Json]:
    return {"task_id": "5075521", "task_status": status, "request_id": "r", **fields}


STUB: Json = {"request_id": "", "task_id": "", "task_status": "PROCESSING", "outputs": {}}

POLLS: dict[str, tuple[Json, PollOutcome]] = {
    "pending": (task("PENDING"), Pending(state="queued", raw="PENDING")),
    "processing": (task("PROCESSING"), Pending(state="running", raw="PROCESSING")),
    "running": (task("RUNNING"), Pending(state="running", raw="RUNNING")),
    "lower case": (task("running"), Pending(state="running", raw="running")),
    "unknown": (task("UNKNOWN"), Pending(state="unknown", raw="UNKNOWN")),
    "a new word": (task("DREAMING"), Pending(state="unknown", raw="DREAMING")),
    "a number": (task(3), Pending(state="unknown", raw="3")),
    "no word": (task(None), Pending(state="unknown")),
    "an empty word": (task(""), Pending(state="unknown")),
    "nothing": ({}, Pending(state="unknown")),
    "no object": ([], Pending(state="unknown")),
    "the stub": (STUB, Pending(state="running", raw="PROCESSING", stub=True)),
    "no place for an id is no stub": ({"task_status": "RUNNING"}, Pending(state="running", raw="RUNNING")),
    "succeeded": (
        task("SUCCEED", output_images=[URL], time_taken=18812.86),
        Pictures(refs=(PictureUrl(url=URL),)),
    ),
    "succeeded, several, some of them nothing": (
        task("SUCCEED", output_images=[None, URL, 7, "nonsense", f"data:image/png;base64,{PACKED}"]),
        Pictures(refs=(PictureUrl(url=URL), PictureBytes(data=PNG))),
    ),
    "two spellings, of which one is filled": (
        task("SUCCEED", output_images=[URL], outputImages=[]),
        Pictures(refs=(PictureUrl(url=URL),)),
    ),
    "in a list of its own": ([{"task_status": "SUCCEED", "images": [URL]}], Pictures(refs=(PictureUrl(url=URL),))),
    "a word that means an end beside pictures": (
        task("PROCESSED", output_images=[URL]),
        Pictures(refs=(PictureUrl(url=URL),)),
    ),
    "such a word without pictures": (task("PROCESSED"), Pending(state="unknown", raw="PROCESSED")),
    "pictures without a word": ({"output_images": [URL]}, Pictures(refs=(PictureUrl(url=URL),))),
    "DashScope's shape": (
        {"output": {"task_id": "1", "task_status": "SUCCEEDED", "results": [{"url": URL}]}},
        Pictures(refs=(PictureUrl(url=URL),)),
    ),
}


@pytest.mark.parametrize(("value", "outcome"), POLLS.values(), ids=POLLS.keys())
def test_every_shape_of_a_poll_is_understood(value: Json, outcome: PollOutcome) -> None:
    assert polled(value) == outcome


@pytest.mark.parametrize(("word", "standing"), TASK_STATES.items())
def test_each_word_stands_for_what_the_table_states(word: str, standing: str) -> None:
    outcome = polled(task(word, output_images=[URL] if standing == "succeeded" else []))
    kinds = {
        "failed": K.TASK_FAILED,
        "cancelled": K.TASK_CANCELLED,
        "refused": K.BAD_REQUEST,
        "filtered": K.CONTENT_FILTER,
        "gone": K.TASK_NOT_FOUND,
    }
    match outcome:
        case Pending(state=state):
            assert state == standing
        case Pictures():
            assert standing == "succeeded"
        case Problem(kind=kind):
            assert kind is kinds[standing]
        case FollowUp():
            raise AssertionError("no second request is needed")


ENDS: dict[str, tuple[Json, ProblemKind, str | None, str | None]] = {
    "failed, and why": (
        task("FAILED", errors={"message": "Model inference failed: out of memory"}),
        K.TASK_FAILED,
        "Model inference failed: out of memory",
        None,
    ),
    "failed, with a code": (task("FAILED", errors={"code": 500, "message": "x"}), K.TASK_FAILED, "x", "500"),
    "failed, a code of nought beside a reason": (
        task("FAILED", errors={"code": 0, "message": "x"}),
        K.TASK_FAILED,
        "x",
        None,
    ),
    "failed without a reason is flagged": (
        task("FAILED", errors={"code": 0, "message": ""}),
        K.TASK_FAILED,
        None,
        None,
    ),
    "failed without anything is flagged": (task("FAILED"), K.TASK_FAILED, None, None),
    "failed, not found": (
        task("FAILED", errors={"message": "Task not found"}),
        K.TASK_NOT_FOUND,
        "Task not found",
        None,
    ),
    "not found without a word": ({"errors": {"message": "task not found"}}, K.TASK_NOT_FOUND, "task not found", None),
    "succeeded without pictures": (task("SUCCEED"), K.EMPTY_RESULT, None, None),
    "succeeded with an empty list": (task("SUCCEED", output_images=[]), K.EMPTY_RESULT, None, None),
    "a reason in the place of the picture": (
        task("SUCCEED", output_images=[{"error": {"message": "NSFW content detected"}}]),
        K.CONTENT_FILTER,
        "NSFW content detected",
        None,
    ),
    "a reason beside an empty address": (
        task("FAILED", images=[{"url": None, "error": "NSFW content detected"}]),
        K.CONTENT_FILTER,
        "NSFW content detected",
        None,
    ),
    "cancelled": (task("CANCELED"), K.TASK_CANCELLED, None, None),
    "throttled with 200": (
        {"errors": {"message": "Request limit exceeded."}},
        K.THROTTLE,
        "Request limit exceeded.",
        None,
    ),
}


@pytest.mark.parametrize(("value", "kind", "message", "code"), ENDS.values(), ids=ENDS.keys())
def test_a_poll_that_ends_a_task_states_how(
    value: Json, kind: ProblemKind, message: str | None, code: str | None
) -> None:
    problem = polled(value)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.code) == (kind, code)
    assert message is None or problem.message == message
    assert problem.message


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b'{"detail": "Not Found"}', K.TASK_NOT_FOUND),
        (404, b'{"code": 404, "msg": "task 1 does not exist"}', K.TASK_NOT_FOUND),
        (410, b'{"detail": "gone"}', K.TASK_NOT_FOUND),
        (400, b'{"errors": {"message": "task not found"}}', K.TASK_NOT_FOUND),
        (500, b'{"errors": {"message": "Task not found: 1"}}', K.TASK_NOT_FOUND),
        (200, b'{"code": 404, "message": "task id 1 does not exist"}', K.TASK_NOT_FOUND),
        (200, b'{"status": "Task not found"}', K.TASK_NOT_FOUND),
        (400, '{"message": "任务不存在"}'.encode(), K.TASK_NOT_FOUND),
        (429, b'{"errors": {"message": "Request limit exceeded."}}', K.THROTTLE),
        (500, b"", K.SERVER_ERROR),
        (503, b"busy", K.OVERLOADED),
        (401, b"", K.AUTH),
        (302, b"", K.NOT_REACHED),
        (200, b"<html>", K.NOT_REACHED),
        (200, b"", K.EMPTY_RESPONSE),
    ],
)
def test_a_refused_poll_is_about_itself_unless_the_task_is_gone(status: int, body: bytes, kind: ProblemKind) -> None:
    problem = read_every_way(DIALECT.poll_decoder, head(status), body)
    assert isinstance(problem, Problem)
    assert problem.kind is kind


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>404 Not Found</h1></html>",
        b"task not found",
        b"404 page not found",
        b'{"message": "no Route matched with those values"}',
        b'{"status": 404, "error": "Not Found", "path": "/v1/tasks/1"}',
        b'{"error": "Cannot GET /v1/tasks/1"}',
        b'{"message": "The requested path was not found."}',
        b'{"error": {"message": "upstream service not found"}}',
        b"[]",
        b"{}",
    ],
)
@pytest.mark.parametrize("status", [404, 410])
def test_what_a_machine_on_the_way_states_of_its_paths_ends_no_task(status: int, body: bytes) -> None:
    problem = read_every_way(lambda: DIALECT.poll_decoder("1"), head(status), body)
    assert isinstance(problem, Problem)
    assert not problem.of_task
    assert problem.kind is not K.TASK_NOT_FOUND


def test_a_poll_reports_when_to_come_back_and_what_is_left() -> None:
    reply = head(200, retry_after="4", modelscope_ratelimit_requests_remaining="12")
    assert polled(task("RUNNING"), reply=reply) == Pending(
        state="running", raw="RUNNING", hint_s=4.0, hints=Hints(account_remaining=12)
    )


def test_a_reply_with_more_than_any_picture_is_too_large() -> None:
    reader = DIALECT.poll_decoder()
    reader.begin(head())
    pieces = 0
    while not reader.feed(b"x" * (16 * 1024 * 1024)):
        pieces += 1
        assert pieces < 20
    problem = reader.end(Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.TOO_LARGE
