"""Arrow columns from buffers: `pa.array` imports pandas, which takes a worker process half a second."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def numbers(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of numbers of type `kind`."""
    made = values.astype(kind.to_pandas_dtype(), copy=False)
    return pa.Array.from_buffers(kind, len(made), [None, pa.py_buffer(made)])


def binary(values: Sequence[bytes], width: int) -> pa.Array:
    """binary(width)[n] of values of that width."""
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(b"".join(values))])


def lists(values: Sequence[Sequence[str]]) -> pa.Array:
    """list<string>[n]."""
    starts = numbers(_ends(np.fromiter(map(len, values), np.int32, len(values))), pa.int32())
    return pa.ListArray.from_arrays(starts, texts([text for value in values for text in value]))


def texts(values: Sequence[str | None]) -> pa.Array:
    """string[n], null for None."""
    if None not in values:
        return _texts(values, None)  # type: ignore[arg-type]
    there = np.fromiter((value is not None for value in values), bool, len(values))
    if not there.any():
        return pa.nulls(len(values), pa.string())
    return _texts([value or "" for value in values], pa.py_buffer(np.packbits(there, bitorder="little")))


def _texts(values: Sequence[str], valid: pa.Buffer | None) -> pa.Array:
    data = "".join(values).encode()
    places = pa.py_buffer(_ends(_byte_lengths(values, len(data))))
    return pa.StringArray.from_buffers(len(values), places, pa.py_buffer(data), valid)


def _byte_lengths(values: Sequence[str], total: int) -> np.ndarray:
    """int32[n]: the bytes of each text in UTF-8; `total` of them all together."""
    lengths = np.fromiter(map(len, values), np.int32, len(values))
    if lengths.sum(dtype=np.int64) == total:
        return lengths
    return np.fromiter((len(value.encode()) for value in values), np.int32, len(values))


def _ends(lengths: np.ndarray) -> np.ndarray:
    """int32[n + 1]: where each of consecutive items starts, and where the last one ends."""
    places = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=places[1:])
    return places
