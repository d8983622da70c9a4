"""The dialect of OpenAI's embeddings, which ModelScope and most servers copy: texts go in, a vector for each comes out.

A request carries one text or many; a reply is taken apart by the `index` of its entries, whatever their order. An entry
that cannot be used is the trouble of its text alone: its neighbours were paid for and are kept.
`encoding_format` is always sent, because ModelScope refuses a request without it; vectors are read as numbers or as
base64 of little-endian 32-bit floats, whichever comes. See docs/embeddings.md.
"""

import math
import struct
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from typing import Final

from batchrunner.core.classify import family_of
from batchrunner.core.http import Decoder, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import Answer, Problem, ProblemKind, Revision, SendOutcome, Usage
from batchrunner.core.values import replace
from batchrunner.providers.error_bodies import fault_in, message_in, plain_problem, problem_of
from batchrunner.providers.json_bodies import at, encode, is_object, openai_url, whole_number
from batchrunner.providers.json_decoder import WholeReply
from batchrunner.providers.rate_headers import hints_of

USAGE_DIVIDED: Final = "usage_divided"
"""The flag of an item whose tokens are its share, by length, of what its request used."""
ZERO_VECTOR: Final = "zero_vector"
"""The flag of a vector of nothing but zeros: a whole reply, but nothing can be compared with it."""
_FLOAT_BYTES: Final = 4
_NUMBERS: Final = frozenset({int, float})

Part = Answer | Problem


class OpenAiEmbeddings:
    """A `Dialect`, and a `SharedDialect`."""

    def __init__(self, provider: Provider) -> None:
        self._url = openai_url(provider, "embeddings")
        self._family = family_of(provider)

    def __repr__(self) -> str:
        """Where it sends."""
        return f"<OpenAiEmbeddings {self._url}>"

    def encode(self, item: Item, revision: Revision) -> Request:  # noqa: ARG002 - the port's; nothing to revise
        """The POST of one text."""
        return self.encode_all((item,))

    def decoder(self, item: Item) -> Decoder[SendOutcome]:
        """A fresh reader for the reply to it."""
        return WholeReply[SendOutcome](self._family, read=lambda head, value: _only(self._read(head, value, (item,))))

    def encode_all(self, items: Sequence[Item]) -> Request:
        """The POST of the texts of these items, which have one model and the same parameters."""
        first = items[0]
        texts: list[Json] = [item.prompt for item in items]
        body: dict[str, Json] = {"model": first.model, "input": texts, "encoding_format": "float", **first.params}
        return Request(method="POST", url=self._url, headers={"content-type": "application/json"}, body=encode(body))

    def decoder_of_all(self, items: Sequence[Item]) -> "Decoder[tuple[Part, ...] | Problem]":
        """A fresh reader for the reply: an outcome for each item, in their order, or a problem of the whole request."""
        return WholeReply[tuple[Part, ...] | Problem](
            self._family, read=lambda head, value: self._read(head, value, items)
        )

    def _read(self, head: ResponseHead, value: Json, items: Sequence[Item]) -> tuple[Part, ...] | Problem:
        entries = at(value, "data")
        if not isinstance(entries, list) or not entries:
            if is_object(value) and message_in(value):
                return problem_of(self._family, head, fault_in(value), status=None)
            return _unusable(head, "the server's reply holds no vectors")
        if len(entries) != len(items) and not any(_index(entry) is not None for entry in entries):
            counts = f"{len(entries)} vectors without an index for {len(items)} texts"
            return _unusable(head, f"the server's reply has {counts}, so that it is not known whose they are")
        found = _by_text(entries, len(items))
        vectors = [entry if isinstance(entry, str) else _vector(entry) for entry in found]
        length = _length(vectors, items[0].params.get("dimensions"))
        shares = shares_of(_used(value), [len(item.prompt) for item in items])
        hints, divided = hints_of(head), (USAGE_DIVIDED,) if len(items) > 1 else ()
        parts: list[Part] = []
        for vector, tokens in zip(vectors, shares, strict=True):
            usage = None if tokens is None else Usage(input_tokens=tokens)
            flags = divided if usage is not None else ()
            problem = vector if isinstance(vector, str) else _misfit(vector, length)
            if problem is not None or isinstance(vector, str):
                # A server that ignores `dimensions` would be paid for nothing with every further try.
                again = False if not isinstance(vector, str) and len(vector) == length[1] else None
                parts.append(replace(_unusable(head, str(problem), should_retry=again), usage=usage, hints=hints))
                continue
            flags = flags if any(vector) else (*flags, ZERO_VECTOR)
            parts.append(Answer(text="", embedding=vector, usage=usage, flags=flags, hints=hints))
        return tuple(parts)


