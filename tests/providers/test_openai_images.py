"""OpenAI's image generations: requests, every shape of reply, and what is refused."""

import base64
import json

import pytest

from batchrunner.core.http import Completed, ResponseHead
from batchrunner.core.item import InputPicture
from batchrunner.core.job import Json
from batchrunner.core.outcome import (
    Hints,
    PictureBytes,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    Revision,
    SendOutcome,
    Usage,
)
from batchrunner.providers import dialect_for
from batchrunner.providers.openai_images import OpenAiImages
from tests.providers.reading import EVENTS, RESET, head, item, provider, read, read_every_way

K = ProblemKind
URL = "https://files.example/a.png?sig=1"
PNG = b"\x89PNG\r\n\x1a\n rest"
PACKED = base64.b64encode(PNG).decode()
USAGE: Json = {"input_tokens": 9, "output_tokens": 1056, "total_tokens": 1065, "input_tokens_details": {}}
USED = Usage(input_tokens=9, output_tokens=1056)

DIALECT = OpenAiImages(provider("openai", "openai-images", "https://api.openai.com/v1"))


def made(value: Json, *, reply: ResponseHead | None = None) -> SendOutcome:
    return read_every_way(lambda: DIALECT.decoder(item()), reply or head(), json.dumps(value).encode())


def test_a_request_is_a_post_with_the_parameters_as_they_are() -> None:
    params: dict[str, Json] = {"size": "1024x1024", "n": 2, "output_format": "webp", "moderation": "low", "x": None}
    request = DIALECT.encode(item("一只金猫", params=params, model="gpt-image-2"), Revision())
    assert (request.method, request.url) == ("POST", "https://api.openai.com/v1/images/generations")
    assert request.headers == {"content-type": "application/json"}
    assert json.loads(request.body or b"") == {"model": "gpt-image-2", "prompt": "一只金猫", **params}


def test_response_format_is_sent_only_if_the_person_gave_it() -> None:
    assert "response_format" not in json.loads(DIALECT.encode(item(), Revision()).body or b"")
    asked = item(params={"response_format": "url"})
    assert json.loads(DIALECT.encode(asked, Revision()).body or b"")["response_format"] == "url"


@pytest.mark.parametrize(
    ("urls", "sent"), [(["https://a.example"], "https://a.example"), (["a:1", "b:2"], ["a:1", "b:2"])]
)
def test_pictures_to_start_from_are_not_dropped(urls: list[str], sent: Json) -> None:
    pictures = tuple(InputPicture(name=url, sha256="", url=url) for url in urls)
    assert json.loads(DIALECT.encode(item(pictures=pictures), Revision()).body or b"")["image"] == sent


def test_a_job_may_speak_it_everywhere() -> None:
    assert isinstance(dialect_for(provider("simulator", "openai-images")), OpenAiImages)


MADE: dict[str, tuple[Json, Pictures]] = {
    "base64": ({"created": 1, "data": [{"b64_json": PACKED}]}, Pictures(refs=(PictureBytes(data=PNG),))),
    "a URL": ({"data": [{"url": URL, "revised_prompt": "x"}]}, Pictures(refs=(PictureUrl(url=URL),))),
    "several, with usage": (
        {"data": [{"b64_json": PACKED}, {"b64_json": PACKED}], "usage": USAGE, "output_format": "png"},
        Pictures(refs=(PictureBytes(data=PNG), PictureBytes(data=PNG)), usage=USED),
    ),
    "base64 wins over a null URL": (
        {"data": [{"b64_json": PACKED, "url": None}]},
        Pictures(refs=(PictureBytes(data=PNG),)),
    ),
    "a part of a group failed": (
        {"data": [{"url": URL}, {"error": {"code": "x", "message": "m"}}]},
        Pictures(refs=(PictureUrl(url=URL),), flags=("pictures_missing",)),
    ),
    "SiliconFlow's shape": (
        {"images": [{"url": URL}], "data": [{"url": URL}], "seed": 1},
        Pictures(refs=(PictureUrl(url=URL),)),
    ),
}


@pytest.mark.parametrize(("value", "pictures"), MADE.values(), ids=MADE.keys())
def test_every_shape_of_a_reply_with_pictures_is_understood(value: Json, pictures: Pictures) -> None:
    assert made(value) == pictures


def events(*said: Json) -> bytes:
    return b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in said)


PARTIAL: Json = {"type": "image_generation.partial_image", "b64_json": "AAAA", "partial_image_index": 0}
COMPLETED: Json = {"type": "image_generation.completed", "b64_json": PACKED, "usage": USAGE}


