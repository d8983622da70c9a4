"""Tokens as servers count them, under whatever names and wherever they stand, as one `Usage`.

`input_tokens` is all that was read: OpenAI's `prompt_tokens` include what came from a cache, Anthropic's
`input_tokens` leave it out. Counts may be text. Of the same count said twice the later stands, unless it is zero:
servers end a stream with a total of nothing.
"""

from collections.abc import Iterable
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.outcome import Usage
from batchrunner.providers.json_text import at, is_object, whole_number

_Path = tuple[str, ...]

_READ_IN_ALL: Final[tuple[_Path, ...]] = (
    ("prompt_tokens",),
    ("promptTokenCount",),
    ("prompt_token_count",),
    ("prompt_eval_count",),
    ("prompt_n",),
    ("promptTokens",),
)
_READ: Final[tuple[_Path, ...]] = (("input_tokens",), ("inputTokens",), ("inputTokenCount",))
_WRITTEN: Final[tuple[_Path, ...]] = (
    ("completion_tokens",),
    ("output_tokens",),
    ("outputTokens",),
    ("candidatesTokenCount",),
    ("candidates_token_count",),
    ("generated_tokens",),
    ("eval_count",),
    ("predicted_n",),
    ("completionTokens",),
    ("outputTokenCount",),
)
_TOTAL: Final[tuple[_Path, ...]] = (("total_tokens",), ("totalTokenCount",))
_APART_READ: Final[tuple[_Path, ...]] = (("cache_read_input_tokens",), ("cacheReadInputTokens",))
_APART_WRITTEN: Final[tuple[_Path, ...]] = (("cache_creation_input_tokens",), ("cacheWriteInputTokens",))
"""Anthropic's, which stand beside `input_tokens` and are no part of it."""
_CACHE_READ: Final[tuple[_Path, ...]] = (
    *_APART_READ,
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cached_tokens",),
    ("cache_read_tokens",),
    ("cachedContentTokenCount",),
)
_CACHE_WRITTEN: Final[tuple[_Path, ...]] = (
    *_APART_WRITTEN,
    ("prompt_tokens_details", "cache_write_tokens"),
    ("prompt_tokens_details", "cache_creation_tokens"),
    ("prompt_tokens_details", "cache_creation_input_tokens"),
    ("input_tokens_details", "cache_write_tokens"),
    ("cache_write_tokens",),
)


def usage_of(said: object) -> Usage | None:
    """What one `usage` object comes to; None when it counts nothing."""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not is_object(said):
        return None
    read, wrote = _first(said, _READ_IN_ALL), _first(said, _WRITTEN)
    if read is None and (beside := _first(said, _READ)) is not None:
        read = beside + (_first(said, _APART_READ) or 0) + (_first(said, _APART_WRITTEN) or 0)
    if wrote is not None and (thought := _count(said.get("thoughtsTokenCount"))) is not None:
        wrote += thought  # Gemini counts them beside the answer
    total = _first(said, _TOTAL)
    if wrote is None and total is not None and read is not None and total >= read:
        wrote = total - read
    usage = Usage(
        input_tokens=read,
        output_tokens=wrote,
        cache_read_tokens=_first(said, _CACHE_READ) or None,
        cache_write_tokens=_first(said, _CACHE_WRITTEN) or None,
    )
    return None if usage == Usage() else usage


def said_again(known: dict[str, Json] | None, said: object) -> dict[str, Json] | None:
    """A `usage` object over an earlier one of the same reply: what is null, or zero again, takes nothing back."""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not is_object(said):
        return known
    if known is None:
        return said
    return known | {name: value for name, value in said.items() if value or name not in known}


def added_up(usages: Iterable[Usage]) -> Usage | None:
    """Of the choices of one answer: they read the same prompt, and each wrote for itself."""
    found = list(usages)
    if not found:
        return None
    wrote = [usage.output_tokens for usage in found if usage.output_tokens is not None]
    return Usage(
        input_tokens=max((u.input_tokens for u in found if u.input_tokens is not None), default=None),
        output_tokens=sum(wrote) if wrote else None,
        cache_read_tokens=max((u.cache_read_tokens for u in found if u.cache_read_tokens is not None), default=None),
        cache_write_tokens=max((u.cache_write_tokens for u in found if u.cache_write_tokens is not None), default=None),
    )


def _first(said: dict[str, Json], paths: tuple[_Path, ...]) -> int | None:
    for name, *inner in paths:  # for every reply, and of the many names a server uses few
        found = said.get(name)
        if found is not None and (count := _count(at(found, *inner))) is not None:
            return count
    return None


def _count(value: Json) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(2**63)) else None
    return whole_number(value)
