"""`jsonl`, `openai-batch` and `webdataset`: read back by json, by the official SDK and by tarfile."""

import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from openai.types.chat import ChatCompletion
from openai.types.images_response import ImagesResponse

from batchrunner.core.exports import ExportRow
from batchrunner.exporters import EXPORTERS
from tests.exporters.rows import KEY, TEXTS, chat_row, failed_row, made, picture_row, row


def lines(content: bytes) -> list[Any]:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.decode("utf-8").split("\n")[:-1]]


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        found = [(member.name, tar.extractfile(member)) for member in tar]
        return {name: file.read() for name, file in found if file is not None}


# -- jsonl


def test_jsonl_gives_the_very_bytes_of_the_rows() -> None:
    odd = ExportRow(line=b'{"id" :"a",  "x":1.50}', fields={"id": "a", "x": 1.5}, outcome="done")
    assert made("jsonl", odd, failed_row()) == odd.line + b"\n" + failed_row().line + b"\n"


# -- openai-batch


@given(answer=TEXTS, name=TEXTS)
def test_answers_are_lines_that_the_sdk_reads(answer: str, name: str) -> None:
    (line,) = lines(made("openai-batch", chat_row(answer, id=name)))
    assert (line["id"], line["custom_id"], line["error"]) == (f"batch_req_{KEY}", name, None)
    assert line["response"]["status_code"] == 200
    completion = ChatCompletion.model_validate(line["response"]["body"])
    assert completion.choices[0].message.content == answer
    assert completion.usage is not None
    assert completion.usage.total_tokens == 5
    assert completion.created == 1_795_382_043


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "end_turn"}, "stop"),
        ({"finish_reason": "tool_use"}, "tool_calls"),
        ({"finish_reason": "max_tokens", "truncated": True}, "length"),
        ({"finish_reason": "max_output_tokens"}, "length"),
        ({"finish_reason": "completed"}, "stop"),
        ({"finish_reason": "completed", "tool_calls": [{"id": "1", "name": "f", "arguments": "{}"}]}, "tool_calls"),
        ({"finish_reason": "refusal"}, "content_filter"),
        ({"finish_reason": "own word", "truncated": True}, "length"),
        ({"finish_reason": None}, "stop"),
        ({"finish_reason": None, "tool_calls": [{"id": None, "name": "f", "arguments": "{"}]}, "tool_calls"),
    ],
)
def test_finish_reasons_are_openais_words(output: dict[str, Any], reason: str) -> None:
    (line,) = lines(made("openai-batch", chat_row(output=output, usage=None)))
    assert ChatCompletion.model_validate(line["response"]["body"]).choices[0].finish_reason == reason


def test_reasoning_and_tools_are_kept_and_half_a_usage_is_none() -> None:
    output = {"reasoning": "hm", "tool_calls": [{"id": "1", "name": "f", "arguments": "{}"}]}
    (line,) = lines(made("openai-batch", chat_row(output=output, usage={"input_tokens": 3, "output_tokens": None})))
    body = line["response"]["body"]
    (choice,) = ChatCompletion.model_validate(body).choices
    assert choice.message.tool_calls is not None
    assert body["choices"][0]["message"]["reasoning_content"] == "hm"
    assert body["usage"] is None


def test_a_refusal_is_a_response_and_anything_else_an_error_of_the_batch() -> None:
    refused, broken, filtered = lines(
        made("openai-batch", failed_row(), failed_row("reset", status=None), failed_row("filtered", status=200))
    )
    assert refused["error"] is None
    assert (refused["response"]["status_code"], refused["response"]["request_id"]) == (400, "r-1")
    assert refused["response"]["body"]["error"] == {
        "message": "no such thing",
        "type": "bad_request",
        "param": None,
        "code": "c1",
    }
    assert (broken["response"], broken["error"]) == (None, {"code": "bad_request", "message": "reset"})
    assert (filtered["response"], filtered["error"]["message"]) == (None, "filtered")


def test_pictures_are_answers_too() -> None:
    (line,) = lines(made("openai-batch", picture_row(("images/a.png", b"x"))))
    answer = ImagesResponse.model_validate(line["response"]["body"])
    assert answer.data is not None
    assert answer.data[0].url == "images/a.png"


# -- webdataset


def test_a_sample_is_a_picture_and_its_row() -> None:
    rows = (
        picture_row(("images/a.png", b"first")),
        picture_row(("images/b.jpg", b"second" * 500), ("images/c.png", b"third")),
        chat_row("told"),
        failed_row(),
    )
    pictures = {"images/a.png": b"first", "images/b.jpg": b"second" * 500, "images/c.png": b"third"}
    assert members(made("webdataset", *rows, pictures=pictures)) == {
        "000001.png": b"first",
        "000001.txt": b"a question",
        "000001.json": rows[0].line,
        "000002.jpg": b"second" * 500,
        "000002.1.png": b"third",
        "000002.txt": b"a question",
        "000002.json": rows[1].line,
        "000003.txt": b"told",
        "000003.json": rows[2].line,
        "000004.json": rows[3].line,
    }


def test_a_sample_is_a_video_or_an_audio_file_and_its_row() -> None:
    files = [
        {"path": "media/a.mp4", "sha256": "s", "type": "video/mp4", "format": "MP4", "bytes": 5},
        {"path": "media/a-2.wav", "sha256": "s", "type": "audio/wav", "format": "WAV", "bytes": 900},
        {"path": "media/a.b/c", "sha256": "s", "type": "application/octet-stream", "format": "BIN", "bytes": 3},
    ]
    row = chat_row(output={"text": None, "media": files})
    contents = {"media/a.mp4": b"video", "media/a-2.wav": b"w" * 900, "media/a.b/c": b"any"}
    assert members(made("webdataset", row, pictures=contents)) == {
        "000001.mp4": b"video",
        "000001.1.wav": b"w" * 900,
        "000001.2.bin": b"any",
        "000001.txt": b"a question",
        "000001.json": row.line,
    }


def test_a_picture_that_is_not_there_leaves_its_row() -> None:
    assert list(members(made("webdataset", picture_row(("images/gone.png", b"x"))))) == ["000001.json"]


def test_the_same_rows_give_the_same_tar_of_whole_blocks() -> None:
    first, again = (made("webdataset", chat_row("a"), chat_row("b")) for _ in range(2))
    assert first == again
    assert len(first) % tarfile.RECORDSIZE == 0
    assert members(made("webdataset")) == {}


# -- all of them


@pytest.mark.parametrize("shape", EXPORTERS)
def test_rows_that_another_version_wrote_are_exported_all_the_same(shape: str) -> None:
    strange = [
        row({}),
        row({"id": None, "index": "x", "vars": None, "params": 3, "output": [], "usage": "?", "messages": [1, {}]}),
        row({"output": {"images": [None, {"path": 5}], "text": 7, "tool_calls": "?"}, "started_at": "soon"}),
        row({"error": "no"}, outcome="failed"),
        chat_row(),
        picture_row(("images/a.png", b"x")),
    ]
    written = made(shape, *strange, pictures={"images/a.png": b"x"})
    assert bool(written) == (shape != "preference")  # pairs are made of verdicts, which these rows have not
