"""Answers of a rehearsal, where nobody reads the words: the same counts, at the same times, without the text.

An ordinary answer is cut into eight pieces whatever it says, because the shortest text is long enough for that, and
its tokens are what the profile supposes; so how long it takes and what it is counted as is known without composing it.
Refuses (None) whatever depends on the text: scenarios, streams, schemas, tools, thinking, limits near its length, and
tokens that are counted instead of supposed.
"""

import json
from functools import lru_cache
from typing import Final

from batchrunner.core.job import Json
from batchrunner.simulator.answers import content_text, prompt_tokens
from batchrunner.simulator.order import Order
from batchrunner.simulator.pacing import whole
from batchrunner.simulator.script import Script, as_list, as_object

_PIECES_CHAT: Final = 12
"""The role, eight of text, the end, the usage, and `[DONE]`."""
_LONGEST_TOKENS: Final = 128
"""Of a text, besides the numbers that it repeats from its prompt."""
_SHAPING: Final = frozenset({"tools", "tool_choice", "response_format", "enable_thinking", "chat_template_kwargs"})
_WORDS: Final = "(rehearsed)"


def light_chat(order: Order) -> Script | None:
    """The answer to a chat completion, or None where it has to be composed."""
    body = order.body
    if order.chosen or order.answer_tokens is None or body.get("stream") is True or not _SHAPING.isdisjoint(body):
        return None
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    if isinstance(limit, int) and limit < _LONGEST_TOKENS + _longest_prompt(order):
        return None
    asked, said = prompt_tokens(body), order.said_tokens(0)
    name = _quoted(order.model)
    reply = (
        f'{{"id": "chatcmpl-{order.dice.content:016x}-{order.nth}", "object": "chat.completion", "created": 1760000000,'
        f' "model": {name}, "choices": [{{"index": 0, "message": {{"role": "assistant", "content": "{_WORDS}"}},'
        f' "finish_reason": "stop"}}], "usage": {{"prompt_tokens": {asked}, "completion_tokens": {said},'
        f' "total_tokens": {asked + said}}}}}'
    )
    return whole(reply.encode(), order, pieces=_PIECES_CHAT)


@lru_cache(maxsize=64)
def _quoted(model: str) -> str:
    return json.dumps(model)


def _longest_prompt(order: Order) -> int:
    """Characters of the longest turn, as more than the tokens of the numbers in it."""
    turns: list[Json] = as_list(order.body.get("messages"))
    return max((len(content_text(as_object(turn).get("content"))) for turn in turns), default=0)
