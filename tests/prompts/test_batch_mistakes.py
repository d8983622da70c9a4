"""Lines of a batch file that cannot be sent as they stand: each is a bad row that says what is not supported."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner.prompts import items_of
from tests.prompts.batches import PNG, PNG_URL, SAID, batch, body, line, parts, shown, speaking, user
from tests.prompts.jobs import items, job_of, mistake, mistakes, picture_job, source, stream

BAD: list[tuple[dict[str, Any] | str, str]] = [
    ("{", "not JSON"),
    ("[]", "a list, not an object"),
    ({"custom_id": "r2", "url": "/v1/chat/completions"}, "has no `method` and no `body`"),
    (line(custom_id=7), "`custom_id` is not text"),
    (line(custom_id=" "), "`custom_id` is empty"),
    (line(custom_id="x" * 1001), "1,001 characters"),
    (line(method="GET"), "`method` is GET, not POST"),
    (line(url="/v1/embeddings"), "/v1/embeddings, which is not supported"),
    (line(url="https://h.test/v1/chat/completions"), "which is not supported"),
    (line(url=None), "`url` is not text"),
    (line(url="/v1/messages"), "dialect openai-chat does not have; send it with the dialect anthropic-messages"),
    (line(url="/v1/images/generations", body={"prompt": "x"}), "the dialect modelscope-images or openai-images"),
    (line(body="x"), "`body` is not an object"),
    (body(stream=True), "`body.stream` must not be true"),
    (body(model=7), "`body.model` is not text"),
    (body(messages=None), "`body.messages` is not a list"),
    (body(messages=[]), "`body.messages` is not a list"),
    (body(messages=["hi"]), "`body.messages[0]` is not an object"),
    (body(messages=[{"role": "assistant", "content": "x"}]), "no message with `role: user`"),
    (body(messages=[*SAID, {"role": "critic", "content": "x"}]), "messages[1].role` is critic, which is not supported"),
    (body(messages=[*SAID, {"role": "tool", "content": "x", "tool_id": "1"}]), "messages[1].tool_id` is not supported"),
    (body(messages=[*SAID, {"role": "assistant", "audio": {"id": "1"}}]), "`body.messages[1].audio` is not supported"),
    (body(messages=[*SAID, {"role": "tool", "content": [{"type": "file"}]}]), "content[0].file` is not an object"),
    (user(" "), "`body.messages[0].content` is empty"),
    (user(None), "neither text nor a list of parts"),
    (user([]), "neither text nor a list of parts"),
    (parts({"type": "input_audio", "input_audio": {}}), "content[0].input_audio.data` is not text"),
    (parts({"type": "video_url", "video_url": {}}), "content[0]` is a part of the type video_url"),
    (user(["x"]), "content[0]` is a part of the type None"),
    (parts({"type": "text", "text": 7}), "content[0].text` is not text"),
    (parts({"type": "text", "text": "x", "cache_control": {}}), "content[0].cache_control` is not supported"),
    (parts("x", {"type": "image_url", "image_url": {"url": PNG_URL, "min_pixels": 9}}), "min_pixels` is not supported"),
    (parts("x", {"type": "image_url", "image_url": 7}), "content[1].image_url` is not an object"),
    (parts("x", {"type": "image_url", "image_url": {}}), "content[1].image_url.url` is not text"),
    (parts("x", shown("p.png")), "neither a file nor an http(s) address"),
    (parts("x", shown("file:///etc/passwd")), "neither a file nor an http(s) address"),
    (parts("x", shown("data:image/png,rest")), "is not a base64 data URL"),
    (parts("x", shown("data:image/png;base64,a")), "is not base64"),
    (parts("x", shown("data:image/png;base64,AAAA")), "is not a PNG, JPEG, WEBP or GIF"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_what_cannot_be_sent_as_it_stands_is_a_bad_row(tmp_path: Path, bad: dict[str, Any] | str, says: str) -> None:
    (tmp_path / "p.png").write_bytes(PNG)
    text = bad if isinstance(bad, str) else json.dumps({**bad, "custom_id": bad.get("custom_id", "r2")})
    rows = source(tmp_path / "batch.jsonl", f"{json.dumps(line(custom_id='r0'))}\n{text}\n", on_bad_row="skip")
    every = items_of(job_of(rows, folder=tmp_path))
    assert [item.id for item in stream(every)] == ["r0"]
    (skipped,) = every.skipped
    assert (skipped.file, skipped.line) == ("batch.jsonl", 2)
    assert says in str(skipped)


def test_what_is_null_or_empty_is_not_there(tmp_path: Path) -> None:
    asked = user("x", name=None, tool_calls=[], refusal=None)
    assert items(job_of(batch(tmp_path, asked)))[0].prompt == "x"


@pytest.mark.parametrize(
    ("source_of", "says"),
    [
        ({"type": "file", "file_id": "f"}, "source.file_id` is not supported"),
        ({"type": "file"}, "source` is of the type file"),
        ({"type": "base64", "data": 7}, "source.data` is not text"),
        (None, "source` is not an object"),
    ],
)
def test_a_picture_of_another_source_is_a_bad_row(tmp_path: Path, source_of: Any, says: str) -> None:
    said = [{"role": "user", "content": [{"type": "image", "source": source_of}]}]
    job = job_of(batch(tmp_path, line(url="/v1/messages", body={"messages": said})))
    assert says in mistake(speaking("anthropic-messages", job))


def test_the_rules_of_modelscopes_pictures_hold_for_every_row(tmp_path: Path) -> None:
    def asked(name: str, **more: Any) -> dict[str, Any]:
        return line(custom_id=name, url="/v1/images/generations", body={"prompt": "A cat", **more})

    rows = [
        asked("a", steps=0),
        asked("b", size="9x9"),
        asked("c", prompt="x" * 2000),
        asked("d", prompt=" "),
        asked("e"),
    ]
    found = mistakes(picture_job(batch(tmp_path, *rows)))
    assert [(m.line, m.key) for m in found] == [(1, "body.steps"), (2, "body.size"), (3, None), (4, None)]
    assert "`body.prompt` is not text" in mistake(picture_job(batch(tmp_path, asked("a", prompt=["x"]))))
    other = speaking("openai-images", picture_job(batch(tmp_path, asked("a", size="auto"))))
    assert items(other)[0].params == {"size": "auto"}
