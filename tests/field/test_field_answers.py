"""A complete answer is kept, once, however its server wraps it; one that broke off is bought again.

Every row was seen in the field: see docs/field-replies.md. Streams are read whole, in random pieces and byte by byte.
"""

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any, Final

import pytest
from field_runs import Case, Field, case_ids, check_case
from field_server import Cut, Reply, delta, http, json_reply, message, sse

ANTHROPIC: Final = {"provider": {"preset": "anthropic", "base_url": "{base}"}}
HELLO_BYTES: Final = json.dumps(message(content="hello world")).encode()
CHINESE: Final = json.dumps(message(content="héllo 世界" * 20), ensure_ascii=False)
WORDS: Final = delta(content="hello world")
STOP: Final = delta("stop")
PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="  # one pixel
)
FLAGS: Final = "flags"


def lines(*data: str, between: str = "\n") -> bytes:
    return http("".join(f"data: {line}{between}" for line in data), kind="text/event-stream", length="none")


def text_of(value: Any) -> str:
    return json.dumps(value)


def messages_stream(*events: dict[str, Any], between: str = "\n\n") -> bytes:
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}{between}" for event in events)
    return http(body, kind="text/event-stream", length="none")


START: Final[dict[str, Any]] = {
    "type": "message_start",
    "message": {"id": "m", "type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 9}},
}
BLOCK: Final[dict[str, Any]] = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "text", "text": ""},
}
PIECE: Final[dict[str, Any]] = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "hello world"},
}
ENDED: Final[dict[str, Any]] = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"output_tokens": 2},
}
OVER: Final[dict[str, Any]] = {"type": "message_stop"}
CLAUDE: Final = json_reply(
    {"type": "message", "content": [{"type": "text", "text": "hello world"}], "stop_reason": "end_turn"}
)


def ended(reason: str) -> dict[str, Any]:
    return ENDED | {"delta": {"stop_reason": reason}}


def kept(name: str, reply: bytes | Reply, **more: Any) -> Case:
    """One request, `hello world`."""
    return Case(name=name, reply=reply, **{"text": "hello world", **more})


def again(name: str, reply: bytes, **more: Any) -> Case:
    """A first reply that is no answer, and a second request."""
    return Case(name=name, reply=reply, **{"times": 1, "requests": 2, "text": "hello world", **more})


def cut(reason: str) -> Case:
    reply = sse(delta(content="hel"), delta(reason))
    return Case(name=f"cut-{reason}", reply=reply, text="hel", output={"truncated": True, "finish_reason": reason})


