"""Clustering as a fit: its results, determinism, stored files, and invalid input."""

import json
import sys
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.core.table import MissingPartError, read_signal, write_signal
from curation.signals.core.vector_files import vector_array
from curation.signals.vectors import cluster_engines
from curation.signals.vectors.clusters import (
    ClusterError,
    CollapsedVectorsError,
    OtherFitError,
    TooFewVectorsError,
    clusters_of,
)
from curation.signals.vectors.clusters import fit_clusters as fit_named
from curation.signals.vectors.kmeans import Points, assign, fit_kmeans, kmeans_plus_plus

DIMS, GROUPS = 16, 6
fit_clusters = partial(fit_named, column="emb_text", name="text")


def blobs(n, spread, seed=0, groups=GROUPS):
    """(vectors float32 [n, DIMS] of lengths 1 to 9 around `groups` orthogonal directions, their groups)."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    values = np.eye(DIMS)[group] + spread * rng.standard_normal((n, DIMS))
    return (values * rng.uniform(1, 9, (n, 1))).astype(np.float32), group


def signal_of(folder, values, known=None, column="emb_text"):
    """A stand-in for a pool of len(values) rows, and the directory of a vector signal of it."""
    pool = range_pool(len(values))
    whole = vector_array(values, known)

    def compute(rows, advance):
        return pa.table({"row": pa.array(rows, pa.int32()), column: whole.slice(rows.start, len(rows))})

    identity = {"producer": "test", "pool_hash": pool.hash, "sum": float(np.nansum(values))}
    write_signal(folder, identity, len(values), compute, shard_rows=100)
    return pool, folder


def range_pool(n):
    class Rows:
        hash = f"pool-{n}"

        def __len__(self):
            return n

    return Rows()


def same_partition(a, b):
    """Whether two labellings are the same partition, up to the names of the groups."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    values, group = blobs(500, 0.08)
    known = np.arange(500) % 7 != 0
    values[3] = 0  # a vector without a direction
    return *signal_of(tmp_path_factory.mktemp("grouped"), values, known), values, group, known


@pytest.mark.filterwarnings("ignore:.*Graph is not fully connected")
@pytest.mark.parametrize("method", ["kmeans", "spectral"])
def test_separate_groups_are_found_and_written_as_a_signal(grouped, tmp_path, method):
    if method == "spectral":
        pytest.importorskip("sklearn")
    pool, vectors, values, group, known = grouped
    info = fit_clusters(pool, vectors, tmp_path, k=GROUPS, name="text", method=method, neighbours=20)
    table = read_signal(tmp_path, pool.hash)
    assert table.schema == pa.schema(
        [("row", pa.int32()), ("cluster_text", pa.int32()), ("similarity_text", pa.float32())]
    )
    has = known & (np.arange(500) != 3)
    assert np.array_equal(table["cluster_text"].is_valid().to_numpy(), has)
    labels = table["cluster_text"].drop_null().to_numpy()
    assert same_partition(labels, group[has])
    centroids = np.load(tmp_path / "centroids.npy")
    assert centroids.dtype == np.float32 and centroids.shape == (GROUPS, DIMS)
    units = values[has] / np.linalg.norm(values[has], axis=1, keepdims=True)
    cosines = (units * centroids[labels]).sum(axis=1)
    np.testing.assert_allclose(
        table["similarity_text"].drop_null().to_numpy(), cosines, atol=1e-3
    )  # stored as float16
    means = np.stack([units[labels == c].sum(axis=0) for c in range(GROUPS)])
    np.testing.assert_allclose(centroids, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-3)
    assert info["inertia"] == pytest.approx((1 - cosines).sum(), abs=0.05)
    assert (info["points"], info["zero_vectors"], info["no_vector"]) == (has.sum(), 1, (~known).sum())
    assert info == json.loads((tmp_path / "clusters.json").read_text())


def test_a_fit_is_the_same_again_and_its_seed_matters(tmp_path):
    pool, vectors = signal_of(tmp_path / "v", blobs(400, 0.5)[0])
    runs = [
        fit_clusters(pool, vectors, tmp_path / f"{i}", k=9, seed=seed) for i, seed in enumerate((0, 0, 1))
    ]
    centroids = [np.load(tmp_path / f"{i}" / "centroids.npy") for i in range(3)]
    assert runs[0] == runs[1] and np.array_equal(centroids[0], centroids[1])
    assert not np.array_equal(centroids[0], centroids[2])
    assert read_signal(tmp_path / "0").equals(read_signal(tmp_path / "1"))


