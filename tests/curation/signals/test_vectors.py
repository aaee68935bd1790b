"""Vector columns: stored beside the parts, read from a memory map, resumed, refused when damaged."""

import json

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.core.table import (
    MissingPartError,
    SignalError,
    TruncatedPartError,
    join,
    read_signal,
    write_signal,
)
from curation.signals.core.vector_files import VectorError, matrix, vector_array

IDENTITY = {"producer": "points", "pool_hash": "pool-a"}
N, SHARD, DIMS = 25, 10, 4
KNOWN = np.arange(N) % 3 != 0


def points(rows, advance, dims=DIMS, dtype=np.float16, offset=0):
    """Row r has the vector [r, r+1, ...] unless r is a multiple of 3; rows come in reverse order."""
    order = np.array(rows)[::-1]
    values = (order[:, None] + np.arange(dims) + offset).astype(dtype)
    kind = pa.list_(pa.float16() if dtype == np.float16 else pa.float32(), dims)
    column = pa.array([list(v) if KNOWN[r] else None for r, v in zip(order, values, strict=True)], kind)
    advance(len(rows))
    return pa.table({"row": pa.array(order, pa.int32()), "point": column, "value": pa.array(order * 2.0)})


def expected(rows=range(N), offset=0):
    return [[float(r + k + offset) for k in range(DIMS)] if KNOWN[r] else None for r in rows]


@pytest.fixture
def signal(tmp_path):
    write_signal(tmp_path, IDENTITY, N, points, shard_rows=SHARD)
    return tmp_path


def test_vectors_come_back_as_float16_with_nulls(signal):
    table = read_signal(signal, "pool-a")
    assert table.column_names == ["row", "point", "value"]
    assert table["point"].type == pa.list_(pa.float16(), DIMS)
    assert table["point"].to_pylist() == expected()
    assert json.loads((signal / "signal.json").read_text())["vectors"] == {"point": DIMS}
    assert np.load(signal / "point.npy").shape == (N, DIMS)


def test_a_matrix_is_a_view_of_the_file(signal):
    table = join(
        pa.table({"row": pa.array(range(N), pa.int32()), "id": [str(r) for r in range(N)]}),
        [read_signal(signal)],
    )
    values, known = matrix(table, "point")
    assert known.tolist() == KNOWN.tolist()
    assert values.ctypes.data == table["point"].chunk(0).values.buffers()[1].address
    assert not values.flags.writeable
    np.load(signal / "point.npy", mmap_mode="r+")[1, 0] = 77  # visible in the table, whose memory is the file
    assert values[1, 0] == 77


def test_float32_is_converted_and_what_float16_cannot_hold_is_refused(tmp_path):
    write_signal(
        tmp_path, IDENTITY, N, lambda rows, advance: points(rows, advance, dtype=np.float32), shard_rows=SHARD
    )
    assert read_signal(tmp_path)["point"].to_pylist() == expected()
    with pytest.raises(VectorError, match="not finite in float16"):
        write_signal(
            tmp_path / "big",
            IDENTITY,
            N,
            lambda rows, advance: points(rows, advance, dtype=np.float32, offset=7e4),
            shard_rows=SHARD,
        )
    with pytest.raises(VectorError, match="vector 1 "):
        vector_array(np.array([[0.0], [np.nan]]))
    assert vector_array(np.array([[0.0], [np.nan]]), np.array([True, False])).to_pylist() == [[0.0], None]


def test_join_and_take_move_vectors_with_their_rows(signal):
    order = np.random.default_rng(0).permutation(N)
    joined = join(
        pa.table({"row": pa.array(order, pa.int32()), "id": [str(r) for r in order]}), [read_signal(signal)]
    )
    assert joined["point"].to_pylist() == expected(order)
    part = joined.slice(5, 9).take(pa.array([8, 0, 3]))
    values, known = matrix(part, "point")
    rows = order[5:14][[8, 0, 3]]
    assert known.tolist() == KNOWN[rows].tolist()
    assert values[known].tolist() == [v for v in expected(rows) if v]
    sliced, known = matrix(joined.slice(5, 9), "point")
    assert sliced[known].tolist() == [v for v in expected(order[5:14]) if v]