KEPT_ROWS: Final = (
    kept("raw-tab", lines('{"choices":[{"index":0,"delta":{"content":"a\tb"}}]}', text_of(STOP), "[DONE]", between="\n\n"), text="a\tb"),
    kept("raw-newline-whole", http(HELLO_BYTES.replace(b"hello world", b"hello\x01\nworld")), text="hello\x01\nworld"),
    kept("quoted-done", lines(text_of(WORDS), text_of(STOP), '"[DONE]"', between="\n\n")),
    kept("small-done", lines(text_of(WORDS), text_of(STOP), "[done]", between="\n\n")),
    kept("junk-after-finish", lines(text_of(WORDS), text_of(STOP), "{not json", "[DONE]", between="\n\n")),
    kept("error-after-finish", sse(WORDS, STOP, {"error": {"message": "upstream reset", "code": 502}})),
    kept("code-after-finish", sse(WORDS, STOP, {"code": "1234", "msg": "network error"}, done=False)),
    kept("error-event-after-finish", http("data: " + text_of(WORDS) + "\n\ndata: " + text_of(STOP) + "\n\nevent: error\ndata: Internal Server Error\n\n", kind="text/event-stream", length="none")),
    kept("words-after-finish", lines(text_of(WORDS), text_of(STOP), "upstream request timeout", between="\n\n")),
    kept("reset-after-finish", Reply(data=sse(WORDS, STOP, done=False), then="reset"), output={"flags": ["no_done"]}),
    kept("single-newlines", lines(text_of(WORDS), text_of(STOP), "[DONE]")),
    kept("single-newlines-no-done", lines(text_of(WORDS), text_of(STOP))),
    kept("single-newlines-crlf", lines(text_of(WORDS), text_of(STOP), "[DONE]", between="\r\n")),
    kept("empty-error", json_reply(message(content="hello world") | {"error": {}})),
    kept("blank-error", json_reply(message(content="hello world") | {"error": {"message": "", "code": 0, "type": None}})),
    kept("error-success", sse(WORDS | {"error": {"code": "200", "message": "success"}}, STOP)),
    kept("empty-errors-list", json_reply(message(content="hello world") | {"errors": [], "error": ""})),
    kept("coding-utf-8", http(HELLO_BYTES, headers={"Content-Encoding": "UTF-8"})),
    kept("coding-gzip-of-plain", http(HELLO_BYTES, headers={"Content-Encoding": "gzip"})),
    kept("coding-br-of-plain", http(HELLO_BYTES, headers={"Content-Encoding": "br"})),
    kept("coding-deflate-of-plain", http(HELLO_BYTES, headers={"Content-Encoding": "deflate"})),
    kept("coding-zstd-of-a-stream", sse(WORDS, STOP, headers={"Content-Encoding": "zstd"})),
    kept("coding-gzip-of-a-plain-stream", sse(WORDS, STOP, headers={"Content-Encoding": "gzip"})),
    kept("coding-none", http(HELLO_BYTES, headers={"Content-Encoding": "none"})),
    kept("coding-gzip-twice-said-once-done", http(gzip.compress(HELLO_BYTES, mtime=0), headers={"Content-Encoding": "gzip, gzip"})),
    kept("coding-gzip-twice", http(gzip.compress(gzip.compress(HELLO_BYTES, mtime=0), mtime=0), headers={"Content-Encoding": "gzip, gzip"})),
    kept("coding-gzip-and-br-of-plain", http(HELLO_BYTES, headers={"Content-Encoding": "gzip, br"})),
    kept("coding-gzip-of-zlib", http(zlib.compress(HELLO_BYTES), headers={"Content-Encoding": "gzip"})),
    kept("head-with-two-lengths", http(HELLO_BYTES, headers={"content-length": str(len(HELLO_BYTES))})),
    kept("head-with-a-list-of-lengths", http(HELLO_BYTES, length="none", headers={"Content-Length": f"{len(HELLO_BYTES)}, {len(HELLO_BYTES)}"})),
    kept("head-with-two-different-lengths", http(HELLO_BYTES, length="none", headers={"Content-Length": "7, 9"})),
    kept("head-with-a-length-that-is-none", http(HELLO_BYTES, length="none", headers={"Content-Length": "auto"})),
    kept("head-with-length-and-chunks", http(b"%x\r\n%s\r\n0\r\n\r\n" % (len(HELLO_BYTES), HELLO_BYTES), headers={"Transfer-Encoding": "chunked"})),
    kept("head-with-a-line-that-is-none", http(HELLO_BYTES).replace(b"X\r\n", b"X\r\nServing by edge-7\r\n", 1)),
    kept("head-with-a-space-before-the-colon", http(HELLO_BYTES).replace(b"Content-Length:", b"Content-Length :", 1)),
    kept("head-with-a-name-that-is-none", http(HELLO_BYTES, headers={"X(Trace)": "a", "": "b"})),
    kept("head-with-a-line-of-100-kB", http(HELLO_BYTES, headers={"X-Policy": "x" * 100_000})),
    kept("head-with-bare-newlines", http(HELLO_BYTES).replace(b"\r\n", b"\n")),
    kept("300-cookies", http(HELLO_BYTES[:], headers={}).replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join(b"Set-Cookie: a%d=b" % n for n in range(300)) + b"\r\n\r\n", 1)),
    kept("a-header-of-32-kB", http(HELLO_BYTES, headers={"X-Trace": "x" * 32_768})),
    kept("a-long-status-line", http(HELLO_BYTES).replace(b"200 X", b"200 " + b"OK " * 4000, 1)),
    kept("bytes-after-body", http(HELLO_BYTES) + b"\nextra"),
    kept("a-second-body-behind-it", http(HELLO_BYTES) + b"\r\n0\r\n\r\n"),
    kept("length-too-short", http(HELLO_BYTES, length=len(HELLO_BYTES) - 2)),
    kept("length-in-characters", http(CHINESE, length=len(CHINESE)), text="héllo 世界" * 20),
    kept("length-too-long", Reply(data=http(HELLO_BYTES, length=len(HELLO_BYTES) + 3), then="close")),
    kept("wrapped-in-data", json_reply({"code": 200, "success": True, "data": message(content="hello world")})),
    kept("wrapped-in-a-list", json_reply([message(content="hello world")])),
    kept("choices-as-an-object", sse({"choices": {"delta": {"content": "hello world"}, "finish_reason": "stop"}})),
    kept("text-completion", sse({"choices": [{"text": "hello "}]}, {"choices": [{"text": "world", "finish_reason": "stop"}]})),
    kept("content-is-a-number", json_reply(message(content=42)), text="42"),
    kept("junk-behind-json", http(HELLO_BYTES + b"\n\n<!-- served by edge-7 -->")),
    kept("json-lines", http("\n".join(map(text_of, (delta(content="hello "), delta(content="world"), STOP))), kind="application/x-ndjson")),
    kept("only-reasoning", sse(delta(reasoning_content="the answer is 42"), STOP), text="", output={"reasoning": "the answer is 42", "flags": ["reasoning_only"]}),
    kept("only-reasoning-whole", json_reply(message(content=None, reasoning="so be it")), text="", output={"reasoning": "so be it"}),
    kept("claude-error-after-stop-reason", messages_stream(START, BLOCK, PIECE, ENDED, {"type": "error", "error": {"type": "overloaded_error", "message": "o"}}), job=ANTHROPIC),
    kept("claude-single-newlines", messages_stream(START, BLOCK, PIECE, ENDED, OVER, between="\n"), job=ANTHROPIC),
    kept("claude-bytes-after-body", CLAUDE + b"\r\nextra", job=ANTHROPIC),
    kept("claude-raw-control", CLAUDE.replace(b"hello world", b"hello\tworld"), job=ANTHROPIC, text="hello\tworld"),
    kept("claude-only-thinking", json_reply({"type": "message", "content": [{"type": "thinking", "thinking": "hm"}], "stop_reason": "end_turn"}), job=ANTHROPIC, text="", output={"reasoning": "hm", "flags": ["reasoning_only"]}),
)  # fmt: skip
OK_ROWS: Final = (
    kept("no-space", http("".join(f"data:{line}\n\n" for line in (text_of(WORDS), text_of(STOP), "[DONE]")), kind="text/event-stream", length="none")),
    kept("crlf", lines(text_of(WORDS), text_of(STOP), "[DONE]", between="\r\n\r\n")),
    kept("bom", http(b"\xef\xbb\xbf" + sse(WORDS, STOP).partition(b"\r\n\r\n")[2], kind="text/event-stream", length="none")),
    kept("comments", http(b": OPENROUTER PROCESSING\n\nevent: ping\ndata:\n\n" + sse(WORDS, STOP).partition(b"\r\n\r\n")[2], kind="text/event-stream", length="none")),
    kept("no-done", sse(WORDS, STOP, done=False)),
    kept("message-in-chunk", sse({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello world"}, "finish_reason": "stop"}]})),
    kept("message-again-at-the-end", sse(WORDS, {"choices": [{"index": 0, "message": {"content": "hello world"}, "finish_reason": "stop"}]})),
    kept("split-characters", http("".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in (delta(content="hé漢😀"), STOP)), kind="text/event-stream", length="none"), text="hé漢😀"),
)  # fmt: skip
BROKEN_ROWS: Final = (
    *(again(f"finish-{reason}", sse(delta(content="hel"), delta(reason))) for reason in ("insufficient_system_resource", "network_error", "ERROR", "Abort", "engine_overloaded", "cancelled")),
    again("code-and-msg-in-the-middle", sse(delta(content="hel"), {"code": "1234", "msg": "network error", "success": False})),
    again("detail-in-the-middle", sse(delta(content="hel"), {"detail": "Internal Server Error"})),
    again("error-code-in-the-middle", sse(delta(content="hel"), {"error_code": 336100, "error_msg": "try again"})),
    again("choice-error-with-stop", json_reply(message(content="par") | {"choices": [{"index": 0, "message": {"content": "par"}, "finish_reason": "stop", "error": {"code": 502, "message": "Upstream idle timeout"}}]})),
    again("choice-error-in-a-stream", sse(delta(content="par"), {"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "x"}}]})),
    again("minimax-trouble-in-the-middle", sse(delta(content="hel"), {"base_resp": {"status_code": 1000, "status_msg": "unknown error"}})),
    again("message-in-the-middle-and-done", sse(delta(content="hel"), {"message": "Internal Server Error"})),
    again("bare-error-line-in-the-middle-and-done", http("data: " + text_of(delta(content="hel")) + '\n\n{"error": {"message": "x"}}\n\ndata: [DONE]\n\n', kind="text/event-stream", length="none")),
    again("page-in-the-middle-and-done", http("data: " + text_of(delta(content="hel")) + "\n\n<html>502</html>\n\ndata: [DONE]\n\n", kind="text/event-stream", length="none")),
    again("json-lines-without-an-end", http("\n".join(map(text_of, (delta(content="hel"), delta(content="lo")))))),
    again("cut-off-before-the-finish", http(HELLO_BYTES[:100])),
    again("claude-detail-in-the-middle", messages_stream(START, BLOCK, PIECE, {"type": "x", "detail": "boom"}), good=CLAUDE, job=ANTHROPIC),
    again("claude-stop-reason-error", messages_stream(START, BLOCK, PIECE, ended("network_error"), OVER), good=CLAUDE, job=ANTHROPIC),
)  # fmt: skip
CUT_ROWS: Final = (
    *map(
        cut,
        (
            "MaxTokens",
            "repetition_truncation",
            "model_length",
            "MAX_TOKENS",
            "max_output_tokens",
            "token_limit",
            "Length",
            "max_new_tokens",
        ),
    ),
    Case(
        name="cut-told-under-another-name",
        reply=json_reply({"choices": [{"message": {"content": "hel"}, "finishReason": "MAX_TOKENS"}]}),
        text="hel",
        output={"truncated": True},
    ),
    Case(
        name="claude-cut",
        reply=messages_stream(START, BLOCK, PIECE, ended("MAX_TOKENS"), OVER),
        job=ANTHROPIC,
        output={"truncated": True},
    ),
    Case(
        name="cut-inside-its-thinking",
        reply=sse(delta(content="<think>hm, let me"), delta("length")),
        text="",
        output={"reasoning": "hm, let me", "truncated": True},
    ),
)
SEEN: Final = {
    "coding-gzip": "github.com/dotnet/runtime/issues/58568",
    "coding-br": "github.com/antergone/palm-netlify-proxy/issues/12",
    "coding-": "github.com/dotnet/runtime/issues/58568",
    "head-with-length": "github.com/aio-libs/aiohttp/issues/4223",
    "head-with-two": "github.com/Karlson2k/libmicrohttpd/issues/15",
    "head-with-a-list": "github.com/python-hyper/h11/issues/92",
    "a-header-of": "github.com/bentoml/BentoML/issues/4346",
    "300-cookies": "github.com/aio-libs/aiohttp/issues/5603",
    "a-long-status": "github.com/aio-libs/aiohttp/issues/2304",
    "only-reasoning": "github.com/vllm-project/vllm/issues/17609",
    "claude-only-thinking": "github.com/Metaculus/forecasting-tools/pull/278",
    "finish-insufficient": "api-docs.deepseek.com: finish_reason",
    "finish-network": "docs.bigmodel.cn: finish_reason",
    "finish-": "github.com/CherryHQ/cherry-studio/pull/16079",
    "choice-error": "github.com/genkit-ai/genkit/pull/6259",
    "code-and-msg": "docs.bigmodel.cn: errors in a stream",
    "detail-in": "github.com/fastapi/fastapi",
    "error-code-in": "cloud.baidu.com: errors of Qianfan",
    "error-after": "github.com/diegosouzapw/OmniRoute/pull/8210",
    "comments": "openrouter.ai/docs: comments in a stream",
    "cut-model_length": "docs.mistral.ai: finish_reason",
    "cut-MAX": "ai.google.dev: FinishReason",
}
"""Where replies whose names begin so were seen."""


def _referenced(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    def seen(name: str) -> str:
        return next((place for start, place in SEEN.items() if name.startswith(start)), "")

    return tuple(replace(case, reference=case.reference or seen(case.name)) for case in cases)


KEPT, OK, BROKEN, CUT = map(_referenced, (KEPT_ROWS, OK_ROWS, BROKEN_ROWS, CUT_ROWS))
ALL: Final = (*KEPT, *OK, *BROKEN, *CUT)


@pytest.mark.parametrize("case", ALL, ids=case_ids(ALL))
def test_a_complete_answer_is_kept_and_a_broken_one_bought_again(field: Field, case: Case) -> None:
    check_case(field, case)


IN_PIECES: Final = [
    case
    for case in ALL
    if "event-stream" in str(case.reply)[:200] or case.name == "bytes-after-body" or case.name.startswith("head-with")
]


@pytest.mark.parametrize("cut", ["random", "bytes"])
@pytest.mark.parametrize("case", IN_PIECES, ids=str)
def test_pieces_of_any_size_change_nothing(field: Field, case: Case, cut: Cut) -> None:
    check_case(field, case, cut=cut)
