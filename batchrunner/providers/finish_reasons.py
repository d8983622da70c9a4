"""What the words mean with which servers end an answer: compared without case, `-` and spaces read as `_`."""

import re
from functools import lru_cache
from typing import Final, Literal

_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
Meaning = Literal["whole", "cut", "broken", "filtered"]

_CUT: Final = frozenset(
    {
        *("length", "max_length", "model_length", "token_limit", "max_token_limit", "length_limit", "limit"),
        *("max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens", "max_tokens_reached"),
        *("context_length", "context_length_exceeded", "context_window_exceeded", "model_context_window_exceeded"),
        *(
            "truncated",
            "repetition_truncation",
            "incomplete",
            "pause_turn",
            "error_limit",
            "max_total_tokens",
            "output_limit",
        ),
    }
)
"""The answer is as long as it may be, and not at its end."""
_BROKEN: Final = frozenset(
    {
        *("error", "abort", "aborted", "cancelled", "canceled", "user_cancel", "interrupted", "failed", "failure"),
        *("network_error", "insufficient_system_resource", "insufficient_system_resources", "server_error"),
        *("internal_error", "internal_server_error", "engine_error", "engine_overloaded", "overloaded", "timeout"),
        *("unavailable", "service_unavailable", "connection_error", "upstream_error", "system_error", "unknown_error"),
        *("malformed_function_call", "malformed_response", "unexpected_tool_call", "time_limit"),
        *("cancel", "preempted", "preemption", "evicted", "eviction", "disconnected"),
    }
)
"""The server did not finish, and says so."""
_FILTERED: Final = frozenset(
    {
        *("content_filter", "content_filtered", "sensitive", "safety", "refusal", "recitation", "blocklist", "spii"),
        *("prohibited_content", "image_safety", "image_prohibited_content", "error_toxic", "guardrail_intervened"),
        *("blocked", "moderation", "data_inspection_failed"),
    }
)


@lru_cache(maxsize=64)  # servers have few such words, and every answer ends with one
def meaning_of(reason: str | None) -> Meaning:
    """An unknown word, or none, means nothing bad: new ones appear, and an answer is paid for."""
    if reason is None:
        return "whole"
    word = _CAMEL.sub("_", reason.strip()).lower().replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
    if word in _CUT:
        return "cut"
    if word in _BROKEN:
        return "broken"
    return "filtered" if word in _FILTERED else "whole"
