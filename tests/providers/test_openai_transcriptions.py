"""The dialect of transcriptions: what the form holds, and what each form of reply comes to, wherever it is cut."""

import json
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from batchrunner.core.http import Completed
from batchrunner.core.item import InputFile, Item
from batchrunner.core.job import Json
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision, Usage
from batchrunner.core.values import replace
from batchrunner.providers.openai_transcriptions import OpenAiTranscriptions
from batchrunner.simulator.transcription_replies import form_of
from tests.providers.reading import RESET, head, item, provider, read, read_every_way

K = ProblemKind
DIALECT = OpenAiTranscriptions(provider("openai", "openai-transcriptions"))
SOUND = b"fLaC\r\n--\x00\xff" + bytes(range(256))
FILE = InputFile(
    name="a/b.flac", kind="flac", sha256="0" * 64, url=f"data:audio/flac;base64,{b64encode(SOUND).decode()}"
)
PLAIN = ("text", "srt", "vtt")


def asked(prompt: str = "", **params: Any) -> Item:
    return replace(item(prompt, params=params), files=(FILE,))


def sent(order: Item) -> dict[str, Json]:
    """The form, as a server reads it."""
    request = DIALECT.encode(order, Revision())
    assert request.url == "http://127.0.0.1:8000/v1/audio/transcriptions"
    form = form_of(request.body or b"", request.headers["content-type"])
    assert form is not None
    return form


def outcome(body: Json | bytes, *, status: int = 200, content_type: str = "application/json", **params: Any) -> Any:
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_every_way(lambda: DIALECT.decoder(asked(**params)), head(status, content_type), said)


def test_a_form_has_the_file_s_bytes_and_its_parameters_and_no_name_of_this_machine() -> None:
    form = sent(
        asked("Names: Zoë", language="de", temperature=0.5, timestamp_granularities=["word", "segment"], stream=False,
              chunking_strategy={"type": "server_vad", "threshold": 0.5}, include=["logprobs"], nothing=None)
    )  # fmt: skip
    file: Any = form.pop("file")
    assert (file["sha256"], file["size"], file["name"]) == (sha256(SOUND).hexdigest(), len(SOUND), "sound.flac")
    assert form == {
        "model": "Qwen/Qwen3-8B", "prompt": "Names: Zoë", "language": "de", "temperature": "0.5",
        "timestamp_granularities": ["word", "segment"], "stream": "false", "include": ["logprobs"],
        "chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5",
    }  # fmt: skip


def test_an_empty_prompt_is_not_sent_and_the_same_item_is_the_same_bytes() -> None:
    assert "prompt" not in sent(asked("  "))
    assert DIALECT.encode(asked(), Revision()) == DIALECT.encode(asked(), Revision())


def test_a_boundary_stands_in_no_part() -> None:
    request = DIALECT.encode(asked(), Revision())
    boundary = request.headers["content-type"].partition("boundary=")[2]
    evil = b"fLaC" + boundary.encode() + b"--"
    file = replace(FILE, url=f"data:audio/flac;base64,{b64encode(evil).decode()}")
    found: Any = sent(replace(asked(), files=(file,)))["file"]
    assert found["size"] == len(evil)


