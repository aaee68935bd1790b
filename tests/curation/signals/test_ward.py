"""Ward's clusters against a plain greedy merge, inside groups, and above the limit."""

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.core.table import read_signal, write_signal
from curation.signals.core.vector_files import vector_array
from curation.signals.vectors import ward
from curation.signals.vectors.clusters import fit_clusters

torch = pytest.importorskip("torch")


def merged(values, threshold):
    """The partition: the two clusters of the lowest height merge, up to a share of the last height."""
    clusters, heights, partitions = [[i] for i in range(len(values))], [], []
    while len(clusters) > 1:
        partitions.append([list(members) for members in clusters])
        best = (math.inf, 0, 0)
        for a in range(len(clusters)):
            for b in range(a + 1, len(clusters)):
                size = 2 * len(clusters[a]) * len(clusters[b]) / (len(clusters[a]) + len(clusters[b]))
                apart = values[clusters[a]].mean(axis=0) - values[clusters[b]].mean(axis=0)
                best = min(best, (math.sqrt(size) * float(np.linalg.norm(apart)), a, b))
        heights.append(best[0])
        clusters[best[1]] += clusters.pop(best[2])
    below = sum(height <= threshold * heights[-1] for height in heights)
    return [*partitions, clusters][below]


def partition(labels):
    """The groups of equal labels, as sets."""
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_those_of_a_plain_greedy_merge(threshold, seed):
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, 1, (24, 3)) + 4 * rng.integers(0, 3, (24, 1))) * rng.uniform(0.5, 3, (24, 1))
    labels = ward.ward_labels(torch.from_numpy(values), threshold)
    assert partition(labels) == {frozenset(members) for members in merged(values, threshold)}
    first = {label: labels.tolist().index(label) for label in range(labels.max() + 1)}
    assert sorted(first, key=first.get) == list(range(len(first)))


def pool_of(values, sources, folder):
    """A stand-in for a pool with these sources, and the directory of a vector signal of it."""

    class Rows:
        hash, table = "pool", pa.table({"source": sources})

        def __len__(self):
            return len(sources)

        def samples(self, rows):
            turn = [SimpleNamespace(question=f"{sources[row]} ?", answer="yes") for row in rows]
            return [SimpleNamespace(turns=(each,), images=("i.png",)) for each in turn]

    whole = vector_array(values.astype(np.float32))

    def compute(rows, advance):
        return pa.table(
            {"row": pa.array(rows, pa.int32()), "emb_last_token": whole.slice(rows.start, len(rows))}
        )

    write_signal(folder, {"producer": "test", "pool_hash": "pool"}, len(values), compute, shard_rows=100)
    return Rows(), folder


def fit(pool, vectors, out, **settings):
    info = fit_clusters(pool, vectors, out, column="emb_last_token", name="w", method="ward", **settings)
    return info, read_signal(out)["cluster_w"].to_numpy()


def test_each_source_is_cut_by_its_own_last_merge(tmp_path):
    wide = np.array([[0.0, 1], [1, 1], [100, 1], [101, 1]])
    values = np.concatenate([wide, wide / 100 + 1, [[5.0, 5.0]]]).astype(np.float16)
    pool, vectors = pool_of(values, list("bbbbaaaac"), tmp_path / "vectors")
    info, labels = fit(pool, vectors, tmp_path / "out", within="source")
    assert labels.tolist() == [2, 2, 3, 3, 0, 0, 1, 1, 4]
    assert info["clusters"] == 5 and info["groups"] == 3 and info["engine"] == "scipy"
    _, whole = fit(pool, vectors, tmp_path / "whole")
    assert len(set(whole.tolist())) == 2


def test_formats_are_groups_too(tmp_path):
    prompt = "provide a short description for this region"
    pool, vectors = pool_of(np.eye(2)[[0, 1, 0, 1]], [prompt, "x", prompt, "x"], tmp_path / "v")
    _, labels = fit(pool, vectors, tmp_path / "out", within="format")
    assert labels.tolist() == [0, 1, 0, 1]


def test_above_the_limit_the_others_go_to_the_nearest_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(ward, "WARD_LIMIT", 30)
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 200)
    values = np.array([[1.0, 0], [30, 0], [0, 30]])[group] + rng.normal(0, 0.2, (200, 2))
    pool, vectors = pool_of(values, ["a"] * 200, tmp_path / "vectors")
    info, labels = fit(pool, vectors, tmp_path / "out")
    assert partition(labels) == partition(group) and info["trained_on"] == 30
    pool, vectors = pool_of(values, list("a" * 180 + "b" * 20), tmp_path / "two")
    info, _ = fit(pool, vectors, tmp_path / "by_source", within="source")
    assert info["trained_on"] == 30 + 20


def test_settings_that_do_not_belong(tmp_path):
    pool, vectors = pool_of(np.eye(3), ["a"] * 3, tmp_path / "vectors")
    with pytest.raises(ValueError, match="'ward' has no k; give threshold"):
        fit(pool, vectors, tmp_path / "out", k=3)
    with pytest.raises(ValueError, match="'kmeans' needs k"):
        fit_clusters(pool, vectors, tmp_path / "out", column="emb_last_token", name="w")
    with pytest.raises(ValueError, match="threshold must be from 0 to 1, got 2"):
        fit(pool, vectors, tmp_path / "out", threshold=2)
    with pytest.raises(ValueError, match="within must be one of source, format"):
        fit(pool, vectors, tmp_path / "out", within="style")
