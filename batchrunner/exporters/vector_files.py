"""`npy`: the vectors of embeddings as NumPy's array file: 32-bit floats, a row of the array for each row of the run.

Rows are those of every other format with the same options, in their order, so ids come from `--to csv` or `jsonl`.
The header is 128 bytes or more, aligned to 64, as NumPy's format 1.0 has it; NumPy itself is not needed. Rows without a
vector, and vectors of another length than most, are left out and counted.
"""

import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Final

from batchrunner.core.exports import Shapable
from batchrunner.exporters.arrow_tables import vector_of

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_ALIGNED: Final = 64
_PIECE_BYTES: Final = 1 << 20
_NONE: Final = "without a vector"


def npy(run: Shapable) -> Iterator[bytes]:
    """An array of shape (rows, numbers of a vector); (0, 0) where no row has one."""
    lengths = Counter(len(vector) for row in run.all_rows() if (vector := vector_of(row)) is not None)
    length = min(lengths, key=lambda each: (-lengths[each], each)) if lengths else 0
    count = sum(1 for row in run.rows() if (vector := vector_of(row)) is not None and len(vector) == length)
    yield _header(count, length)
    piece = array("f")
    for row in run.rows():
        vector = vector_of(row)
        if vector is None or len(vector) != length:
            run.leave_out(_NONE if vector is None else f"with a vector of another length than {length}")
            continue
        run.wrote()
        piece.extend(vector)
        if len(piece) * piece.itemsize >= _PIECE_BYTES:
            yield _little(piece)
            piece = array("f")
    yield _little(piece)


def _header(count: int, length: int) -> bytes:
    said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {length}), }}".encode()
    padding = -(len(_MAGIC) + 2 + len(said) + 1) % _ALIGNED
    text = said + b" " * padding + b"\n"
    return _MAGIC + len(text).to_bytes(2, "little") + text


def _little(piece: "array[float]") -> bytes:
    if sys.byteorder == "big":
        piece.byteswap()
    return piece.tobytes()