def test_lloyd_steps_never_raise_the_inertia_and_end_at_a_fixed_point():
    values, _ = blobs(600, 0.6, seed=3)
    points = Points([(values.astype(np.float16), np.ones(600, bool))])
    clustering = fit_kmeans(points, 12, 0, 100, np.arange(600))
    assert len(clustering.history) > 3
    assert all(later <= earlier + 1e-3 for earlier, later in pairwise(clustering.history))
    again = assign(points, clustering.centroids)
    assert np.array_equal(again.labels, clustering.labels)
    assert (
        clustering.history[-1]
        < assign(points, kmeans_plus_plus(points.take(np.arange(600)), 12, 0)).history[0]
    )


def test_chunks_give_what_one_block_gives(monkeypatch):
    values, _ = blobs(300, 0.5)
    matrices = [(values.astype(np.float16), np.arange(300) % 5 > 0)]
    whole = fit_kmeans(Points(matrices), 7, 0, 20, np.arange(240))
    monkeypatch.setattr("curation.signals.vectors.kmeans.CHUNK_BYTES", 4 * DIMS * 13)
    chunked = fit_kmeans(Points(matrices), 7, 0, 20, np.arange(240))
    assert np.array_equal(whole.labels, chunked.labels)
    np.testing.assert_allclose(whole.centroids, chunked.centroids, atol=1e-6)


def test_every_distinct_vector_becomes_a_cluster_of_its_own_when_k_allows(tmp_path):
    """72 copies of one vector and 7 single ones: drawing by frequency leaves clusters empty."""
    distinct, _ = blobs(8, 0.9, seed=5)
    values = np.concatenate([np.repeat(distinct[:1], 72, axis=0), distinct[1:]])
    pool, vectors = signal_of(tmp_path / "v", values)
    info = fit_clusters(pool, vectors, tmp_path / "out", k=8)
    assert info["empty_clusters"] == 0 and info["inertia"] < 1e-3
    assert info["sizes"] == {"min": 1, "median": 1.0, "max": 72}
    with pytest.raises(
        TooFewVectorsError, match="requested 9 clusters, but only 8 of 79 vectors are distinct"
    ):
        fit_clusters(pool, vectors, tmp_path / "nine", k=9)


def test_an_empty_cluster_gets_the_farthest_point():
    values = np.eye(4, dtype=np.float16)[[0, 0, 0, 1, 1, 2]]
    points = Points([(values, np.ones(6, bool))])
    # Three equal initial points: two clusters are empty at first.
    clustering = fit_kmeans(points, 3, 0, 10, np.array([0, 1, 2]))
    assert clustering.reseeded == 2
    assert same_partition(clustering.labels, np.array([0, 0, 0, 1, 1, 2]))


def test_vectors_of_one_direction_are_refused_and_of_nearly_one_warned_about(tmp_path):
    rng = np.random.default_rng(0)
    one = np.ones(DIMS, np.float32)
    pool, same = signal_of(tmp_path / "same", one + 3e-4 * rng.standard_normal((200, DIMS)))
    with pytest.raises(CollapsedVectorsError, match="have the same direction"):
        fit_clusters(pool, same, tmp_path / "a", k=3)
    pool, alike = signal_of(tmp_path / "alike", one + 0.02 * rng.standard_normal((200, DIMS)))
    with pytest.warns(UserWarning, match="nearly the same direction"):
        info = fit_clusters(pool, alike, tmp_path / "b", k=3)
    assert len(info["warnings"]) == 1 and info["concentration"] > 0.999


def test_several_columns_are_concatenated(tmp_path):
    """Image and text vectors distinguish two groups each; a sample without an image has zeros there."""
    image, text = np.eye(4)[[0, 0, 1, 1, 0, 0]], np.eye(4)[[2, 3, 2, 3, 2, 3]]
    has = np.array([True] * 4 + [False] * 2)
    pool, images = signal_of(tmp_path / "i", image, has, "emb_image")
    _, texts = signal_of(tmp_path / "t", text)
    fit_clusters(
        pool, [images, texts], tmp_path / "out", column=("emb_image", "emb_text"), name="activation", k=6
    )
    table = read_signal(tmp_path / "out")
    assert sorted(table["cluster_activation"].to_pylist()) == list(range(6))
    centroids = np.load(tmp_path / "out" / "centroids.npy")[table["cluster_activation"].to_numpy()]
    np.testing.assert_allclose(centroids[0], np.concatenate([image[0], text[0]]) / np.sqrt(2), atol=1e-3)
    np.testing.assert_allclose(centroids[5], np.concatenate([np.zeros(4), text[5]]), atol=1e-3)


