"""Operations of templates that can grow without measure, measured before they are done.

Knows nothing of the template language: plain functions over values, which refuse with `TooMuchError`.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

OUTPUT_LIMIT_CHARS = 4 * 1024 * 1024
_WIDTH_LIMIT = 1_000
_DIGITS_LIMIT = 1_000
_LIST_LIMIT = 100_000
_WIDE = re.compile(r"%(?:\([^()]*\))?[^%a-zA-Z(]*(?:\d{4}|\*)|%\([^()]*\(")
"""A field of four digits or of a width from the arguments; or a key with parentheses, which could hide one."""


class TooMuchError(Exception):
    """A template asks for more than a prompt can need."""


def _guard_add(left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        require_length(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        _require_few(len(left) + len(right))


def _guard_multiply(left: Any, right: Any) -> None:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(sequence, str):
            require_length(len(sequence) * times)
        elif isinstance(times, int) and isinstance(sequence, list | tuple):
            raise TooMuchError("a list cannot be repeated")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 3 * _DIGITS_LIMIT:
        raise TooMuchError(f"a number has more than {_DIGITS_LIMIT:,} digits")


def _guard_power(left: Any, right: Any) -> None:
    raise TooMuchError(f"`**` is not allowed ({type(left).__name__} ** {type(right).__name__})")


def _guard_percent(left: Any, right: Any) -> None:
    del right
    if isinstance(left, str):
        _require_narrow(left)


BINOP_GUARDS: dict[str, Callable[[Any, Any], None]] = {
    "+": _guard_add,
    "*": _guard_multiply,
    "**": _guard_power,
    "%": _guard_percent,
}
"""What is asked before an operator is applied to its two sides."""


def require_length(chars: int) -> None:
    """Refuse a text of more than 4 Mi characters."""
    if chars > OUTPUT_LIMIT_CHARS:
        raise TooMuchError(f"a text is longer than {OUTPUT_LIMIT_CHARS:,} characters")


def _require_few(entries: int) -> None:
    if entries > _LIST_LIMIT:
        raise TooMuchError(f"a list has more than {_LIST_LIMIT:,} entries")


def _require_narrow(pattern: str) -> None:
    if _WIDE.search(pattern.replace("%%", "")):
        raise TooMuchError("a field of a `%` format is too wide")


def narrow(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing widths and paddings beyond the limit."""

    @wraps(filter_)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        first = 2 if hasattr(filter_, "jinja_pass_arg") else 1
        for option in (*args[first:], *kwargs.values()):
            size = option if isinstance(option, int) else len(option) if isinstance(option, str) else 0
            if abs(size) > _WIDTH_LIMIT:
                raise TooMuchError(f"an option of `{filter_.__name__.removeprefix('do_')}` is beyond {_WIDTH_LIMIT:,}")
        return filter_(*args, **kwargs)

    return guarded


def replace(value: object, old: object, new: object, count: int | None = None) -> str:
    """`str.replace`, refused if the result would be too long."""
    text, before, after = str(value), str(old), str(new)
    times = text.count(before) if count is None or count < 0 else min(count, text.count(before))
    require_length(len(text) + times * (len(after) - len(before)))
    return text.replace(before, after, -1 if count is None else count)


def join(values: Iterable[Any], separator: object = "", attribute: str | None = None) -> str:
    """The values as text, one after the other; refused as soon as that is too long."""
    glue = str(separator)
    parts: list[str] = []
    length = 0
    for value in values:
        part = str(value if attribute is None else value[attribute])
        length += len(part) + len(glue)
        require_length(length - len(glue))
        parts.append(part)
    return glue.join(parts)


def format_text(pattern: object, *args: Any, **kwargs: Any) -> str:
    """`%` formatting, refused if a field is wide."""
    text = str(pattern)
    _require_narrow(text)
    return text % (kwargs or args)


def to_json(value: Any, indent: int | None = None) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML, which a prompt is not."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def join_by(separator: str, values: Iterable[Any]) -> str:
    """`str.join`, as `join`."""
    return join(values, separator)
