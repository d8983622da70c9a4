"""What a job says of its server reaches it: Azure's key and version, a proxy's password, OpenAI's form for edits."""

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from batchrunner.core.errors import JobMistakesError
from tests.field.runs import KEY, Field
from tests.field.server import HELLO, Answer, Asked, always, http, json_reply, message, once
from tests.field.test_answers import PNG

PASSWORD: Final = "proxy-pass/word+of=mine"
PACKED: Final = base64.b64encode(f"me:{PASSWORD}".encode()).decode()


def test_azures_key_and_version_stand_in_every_request(field: Field) -> None:
    ran = field.run(
        always(HELLO),
        {"provider": {"base_url": "{base}/openai/deployments/d", "auth": "api-key", "api_version": "2024-10-21"}},
    )
    (asked,) = ran.asked
    assert asked.path == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert (asked.headers["api-key"], asked.headers.get("authorization")) == (KEY, None)


def through_a_proxy(field: Field, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Any:
    monkeypatch.setenv("PROXY_AUTH", f"me:{PASSWORD}")
    provider = {
        "base_url": "http://models.example/v1",
        "proxy": "{base}",
        "proxy_auth_env": "PROXY_AUTH",
        "api_key_env": [],
    }
    return field.run(always(answer), {"provider": provider})


def test_a_proxy_gets_its_password_and_nobody_else_sees_it(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = json_reply(message(content=f"you are me:{PASSWORD}, {PASSWORD} or Basic {PACKED}"))
    ran = through_a_proxy(field, monkeypatch, echo)
    (asked,) = ran.asked
    assert asked.headers["proxy-authorization"] == f"Basic {PACKED}"
    assert ran.output()["text"].count("***") == 3
    for file in ran.out.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()
    assert PASSWORD not in (field.folder / "job.yaml").read_text("utf-8")


def test_a_refusal_that_repeats_the_password_is_masked(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = through_a_proxy(field, monkeypatch, http(f'{{"error": {{"message": "no {PASSWORD}"}}}}', status=400))
    assert "***" in ran.failures[0]["error"]["message"]
    assert PASSWORD not in str((ran.failures, ran.said, ran.report))


@pytest.mark.parametrize("value", [None, "", "no-colon", ":no-user"])
def test_a_proxys_password_that_is_not_there_is_a_mistake(
    field: Field, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("PROXY_AUTH", raising=False)
    if value is not None:
        monkeypatch.setenv("PROXY_AUTH", value)
    provider = {"proxy": "{base}", "proxy_auth_env": "PROXY_AUTH"}
    with pytest.raises(JobMistakesError, match="PROXY_AUTH"):
        field.run(always(HELLO), {"provider": provider})


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"proxy_auth_env": "PROXY_AUTH"}, "there is no proxy"),
        ({"proxy": "http://p:3128", "proxy_auth_env": "me:secret-pass"}, "environment variable"),
        ({"api_version": "2024/10"}, "not a version"),
        ({"auth": "apikey"}, "api-key"),
    ],
)
def test_mistakes_in_these_keys_are_named(field: Field, provider: dict[str, Any], said: str) -> None:
    with pytest.raises(JobMistakesError, match=said) as caught:
        field.run(always(HELLO), {"provider": provider})
    assert "secret-pass" not in str(caught.value)


def picture(folder: Path, name: str = "cat.png") -> bytes:
    data = base64.b64decode(PNG)
    (folder / name).write_bytes(data)
    return data


def edited(field: Field, provider: dict[str, Any], images: list[str]) -> Asked:
    reply = json_reply({"data": [{"b64_json": PNG}]})
    job = {"kind": "image", "images": images, "params": {"size": "1024x1024", "n": 1}, "provider": provider}
    ran = field.run(always(reply), job)
    assert ran.exit_status == 0, (ran.failures, ran.said)
    return ran.asked[0]


def parts_of(asked: Asked) -> list[tuple[str, bytes]]:
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    pieces = asked.body.split(b"--" + boundary)[1:-1]
    found = [piece.strip(b"\r\n").partition(b"\r\n\r\n") for piece in pieces]
    return [(head.decode().partition('name="')[2].partition('"')[0], body) for head, _, body in found]


def test_openai_gets_pictures_to_edit_as_files_of_a_form(field: Field) -> None:
    data = picture(field.folder)
    asked = edited(field, {"preset": "openai"}, ["cat.png"])
    assert asked.path == "/v1/images/edits"
    assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert parts_of(asked) == [
        ("model", b"m"),
        ("prompt", b"p0"),
        ("size", b"1024x1024"),
        ("n", b"1"),
        ("image", data),
    ]


