"""A complete answer is kept, once, however its server wraps it; one that broke off is bought again.

Every row was seen in the field: see docs/field-replies.md. Streams are read whole, in random pieces and byte by byte.
"""

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.field.runs import Case, Field, case_ids, check_case
from tests.field.server import Cut, Reply, delta, http, json_reply, message, once, sse

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


def chunked(body: bytes, **more: Any) -> bytes:
    """A reply whose body is to be framed in chunks, as it stands."""
    kind = more.get("kind", "application/json")
    return (
        http(b"", kind=kind, length="none", headers={"Transfer-Encoding": "chunked"}).replace(
            b"Connection: close\r\n", b""
        )
        + body
    )


def chunk(body: bytes, *, length: int | None = None) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body) if length is None else length, body)


def gzipped(coded: bytes) -> bytes:
    return http(coded, headers={"Content-Encoding": "gzip"})


def events(*data: str, before: str = "data: ") -> bytes:
    return http("".join(f"{before}{said}\n\n" for said in data), kind="text/event-stream", length="none")


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


GZIPPED: Final = gzip.compress(HELLO_BYTES, mtime=0)
STREAM_BYTES: Final = sse(WORDS, STOP).partition(b"\r\n\r\n")[2]
GEMINI: Final = {
    "candidates": [
        {"content": {"parts": [{"text": "hm", "thought": True}, {"text": "hello world"}]}, "finishReason": "STOP"}
    ],
    "usageMetadata": {"promptTokenCount": 31, "candidatesTokenCount": 5, "thoughtsTokenCount": 2},
}
COUNTS: Final = {"prompt_tokens": 31, "completion_tokens": 7}
COUNTED: Final = {"usage": {"input_tokens": 31, "output_tokens": 7}}
AT_THE_END: Final = {"flags": ["cut_after_end"]}
MENDED_ROWS: Final = (
    kept("coding-gzip-with-a-wrong-sum", gzipped(GZIPPED[:-8] + bytes(4) + GZIPPED[-4:]), output=AT_THE_END),
    kept("coding-gzip-with-a-wrong-size", gzipped(GZIPPED[:-4] + bytes(4)), output=AT_THE_END),
    kept("coding-gzip-without-a-sum", gzipped(GZIPPED[:-8]), output=AT_THE_END),
    kept("coding-gzip-with-half-a-sum", gzipped(GZIPPED[:-3]), output=AT_THE_END),
    kept("coding-deflate-with-a-wrong-sum", http(zlib.compress(HELLO_BYTES)[:-4] + bytes(4), headers={"Content-Encoding": "deflate"}), output=AT_THE_END),
    kept("coding-gzip-of-a-stream-with-a-wrong-sum", sse().partition(b"\r\n\r\n")[0] + b"\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(STREAM_BYTES, mtime=0)[:-8] + bytes(8)),
    kept("chunks-without-an-end", chunked(chunk(HELLO_BYTES)), output=AT_THE_END),
    kept("chunks-and-a-reset", Reply(data=chunked(chunk(HELLO_BYTES)), then="reset"), output=AT_THE_END),
    kept("chunks-and-junk", chunked(chunk(HELLO_BYTES) + b"zzz\r\n\r\n"), output=AT_THE_END),
    kept("chunks-and-a-page", chunked(chunk(HELLO_BYTES) + b"<html>502 Bad Gateway</html>"), output=AT_THE_END),
    kept("chunk-longer-than-it-is", chunked(chunk(HELLO_BYTES, length=len(HELLO_BYTES) + 50) + b"0\r\n\r\n")),
    kept("chunk-shorter-than-it-is", chunked(chunk(HELLO_BYTES, length=len(HELLO_BYTES) - 3) + b"0\r\n\r\n")),
    kept("chunks-said-of-a-plain-body", chunked(HELLO_BYTES)),
    kept("chunks-said-of-a-plain-stream", chunked(STREAM_BYTES, kind="text/event-stream")),
    kept("chunks-of-a-stream-and-junk", chunked(chunk(STREAM_BYTES) + b"zzz", kind="text/event-stream")),
    kept("chunks-of-a-stream-without-done-and-junk", chunked(chunk(STREAM_BYTES[:-14]) + b"zzz", kind="text/event-stream"), output={"flags": ["no_done"]}),
    kept("comments-before-json", http(b": OPENROUTER PROCESSING\n\n" * 3 + HELLO_BYTES)),
    kept("comments-before-json-called-a-stream", http(b": OPENROUTER PROCESSING\r\n\r\n" + HELLO_BYTES, kind="text/event-stream")),
    kept("comments-before-pretty-json", http(b":\n\n" + json.dumps(message(content="hello world"), indent=1).encode(), kind="text/event-stream")),
    kept("comments-before-json-and-done", http(b": x\n\n" + HELLO_BYTES + b"\n\ndata: [DONE]\n\n", kind="text/event-stream")),
    kept("data-said-twice", events(text_of(WORDS), text_of(STOP), "[DONE]", before="data: data: "), output={"flags": None}),
    kept("data-said-three-times", events(text_of(WORDS), text_of(STOP), before="data:data:data:")),
    kept("events-as-texts", events(*(text_of(text_of(event)) for event in (WORDS, STOP)), "[DONE]")),
    kept("json-as-a-text", json_reply(HELLO_BYTES.decode())),
    kept("two-values-in-an-event", events(text_of(delta(content="hello ")) + text_of(delta(content="world")), text_of(STOP), "[DONE]")),
    kept("many-values-in-an-event", events(" ".join(map(text_of, (delta(content="hello "), delta(content="world"), STOP))) + "[DONE]")),
    kept("a-list-in-an-event", events(text_of([delta(content="hello "), delta(content="world"), STOP]), "[DONE]")),
    kept("a-stream-as-one-list", json_reply([delta(content="hello "), delta(content="world"), STOP])),
    *(kept(f"body-in-{coding}", http(HELLO_BYTES.decode().encode(coding), kind=kind)) for coding, kind in (("utf-16", "application/json; charset=utf-16"), ("utf-16-le", "application/json"), ("utf-16-be", "text/plain"), ("utf-32", "application/json"))),
    kept("stream-in-utf-16", http(STREAM_BYTES.decode().encode("utf-16"), kind="text/event-stream", length="none")),
    kept("body-in-latin-1", http(text_of(message(content="h\xe9llo")).replace("\\u00e9", "\xe9").encode("latin-1"), kind="application/json; charset=ISO-8859-1"), text="h\xe9llo"),
    kept("stream-in-gbk", http(STREAM_BYTES.decode().replace("hello", "\u6c49").encode("gbk"), kind="text/event-stream;charset=GBK", length="none"), text="\u6c49 world"),
    kept("stream-called-latin-1", http(STREAM_BYTES.decode().replace("hello", "\u6c49").encode(), kind="text/event-stream;charset=ISO-8859-1", length="none"), text="\u6c49 world"),
    kept("usage-as-an-event-of-its-own", http(b"data: %s\n\ndata: %s\n\nevent: usage\ndata: %s\n\ndata: [DONE]\n\n" % (text_of(WORDS).encode(), text_of(STOP).encode(), text_of(COUNTS).encode()), kind="text/event-stream", length="none"), row=COUNTED),
    kept("usage-as-the-first-event", http(b"event: usage\ndata: %s\n\n" % text_of({"input_tokens": 31, "output_tokens": 7}).encode() + STREAM_BYTES, kind="text/event-stream", length="none"), row=COUNTED),
    kept("gemini", json_reply(GEMINI), row=COUNTED, output={"reasoning": "hm", "finish_reason": "STOP"}),
    kept("gemini-in-a-list", json_reply([GEMINI]), row=COUNTED),
    kept("gemini-as-a-list-of-chunks", json_reply([{"candidates": [{"content": {"parts": [{"text": "hello "}]}}]}, {"candidates": [{"content": {"parts": [{"text": "world"}]}, "finishReason": "STOP"}]}])),
    kept("gemini-streamed", sse({"candidates": [{"content": {"parts": [{"text": "hello "}]}}]}, {"candidates": [{"content": {"parts": [{"text": "world"}]}, "finishReason": "STOP"}]}, done=False)),
    kept("gemini-calls", json_reply({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}]}, "finishReason": "STOP"}]}), text="", output={"tool_calls.0.name": "f", "tool_calls.0.arguments": '{"x":1}'}),
    kept("gemini-draws", json_reply({"candidates": [{"content": {"parts": [{"text": "hello world"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}]}, "finishReason": "STOP"}]}), output={"images.0.format": "PNG"}),
    kept("gemini-wrapped", json_reply({"response": GEMINI, "traceId": "t"}), row=COUNTED),
    kept("a-messages-answer", json_reply({"id": "m", "type": "message", "role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s9"}, {"type": "text", "text": "hello world"}], "stop_reason": "end_turn", "usage": {"input_tokens": 31, "output_tokens": 7}}), row=COUNTED, output={"reasoning": "hm"}),
    kept("a-chat-answer-to-messages", json_reply(message(content="hello world", reasoning_content="hm", x="z9")), job=ANTHROPIC, output={"reasoning": "hm", "x": "z9"}, row={"usage": {"input_tokens": 3, "output_tokens": 4}}),
    kept("a-chat-stream-to-messages", sse(delta(content="hello "), delta(content="world"), STOP, {"choices": [], "usage": COUNTS}), job=ANTHROPIC, row=COUNTED),
    kept("a-chat-call-to-messages", json_reply(message(content=None, tool_calls=[{"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}])), job=ANTHROPIC, text="", output={"tool_calls.0.name": "f", "tool_calls.0.arguments": '{"x":1}'}),
    kept("gemini-to-messages", json_reply(GEMINI), job=ANTHROPIC, output={"reasoning": "hm"}),
    kept("a-messages-stream", messages_stream(START, BLOCK, PIECE, ENDED, OVER)),
    kept("a-responses-answer", json_reply({"id": "r", "object": "response", "status": "completed", "output": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {"type": "message", "content": [{"type": "output_text", "text": "hello world"}]}], "usage": {"input_tokens": 31, "output_tokens": 7}}), row=COUNTED, output={"reasoning": "hm"}),
    kept("an-ollama-answer", json_reply({"model": "m", "response": "hello world", "done": True, "done_reason": "stop"})),
    kept("a-cohere-answer", json_reply({"id": "c", "finish_reason": "COMPLETE", "message": {"role": "assistant", "content": [{"type": "text", "text": "hello world"}]}})),
    kept("a-dashscope-answer", json_reply({"output": {"text": "hello world", "finish_reason": "stop"}, "usage": {"input_tokens": 31, "output_tokens": 7}}), row=COUNTED),
    kept("a-qianfan-answer", json_reply({"id": "as-1", "result": "hello world", "is_truncated": False, "need_clear_history": False, "usage": COUNTS}), row=COUNTED),
    kept("a-tgi-answer", json_reply([{"generated_text": "hello world"}])),
    kept("a-workers-ai-answer", json_reply({"result": {"response": "hello world"}, "success": True, "errors": [], "messages": []})),
    kept("a-llama-cpp-completion", json_reply({"content": "hello world", "stop": True, "model": "m", "tokens_predicted": 2})),
)  # fmt: skip
KEPT_ROWS: Final = (
    *MENDED_ROWS,
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
    *(again(f"words-in-the-middle-{words.split()[0]}", http(f"data: {text_of(delta(content='hel'))}\n\n{words}\n\ndata: [DONE]\n\n", kind="text/event-stream", length="none")) for words in ("Internal Server Error", "upstream connect error or disconnect/reset before headers", "Error: boom", "504 Gateway Timeout", "timeout", '"error": "x"')),
    again("claude-words-in-the-middle", http(messages_stream(START, BLOCK, PIECE).partition(b"\r\n\r\n")[2] + b"Internal Server Error\n\nevent: message_stop\ndata: {}\n\n", kind="text/event-stream", length="none"), good=CLAUDE, job=ANTHROPIC),
    again("coding-gzip-cut-in-the-middle", gzipped(GZIPPED[: len(GZIPPED) // 2])),
    again("chunks-cut-in-the-middle", chunked(chunk(HELLO_BYTES[:90]) + b"zzz")),
    again("gemini-without-an-end", sse({"candidates": [{"content": {"parts": [{"text": "hel"}]}}]}, done=False)),
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
    "comments-before": "openrouter.ai/docs: comments in a stream",
    "gemini": "ai.google.dev/api/generate-content",
    "a-messages": "docs.anthropic.com: messages",
    "a-responses": "platform.openai.com/docs/api-reference/responses",
    "an-ollama": "github.com/ollama/ollama: api",
    "a-cohere": "docs.cohere.com: chat",
    "a-dashscope": "help.aliyun.com/zh/model-studio",
    "a-qianfan": "cloud.baidu.com/doc/WENXINWORKSHOP",
    "a-tgi": "github.com/huggingface/text-generation-inference",
    "a-workers": "developers.cloudflare.com/workers-ai",
    "a-llama": "github.com/ggml-org/llama.cpp: server",
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
    if ("event-stream" in str(case.reply)[:200] or case.name == "bytes-after-body" or case.name.startswith("head-with"))
    and case.name != "chunks-said-of-a-plain-stream"  # known for that only where a body comes with its head
]


@pytest.mark.parametrize("cut", ["random", "bytes"])
@pytest.mark.parametrize("case", IN_PIECES, ids=str)
def test_pieces_of_any_size_change_nothing(field: Field, case: Case, cut: Cut) -> None:
    check_case(field, case, cut=cut)


LEFT_OPEN: Final = (
    Case(name="a-length-too-long", reply=Reply(data=http(HELLO_BYTES, length=900), then="hang"), output=AT_THE_END),
    Case(name="chunks-without-a-last", reply=Reply(data=chunked(chunk(HELLO_BYTES)), then="hang"), output=AT_THE_END),
    Case(name="a-late-head", reply=Reply(data=http(HELLO_BYTES, length=900), delay_s=50.0, then="hang")),
    Case(name="gemini-too-long", reply=Reply(data=http(text_of(GEMINI), length=900), then="hang")),
    Case(name="no-length", reply=Reply(data=http(HELLO_BYTES, length="none"), then="hang")),
    Case(name="a-stream-without-done", reply=Reply(data=sse(WORDS, STOP, done=False), then="hang")),
    Case(
        name="claude-too-long",
        reply=Reply(data=http(CLAUDE.partition(b"\r\n\r\n")[2], length=900), then="hang"),
        job=ANTHROPIC,
    ),
    Case(
        name="claude-without-a-stop",
        reply=Reply(data=messages_stream(START, BLOCK, PIECE, ENDED), then="hang"),
        job=ANTHROPIC,
    ),
)


@pytest.mark.parametrize("case", LEFT_OPEN, ids=case_ids(LEFT_OPEN))
def test_a_whole_answer_is_taken_soon_though_its_connection_stays_open(field: Field, case: Case) -> None:
    ran = check_case(field, replace(case, text="hello world"))
    assert ran.took_s <= (70.0 if case.name == "a-late-head" else 16.0)


HALVES: Final = (
    http(HELLO_BYTES[:-30], length=900),
    http(text_of({"choices": [{"message": {"content": "hel"}, "finish_reason": None}]}), length=900),
    sse(delta(content="hel"), done=False),
    http(text_of(delta(content="hel")) + "\n", kind="application/x-ndjson", length="none"),
)


@pytest.mark.parametrize("half", HALVES)
def test_what_is_not_whole_is_waited_for_as_long_as_the_job_states(field: Field, half: bytes) -> None:
    ran = field.run(once(Reply(data=half, then="hang"), json_reply(message(content="hello world"))))
    assert ran.took_s >= 120.0


def test_a_stream_that_pauses_behind_its_end_may_still_count(field: Field) -> None:
    reply = Reply(data=sse(WORDS, STOP, {"choices": [], "usage": COUNTS}), cut="random", gap_s=4.0)
    assert field.run(once(reply, b"")).rows[0]["usage"] == COUNTED["usage"]
