"""Pictures, sound and whatever else was paid for in a chat answer: on the disk, or in the row, never dropped."""

import base64
import hashlib
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.field.runs import Case, Field, case_ids, check_case
from tests.field.server import Answer, Asked, Cut, delta, http, json_reply, message, sse
from tests.field.test_answers import ANTHROPIC, ENDED, OVER, PNG, START, messages_stream

URL: Final = f"data:image/png;base64,{PNG}"
BYTES: Final = base64.b64decode(PNG)
WAV: Final = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 28
PACKED_WAV: Final = base64.b64encode(WAV).decode()
ONE: Final = {"images.0.format": "PNG", "images.0.width": 1, "images.1": None}


def whole(**fields: Any) -> bytes:
    return json_reply(message(**fields))


def pictured(name: str, reply: bytes, **more: Any) -> Case:
    return Case(name=name, reply=reply, **{"text": "Here it is", "output": ONE, **more})


PICTURES: Final = (
    pictured("images-in-a-delta", sse(delta(content="Here it is"), delta(images=[{"type": "image_url", "index": 0, "image_url": {"url": URL}}]), delta("stop"))),
    pictured("images-twice", sse(delta(content="Here it is"), delta(images=[{"image_url": {"url": URL}}]), delta("stop", images=[{"image_url": {"url": URL}}]))),
    pictured("images-whole", whole(content="Here it is", images=[{"type": "image_url", "image_url": {"url": URL}}])),
    pictured("images-as-strings", whole(content="Here it is", images=[URL])),
    pictured("images-b64", whole(content="Here it is", images=[{"b64_json": PNG}])),
    pictured("image-url-part", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "image_url", "image_url": {"url": URL}}])),
    pictured("image-url-part-plain", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "image_url", "image_url": URL}])),
    pictured("image-part-b64", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "image", "b64_json": PNG}])),
    pictured("image-part-source", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}])),
    pictured("output-image-part", whole(content=[{"type": "output_text", "text": "Here it is"}, {"type": "output_image", "image_base64": PNG}])),
    pictured("inline-data", whole(content=[{"text": "Here it is"}, {"inline_data": {"mime_type": "image/png", "data": PNG}}])),
    pictured("inlineData-streamed", sse(delta(content=[{"text": "Here it is"}]), delta(content=[{"inlineData": {"mimeType": "image/png", "data": PNG}}]), delta("stop"))),
    pictured("image-field", whole(content="Here it is", image=URL)),
    pictured("images-only-in-the-last-message", sse(delta(content="Here it is"), {"choices": [{"index": 0, "delta": {}, "message": {"content": "Here it is", "images": [URL]}, "finish_reason": "stop"}]})),
    pictured("images-as-bare-base64", whole(content="Here it is", images=[PNG])),
    pictured("picture-in-an-unknown-field", whole(content="Here it is", multi_mod_content=[{"inlineData": {"mimeType": "image/png", "data": PNG}}])),
    pictured("only-a-picture", whole(content=None, images=[{"image_url": {"url": URL}}]), text=""),
    pictured("only-a-picture-streamed", sse(delta(images=[{"image_url": {"url": URL}}]), delta("stop")), text=""),
    pictured("claude-image-block", json_reply({"type": "message", "content": [{"type": "text", "text": "Here it is"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}], "stop_reason": "end_turn"}), job=ANTHROPIC),
    pictured("claude-image-block-streamed", messages_stream(START, {"type": "content_block_start", "index": 0, "content_block": {"type": "image", "source": {"type": "base64", "data": PNG}}}, ENDED, OVER), job=ANTHROPIC, text=""),
)  # fmt: skip
MARKDOWN: Final = f"Here it is\n\n![a cat]({URL})\n"
IN_WORDS: Final = (
    pictured("markdown", whole(content=MARKDOWN), text=MARKDOWN),
    pictured("markdown-streamed", sse(delta(content=MARKDOWN[:60]), delta(content=MARKDOWN[60:]), delta("stop")), text=MARKDOWN),
    pictured("markdown-twice", whole(content=MARKDOWN, images=[{"image_url": {"url": URL}}]), text=MARKDOWN),
    pictured("html", whole(content=f'Here it is <img alt="x" src="{URL}">'), text=None),
    pictured("only-a-data-url", whole(content=URL), text=URL),
    pictured("markdown-of-claude", json_reply({"type": "message", "content": [{"type": "text", "text": MARKDOWN}], "stop_reason": "end_turn"}), job=ANTHROPIC, text=MARKDOWN),
    Case(name="fenced-code-with-a-picture", reply=whole(content=f"```html\n<img src='{URL}'>\n```"), output={"images": None}),
    Case(name="words-about-data-urls", reply=whole(content="write data:image/png;base64,AAAA in ![x](data:image/png;base64,AAAA)"), output={"images": None, "flags": None}),
    Case(name="markdown-with-an-address", reply=whole(content="![a](https://e.example/a.png)"), output={"images": None, "missing": None}),
    pictured("file-part", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "file", "file": {"filename": "a.png", "file_data": URL}}])),
    pictured("file-part-bare", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "file", "file": {"filename": "a.png", "file_data": PNG}}])),
    pictured("file-part-of-a-kind", whole(content=[{"type": "text", "text": "Here it is"}, {"type": "file", "mediaType": "image/png", "data": PNG}])),
    Case(name="file-part-that-is-no-picture", reply=whole(content=[{"type": "text", "text": "A"}, {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0xLjQK"}}]), output={"images": None, "content_parts.0.file.file_data": "data:application/pdf;base64,JVBERi0xLjQK"}),
)  # fmt: skip


def claude(*blocks: dict[str, Any], **more: Any) -> bytes:
    content = list(blocks) or [{"type": "text", "text": "A"}]
    return json_reply({"type": "message", "content": content, "stop_reason": "end_turn", **more})


def claude_streamed(*events: dict[str, Any], **ended: Any) -> bytes:
    return messages_stream(START, *events, {**ENDED, **ended}, OVER)


def begun(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def grown(index: int, **piece: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": piece}


SEARCHED: Final[tuple[dict[str, Any], ...]] = ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q9"}}, {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "https://e.example/z9", "encrypted_content": "e9"}]}, {"type": "text", "text": "A"})  # fmt: skip


def of_claude(name: str, reply: bytes, /, **output: Any) -> Case:
    return Case(
        name=f"claude-{name}",
        reply=reply,
        job=ANTHROPIC,
        output={place.replace("__", "."): found for place, found in output.items()},
    )


OF_CLAUDE: Final = (
    of_claude("stop-sequence", claude(stop_sequence="END", id="m", role="assistant", model="m"), stop_sequence="END", id=None, model=None),
    of_claude("container", claude(container={"id": "c9"}), container__id="c9"),
    of_claude("context-management", claude(context_management={"applied_edits": [{"type": "z9"}]}), context_management__applied_edits=[{"type": "z9"}]),
    of_claude("a-field-of-its-own", claude(grounding={"u": "z9"}, flags=["z9"]), grounding__u="z9", flags_as_sent=["z9"]),
    of_claude("a-block-of-its-own", claude({"type": "poem", "verse": "z9", "lines": 3}, {"type": "text", "text": "A"}), content_parts__0={"type": "poem", "verse": "z9", "lines": 3}, text="A"),
    of_claude("a-field-of-a-text", claude({"type": "text", "text": "A", "grade": "z9"}), content_parts__0={"type": "text", "grade": "z9"}),
    of_claude("a-field-of-its-thinking", claude({"type": "thinking", "thinking": "hm", "signature": "s9", "effort": "z9"}), thinking_blocks__0__effort="z9", reasoning="hm"),
    of_claude("a-field-of-a-call", claude({"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}, "caller": {"type": "z9"}}), tool_call_details__0={"id": "t", "caller": {"type": "z9"}}, tool_calls__0__arguments='{"x":1}'),
    of_claude("a-search", claude(*SEARCHED), content_parts__0__input__query="q9", content_parts__1__content__0__encrypted_content="e9", images=None, missing=None),
    of_claude("the-same-streamed", claude_streamed(*(begun(at, **block) for at, block in enumerate(SEARCHED)), delta={"stop_reason": "stop_sequence", "stop_sequence": "END", "container": {"id": "c9"}}, context_management={"edits": ["z9"]}), stop_sequence="END", container__id="c9", context_management__edits=["z9"], content_parts__1__content__0__encrypted_content="e9"),
    of_claude("a-streamed-block-of-its-own", claude_streamed(begun(0, type="poem", verse="z"), grown(0, type="verse_delta", verse="9", foot=4), begun(1, type="text", text="A")), content_parts__0={"type": "poem", "verse": "z9", "foot": 4}, text="A"),
    of_claude("a-streamed-piece-of-its-own", claude_streamed(begun(0, type="text", text="A"), grown(0, type="grade_delta", grade="z9"), grown(0, type="text_delta", text="B", logprob=-0.5)), text="AB", content_parts__0={"type": "text", "grade": "z9", "logprob": -0.5}),
    of_claude("an-event-of-its-own", claude_streamed(begun(0, type="text", text="A"), {"type": "moderation", "score": "z9"}, {"type": "ping", "cost": 0}), other_events=[{"type": "moderation", "score": "z9"}]),
    of_claude("fields-of-the-beginning", messages_stream({"type": "message_start", "message": {**dict(START["message"]), "container": {"id": "c9"}, "lane": "z9"}}, begun(0, type="text", text="A"), ENDED, OVER), container__id="c9", lane="z9"),
)  # fmt: skip
SOUNDS: Final = (
    Case(name="audio-whole", reply=whole(content=None, audio={"id": "a", "data": PACKED_WAV, "transcript": "hi there"}), text="hi there", output={"audio.0.format": "WAV", "audio.0.bytes": len(WAV), "audio.0.path": lambda path: path.startswith("audio/")}),
    Case(name="audio-streamed", reply=sse(delta(audio={"id": "a", "transcript": "hi "}), delta(audio={"transcript": "there"}), delta(audio={"data": base64.b64encode(WAV[:21]).decode()}), delta(audio={"data": base64.b64encode(WAV[21:]).decode()}), delta("stop")), text="hi there", output={"audio.0.bytes": len(WAV), "audio.0.transcript": "hi there"}),
    Case(name="audio-as-a-data-url", reply=whole(content="A", audio="data:audio/wav;base64," + PACKED_WAV), text="A", output={"audio.0.bytes": len(WAV)}),
    Case(name="audio-part", reply=whole(content=[{"type": "output_audio", "audio": {"data": PACKED_WAV, "format": "wav"}}]), text="", output={"audio.0.bytes": len(WAV)}),
)  # fmt: skip
LOGPROBS: Final = {"content": [{"token": "hi", "logprob": -0.12345, "bytes": None, "top_logprobs": []}]}
CHOICES: Final = [
    {"index": 0, "message": {"content": "A"}, "finish_reason": "stop"},
    {"index": 1, "message": {"content": "B"}, "finish_reason": "length"},
]
CITED: Final = [{"type": "url_citation", "url_citation": {"url": "https://e.example/z9"}}]
REST: Final = (
    Case(name="logprobs", reply=sse({"choices": [{"index": 0, "delta": {"content": "hi"}, "logprobs": LOGPROBS}]}, {"choices": [{"index": 0, "delta": {"content": "hi"}, "logprobs": LOGPROBS, "finish_reason": "stop"}]}), text="hihi", output={"logprobs.content": LOGPROBS["content"] * 2}),
    Case(name="logprobs-whole", reply=json_reply({"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop", "logprobs": LOGPROBS}]}), output={"logprobs": LOGPROBS}),
    Case(name="two-choices", reply=json_reply({"choices": CHOICES}), text="A", output={"choices.0.text": "A", "choices.1.text": "B", "choices.1.truncated": True, "choices.1.finish_reason": "length"}),
    Case(name="fields-of-its-own", reply=whole(content="A", grounding={"u": "z9"}, tool_plan="first f"), output={"grounding": {"u": "z9"}, "tool_plan": "first f"}),
    Case(name="fields-of-its-own-streamed", reply=sse(delta(content="A", tool_plan="first "), delta(tool_plan="f"), delta("stop") | {"related": ["z9"], "videos": [{"u": 1}]}), output={"tool_plan": "first f", "related": ["z9"], "videos.0.u": 1}),
    Case(name="fields-of-the-choice", reply=json_reply({"choices": [{"index": 0, "message": {"content": "A"}, "finish_reason": "stop", "token_ids": [7, 7], "citation_metadata": {"u": "z9"}}]}), output={"token_ids": [7, 7], "citation_metadata.u": "z9"}),
    Case(name="fields-named-like-ours", reply=json_reply(message(content="A") | {"images": [{"image_url": "https://e.example/z9"}]}), output={"images": None, "images_as_sent.0.image_url": "https://e.example/z9"}),
    Case(name="two-choices-without-an-index", reply=json_reply({"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}, {"message": {"content": "B"}, "finish_reason": "stop"}]}), text="A", output={"choices.1.text": "B"}),
    Case(name="two-choices-with-one-index", reply=json_reply({"choices": [CHOICES[0], CHOICES[1] | {"index": 0}]}), text="A", output={"choices.1.text": "B"}),
    Case(name="thinking-part-signed", reply=whole(content=[{"type": "thinking", "thinking": "hm", "signature": "s9"}, {"type": "text", "text": "A"}]), text="A", output={"reasoning": "hm", "content_parts.0.signature": "s9"}),
    Case(name="audio-as-an-address", reply=whole(content="A", audio="https://e.example/z9.wav"), output={"audio_urls": ["https://e.example/z9.wav"]}),
    Case(name="two-choices-streamed", reply=sse({"choices": [{"index": 1, "delta": {"content": "B"}}]}, {"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": "stop"}]}, {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}), text="A", output={"choices.1.text": "Bb"}),
    Case(name="one-of-two-choices-broke", reply=json_reply({"choices": [CHOICES[0], {"index": 1, "message": {"content": "x"}, "finish_reason": "error"}]}), text="A", output={"flags": ["more_choices", "broken_choice"]}),
    Case(name="annotations", reply=whole(content="A", annotations=CITED), text="A", output={"annotations": CITED}),
    Case(name="annotations-streamed", reply=sse(delta(content="A"), delta("stop", annotations=CITED)), text="A", output={"annotations": CITED}),
    Case(name="citations-beside-the-choices", reply=json_reply(message(content="A") | {"citations": ["https://e.example"]}), output={"citations": ["https://e.example"]}),
    Case(name="reasoning-details", reply=sse(delta(reasoning_details=[{"type": "reasoning.text", "text": "thi", "index": 0}]), delta(reasoning_details=[{"type": "reasoning.text", "text": "nk", "index": 0}]), delta(content="hello world"), delta("stop")), text="hello world", output={"reasoning": "think", "reasoning_details.0.text": "think", "reasoning_details.1": None}),
    Case(name="reasoning-and-its-details", reply=whole(content="A", reasoning="think", reasoning_details=[{"type": "reasoning.text", "text": "think"}]), output={"reasoning": "think"}),
    Case(name="thinking-parts", reply=whole(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A"}]), text="A", output={"reasoning": "hm"}),
    Case(name="thought-parts", reply=whole(content=[{"text": "hm", "thought": True}, {"text": "A"}]), text="A", output={"reasoning": "hm"}),
    Case(name="think-tags", reply=sse(delta(content="<think>h"), delta(content="m</think>\n\nA"), delta("stop")), text="A", output={"reasoning": "hm"}),
    Case(name="think-tags-left-open-by-the-template", reply=whole(content="hm\n</think>\n\nA"), text="A", output={"reasoning": "hm"}),
    Case(name="thought-tags", reply=whole(content="<thought>hm</thought>A"), text="A", output={"reasoning": "hm"}),
    Case(name="words-about-tags-stay", reply=whole(content="Write `</think>` to end, A"), text="Write `</think>` to end, A", output={"reasoning": None}),
    Case(name="claude-think-tags", reply=json_reply({"type": "message", "content": [{"type": "text", "text": "<think>hm</think>A"}], "stop_reason": "end_turn"}), job=ANTHROPIC, text="A", output={"reasoning": "hm"}),
    Case(name="claude-signed-thinking", reply=json_reply({"type": "message", "content": [{"type": "thinking", "thinking": "hm", "signature": "s9"}, {"type": "text", "text": "A"}], "stop_reason": "end_turn"}), job=ANTHROPIC, text="A", output={"reasoning": "hm", "thinking_blocks.0.signature": "s9"}),
    Case(name="unknown-part", reply=whole(content=[{"type": "text", "text": "A"}, {"type": "video_url", "video_url": {"url": "https://e.example/v.mp4"}}]), text="A", output={"content_parts.0.video_url.url": "https://e.example/v.mp4"}),
    Case(name="fence-in-prose", reply=whole(content='Sure! Here it is:\n```json\n{"a": 1}\n```\nHope it helps'), job={"schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}, output={"parsed": {"a": 1}}),
    Case(name="schema-in-the-thinking", reply=whole(content=None, reasoning_content='{"a": 1}'), job={"schema": {"type": "object", "required": ["a"]}}, output={"parsed": {"a": 1}}),
)  # fmt: skip


def call(index: int | None, identifier: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return told | {key: value for key, value in (("index", index), ("id", identifier)) if value is not None}


TWO: Final = {"tool_calls.0.arguments": '{"x":1}', "tool_calls.1.arguments": '{"y":2}', "tool_calls.0.name": "f", "tool_calls.1.name": "g", "tool_calls.2": None}  # fmt: skip


def calls(name: str, *pieces: dict[str, Any], **expected: Any) -> Case:
    return Case(
        name=f"calls-{name}",
        reply=sse(*(delta(tool_calls=[piece]) for piece in pieces), delta("tool_calls")),
        output={**TWO, **expected},
    )


CALLS: Final = (
    calls("same-index", call(0, "call_a", "f", '{"x":1}'), call(0, "call_b", "g", '{"y":2}')),
    calls("no-index-no-id", call(None, None, "f", '{"x":1}'), call(None, None, "g", '{"y":2}')),
    calls("same-index-no-id", call(0, None, "f", '{"x":1}'), call(0, "", "g", '{"y":2}')),
    calls("same-index-in-pieces", call(0, "a", "f", '{"x"'), call(0, "a", None, ":1}"), call(0, "b", "g", '{"y"'), call(0, "b", None, ":2}")),
    calls("a-new-id-for-every-piece", call(0, "a", "f", '{"x"'), call(0, "b", None, ":1}"), call(1, "c", "g", '{"y":2}')),
    calls("well-numbered", call(0, "a", "f", '{"x":1}'), call(1, "b", "g", '{"y":2}')),
    Case(name="calls-whole-same-id", reply=whole(content=None, tool_calls=[call(None, "a", "f", '{"x":1}'), call(None, "a", "g", '{"y":2}')]), output=TWO),
    Case(name="calls-of-free-text", reply=whole(content=None, tool_calls=[{"id": "a", "type": "custom", "custom": {"name": "f", "input": "z9"}}]), output={"tool_calls.0.name": "f", "tool_calls.0.arguments": "z9"}),
    Case(name="calls-signed", reply=whole(content=None, tool_calls=[call(0, "a", "f", "{}") | {"extra_content": {"google": {"thought_signature": "s9"}}}]), output={"tool_call_details.0.id": "a", "tool_call_details.0.extra_content.google.thought_signature": "s9"}),
    Case(name="calls-whole-same-index", reply=whole(content=None, tool_calls=[call(0, "a", "f", '{"x":1}'), call(0, "b", "g", '{"y":2}')]), output=TWO),
)  # fmt: skip
COUNTED: Final = {"input_tokens": 31, "output_tokens": 7}
RAW: Final = {"prompt_tokens": 31, "completion_tokens": 7}
HI: Final = delta(content="hi")


def counted(name: str, reply: bytes, job: dict[str, Any] | None = None, **more: int) -> Case:
    return Case(name=f"usage-{name}", reply=reply, row={"usage": {**COUNTED, **more}}, job=job or {})


USAGE: Final = (
    counted("under-x-groq", sse(HI, delta("stop") | {"x_groq": {"id": "r", "usage": RAW}})),
    counted("in-the-choice", sse(HI, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": RAW}]})),
    counted("behind-done", sse(HI, delta("stop"), "[DONE]", {"choices": [], "usage": RAW}, done=False)),
    counted("as-text", sse(HI, delta("stop") | {"usage": {"prompt_tokens": "31", "completion_tokens": "7"}})),
    counted("then-zeros", sse(HI, delta("stop") | {"usage": RAW}, {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})),
    counted("other-names", json_reply(message(content="hi") | {"usage": {"input_tokens": 31, "output_tokens": 7}})),
    counted("other-names-still", json_reply(message(content="hi") | {"usage": {"promptTokens": 31, "completionTokens": 7}})),
    counted("beside-the-choices", json_reply({"choices": [CHOICES[0]], "usageMetadata": {"promptTokenCount": 31, "candidatesTokenCount": 7}})),
    counted("in-meta", json_reply({"choices": [CHOICES[0]], "meta": {"tokens": {"input_tokens": 31, "output_tokens": 7}}})),
    counted("of-bedrock", sse(HI, delta("stop") | {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 31, "outputTokenCount": 7}})),
    counted("in-a-list", json_reply(message(content="hi") | {"usage": [RAW]})),
    counted("of-ollama", json_reply({"message": {"content": "hi"}, "done": True, "done_reason": "stop", "prompt_eval_count": 31, "eval_count": 7})),
    counted("total-only", json_reply(message(content="hi") | {"usage": {"prompt_tokens": 31, "total_tokens": 38}})),
    counted("cached", json_reply(message(content="hi") | {"usage": RAW | {"prompt_tokens_details": {"cached_tokens": 16}}}), cache_read_tokens=16),
    counted("cached-deepseek", json_reply(message(content="hi") | {"usage": RAW | {"prompt_cache_hit_tokens": 16}}), cache_read_tokens=16),
    counted("nothing-cached", json_reply(message(content="hi") | {"usage": RAW | {"prompt_tokens_details": {"cached_tokens": 0}}})),
    counted("claude-cached", json_reply({"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 8, "output_tokens": 7}}), ANTHROPIC, cache_read_tokens=20, cache_write_tokens=8),
    counted("claude-cached-streamed", messages_stream({"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 3, "cache_read_input_tokens": 28, "output_tokens": 1}}}, {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "hi"}}, ENDED | {"usage": {"output_tokens": 7}}, OVER), ANTHROPIC, cache_read_tokens=28),
)  # fmt: skip
SEEN: Final = {
    "claude-": "docs.anthropic.com: messages",
    "file-part": "openrouter.ai/docs: files",
    "images-": "github.com/OpenRouterTeam/ai-sdk-provider/issues/167",
    "image": "github.com/Laisky/one-api/issues/44",
    "inline": "github.com/BerriAI/litellm/issues/10094",
    "only-a-picture": "github.com/decolua/9router/pull/3521",
    "reasoning-details": "github.com/NousResearch/hermes-agent/pull/93219",
    "reasoning-and": "github.com/BerriAI/litellm/issues/9100",
    "think-tags": "github.com/vllm-project/vllm/issues/13375",
    "schema-in": "github.com/vllm-project/vllm/issues/17609",
    "calls-same-index": "github.com/ollama/ollama/issues/15457",
    "calls-no-index": "github.com/ollama/ollama/issues/7881",
    "calls-a-new-id": "github.com/spring-projects/spring-ai/pull/5973",
    "calls-": "github.com/mcowger/plexus/issues/691",
    "usage-in-the-choice": "github.com/earendil-works/pi/issues/2017",
    "usage-under": "console.groq.com/docs: streaming",
    "usage-claude": "docs.anthropic.com: prompt caching",
    "audio": "platform.openai.com/docs/guides/audio",
    "annotations": "openrouter.ai/docs: web search",
    "citations": "docs.perplexity.ai",
    "thinking-parts": "docs.mistral.ai: reasoning",
}
"""Where replies whose names begin so were seen."""


def _referenced(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    def seen(name: str) -> str:
        return next((place for start, place in SEEN.items() if name.startswith(start)), "")

    return tuple(replace(case, reference=case.reference or seen(case.name)) for case in cases)


ALL: Final = _referenced((*PICTURES, *IN_WORDS, *OF_CLAUDE, *SOUNDS, *REST, *CALLS, *USAGE))


@pytest.mark.parametrize("case", ALL, ids=case_ids(ALL))
def test_what_was_paid_for_stands_in_the_row_or_on_the_disk(field: Field, case: Case) -> None:
    ran = check_case(field, case)
    for kept in (*ran.output().get("images", ()), *ran.output().get("audio", ())):
        data = (ran.out / kept["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (kept["bytes"], kept["sha256"])


@pytest.mark.parametrize("cut", ["random", "bytes"])
@pytest.mark.parametrize("case", [case for case in ALL if b"event-stream" in case.reply[:200]], ids=str)  # type: ignore[index]  # bytes all
def test_pieces_of_any_size_change_nothing(field: Field, case: Case, cut: Cut) -> None:
    check_case(field, case, cut=cut)


def answering(picture: Answer, *, url: str = "/p.png") -> Any:
    def script(asked: Asked) -> Answer:
        if asked.path.startswith("/p"):
            return picture
        return json_reply(message(content="Here it is", images=[{"image_url": {"url": asked.base + url}}]))

    return script


def test_a_picture_at_an_address_is_fetched(field: Field) -> None:
    ran = field.run(answering(http(BYTES, kind="image/png")))
    assert ran.output()["images"][0]["format"] == "PNG"
    assert len(ran.server.requests("POST")) == 1


def test_an_answer_whose_picture_cannot_be_fetched_is_kept_and_marked(field: Field) -> None:
    ran = field.run(answering(http(b"gone", status=404)))
    output = ran.output()
    assert (output["text"], output["flags"], "images" in output) == ("Here it is", ["media_missing"], False)
    assert output["missing"][0]["url"].endswith("/p.png")
    assert "404" in output["missing"][0]["reason"]
    assert len(ran.server.requests("POST")) == 1
    assert field.run(answering(http(b"gone", status=404))).asked == []


def test_a_damaged_picture_in_an_answer_is_kept_beside_it(field: Field) -> None:
    packed = base64.b64encode(BYTES[:-20]).decode()
    ran = field.run(lambda _: whole(content="Here it is", images=[{"b64_json": packed}]))
    assert ran.output()["flags"] == ["media_missing"]
    (kept,) = (ran.out / "images/damaged").iterdir()
    assert kept.read_bytes() == BYTES[:-20]