@pytest.mark.parametrize(
    ("body", "usage", "extras"),
    [
        ({"text": "Hello."}, None, {}),
        ({"text": "Hello.", "usage": {"type": "duration", "seconds": 7}}, None, {"audio_seconds": 7}),
        (
            {"text": "Hello.", "logprobs": [], "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 4}},
            Usage(input_tokens=14, output_tokens=4),
            {"logprobs": []},
        ),
        (
            {"task": "transcribe", "language": "english", "duration": 1.5, "text": "Hello.", "words": None,
             "segments": [{"id": 0, "start": 0.0, "end": 1.5, "text": " Hello."}]},
            None,
            {"language": "english", "duration": 1.5,
             "segments": [{"id": 0, "start": 0.0, "end": 1.5, "text": " Hello."}]},
        ),
    ],
)  # fmt: skip
def test_a_transcript_has_its_words_its_usage_and_what_came_beside(
    body: Json, usage: Usage | None, extras: dict[str, Json]
) -> None:
    answer = outcome(body)
    assert (answer.text, answer.usage, answer.extras, answer.flags) == ("Hello.", usage, extras, ())


@pytest.mark.parametrize(
    ("field", "said", "name", "kept"),
    [
        ("audio_seconds", "x", "audio_seconds_as_sent", "x"),
        ("audio_seconds", 7, "audio_seconds_as_sent", 7),
        ("duration", "8.47", "duration", 8.47),
        ("duration", "long", "duration_as_sent", "long"),
        ("duration", True, "duration_as_sent", True),
        ("duration", -1, "duration_as_sent", -1),
        ("language", ["en"], "language_as_sent", ["en"]),
        ("segments", "none", "segments_as_sent", "none"),
        ("segments", [{"id": 0}, 1], "segments_as_sent", [{"id": 0}, 1]),
        ("words", {"word": "a"}, "words_as_sent", {"word": "a"}),
        ("mood", ["any"], "mood", ["any"]),
    ],
)
def test_a_field_of_another_type_than_rows_promise_has_another_name(
    field: str, said: Json, name: str, kept: Json
) -> None:
    assert outcome({"text": "Hello.", field: said}).extras == {name: kept}


@pytest.mark.parametrize("seconds", ["x", None, True, -1, {"s": 1}])
def test_seconds_that_are_none_are_not_counted(seconds: Json) -> None:
    assert outcome({"text": "Hello.", "usage": {"type": "duration", "seconds": seconds}}).extras == {}


def test_a_translation_goes_to_its_own_address_and_the_parameter_stays_here() -> None:
    request = DIALECT.encode(asked(endpoint="translations", temperature=0), Revision())
    assert request.url == "http://127.0.0.1:8000/v1/audio/translations"
    form = form_of(request.body or b"", request.headers["content-type"])
    assert form is not None
    assert form.keys() == {"model", "temperature", "file"}
    assert sent(asked(endpoint="transcriptions")).keys() == {"model", "file"}


@pytest.mark.parametrize(
    ("form", "body", "text"),
    [
        ("text", "Grüße.\n", "Grüße."),
        ("srt", "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n", "1\n00:00:00,000 --> 00:00:01,500\nHello."),
        ("vtt", "WEBVTT\n\n00:00.000 --> 00:01.500\nHello.\n", "WEBVTT\n\n00:00.000 --> 00:01.500\nHello."),
        ("text", '{"text": "JSON all the same."}', "JSON all the same."),
        ("text", "42", "42"),
        ("text", "{ a brace is spoken", "{ a brace is spoken"),
    ],
)
def test_words_alone_are_the_transcript(form: str, body: str, text: str) -> None:
    answer = outcome(body.encode(), content_type="text/plain", response_format=form)
    assert isinstance(answer, Answer)
    assert answer.text == text


@pytest.mark.parametrize("form", PLAIN)
def test_words_alone_that_broke_off_anywhere_are_no_transcript(form: str) -> None:
    """A JSON reply shows that it is whole; of words alone only HTTP can say so."""
    body = b"WEBVTT\n\n00:00.000 --> 00:01.500\nHello.\n"
    for end in range(len(body) + 1):
        problem = read(DIALECT.decoder(asked(response_format=form)), head(200, "text/plain"), [body[:end]], RESET)
        assert isinstance(problem, Problem), end
        assert not DIALECT.decoder(asked(response_format=form)).settled(60.0)  # type: ignore[attr-defined]
    whole = b'{"text": "Hello."}'
    assert isinstance(read(DIALECT.decoder(asked()), head(), [whole], RESET), Answer)
    for end in range(len(whole)):
        assert isinstance(read(DIALECT.decoder(asked()), head(), [whole[:end]], RESET), Problem), end


@pytest.mark.parametrize(("body", "params"), [({"text": ""}, {}), (b"\n", {"response_format": "text"})])
def test_silence_is_an_answer_with_a_flag(body: Json | bytes, params: dict[str, Any]) -> None:
    answer = outcome(body, **params)
    assert (answer.text, answer.flags) == ("", ("empty_transcript",))


@pytest.mark.parametrize(
    ("body", "params", "kind"),
    [
        ({"usage": {"seconds": 3}}, {}, K.EMPTY_RESPONSE),
        ({"text": None}, {}, K.EMPTY_RESPONSE),
        ([], {}, K.EMPTY_RESPONSE),
        (b"", {}, K.EMPTY_RESPONSE),
        (b"", {"response_format": "srt"}, K.EMPTY_RESPONSE),
        ({"error": {"message": "The server is overloaded", "type": "server_error"}}, {}, K.OVERLOADED),
        ({"error": {"message": "The server is overloaded"}}, {"response_format": "text"}, K.OVERLOADED),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", {"response_format": "text"}, K.NOT_REACHED),
        (b"words, though JSON was asked for", {}, K.STREAM_CORRUPT),
    ],
)
def test_a_reply_without_a_transcript_is_a_problem(body: Json | bytes, params: dict[str, Any], kind: K) -> None:
    problem = outcome(body, **params)
    assert isinstance(problem, Problem)
    assert problem.kind is kind, problem.message


def test_a_stream_that_nobody_asked_for_ends_with_the_transcript() -> None:
    events = [
        {"type": "transcript.text.delta", "delta": "Hel"},
        {"type": "transcript.text.done", "text": "Hello.", "usage": {"input_tokens": 1, "output_tokens": 2}},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    answer = outcome(body, content_type="text/event-stream")
    assert (answer.text, answer.usage) == ("Hello.", Usage(input_tokens=1, output_tokens=2))
    cut = body[: body.index(b"data:", 1)]
    problem = read(DIALECT.decoder(asked()), head(200, "text/event-stream"), [cut], Completed())
    assert isinstance(problem, Problem)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "Invalid file format. Supported formats: ['flac']", "type": "invalid_request_error"},
         K.BAD_REQUEST),
        (400, {"message": "Audio file is too short. Minimum audio length is 0.1 seconds.", "code": "audio_too_short"},
         K.BAD_REQUEST),
        (413, {"message": "Maximum content size limit (26214400) exceeded (26214500 bytes read)"}, K.BAD_REQUEST),
        (429, {"message": "Rate limit reached", "code": "rate_limit_exceeded"}, K.THROTTLE),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, K.BILLING),
        (401, {"message": "Incorrect API key provided", "code": "invalid_api_key"}, K.AUTH),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_refusal_is_read_as_everywhere(status: int, error: dict[str, Json], kind: K, form: str) -> None:
    problem = outcome({"error": error}, status=status, response_format=form)
    assert problem.kind is kind, problem
    assert str(error["message"])[:20] in problem.message