def test_a_finished_fit_is_kept_and_another_is_never_written_over_it(grouped, tmp_path, monkeypatch):
    pool, vectors = grouped[:2]
    first = fit_clusters(pool, vectors, tmp_path, k=4)
    stamp = (tmp_path / "centroids.npy").stat().st_mtime_ns
    assert fit_clusters(pool, vectors, tmp_path, k=4) == first
    with pytest.raises(OtherFitError, match="k: 4 -> 5"):
        fit_clusters(pool, vectors, tmp_path, k=5)
    monkeypatch.setattr(cluster_engines, "version", lambda package: "99.0")
    with pytest.raises(OtherFitError, match=r"versions: .*-> .*99\.0"):
        fit_clusters(pool, vectors, tmp_path, k=4)
    monkeypatch.undo()
    assert (tmp_path / "centroids.npy").stat().st_mtime_ns == stamp
    (tmp_path / "centroids.npy").unlink()
    with pytest.raises(MissingPartError, match=r"centroids\.npy"):
        fit_clusters(pool, vectors, tmp_path, k=4)


def test_an_interrupted_fit_starts_again(grouped, tmp_path):
    pool, vectors = grouped[:2]
    fit_clusters(pool, vectors, tmp_path, k=4)
    whole = read_signal(tmp_path)
    (tmp_path / "signal.json").unlink()
    fit_clusters(pool, vectors, tmp_path, k=5)
    assert set(read_signal(tmp_path)["cluster_text"].drop_null().to_pylist()) == set(range(5))
    assert not read_signal(tmp_path).equals(whole)


def test_spectral_above_its_limit_extends_from_a_sample(grouped, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pool, vectors, _, group, known = grouped
    monkeypatch.setattr(cluster_engines, "SPECTRAL_LIMIT", 200)
    with pytest.warns(UserWarning, match="not fully connected"):
        info = fit_clusters(pool, vectors, tmp_path, k=GROUPS, method="spectral", neighbours=8)
    assert info["trained_on"] == 200 and info["points"] > 400 and len(info["warnings"]) == 1
    has = known & (np.arange(500) != 3)
    assert same_partition(read_signal(tmp_path)["cluster_text"].drop_null().to_numpy(), group[has])


def test_engines_are_resolved_and_recorded_and_a_missing_one_gives_a_hint(grouped, tmp_path, monkeypatch):
    pool, vectors = grouped[:2]
    monkeypatch.setattr(cluster_engines, "_has_faiss", lambda: False)
    info = fit_clusters(pool, vectors, tmp_path / "auto", k=3, engine="auto")
    assert (info["engine"], info["engine_asked"]) == ("torch", "auto") and set(info["versions"]) == {
        "torch",
        "numpy",
    }
    with pytest.raises(ImportError, match=r"winnow\[fast\]"):
        fit_clusters(pool, vectors, tmp_path / "f", k=3, engine="faiss")
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"winnow\[cluster\]"):
        fit_clusters(pool, vectors, tmp_path / "s", k=3, method="spectral")
    with pytest.raises(ValueError, match=r"method must be one of .*, got 'dbscan'"):
        fit_clusters(pool, vectors, tmp_path / "w", k=3, method="dbscan")
    with pytest.raises(ClusterError, match=r"vector column 'emb_image' is in none of the signals.*emb_text"):
        fit_clusters(pool, vectors, tmp_path / "c", k=3, column="emb_image")


def test_faiss_trains_on_a_seeded_sample_and_its_centroids_are_used(grouped, tmp_path, monkeypatch):
    """A stub records its arguments; its centroids are the first k training vectors, not of unit length."""
    pool, vectors = grouped[:2]
    arguments = {}

    class Kmeans:
        def __init__(self, d, k, **options):
            arguments.update(d=d, k=k, **options)

        def train(self, x):
            arguments["n"] = len(x)
            self.centroids = 3 * x[: arguments["k"]]

    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(Kmeans=Kmeans))
    monkeypatch.setattr(cluster_engines, "_has_faiss", lambda: True)
    monkeypatch.setattr(cluster_engines, "FAISS_POINTS", 50)
    info = fit_clusters(pool, vectors, tmp_path, k=3, engine="auto", seed=5, iterations=7)
    assert info["engine"] == "faiss" and info["trained_on"] == 150
    assert arguments == {
        "d": DIMS,
        "k": 3,
        "niter": 7,
        "seed": 5,
        "spherical": True,
        "min_points_per_centroid": 1,
        "n": 150,
    }
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "centroids.npy"), axis=1), 1, atol=1e-5)