def test_an_interrupted_run_keeps_the_vectors_of_its_finished_parts(signal):
    (signal / "signal.json").unlink()
    (signal / "part-00001.parquet").unlink()
    computed = []

    def recorded(rows, advance):
        computed.append(rows)
        return points(rows, advance, offset=100)

    assert write_signal(signal, IDENTITY, N, recorded, shard_rows=SHARD)["rows_kept"] == 15
    assert computed == [range(10, 20)]
    assert read_signal(signal)["point"].to_pylist() == expected(range(10)) + expected(
        range(10, 20), 100
    ) + expected(range(20, 25))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other shape", "empty"])
def test_damaged_vectors_are_refused_and_computed_again(signal, damage):
    path = signal / "point.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "other shape":
        np.save(path, np.zeros((N, DIMS + 1), np.float16))
    else:
        path.write_bytes(path.read_bytes()[: -1 if damage == "truncated" else 0])
    with pytest.raises(MissingPartError if damage == "missing" else TruncatedPartError, match=r"point\.npy"):
        read_signal(signal)
    assert write_signal(signal, IDENTITY, N, points, shard_rows=SHARD)["rows_computed"] == N
    assert read_signal(signal)["point"].to_pylist() == expected()


def test_parts_are_not_kept_for_vectors_that_another_run_began_to_overwrite(signal, monkeypatch):
    """A run of another identity stops between a shard's vectors and its part: the first one recomputes it."""
    from curation.signals.core import table

    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(table.pq, "write_table", stops)
        write_signal(
            signal,
            IDENTITY | {"seed": 1},
            N,
            lambda rows, advance: points(rows, advance, offset=50),
            shard_rows=SHARD,
        )
    assert write_signal(signal, IDENTITY, N, points, shard_rows=SHARD)["rows_computed"] == SHARD
    assert read_signal(signal)["point"].to_pylist() == expected()


def test_vectors_of_another_dimension_in_a_later_part_are_refused(tmp_path):
    with pytest.raises(
        SignalError, match=r"part-00001\.parquet: .* vectors \{'point': 5\}, other parts hold \{'point': 4\}"
    ):
        write_signal(
            tmp_path,
            IDENTITY,
            N,
            lambda rows, advance: points(rows, advance, dims=4 + (rows.start > 0)),
            shard_rows=SHARD,
        )


def test_a_vector_with_null_components_is_refused(tmp_path):
    holed = pa.array([[1.0, None, 3.0, 4.0]] * N, pa.list_(pa.float32(), DIMS))
    with pytest.raises(VectorError, match="'point' holds a vector with null components"):
        write_signal(
            tmp_path,
            IDENTITY,
            N,
            lambda rows, advance: pa.table({"row": pa.array(rows, pa.int32()), "point": holed}),
            shard_rows=N,
        )


def test_a_shard_without_any_vector_is_all_null(tmp_path):
    def none(rows, advance):
        return pa.table(
            {"row": pa.array(rows, pa.int32()), "point": pa.nulls(len(rows), pa.list_(pa.float16(), DIMS))}
        )

    write_signal(tmp_path, IDENTITY, N, none, shard_rows=SHARD)
    assert read_signal(tmp_path)["point"].null_count == N


def test_matrix_refuses_a_column_that_holds_no_vectors(signal):
    with pytest.raises(TypeError, match="'value' holds double, not vectors"):
        matrix(read_signal(signal), "value")


def test_an_identity_that_would_be_overwritten_by_the_signals_own_keys_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['vectors'\], reserved for signal\.json itself"):
        write_signal(tmp_path, IDENTITY | {"vectors": "mine"}, N, points, shard_rows=SHARD)
