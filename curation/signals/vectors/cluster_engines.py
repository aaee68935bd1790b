"""Clustering engines: our spherical k-means (torch), faiss, scikit-learn's spectral clustering, Ward's."""

import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from curation.signals.vectors.errors import ClusterError
from curation.signals.vectors.kmeans import (
    Clustering,
    Points,
    assign,
    fit_kmeans,
    mean_directions,
    similarity_to_own,
)
from curation.signals.vectors.ward import fit_ward

METHODS = ("kmeans", "spectral", "ward")
ENGINES = ("torch", "faiss", "auto")
PACKAGES = {
    "torch": ("torch", "numpy"),
    "faiss": ("faiss-cpu", "faiss-gpu", "torch", "numpy"),
    "scipy": ("scipy", "torch", "numpy"),
    "sklearn": ("scikit-learn", "torch", "numpy"),
}
SPECTRAL_LIMIT = 20_000
"""Most vectors that spectral clustering takes (it needs eigenvectors of their graph); of more, a sample."""
FAISS_POINTS = 256
"""Points for each cluster that faiss trains on (its own default); we draw them, with the seed."""


def resolve_engine(method: str, engine: str, k: int, iterations: int) -> str:
    """The engine that will be used: "torch", "faiss", "sklearn" or "scipy".

    Raises ValueError for unknown settings, ImportError with an install hint where the engine is not
    installed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if k < 1 or iterations < 1:
        raise ValueError(f"k and iterations must be at least 1, got {k} and {iterations}")
    if method == "spectral":
        _spectral_class()
        return "sklearn"
    if method == "ward":
        return "scipy"
    if engine == "auto":
        return "faiss" if _has_faiss() else "torch"
    if engine == "faiss" and not _has_faiss():
        raise ImportError("engine 'faiss' needs the faiss package: pip install winnow[fast]")
    return engine


def _has_faiss() -> bool:
    return find_spec("faiss") is not None


def _spectral_class() -> type:
    try:
        from sklearn.cluster import SpectralClustering
    except ImportError as error:
        raise ImportError("spectral clustering needs scikit-learn: pip install winnow[cluster]") from error
    return SpectralClustering


def versions(engine: str) -> dict[str, str]:
    """Versions of the installed packages that an engine's result depends on."""
    installed = {}
    for package in PACKAGES[engine]:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:  # faiss is distributed as either of two packages
            continue
    return installed


def run_engine(
    points: Points, start: np.ndarray, method: str, engine: str, settings: dict[str, Any]
) -> tuple[Clustering, dict[str, Any]]:
    """The clusters, and notes on the fit. start: indices of distinct points to initialise k-means."""
    if method == "ward":
        return fit_ward(points, settings["threshold"], settings["seed"])
    if method == "spectral":
        return _fit_spectral(points, settings["k"], settings["seed"], settings["neighbours"])
    if engine == "faiss":
        return _fit_faiss(points, settings["k"], settings["seed"], settings["iterations"])
    clustering = fit_kmeans(points, settings["k"], settings["seed"], settings["iterations"], start)
    steps = len(clustering.history) - 1
    return clustering, {"steps": steps, "history": clustering.history, "reseeded": clustering.reseeded}


def _fit_faiss(points: Points, k: int, seed: int, iterations: int) -> tuple[Clustering, dict[str, Any]]:
    import faiss
    import torch

    # Drawn here with our seed and generator, instead of by the subsampling of faiss.
    sample = np.sort(np.random.default_rng(seed).permutation(len(points))[: FAISS_POINTS * k])
    kmeans = faiss.Kmeans(
        points.dims, k, niter=iterations, seed=seed, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(points.take(sample).cpu().numpy())
    centroids = torch.nn.functional.normalize(torch.from_numpy(kmeans.centroids), dim=1).to(points.device)
    return assign(points, centroids), {"steps": iterations, "trained_on": len(sample)}


def _fit_spectral(points: Points, k: int, seed: int, neighbours: int) -> tuple[Clustering, dict[str, Any]]:
    if len(points) <= neighbours:
        raise ClusterError(
            f"a graph of {neighbours} neighbours needs more than {neighbours} vectors, got {len(points)}: "
            "lower neighbours"
        )
    sample = np.sort(np.random.default_rng(seed).permutation(len(points))[:SPECTRAL_LIMIT])
    units = points.take(sample).cpu().numpy()
    model = _spectral_class()(
        k, affinity="nearest_neighbors", n_neighbors=neighbours, random_state=seed, assign_labels="kmeans"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = model.fit_predict(units).astype(np.int32)
    notes = {
        "trained_on": len(sample),
        "library_warnings": sorted({str(w.message) for w in caught if issubclass(w.category, UserWarning)}),
    }
    centroids = mean_directions(points.subset(sample), labels, k)
    if len(sample) < len(points):
        return assign(points, centroids), notes
    similarity = similarity_to_own(points, labels, centroids)
    inertia = float((1 - similarity.astype(np.float64)).sum())
    return Clustering(centroids, labels, similarity, [inertia]), notes
