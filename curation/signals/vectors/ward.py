"""Ward's clustering (scipy) of vectors with their own lengths, cut at a share of the last merge.

As DataTailor's released code (arXiv 2412.06293) does it: two clusters A and B merge at the height
sqrt(2 n_A n_B / (n_A + n_B)) |mu_A - mu_B|, lowest first, up to `threshold` times the last height.
"""

from typing import Any

import numpy as np
import torch

from curation.signals.vectors.kmeans import Clustering, Points, mean_directions, similarity_to_own

WARD_LIMIT = 20_000
"""Most vectors that are clustered together: their distances take 4 bytes times the square of the number, and
as much again for a moment. Of more, a seeded sample is clustered."""
_BLOCK = 1024


def fit_ward(points: Points, threshold: float, seed: int) -> tuple[Clustering, dict[str, Any]]:
    """The clusters of all points, and notes on the fit (`trained_on`).

    Above WARD_LIMIT points a seeded sample is clustered, and the others go to the cluster with the nearest
    mean vector. Centroids are mean directions, as for other methods. Raises ValueError for a threshold out of
    range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, got {threshold}")
    sample = np.sort(np.random.default_rng(seed).permutation(len(points))[:WARD_LIMIT])
    labels = ward_labels(points.raw(sample).cpu(), threshold)
    if len(sample) < len(points):
        means = torch.stack([points.raw(sample[labels == k]).mean(dim=0) for k in range(labels.max() + 1)])
        labels = _nearest(points, means)
    centroids = mean_directions(points, labels, int(labels.max()) + 1)
    similarity = similarity_to_own(points, labels, centroids)
    inertia = float((1 - similarity.astype(np.float64)).sum())
    return Clustering(centroids, labels, similarity, [inertia]), {"trained_on": len(sample)}


def ward_labels(vectors: torch.Tensor, threshold: float) -> np.ndarray:
    """int32 [n]: the cluster of each of the vectors float32 [n, d], numbered from 0 by first appearance."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) == 1:
        return np.zeros(1, np.int32)
    tree = linkage(_condensed(vectors.double()), "ward")
    found = fcluster(tree, threshold * tree[-1, 2], "distance")
    _, first, codes = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes.reshape(-1)].astype(np.int32)


def _condensed(vectors: torch.Tensor) -> np.ndarray:
    """Distances of all pairs of vectors, row by row of the upper triangle, as scipy takes them."""
    n = len(vectors)
    out = np.empty(n * (n - 1) // 2)
    place = 0
    for start in range(0, n, _BLOCK):
        block = torch.cdist(vectors[start : start + _BLOCK], vectors[start:]).numpy()
        for row, distances in enumerate(block):
            own = distances[row + 1 :]
            out[place : place + len(own)] = own
            place += len(own)
    return out


def _nearest(points: Points, means: torch.Tensor) -> np.ndarray:
    """int32 [n]: the nearest of the mean vectors [k, d] for every point."""
    labels = np.empty(len(points), np.int32)
    for at, _ in points.chunks():
        labels[at] = torch.cdist(points.raw(at), means).argmin(dim=1).cpu().numpy()
    return labels