def shares_of(total: int | None, sizes: Sequence[int]) -> list[int | None]:
    """A count divided by size, in whole numbers whose sum is the count; nothing where it is not known.

    What is left by rounding down goes to the largest remainders, of equal ones to the first.
    """
    if total is None:
        return [None] * len(sizes)
    weights = [size or 1 for size in sizes]
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
    for place in order[: total - sum(shares)]:
        shares[place] += 1
    return list(shares)


def _only(outcome: tuple[Part, ...] | Problem) -> Part:
    return outcome if isinstance(outcome, Problem) else outcome[0]


def _unusable(head: ResponseHead, message: str, *, should_retry: bool | None = None) -> Problem:
    """The request was done, and may be billed; what came is of no use."""
    problem = plain_problem(ProblemKind.EMPTY_RESPONSE, message, head=head)
    return problem if should_retry is None else replace(problem, should_retry=should_retry)


def _index(entry: Json) -> int | None:
    return whole_number(at(entry, "index"))


def _by_text(entries: list[Json], count: int) -> list[dict[str, Json] | str]:
    """The entry of each text; a text instead says what is wrong. Without any index the order is that of the texts."""
    if len(entries) == count and all(_index(entry) is None for entry in entries):
        return [entry if is_object(entry) else "the server's reply has no vector here" for entry in entries]
    found: list[dict[str, Json] | str] = ["the server's reply has no vector for this text"] * count
    seen = Counter(index for entry in entries if (index := _index(entry)) is not None)
    for entry in entries:
        index = _index(entry)
        if is_object(entry) and index is not None and index < count:
            twice = "the server's reply has several vectors for this text"
            found[index] = entry if seen[index] == 1 else twice
    return found


def _vector(entry: dict[str, Json]) -> tuple[float, ...] | str:
    """The numbers, or what is wrong with them."""
    said = entry.get("embedding")
    if isinstance(said, str):
        return _unpacked(said)
    if not isinstance(said, list) or not said:
        return "the server's reply has no numbers for this text"
    if not _NUMBERS.issuperset(map(type, said)):
        return "the vector of this text holds something else than numbers"
    try:
        vector = tuple(map(float, said))  # type: ignore[arg-type]  # they are numbers
    except OverflowError:
        return _NOT_FINITE
    return vector if all(map(math.isfinite, vector)) else _NOT_FINITE


_NOT_FINITE: Final = "the vector of this text holds a number that is not finite"


def _unpacked(text: str) -> tuple[float, ...] | str:
    try:
        packed = b64decode(text, validate=True)
    except ValueError:
        packed = b""
    if not packed or len(packed) % _FLOAT_BYTES:
        return "the vector of this text is neither numbers nor base64 of 32-bit floats"
    vector: tuple[float, ...] = struct.unpack(f"<{len(packed) // _FLOAT_BYTES}f", packed)
    return vector if all(map(math.isfinite, vector)) else _NOT_FINITE


def _length(vectors: Sequence[tuple[float, ...] | str], asked: Json) -> tuple[int | None, int]:
    """(what the job asks for, what most vectors of the reply have)."""
    lengths = Counter(len(vector) for vector in vectors if isinstance(vector, tuple))
    usual = lengths.most_common(1)[0][0] if lengths else 0
    return asked if isinstance(asked, int) and not isinstance(asked, bool) else None, usual


def _misfit(vector: tuple[float, ...], length: tuple[int | None, int]) -> str | None:
    """What is wrong with its length."""
    asked, usual = length
    if asked is not None and len(vector) != asked:
        return f"the vector has {len(vector)} numbers; `params.dimensions` asks for {asked}"
    if len(vector) != usual:
        return f"the vector has {len(vector)} numbers, others of the same reply have {usual}"
    return None


def _used(value: Json) -> int | None:
    """Input tokens of the request: all that there are."""
    for name in ("prompt_tokens", "input_tokens", "total_tokens"):
        count = whole_number(at(value, "usage", name))
        if count is not None:
            return count
    return None
