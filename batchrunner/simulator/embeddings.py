"""Embeddings as a server gives them: a unit vector for each text, the same for the same text.

Refused without an explicit `encoding_format`, as ModelScope refuses it, and beyond 25 texts. Nothing in this program
asks for them yet; clients that are tried against the simulator do.
"""

import base64
import math
import struct

from batchrunner.core.job import Json
from batchrunner.simulator.answers import count_tokens
from batchrunner.simulator.dice import digest_of
from batchrunner.simulator.order import Order
from batchrunner.simulator.pacing import whole
from batchrunner.simulator.refusals import Refusal, invalid
from batchrunner.simulator.script import Script, as_text, encode_json

_DIMENSIONS = 64
_MOST_DIMENSIONS = 4096
_MOST_TEXTS = 25
_FORMATS = ("float", "base64")


def check_embeddings(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    texts, dimensions = _texts(order), order.body.get("dimensions", _DIMENSIONS)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        return invalid("`input` must be a non-empty string or a list of them.")
    if len(texts) > _MOST_TEXTS:
        return invalid(f"batch size is invalid, it should not be larger than {_MOST_TEXTS}.")
    if order.body.get("encoding_format") not in _FORMATS:
        return invalid(f"`encoding_format` must be given: one of {', '.join(_FORMATS)}.")
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= _MOST_DIMENSIONS:
        return invalid(f"`dimensions` must be an integer between 1 and {_MOST_DIMENSIONS}.")
    return None


def answer_embeddings(order: Order) -> Script:
    """The vectors, as numbers or as the base64 of little-endian floats."""
    texts, packed = [as_text(text) for text in _texts(order)], order.body["encoding_format"] == "base64"
    found = [_vector(text, order) for text in texts]
    listed: list[Json] = [
        {"object": "embedding", "index": at, "embedding": _packed(vector) if packed else list(vector)}
        for at, vector in enumerate(found)
    ]
    counted = sum(map(count_tokens, texts))
    usage: Json = {"prompt_tokens": counted, "total_tokens": counted}
    return whole(encode_json({"object": "list", "model": order.model, "data": listed, "usage": usage}), order)


def _texts(order: Order) -> list[Json]:
    said = order.body.get("input")
    return said if isinstance(said, list) else [said]


def _vector(text: str, order: Order) -> list[float]:
    """32-bit floats of length one."""
    dimensions = order.body.get("dimensions", _DIMENSIONS)
    assert isinstance(dimensions, int)
    seed = f"{order.dice.seed}/{order.base_model}/{text}"
    raw = [digest_of(f"{seed}/{at}", bits=32) / 2**31 - 1.0 for at in range(dimensions)]
    length = math.sqrt(sum(part * part for part in raw)) or 1.0
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(part / length for part in raw))))


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
