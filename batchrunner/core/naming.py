"""Names for people and for files: slugs, automatic ids, file stems, and when two names are the same on a disk.

Pure functions over any text at all, lone surrogates and NULs included. They refuse nothing: they always give a name.
Uniqueness is not decided here; whoever hands out names compares them with `fold`.
"""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

STEM_LIMIT_BYTES = 120
"""Room is left below the usual 255 for endings and for the names of half-written files."""

_SHORT = blake2b(digest_size=3)
"""Copied for every id, which takes half as long as a new one."""
_FALLBACK = "item"
_SLUG_LIMIT = 40
_SLUG_CHARS = bytes(
    ord(chr(code).lower()) if chr(code).isascii() and chr(code).isalnum() else 32 for code in range(256)
)
"""Every byte of ASCII as it stands in a slug; a space for whatever parts words."""
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
_PLAIN_STEM = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,117}[A-Za-z0-9_-])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\.|$)", re.IGNORECASE)


def is_address(path: str) -> bool:
    """True for what names no folder of this machine: `s3://bucket/x`, `https://…`, `file:///tmp`, `s3:/bucket`."""
    return _ADDRESS.match(path) is not None


def slug(text: str, limit: int = _SLUG_LIMIT) -> str:
    """The text's beginning as lower-case ASCII letters, digits and single hyphens, at most `limit` characters.

    Never empty: text without any ASCII letter or digit, even after accents are taken off, gives `item`.
    """
    start = text[: 2 * limit]
    if not start.isascii():
        start = unicodedata.normalize("NFKD", start)
    words = start.encode("ascii", "ignore").translate(_SLUG_CHARS).split()
    return b"-".join(words)[:limit].rstrip(b"-").decode("ascii") or _FALLBACK[:limit]


def auto_id(prompt_text: str) -> str:
    """A stable id from content alone: a slug of the beginning, a hyphen, six hex digits of the text's blake2b."""
    hashed = _SHORT.copy()
    hashed.update(prompt_text.encode("utf-8", "surrogatepass"))
    return f"{slug(prompt_text)}-{hashed.hexdigest()}"


def auto_ids(prompt_texts: Iterable[str]) -> list[str]:
    """As `auto_id` of each, with as few steps for each of many texts as there can be; they are valid Unicode."""
    found: list[str] = []
    begin, limit, chars = _SHORT.copy, _SLUG_LIMIT, _SLUG_CHARS
    for text in prompt_texts:
        raw = text.encode()
        hashed = begin()
        hashed.update(raw)
        if len(raw) == len(text):
            words = b"-".join(raw[: 2 * limit].translate(chars).split())[:limit].rstrip(b"-").decode()
        else:
            words = slug(text)
        found.append(f"{words or _FALLBACK}-{hashed.hexdigest()}")
    return found


def safe_stem(text: str, *, suffix: str = "") -> str:
    """One path component that is safe on every usual file system, at most 120 bytes of UTF-8, `suffix` included.

    Letters, digits and marks of every script stay, and so do `_`, `-` and inner dots; all else becomes a hyphen. No
    separator, control or bidi character, no dot or hyphen at the front, no dot at the end, no device name of Windows.
    `suffix` must be safe itself; the text is cut to make room for it.
    """
    if not suffix and _PLAIN_STEM.fullmatch(text) and not _RESERVED.match(text):
        return text
    # A character is at least a byte: what lies beyond the limit can only matter by being cut off.
    composed = unicodedata.normalize("NFC", text[: 8 * STEM_LIMIT_BYTES])
    kept = "".join(char if _stays(char) else "-" for char in composed)
    name = _cut(re.sub(r"-{2,}", "-", kept).strip(".-"), STEM_LIMIT_BYTES - len(suffix) - 1).rstrip(".-")
    if _RESERVED.match(name):
        name = f"_{name}"
    return (name or _FALLBACK) + suffix


def fold(name: str) -> str:
    """What names are compared by: equal for case twins and for composed and decomposed accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _stays(char: str) -> bool:
    return char in "_-." or char.isalnum() or unicodedata.category(char).startswith("M")


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")