@pytest.mark.parametrize("prefix", [b"", b": ping\n\n"])
def test_of_a_stream_the_finished_picture_counts(prefix: bytes) -> None:
    body = prefix + events(PARTIAL, PARTIAL, COMPLETED) + b"data: [DONE]\n\n"
    outcome = read_every_way(lambda: DIALECT.decoder(item()), head(200, EVENTS), body)
    assert outcome == Pictures(refs=(PictureBytes(data=PNG),), usage=USED)


STREAMS = {
    "cut": (events(PARTIAL), K.STREAM_CORRUPT),
    "an error": (
        events(PARTIAL, {"type": "error", "error": {"message": "m", "code": "rate_limit_exceeded"}}),
        K.THROTTLE,
    ),
}


@pytest.mark.parametrize(("body", "kind"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_without_a_finished_picture_is_a_problem(body: bytes, kind: ProblemKind) -> None:
    problem = read_every_way(lambda: DIALECT.decoder(item()), head(200, EVENTS), body)
    assert isinstance(problem, Problem)
    assert problem.kind is kind


NOTHING: dict[str, tuple[Json, ProblemKind]] = {
    "null": ({"created": 1, "data": None}, K.NOT_UNDERSTOOD),
    "an empty list": ({"data": []}, K.NOT_UNDERSTOOD),
    "pictures that are none": ({"data": [{"url": "ftp://x"}, {"b64_json": "!"}, None]}, K.NOT_UNDERSTOOD),
    "no object": ([], K.NOT_UNDERSTOOD),
    "a task": ({"task_id": "t-1", "message": "success"}, K.NOT_UNDERSTOOD),
    "a task by its state": ({"data": {"id": "t-1", "status": "queued"}}, K.NOT_UNDERSTOOD),
    "an id alone": ({"id": "img-1", "data": []}, K.NOT_UNDERSTOOD),
    "a picture that nobody understands": ({"data": [{"oss_path": "bucket/key"}]}, K.NOT_UNDERSTOOD),
    "an error with 200": ({"error": {"message": "m", "code": "moderation_blocked"}}, K.CONTENT_FILTER),
    "all of a group failed": (
        {"data": [{"error": {"code": "content_policy_violation", "message": "m"}}]},
        K.CONTENT_FILTER,
    ),
}


@pytest.mark.parametrize(("value", "kind"), NOTHING.values(), ids=NOTHING.keys())
def test_a_reply_without_a_picture_is_a_problem(value: Json, kind: ProblemKind) -> None:
    problem = made(value)
    assert isinstance(problem, Problem)
    assert problem.kind is kind


REFUSALS = [
    (400, "moderation_blocked", "image_generation_user_error", K.CONTENT_FILTER),
    (400, "content_policy_violation", "invalid_request_error", K.CONTENT_FILTER),
    (400, "unknown_parameter", "invalid_request_error", K.BAD_REQUEST),
    (401, "invalid_api_key", "invalid_request_error", K.AUTH),
    (404, "model_not_found", "invalid_request_error", K.MODEL_NOT_FOUND),
    (429, "rate_limit_exceeded", "requests", K.THROTTLE),
    (429, "insufficient_quota", "insufficient_quota", K.BILLING),
    (400, "billing_hard_limit_reached", "invalid_request_error", K.BILLING),
    (500, None, "server_error", K.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "code", "name", "kind"), REFUSALS)
def test_a_refusal_is_what_its_code_states(status: int, code: str | None, name: str, kind: ProblemKind) -> None:
    problem = made({"error": {"message": "m", "type": name, "param": None, "code": code}}, reply=head(status))
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.message, problem.under_way) == (kind, "m", False)


def test_whole_pictures_count_though_the_connection_broke_behind_them() -> None:
    body = json.dumps({"data": [{"b64_json": PACKED}]}).encode()
    reader = DIALECT.decoder(item())
    assert read(reader, head(), [body], RESET) == Pictures(refs=(PictureBytes(data=PNG),))
    for lost in (1, 3):  # brackets only: the picture is there
        outcome = read(DIALECT.decoder(item()), head(), [body[:-lost]], RESET)
        assert outcome == Pictures(refs=(PictureBytes(data=PNG),), flags=("cut_after_end",))
    problem = read(DIALECT.decoder(item()), head(), [body[:-9]], RESET)
    assert isinstance(problem, Problem)
    assert problem.kind is K.STREAM_CUT


def test_the_limits_in_the_headers_are_reported() -> None:
    reply = head(200, x_ratelimit_remaining_requests="4")
    assert made({"data": [{"url": URL}]}, reply=reply) == Pictures(
        refs=(PictureUrl(url=URL),), hints=Hints(requests_remaining=4)
    )


def test_a_reply_with_more_than_any_picture_is_too_large() -> None:
    reader = DIALECT.decoder(item())
    reader.begin(head())
    pieces = 0
    while not reader.feed(b"x" * (16 * 1024 * 1024)):
        pieces += 1
        assert pieces < 20
    problem = reader.end(Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.TOO_LARGE
