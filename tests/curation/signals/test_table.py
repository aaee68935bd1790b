"""Signals on disk: parts, resuming, errors for incomplete or foreign signals, and the join with the pool."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.imports.table_file import read_table_file
from curation.signals.core.table import (
    DuplicateRowsError,
    JoinError,
    MissingPartError,
    OtherPoolError,
    SignalError,
    TruncatedPartError,
    join,
    read_signal,
    write_signal,
)

IDENTITY = {"producer": "square", "pool_hash": "pool-a", "prompts": "p1"}
N, SHARD = 25, 10


def square(rows, advance):
    """The producer of these tests: value = row squared, rows in reverse order."""
    advance(len(rows))
    return pa.table(
        {"row": pa.array(reversed(rows), pa.int32()), "value": [float(r * r) for r in reversed(rows)]}
    )


@pytest.fixture
def signal(tmp_path):
    write_signal(tmp_path, IDENTITY, N, square, shard_rows=SHARD)
    return tmp_path


def test_a_signal_comes_back_sorted_by_row(signal):
    table = read_signal(signal, "pool-a")
    assert table["row"].to_pylist() == list(range(N))
    assert table["value"].to_pylist() == [r * r for r in range(N)]
    meta = json.loads((signal / "signal.json").read_text())
    assert (
        [p["rows"] for p in meta["parts"]] == [10, 10, 5]
        and meta["producer"] == "square"
        and meta["rows"] == N
    )


def test_finished_parts_are_kept_and_the_rest_is_computed(signal):
    whole = read_signal(signal)
    (signal / "signal.json").unlink()
    (signal / "part-00001.parquet").unlink()
    torn = (signal / "part-00002.parquet").read_bytes()
    (signal / "part-00002.parquet").write_bytes(torn[:-7])
    (signal / ".part-00000.parquet.123.tmp").write_bytes(b"half a par")
    computed, progress = [], []

    def recorded(rows, advance):
        computed.append(rows)
        return square(rows, advance)

    counts = write_signal(
        signal, IDENTITY, N, recorded, shard_rows=SHARD, on_progress=lambda i, n: progress.append((i, n))
    )
    assert computed == [range(10, 20), range(20, 25)]
    assert counts == {"parts": 3, "rows_kept": 10, "rows_computed": 15}
    assert progress == [(10, 25), (20, 25), (25, 25)]
    assert read_signal(signal).equals(whole)
    assert not list(signal.glob("*.tmp"))


def test_parts_of_another_identity_or_shard_size_are_computed_again(signal):
    counts = write_signal(signal, IDENTITY | {"prompts": "p2"}, N, square, shard_rows=SHARD)
    assert counts["rows_computed"] == N
    counts = write_signal(signal, IDENTITY | {"prompts": "p2"}, N, square, shard_rows=20)
    assert counts["rows_computed"] == N
    assert sorted(p.name for p in signal.glob("part-*")) == ["part-00000.parquet", "part-00001.parquet"]
    assert read_signal(signal)["row"].to_pylist() == list(range(N))


def test_an_error_in_the_middle_leaves_no_finished_signal(tmp_path):
    def breaks(rows, advance):
        if rows.start == 10:
            raise RuntimeError("out of memory")
        return square(rows, advance)

    with pytest.raises(RuntimeError):
        write_signal(tmp_path, IDENTITY, N, breaks, shard_rows=SHARD)
    with pytest.raises(MissingPartError, match="run its producer again"):
        read_signal(tmp_path)
    assert write_signal(tmp_path, IDENTITY, N, square, shard_rows=SHARD)["rows_kept"] == 10


def test_a_producer_that_returns_other_rows_is_refused(tmp_path):
    with pytest.raises(SignalError, match=r"other rows than 0\.\.9"):
        write_signal(
            tmp_path, IDENTITY, N, lambda rows, advance: square(range(1, 11), advance), shard_rows=SHARD
        )


def test_a_missing_part_is_refused(signal):
    (signal / "part-00001.parquet").unlink()
    with pytest.raises(MissingPartError, match="part-00001"):
        read_signal(signal)


@pytest.mark.parametrize("keep", [0, 10, -10])
def test_a_truncated_part_is_refused(signal, keep):
    path = signal / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TruncatedPartError, match="part-00001"):
        read_signal(signal)


def test_a_part_that_another_program_wrote_is_refused_and_computed_again(signal):
    """A file without our metadata, here even without rows."""
    path = signal / "part-00001.parquet"
    pq.write_table(pa.table({"value": [1.0] * SHARD}), path)
    with pytest.raises(TruncatedPartError, match="part-00001"):
        read_signal(signal)
    assert write_signal(signal, IDENTITY, N, square, shard_rows=SHARD) == {
        "parts": 3,
        "rows_kept": 15,
        "rows_computed": 10,
    }


def test_a_part_of_another_run_is_refused(signal, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_signal(other, IDENTITY | {"prompts": "p2"}, N, square, shard_rows=SHARD)
    (signal / "part-00001.parquet").write_bytes((other / "part-00001.parquet").read_bytes())
    with pytest.raises(TruncatedPartError, match="part-00001"):
        read_signal(signal)


def test_a_signal_of_another_pool_is_refused(signal):
    with pytest.raises(OtherPoolError, match="pool-a, not to pool-b"):
        read_signal(signal, "pool-b")


def test_duplicate_rows_are_refused(signal):
    path = signal / "part-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "row", pa.array([9, *range(11, 20)], pa.int32())), path)
    with pytest.raises(DuplicateRowsError, match="row 9 more than once"):
        read_signal(signal)


def test_join_aligns_by_row(signal):
    order = np.random.default_rng(0).permutation(N)
    pool = pa.table({"row": pa.array(order, pa.int32()), "id": [f"s{r}" for r in order], "source": ["a"] * N})
    styles = pa.table({"row": pa.array(range(N), pa.int32()), "styles": [[str(r)] for r in range(N)]})
    joined = join(pool, [read_signal(signal), styles])
    assert joined.column_names == ["row", "id", "source", "value", "styles"]
    assert joined["row"].to_pylist() == order.tolist()
    assert joined["value"].to_pylist() == [r * r for r in order]
    assert joined["styles"].to_pylist() == [[str(r)] for r in order]


def test_join_refuses_missing_rows_and_repeated_columns(signal):
    pool = pa.table({"row": pa.array(range(N + 2), pa.int32()), "id": [f"s{r}" for r in range(N + 2)]})
    table = read_signal(signal)
    with pytest.raises(JoinError, match="lacks 2 of the pool's 27"):
        join(pool, [table])
    with pytest.raises(JoinError, match="'value' comes from two tables"):
        join(pool.slice(0, N), [table, table])


def test_a_signal_written_to_one_file_is_read_from_there(tmp_path):
    def styles(rows, advance):
        return pa.table(
            {
                "row": pa.array(rows, pa.int32()),
                "styles": [["word"] if r % 2 else ["word", "yes_no"] for r in rows],
            }
        )

    write_signal(tmp_path / "s", IDENTITY, N, styles, shard_rows=SHARD)
    pq.write_table(read_signal(tmp_path / "s"), tmp_path / "styles.parquet")
    read = read_table_file(tmp_path / "styles.parquet")
    assert read.ignored == () and read.table["styles"].type == pa.list_(pa.string())
    assert read.table["styles"].to_pylist() == read_signal(tmp_path / "s")["styles"].to_pylist()
