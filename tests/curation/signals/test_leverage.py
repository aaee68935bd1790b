"""Leverage scores against numpy's singular value decomposition and against a closed form."""

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.core.table import read_signal, write_signal
from curation.signals.core.vector_files import stack_vectors, vector_array
from curation.signals.vectors.leverage import score_leverage


def signal_of(pool, out, vectors):
    """A signal that holds `vectors` (None: no vector) as emb_attended_visual."""
    dims = len(next(vector for vector in vectors if vector is not None))

    def compute(rows, advance):
        column = vector_array(*stack_vectors([vectors[row] for row in rows], dims))
        return pa.table({"row": pa.array(rows, pa.int32()), "emb_attended_visual": column})

    write_signal(out, {"producer": "test", "pool_hash": pool.hash}, len(pool), compute, shard_rows=16)
    return out


@pytest.mark.parametrize("energy", [0.5, 0.9, 1.0])
def test_leverage_is_the_squared_length_of_rows_of_u(small_pool, tmp_path, energy):
    rng = np.random.default_rng(3)
    values = (rng.normal(2, 1, (40, 6)) * [8, 4, 2, 1, 0.5, 0.2]).astype(np.float16)
    vectors = [None if row % 7 == 3 else value.astype(np.float32) for row, value in enumerate(values)]
    folder = signal_of(small_pool, tmp_path / "vectors", vectors)
    summary = score_leverage(small_pool, folder, tmp_path / "out", energy=energy, shard_rows=15, device="cpu")
    known = [row for row in range(40) if row % 7 != 3]
    held = values[known].astype(np.float64)
    left, singular, _ = np.linalg.svd(held - held.mean(axis=0), full_matrices=False)
    share = np.cumsum(singular**2) / (singular**2).sum()
    k = next(count for count in range(1, 7) if share[count - 1] >= energy - 1e-12)
    column = read_signal(tmp_path / "out")["leverage"]
    np.testing.assert_allclose(column.take(known).to_numpy(), (left[:, :k] ** 2).sum(axis=1), rtol=1e-5)
    assert summary["directions"] == k and column.null_count == summary["nulls"]["leverage"] == 40 - len(known)
    assert sum(column.take(known).to_pylist()) == pytest.approx(k, rel=1e-5)


def test_an_outlier_alone_in_its_direction_has_almost_all_of_it(small_pool, tmp_path):
    vectors = [
        np.array([10.0, 0, 0] if row == 5 else [0, 0.01 * (row % 3), 0], np.float32) for row in range(40)
    ]
    folder = signal_of(small_pool, tmp_path / "vectors", vectors)
    assert score_leverage(small_pool, folder, tmp_path / "out", device="cpu")["directions"] == 1
    column = read_signal(tmp_path / "out")["leverage"].to_pylist()
    assert column[5] == pytest.approx(39 / 40, abs=1e-4)  # 1 - 1/n: the mean holds a part of it
    assert all(column[row] == pytest.approx(1 / (39 * 40), rel=0.02) for row in range(40) if row != 5)


def test_what_cannot_be_scored(small_pool, tmp_path):
    folder = signal_of(small_pool, tmp_path / "same", [np.ones(3, np.float32)] * 40)
    with pytest.raises(ValueError, match="all vectors are equal"):
        score_leverage(small_pool, folder, tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match=r"'emb_dino' is not in .*, which holds emb_attended_visual"):
        score_leverage(small_pool, folder, tmp_path / "out", column="emb_dino")
    with pytest.raises(ValueError, match=r"at most 1, got 1\.5"):
        score_leverage(small_pool, folder, tmp_path / "out", energy=1.5)