def test_several_pictures_go_under_one_name(field: Field) -> None:
    data = picture(field.folder)
    picture(field.folder, "dog.png")
    asked = edited(field, {"preset": "openai"}, ["cat.png", "dog.png"])
    assert [part for part in parts_of(asked) if part[0].startswith("image")] == [("image[]", data), ("image[]", data)]


def test_other_servers_get_them_in_the_usual_request(field: Field) -> None:
    picture(field.folder)
    asked = edited(field, {"dialect": "openai-images"}, ["cat.png"])
    assert asked.path == "/v1/images/generations"
    assert json.loads(asked.body)["image"] == f"data:image/png;base64,{PNG}"


def test_pictures_stand_before_the_text_about_them(field: Field) -> None:
    picture(field.folder)
    asked = field.run(always(HELLO), {"images": ["cat.png"]}).asked[0]
    assert [part["type"] for part in asked.json["messages"][0]["content"]] == ["image_url", "text"]


MADE: Final = json_reply({"data": [{"b64_json": PNG}]})
NOTHING_IN_IT: Final = {
    "no list": json_reply({"created": 1, "data": None}),
    "an empty list": json_reply({"created": 1, "data": [], "usage": {"input_tokens": 3}}),
    "an empty object": json_reply({}),
    "an empty entry": json_reply({"data": [{"url": ""}]}),
    "good news": json_reply({"success": True}),
    "null": http("null"),
    "an empty body": http(""),
    "blanks": http("\n\n"),
    "no content": http(status=204, kind=None),
    "an empty 202": http(status=202),
    "a stream of nothing": http("data: [DONE]\n\n", kind="text/event-stream", length="none"),
    "a task with 429": json_reply({"task_id": "t-1", "message": "the queue is full"}, status=429),
    "a task with 500": json_reply({"task_id": "t-1", "error": {"message": "x"}}, status=500),
    "a task with 503": json_reply({"data": {"taskId": "t-1"}}, status=503),
    "a task with 524": json_reply({"task_id": "t-1"}, status=524),
    "a task of which the end is lost": http('{"task_id": "t-1", "x": ', length=400),
}


@pytest.mark.parametrize("reply", NOTHING_IN_IT.values(), ids=NOTHING_IN_IT.keys())
def test_an_order_that_was_taken_and_is_not_understood_is_held_and_never_repeated(field: Field, reply: bytes) -> None:
    ran = field.run(once(reply, MADE), {"kind": "image", "provider": {"dialect": "openai-images"}})
    assert (len(ran.asked), ran.exit_status, ran.rows, ran.failures) == (1, 3, [], [])
    (group,) = ran.report.status.held
    assert (group.kind, group.count) == ("not_understood", 1)
    assert field.run(always(MADE), {"kind": "image", "provider": {"dialect": "openai-images"}}).asked == []


PAID: Final = {
    "behind a gateway's error": json_reply({"data": [{"b64_json": PNG}]}, status=502),
    "as the reply itself": http(base64.b64decode(PNG), kind="image/png"),
    "with its brackets lost": http(json.dumps({"data": [{"b64_json": PNG}]})[:-2], length=900),
    "in a chat answer": json_reply(
        message(content="", images=[{"image_url": {"url": f"data:image/png;base64,{PNG}"}}])
    ),
    "in the words of one": json_reply(message(content=f"![x](data:image/png;base64,{PNG})")),
    "as Gemini draws": json_reply({"candidates": [{"content": {"parts": [{"inlineData": {"data": PNG}}]}}]}),
    "as Vertex draws": json_reply({"predictions": [{"bytesBase64Encoded": PNG}]}),
    "as web UIs draw": json_reply({"images": [PNG], "parameters": {}}),
}


@pytest.mark.parametrize("reply", PAID.values(), ids=PAID.keys())
def test_a_picture_is_kept_in_whatever_it_comes(field: Field, reply: bytes) -> None:
    ran = field.run(once(reply, MADE), {"kind": "image", "provider": {"dialect": "openai-images"}})
    assert (len(ran.asked), ran.exit_status, ran.output()["images"][0]["format"]) == (1, 0, "PNG")


@pytest.mark.parametrize("reply", [json_reply({"success": False}), json_reply({"code": 500, "data": []})])
def test_a_refusal_of_an_order_inside_a_200_is_one(field: Field, reply: bytes) -> None:
    ran = field.run(once(reply, MADE), {"kind": "image", "provider": {"dialect": "openai-images"}})
    assert (len(ran.asked), ran.exit_status) == (2, 0)
