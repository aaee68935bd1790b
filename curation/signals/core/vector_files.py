"""Vector columns of signals: a memory-mapped `<column>.npy`, float16 [rows, dims], beside the parts.

In a table a vector column is a FixedSizeList<float16>[dims]; a null entry means that the sample has no
vector. A column read from disk is a view of the memory map, so that 26 million vectors take no memory until
they are used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HAS = "has_"
"""Prefix of the bool column that replaces a vector column in a part file: whether the row has a vector."""


class VectorError(ValueError):
    """Vectors that cannot be stored: not finite in float16, or with null components."""


def vector_array(matrix: np.ndarray, known: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """FixedSizeList<float16>[d] over a matrix [n, d]; zero-copy where it is float16 and contiguous.

    known: bool [n], False (null) for a row without a vector; None means that every row has one. Raises
    VectorError for a known vector that is not finite in float16 (largest value 65504).
    """
    with np.errstate(over="ignore"):  # overflow becomes inf, which is reported below
        half = np.ascontiguousarray(matrix, dtype=np.float16)
    bad = ~np.isfinite(half).all(axis=1)
    if (bad := bad if known is None else bad & known).any():
        raise VectorError(
            f"vector {int(np.flatnonzero(bad)[0])} is not finite in float16: scale or normalise the vectors"
        )
    return _wrap(half, known)


def stack_vectors(vectors: Sequence[np.ndarray | None], dims: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [n, dims], known bool [n]) of vectors [dims]; None becomes zeros that are not known."""
    known = np.array([vector is not None for vector in vectors], bool)
    matrix = np.zeros((len(vectors), dims), np.float32)
    if known.any():
        matrix[known] = np.stack([vector for vector in vectors if vector is not None])
    return matrix, known


def vector_columns(table: pa.Table) -> dict[str, int]:
    """Dimensions of the vector columns of a table, by name."""
    return {field.name: field.type.list_size for field in table.schema if is_vector(field.type)}


def is_vector(kind: pa.DataType) -> bool:
    """Whether an Arrow type is FixedSizeList<float16 or float32>."""
    return pa.types.is_fixed_size_list(kind) and kind.value_type in (pa.float16(), pa.float32())


def matrix(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(float16 [n, d], known bool [n]) of a vector column; rows that are not known have undefined content.

    A column as `read_signal` returns it is not copied. Raises KeyError for a column that does not exist,
    TypeError for one that holds no vectors.
    """
    column = table[name]
    if not is_vector(column.type):
        raise TypeError(f"column {name!r} holds {column.type}, not vectors")
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    dims = array.type.list_size
    kind = np.float16 if array.type.value_type == pa.float16() else np.float32
    # Read the buffer directly: Arrow also marks the components of a null vector as null, and `to_numpy` would
    # have to copy.
    start = (array.values.offset + array.offset * dims) * np.dtype(kind).itemsize
    values = np.frombuffer(array.values.buffers()[1], kind, len(array) * dims, start)
    with np.errstate(over="ignore"):  # float32 beyond float16 becomes inf, which `split` refuses
        half = values.reshape(-1, dims).astype(np.float16, copy=False)
    return half, np.asarray(array.is_valid())


def split(table: pa.Table) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """(table with `has_<column>` bool in place of vectors, the vectors float16 [n, d] by column).

    Null vectors become zeros. Raises VectorError for vectors that are not finite in float16 or have null
    components.
    """
    stored = {}
    for name in vector_columns(table):
        values, known = matrix(table, name)
        vector_array(values, known)  # raises for values that float16 cannot hold
        if table[name].combine_chunks().drop_null().flatten().null_count:
            raise VectorError(f"column {name!r} holds a vector with null components")
        stored[name] = np.where(known[:, None], values, np.float16(0))
        table = table.set_column(table.column_names.index(name), HAS + name, pa.array(known))
    return table, stored


def store(folder: Path, name: str, rows: range, values: np.ndarray, n_rows: int) -> None:
    """Write the vectors of `rows` into `<name>.npy` [n_rows, d], created if missing or of another shape."""
    path = _path(folder, name)
    if not is_whole(folder, {name: values.shape[1]}, n_rows):
        path.unlink(missing_ok=True)  # not truncated in place: a reader may still have the old file mapped
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n_rows, values.shape[1])).flush()
    mapped = np.load(path, mmap_mode="r+")
    mapped[rows.start : rows.stop] = values
    mapped.flush()


def is_whole(folder: Path, dims: Mapping[str, int], n_rows: int) -> bool:
    """Whether the file of every column exists with the expected shape."""
    return all(problem(folder, name, size, n_rows) is None for name, size in dims.items())


def problem(folder: Path, name: str, dims: int, n_rows: int) -> str | None:
    """None for a sound vector file, else "missing" or how it differs from float16 [n_rows, dims]."""
    path = _path(folder, name)
    if not path.exists():
        return "missing"
    try:
        mapped = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        return f"unreadable ({error})"
    if mapped.shape != (n_rows, dims) or mapped.dtype != np.float16:
        return f"{mapped.dtype} {mapped.shape} instead of float16 ({n_rows}, {dims})"
    return None


def attach(folder: Path, name: str, table: pa.Table) -> pa.Table:
    """The table with `has_<name>` replaced by the vectors on disk; its rows must be all rows of the file."""
    mapped = np.load(_path(folder, name), mmap_mode="r")
    known = table[HAS + name].to_numpy()
    return table.set_column(table.column_names.index(HAS + name), name, _wrap(mapped, known))


def _wrap(half: np.ndarray, known: np.ndarray | None) -> pa.FixedSizeListArray:
    values = pa.Array.from_buffers(pa.float16(), half.size, [None, pa.py_buffer(half)])
    mask = None if known is None or known.all() else pc.invert(pa.array(known))
    return pa.FixedSizeListArray.from_arrays(values, half.shape[1], mask=mask)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"
