"""Embeddings as a server gives them: a unit vector for each text, the same for the same text.

Refused without an explicit `encoding_format`, as ModelScope refuses it, and beyond 25 texts where the model's id is of
ModelScope's kind (`Owner/Name`), beyond 2,048 elsewhere. Scenarios spoil an entry of a reply; the others are sound.
"""

import base64
import math
import struct
from collections.abc import Iterator
from typing import Final

from batchrunner.core.job import Json
from batchrunner.simulator.answers import count_tokens
from batchrunner.simulator.refusals import Refusal, invalid
from batchrunner.simulator.requests import Order, content_of, whole
from batchrunner.simulator.script import Script, as_text, digest_of, encode_json

_DIMENSIONS: Final = 64
_MOST_DIMENSIONS: Final = 4096
_MOST_TEXTS: Final = {True: 25, False: 2048}
"""By whether the model is one of ModelScope's."""
_FORMATS: Final = ("float", "base64")
_FOR_EVER: Final = float("inf")
_TOO_LONG_CHARS: Final = 8192.0


def check_embeddings(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    texts, dimensions = _texts(order), order.body.get("dimensions", _DIMENSIONS)
    most = _MOST_TEXTS["/" in order.base_model]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        return invalid("`input` must be a non-empty string or a list of them.")
    if len(texts) > most:
        return invalid(f"batch size is invalid, it should not be larger than {most}.")
    if order.body.get("encoding_format") not in _FORMATS:
        return invalid(f"`encoding_format` must be given: one of {', '.join(_FORMATS)}.")
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= _MOST_DIMENSIONS:
        return invalid(f"`dimensions` must be an integer between 1 and {_MOST_DIMENSIONS}.")
    if "emb-too-long" in order.chosen:
        longest = order.figure("emb-too-long", _TOO_LONG_CHARS)
        for at, text in enumerate(texts):
            if len(as_text(text)) > longest:
                return invalid(f"input[{at}] is too long: the maximum context length of this model is exceeded.")
    return None


def contents_of(order: Order) -> Iterator[int]:
    """What is paid for, text by text: the same text is the same order in whatever company it comes."""
    account = order.lane.account.hash
    for text in _texts(order):
        yield content_of(account, {**order.body, "input": text})


def answer_embeddings(order: Order) -> Script:
    """The vectors, as numbers or as the base64 of little-endian floats."""
    texts = [as_text(text) for text in _texts(order)]
    packed = order.body["encoding_format"] == "base64" or "emb-base64" in order.chosen
    found: list[list[float]] = [_vector(text, order) for text in texts]
    last = len(texts) - 1
    if _strikes("emb-short", order):
        found[last] = found[last][:-1]
    if _strikes("emb-nan", order):
        found[last] = [math.nan, *found[last][1:]]
    listed: list[dict[str, Json]] = [
        {"object": "embedding", "index": at, "embedding": _packed(vector) if packed else list(vector)}
        for at, vector in enumerate(found)
    ]
    counted = sum(map(count_tokens, texts))
    usage: Json = {"prompt_tokens": counted, "total_tokens": counted}
    data: Json = list(_spoiled(listed, order))
    return whole(encode_json({"object": "list", "model": order.model, "data": data, "usage": usage}), order)


def _spoiled(listed: list[dict[str, Json]], order: Order) -> list[Json]:
    """The entries, with what the scenarios do to the last one, or to their order."""
    last = listed[-1]
    if _strikes("emb-null", order):
        last["embedding"] = None
    if _strikes("emb-missing", order):
        listed = listed[:-1]
    if _strikes("emb-twice", order):
        listed = [*listed, dict(last)]
    if _strikes("emb-extra", order):
        listed = [*listed, {**last, "index": len(listed)}]
    if _strikes("emb-no-index", order):
        listed = [{name: value for name, value in entry.items() if name != "index"} for entry in listed]
    elif _strikes("emb-shuffled", order):
        listed = listed[::-1]
    return list(listed)


def _strikes(scenario: str, order: Order) -> bool:
    """Whether it was asked for, and the lane has not had so many calls yet."""
    return scenario in order.chosen and order.lane.calls <= order.figure(scenario, _FOR_EVER)


def _texts(order: Order) -> list[Json]:
    said = order.body.get("input")
    return said if isinstance(said, list) else [said]


def _vector(text: str, order: Order) -> list[float]:
    """32-bit floats of length one."""
    dimensions = order.body.get("dimensions", _DIMENSIONS)
    assert isinstance(dimensions, int)
    seed = f"{order.random_source.seed}/{order.base_model}/{text}"
    raw = [digest_of(f"{seed}/{at}", bits=32) / 2**31 - 1.0 for at in range(dimensions)]
    length = math.sqrt(sum(part * part for part in raw)) or 1.0
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(part / length for part in raw))))


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