def test_faiss_itself_finds_the_groups(grouped, tmp_path):
    pytest.importorskip("faiss")
    pool, vectors = grouped[:2]
    info = fit_clusters(pool, vectors, tmp_path, k=GROUPS, engine="faiss", seed=1)
    assert info["mean_similarity"] > 0.7 and any(name.startswith("faiss") for name in info["versions"])


def of_sources(pool, sources):
    """The stand-in for a pool, with a source for each row."""
    pool.table = pa.table({"source": pa.array(sources)})
    return pool


def test_inside_a_source_the_clusters_are_those_of_its_rows_alone(grouped, tmp_path):
    pool, vectors, values, _, known = grouped
    sources = np.array(["b", "a", "c"])[np.arange(500) % 3]
    pool = of_sources(pool, sources)
    info = fit_clusters(pool, vectors, tmp_path / "all", k=4, within="source", seed=7)
    labels = read_signal(tmp_path / "all")["cluster_text"].to_numpy(zero_copy_only=False)
    has = known & (np.arange(500) != 3)
    assert np.array_equal(~np.isnan(labels), has)
    similarity = read_signal(tmp_path / "all")["similarity_text"].to_numpy(zero_copy_only=False)
    centroids = np.load(tmp_path / "all" / "centroids.npy")
    assert centroids.shape == (12, DIMS) and (info["clusters"], info["groups"], info["reduced"]) == (12, 3, 0)
    for number, source in enumerate("abc"):
        own = (sources == source) & has
        assert set(labels[own]) == set(range(4 * number, 4 * number + 4))
        alone, signal = signal_of(tmp_path / f"v_{source}", values[own])
        fit_clusters(alone, signal, tmp_path / source, k=4, seed=7)
        table = read_signal(tmp_path / source)
        assert np.array_equal(labels[own] - 4 * number, table["cluster_text"].to_numpy())
        assert np.array_equal(similarity[own], table["similarity_text"].to_numpy())
        assert np.array_equal(
            centroids[4 * number : 4 * number + 4], np.load(tmp_path / source / "centroids.npy")
        )
    with pytest.raises(OtherFitError, match="within"):
        fit_clusters(pool, vectors, tmp_path / "a", k=4, within="source", seed=7)
    with pytest.raises(ValueError, match="within must be one of source, format, or not given; got 'task'"):
        fit_clusters(pool, vectors, tmp_path / "t", k=4, within="task")


def test_a_share_of_each_source_and_no_more_clusters_than_distinct_vectors(tmp_path):
    values, _ = blobs(330, 0.5)
    values[300:320] = values[300]  # a source of copies, which cannot have two clusters
    sources = ["large"] * 300 + ["copies"] * 20 + ["tiny"] * 10
    pool, vectors = signal_of(tmp_path / "v", values)
    of_sources(pool, sources)
    with pytest.warns(UserWarning, match="1 groups have fewer distinct vectors than clusters"):
        info = fit_clusters(pool, vectors, tmp_path / "c", k="10%", within="source")
    labels = read_signal(tmp_path / "c")["cluster_text"].to_numpy()
    assert {source: len(set(labels[np.array(sources) == source])) for source in set(sources)} == {
        "copies": 1,
        "large": 30,
        "tiny": 1,
    }
    assert (info["clusters"], info["reduced"]) == (32, 1)
    assert set(labels[300:320]) == {0} and labels[320:].min() == 31, "in the order of the names"


@pytest.mark.parametrize(
    ("k", "points", "clusters"),
    [
        (7, 3, 7),
        ("1%", 99, 1),
        ("1%", 199, 1),
        ("1%", 200, 2),
        ("1%", 5, 1),
        ("2.5%", 1000, 25),
        ("29%", 100, 29),
    ],
)
def test_a_share_of_the_points_is_rounded_down_to_at_least_one(k, points, clusters):
    assert clusters_of(k, points) == clusters


@pytest.mark.parametrize("k", [0, "0", "ten", "100%", "-1%"])
def test_other_numbers_of_clusters_are_refused(k):
    with pytest.raises(ValueError, match="k must be"):
        clusters_of(k, 10)
