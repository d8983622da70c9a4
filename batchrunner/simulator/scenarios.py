"""The scenarios as a table: what can follow a model's `#`, or apply to a whole world.

`Qwen/Qwen3-8B#throttle:3` refuses the first three calls; `a+b:2` asks for two at once. A figure is optional everywhere.
Where the summary says "first n", leaving the figure out means always.
"""

import difflib
from collections.abc import Iterable
from typing import Literal

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.values import dataclass
from batchrunner.simulator.profiles import finite
from batchrunner.simulator.requests import Chosen

Group = Literal[
    "chat",
    "refusal",
    "mishap",
    "stream",
    "field",
    "message",
    "response",
    "image",
    "picture",
    "download",
    "batch",
    "embedding",
    "transcription",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One line of `batchrunner simulate --list`."""

    name: str
    group: Group
    summary: str
    figure: str | None = None
    """What the number after the colon means."""


def parse_scenarios(text: str, *, key: str = "scenario") -> Chosen:
    """`throttle:3` or `ok-reasoning+sse-crlf`, as names with their figures; `key` is where they are written.

    Raises:
        JobMistakesError: a name that SCENARIOS does not have, or a figure that is not a number.
    """
    chosen: Chosen = {}
    for part in filter(None, text.split("+")):
        name, colon, figure = part.partition(":")
        if name not in SCENARIOS:
            raise _unknown(name, key)
        try:
            chosen[name] = finite(figure) if colon else None
        except ValueError:
            problem = f"{figure!r} is not a number for {name}"
            raise JobMistakesError((Mistake(key=key, problem=problem, expected=f"like {name}:3"),)) from None
    return chosen


def require_scenarios(scenario: str | None, models: Iterable[str]) -> None:
    """Refuse what `parse_scenarios` refuses, in a job's `scenario` and after the `#` of its models."""
    parse_scenarios(scenario or "")
    for model in models:
        parse_scenarios(model.partition("#")[2], key="model")


def _unknown(name: str, key: str) -> JobMistakesError:
    close = difflib.get_close_matches(name, SCENARIOS, n=1, cutoff=0.7)
    guess = f"did you mean `{close[0]}`? " if close else ""
    hint = f"{guess}`batchrunner simulate --list` lists them"
    return JobMistakesError((Mistake(key=key, problem=f"there is no scenario {name!r}", hint=hint),))


def _row(
    group: Group,
    name: str,
    summary: str,
    figure: str | None = None,
) -> Scenario:
    return Scenario(name=name, group=group, summary=summary, figure=figure)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        _row("chat", "ok", "a normal answer"),
        _row("chat", "ok-reasoning", "reasoning before the answer"),
        _row("chat", "ok-tools", "a tool call, even if no tools were offered"),
        _row("chat", "ok-think-tags", "reasoning leaks into the text as <think>"),
        _row("chat", "content-filter", "an empty answer with finish_reason content_filter"),
        _row("chat", "length", "half an answer with finish_reason length"),
        _row("chat", "shell200", "200 with choices null, no answer (first n sends of each body)", "n"),
        _row("chat", "choices-empty", "200 with choices [], no answer (first n sends of each body)", "n"),
        _row("refusal", "throttle", "429 rate limit for the first n calls of the lane", "n"),
        _row("refusal", "burst", "429 rate limit while more than c calls are in flight", "c"),
        _row("refusal", "slope", "429 `rate increased too quickly` when the rate doubles within 10 s"),
        _row(
            "refusal",
            "quota-model",
            "429 daily quota of the model used up after n calls, until midnight in Shanghai",
            "n",
        ),
        _row(
            "refusal",
            "quota-account",
            "429 daily quota of the account used up after n calls; the header says 0 remaining",
            "n",
        ),
        _row(
            "refusal", "quota-noheader", "429 daily quota used up, without any header (first n calls of the lane)", "n"
        ),
        _row(
            "refusal",
            "unpaid",
            "429 insufficient_quota as OpenAI sends it: out of credit, after n calls of the lane",
            "n",
        ),
        _row("refusal", "tpm", "429 token rate limit, ends 60 s after the first call"),
        _row(
            "refusal",
            "retired",
            "429 `insufficient balance` of the provider behind it, always (or the first n calls)",
            "n",
        ),
        _row("refusal", "empty429", "429 without a body (first n calls of the lane)", "n"),
        _row("refusal", "retry-after", "429 with Retry-After until n seconds have passed", "n"),
        _row("refusal", "retry-after-ms", "429 with retry-after-ms until n milliseconds have passed", "n"),
        _row("refusal", "retry-after-date", "429 with an HTTP date until n seconds have passed", "n"),
        _row("refusal", "retry-after-huge", "429 with Retry-After: 7200 until that has passed"),
        _row("refusal", "should-retry-false", "503 with x-should-retry: false (first n calls of the lane)", "n"),
        _row("refusal", "auth-bad", "401 no valid token (first n calls of the lane)", "n"),
        _row("refusal", "auth-unbound", "401 no Alibaba Cloud account is bound"),
        _row("refusal", "forbidden", "403 no permission for the model"),
        _row("refusal", "noprovider", "400 the model has no provider"),
        _row("refusal", "bad-model-id", "400 no such model id"),
        _row("refusal", "think-needs-stream", "400 unless the call streams or thinking is switched off"),
        _row("refusal", "so-unsupported", "400 when stream_options is present"),
        _row("refusal", "schema-400", "400 when response_format asks for json_schema"),
        _row("refusal", "limit-req", "nginx's limit_req, burst 5: a bare 503 above r requests a second", "r"),
        _row("refusal", "limit-conn", "nginx's limit_conn: a bare 503 while more than c calls are in flight", "c"),
        _row("refusal", "bare-503", "503 with nginx's page (first n calls of the lane)", "n"),
        _row("refusal", "page-403", "403 with a proxy's page (first n calls of the lane)", "n"),
        _row("refusal", "page-200", "200 with a login page (first n calls of the lane)", "n"),
        _row("refusal", "login", "302 to a login page (first n calls of the lane)", "n"),
        _row("refusal", "no-route", "404 in JSON: unknown path (first n calls of the lane)", "n"),
        _row("refusal", "moderated-403", "403 for a flagged input (first n calls of the lane)", "n"),
        _row("refusal", "unpaid-403", "403 insufficient_user_quota after n calls of the lane", "n"),
        _row("refusal", "quota-window", "429 about billing that ends after n seconds", "n"),
        _row("refusal", "error-in-200", "200 with an error 429 in its body (first n calls of the lane)", "n"),
        _row("refusal", "same-500", "500 `image input is not supported` (first n calls of the lane)", "n"),
        _row("refusal", "odd-499", "499 `cancelled upstream` (first n calls of the lane)", "n"),
        _row("refusal", "tool-use-failed", "400 tool_use_failed (first n calls of the lane)", "n"),
        _row("refusal", "no-stream", "400 when the call streams"),
        _row("refusal", "unknown-model-400", "400 `invalid model name` as a router words it (first n calls)", "n"),
        _row("refusal", "reset-requests", "429 with x-ratelimit-reset-requests until n seconds have passed", "n"),
        _row("refusal", "ratelimit-reset", "429 with the draft's RateLimit-Reset until n seconds have passed", "n"),
        _row("refusal", "cloudflare-522", "522 with Cloudflare's page (first n calls of the lane)", "n"),
        _row("refusal", "estimated-time", "503 with an estimated_time in its body until n seconds have passed", "n"),
        _row("refusal", "wait-in-prose", "429 that says `try again in 7.3s` until n seconds have passed", "n"),
        _row(
            "mishap",
            "schema-shell",
            "200 without an answer when response_format asks for json_schema (first n sends)",
            "n",
        ),
        _row(
            "mishap",
            "schema-miss",
            "answers that miss their schema, re-asked ones too (first n calls of the lane)",
            "n",
        ),
        _row("mishap", "5xx", "500 (first n sends of each body)", "n"),
        _row("mishap", "html502", "502 with a proxy's page (first n sends of each body)", "n"),
        _row("mishap", "hang-headers", "no reply at all (first n sends of each body)", "n"),
        _row("mishap", "hang-mid-stream", "half an answer, then nothing (first n sends of each body)", "n"),
        _row("mishap", "reset-before-headers", "reset before the headers (first n sends of each body)", "n"),
        _row("mishap", "reset-mid-stream", "reset in the middle (first n sends of each body)", "n"),
        _row("mishap", "cut-mid-stream", "closed normally in the middle (first n sends of each body)", "n"),
        _row("stream", "sse-crlf", "lines end in CR LF"),
        _row("stream", "sse-cr", "lines end in CR"),
        _row("stream", "sse-bom", "a byte order mark first"),
        _row("stream", "sse-nospace", "no space after data:"),
        _row("stream", "sse-multiline", "each chunk over several data lines"),
        _row("stream", "sse-comments", "comments between the chunks"),
        _row("stream", "sse-fields", "ids, event names, a retry and an unknown field between the chunks"),
        _row("stream", "sse-split-utf8", "pieces end within characters"),
        _row("stream", "sse-onebyte", "one byte at a time"),
        _row("stream", "sse-no-final-blank", "no blank line after the last event"),
        _row("stream", "sse-no-done", "no [DONE]"),
        _row("stream", "sse-no-finish", "no finish_reason"),
        _row("stream", "sse-finish-empty-string", 'finish_reason "" until the last chunk'),
        _row("stream", "sse-null-delta", "chunks with a null delta and null fields"),
        _row("stream", "sse-null-choices", "a chunk with null choices"),
        _row("stream", "sse-usage-only", "a chunk with nothing but usage at the start"),
        _row("stream", "sse-usage-every-chunk", "cumulative usage in every chunk"),
        _row("stream", "sse-error-mid", "an error event after half of the answer"),
        _row("stream", "sse-cut", "closed normally after half of the answer"),
        _row("stream", "sse-tool-no-index", "a tool call whose pieces have no index"),
        _row("stream", "sse-json-instead", "plain JSON although a stream was asked for"),
        _row("field", "sse-quoted-done", "[DONE] in quotes"),
        _row("field", "sse-junk-after-finish", "an event that is not JSON after the finish reason"),
        _row("field", "sse-single-newlines", "one newline between events, not two"),
        _row("field", "sse-error-after-finish", "an error after the finish reason"),
        _row("field", "sse-code-msg-mid", "an event with code and msg after half of the answer"),
        _row("field", "sse-finish-network", "finish_reason network_error"),
        _row("field", "sse-finish-model-length", "finish_reason model_length"),
        _row("field", "sse-usage-groq", "usage under x_groq"),
        _row("field", "sse-usage-in-choice", "usage inside the choice"),
        _row("field", "sse-only-reasoning", "the whole answer as reasoning_content"),
        _row("field", "sse-picture", "a picture in a delta"),
        _row("field", "sse-two-choices", "two answers to one request"),
        _row("field", "sse-data-twice", "`data: data:` in each line"),
        _row("field", "sse-two-in-one", "two values in each event"),
        _row("field", "sse-words-mid", "plain text of a proxy after half of the answer, then [DONE]"),
        _row("field", "sse-usage-after-done", "usage after [DONE]"),
        _row("field", "sse-usage-event", "usage in an event named usage"),
        _row("field", "sse-usage-text", "usage numbers as strings"),
        _row("field", "sse-usage-cached", "usage with cached input tokens"),
        _row("field", "sse-sound", "audio with its transcript in a delta"),
        _row("field", "sse-markdown-picture", "a picture as a data URL in Markdown"),
        _row("field", "sse-annotations", "annotations in the last delta"),
        _row("field", "sse-logprobs", "logprobs in every chunk"),
        _row("field", "sse-reasoning-details", "thinking in reasoning_details"),
        _row("field", "sse-content-parts", "thinking and text as parts of the content"),
        _row("field", "sse-tools-same-index", "two tool calls, both numbered 0"),
        _row("field", "sse-own-fields", "an unknown field next to choices"),
        _row("field", "an-single-newlines", "messages: one newline between events, not two"),
        _row("field", "an-error-after-end", "messages: an error after the stop reason"),
        _row("field", "an-own-fields", "messages: a container and an unknown field"),
        _row("field", "an-picture", "messages: a block with a picture"),
        _row("field", "an-search", "messages: web search blocks"),
        _row("field", "head-many", "300 headers"),
        _row("field", "head-long", "a header of 32 KB"),
        _row("field", "coding-not-there", "Content-Encoding: gzip with a plain body"),
        _row("field", "coding-unknown", "Content-Encoding: utf-8"),
        _row("field", "coding-gzip", "a body in gzip"),
        _row("field", "coding-gzip-wrong-sum", "a body in gzip whose checksum is wrong"),
        _row("field", "body-raw-control", "a raw tab in the JSON"),
        _row("field", "body-empty-error", "an empty error object next to the answer"),
        _row("field", "body-bytes-behind", "extra bytes after the answer"),
        _row("field", "body-utf-16", "the whole body in UTF-16"),
        _row("field", "body-comments-before", "SSE comments before the answer, streamed or not"),
        _row("field", "body-stays-open", "a Content-Length that is too long, and a connection that stays open"),
        _row("field", "body-gemini", "answers in Gemini's native format"),
        _row("field", "body-echo-key", "the caller's key in the answer, in three encodings"),
        _row("embedding", "emb-base64", "vectors as base64, whatever was asked for"),
        _row("embedding", "emb-shuffled", "entries in reverse order (first n calls of the lane)", "n"),
        _row("embedding", "emb-no-index", "entries without an index (first n calls of the lane)", "n"),
        _row("embedding", "emb-missing", "no entry for the last text (first n calls of the lane)", "n"),
        _row("embedding", "emb-twice", "two entries for the last text (first n calls of the lane)", "n"),
        _row("embedding", "emb-extra", "an entry for a text that was not asked for (first n calls of the lane)", "n"),
        _row("embedding", "emb-short", "one number too few for the last text (first n calls of the lane)", "n"),
        _row("embedding", "emb-nan", "NaN in the vector of the last text (first n calls of the lane)", "n"),
        _row("embedding", "emb-null", "null for the last text (first n calls of the lane)", "n"),
        _row("embedding", "emb-too-long", "400 when a text has more than c characters", "c"),
        _row("transcription", "tr-silent", "a transcript without a word"),
        _row("transcription", "tr-no-text", "a reply without a transcript"),
        _row("transcription", "tr-json", "JSON although text, SRT or VTT was asked for"),
        _row("transcription", "tr-streamed", "a stream of events although none was asked for"),
        _row("transcription", "tr-too-short", "400 for a sound that is too short"),
        _row("message", "an-thinking", "a thinking block before the answer"),
        _row("message", "an-tool", "a tool call, even if no tools were offered"),
        _row("message", "an-refusal", "stop_reason refusal and no text"),
        _row("message", "an-ping", "a ping before every event"),
        _row("message", "an-unknown-event", "events, blocks and deltas of unknown types"),
        _row("message", "an-usage-late", "input tokens in message_delta only"),
        _row("message", "an-one-index", "every block has index 0"),
        _row("message", "an-no-event-line", "no event: lines"),
        _row("message", "an-no-type", "no type in the data"),
        _row("message", "an-no-message-start", "no message_start"),
        _row("message", "an-no-message-stop", "no message_stop"),
        _row("message", "an-no-end", "closed normally before message_delta"),
        _row("message", "an-overloaded-mid", "an overloaded_error after half of the answer"),
        _row("message", "an-529", "529 overloaded_error (first n calls of the lane)", "n"),
        _row(
            "message", "an-429-nohint", "429 spend limit reached, without Retry-After (first n calls of the lane)", "n"
        ),
        _row("message", "an-content-array-400", "400 when any content is a list"),
        _row("response", "rs-tool", "a function call, even if no tools were offered"),
        _row("response", "rs-refusal", "a part of type refusal instead of a text"),
        _row("response", "rs-empty", "a completed response without any text"),
        _row("response", "rs-failed", "status failed: server_error, after half of the answer"),
        _row("response", "rs-failed-limit", "status failed: rate_limit_exceeded, before the answer"),
        _row("response", "rs-no-end", "closed normally before response.completed"),
        _row("response", "rs-bare-end", "response.completed without the output"),
        _row("response", "rs-doubled", "every event twice"),
        _row("response", "rs-unknown-event", "events of unknown types"),
        _row("response", "rs-done", "[DONE] after the last event"),
        _row("image", "img-ok", "a normal task"),
        _row("image", "img-submit-says-succeed", "the submit reply already says SUCCEED"),
        _row("image", "img-id-number", "the task id is a JSON number"),
        _row("image", "img-slow", "the task takes s seconds", "s"),
        _row("image", "img-fail", "the task fails (first n submits of each body)", "n"),
        _row(
            "image", "img-fail-empty-then-text", "the task fails; its reason appears a second after the first poll", "n"
        ),
        _row("image", "img-fail-nsfw", "the task fails: content (first n submits of each body)", "n"),
        _row("image", "img-fail-size", "the task fails: bad parameters (first n submits of each body)", "n"),
        _row("image", "img-fail-quota", "the task fails: the day's quota (first n submits of each body)", "n"),
        _row("image", "img-fail-throttle", "the task fails: throttled (first n submits of each body)", "n"),
        _row("image", "img-fail-provider", "the task fails: no provider (first n submits of each body)", "n"),
        _row("image", "img-fail-balance", "the task fails: insufficient balance (first n submits of each body)", "n"),
        _row("image", "img-fail-cuda", "the task fails: CUDA error (first n submits of each body)", "n"),
        _row("image", "img-moderated", "the task ends as Content Moderated"),
        _row("image", "img-expired", "the task ends as EXPIRED"),
        _row("image", "img-other-task", "the first n polls of each task return another task", "n"),
        _row("image", "img-same-id", "every task gets the same id"),
        _row("image", "img-page-404", "polls return a proxy's page until s seconds after the submit", "s"),
        _row("image", "img-wrapped", "a gateway wraps replies and renames their fields"),
        _row("image", "img-504-id", "504 to the submit, with the id of an accepted task"),
        _row("image", "img-cut-id", "the reply to the submit is cut off after the id"),
        _row("image", "img-no-words", "the reply to the submit has neither an id nor a picture"),
        _row("image", "img-refused-200", "a refusal inside a 200"),
        _row("image", "img-late", "SUCCEED s seconds before the pictures", "s"),
        _row("image", "img-with-picture", "the reply to the submit holds the picture; polls know no task"),
        _row("image", "img-poll-401", "every poll is refused with 401"),
        _row("image", "img-stub", "every poll returns a reply without a task"),
        _row("image", "img-notfound-grace", "task not found for the first s seconds", "s"),
        _row("image", "img-gone", "task not found, always"),
        _row("image", "img-no-urls", "SUCCEED without a picture"),
        _row("image", "img-sync-result", "the picture's URL comes in the submit reply"),
        _row("image", "img-needs-async", "400 without the async header (as always)"),
        _row("image", "img-poll-429", "429 for the first n polls of each task", "n"),
        _row("image", "img-status-weird", "unknown and empty statuses before the end"),
        _row("picture", "oi-ok", "pictures in the reply, as OpenAI sends them"),
        _row("picture", "oi-moderation", "400 moderation_blocked"),
        _row("picture", "oi-empty", "200 without pictures"),
        _row("picture", "oi-part-failed", "an error in place of the last picture"),
        _row("download", "dl-html", "200 image/png with an HTML page"),
        _row("download", "dl-truncated", "half a picture in a complete reply"),
        _row("download", "dl-cut", "the connection ends in the middle"),
        _row("download", "dl-404-once", "404 at the first download"),
        _row("download", "dl-404", "404, always"),
        _row("download", "dl-slow", "sent slowly over s seconds", "s"),
        _row("download", "dl-wrong-ext", "a PNG named .jpg"),
        _row("download", "dl-redirect", "one redirect on the same host"),
        _row("download", "dl-huge", "more than 64 MiB"),
        _row("batch", "batch-slow", "a batch takes s seconds", "s"),
        _row("batch", "batch-stuck", "a batch never ends"),
        _row("batch", "batch-expires", "a batch expires with p percent of its requests executed", "p"),
        _row("batch", "batch-all-errors", "every request of a batch fails; no output file"),
        _row("batch", "batch-odd-lines", "results in another order, of nobody, twice, and one that is no JSON"),
        _row("batch", "batch-status-0", "every tenth result has status 0 and no body; the counts say all completed"),
        _row("batch", "batch-strings", "bodies as text, an empty file of errors, no expires_at"),
        _row("batch", "batch-long-line", "a result of 4 MB"),
        _row("batch", "batch-too-much", "batches of more than n requests fail: enqueued token limit", "n"),
        _row("batch", "batch-too-large", "413 to files of requests over n kB", "n"),
        _row("batch", "batch-404", "404 for the first n looks at a batch", "n"),
        _row("batch", "batch-500", "500 to the first n orders, which were taken", "n"),
        _row("batch", "batch-not-taken", "500 to the first n orders, which were not taken", "n"),
        _row("batch", "batch-refused", "400 to every order of a batch"),
        _row("batch", "batch-file-gone", "404 for result files"),
        _row("batch", "batch-no-metadata", "batches are listed without their metadata"),
    )
}
"""All scenarios by name, in the order in which they are listed."""
