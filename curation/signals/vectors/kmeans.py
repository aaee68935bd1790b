"""Spherical k-means in chunks, for vectors that need not fit in memory; seeded, reproducible on one machine.

Points are normalised to unit length; a centroid is the normalised sum of its points; similarity is the cosine
(Dhillon and Modha, Machine Learning 42, 2001). Centroids are initialised by k-means++ (Arthur and
Vassilvitskii, SODA 2007) on a sample of distinct points; a cluster that becomes empty gets the point farthest
from its own centroid.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch

CHUNK_BYTES = 64 << 20
"""Size of the chunk of float32 unit vectors held at a time."""
START_POINTS = 16
"""Distinct points for each cluster that k-means++ draws from, at least `MIN_START` in total."""
MIN_START = 16_384
SAME = 1 - 1e-6
"""Cosine from which a point counts as equal to its centroid: float16 cannot tell them apart."""


class Points:
    """Unit vectors [n, d] of the rows that have a vector, the matrices of all columns concatenated.

    matrices: (values float16 [N, d_i], known bool [N]) of each column; a row that lacks some columns has
    zeros there. Rows that lack all, or have zeros only, have no direction and are left out; `rows` int64 [n]
    are the others, `zeros` is the number of rows with zeros only.
    """

    def __init__(self, matrices: Sequence[tuple[np.ndarray, np.ndarray]], device: str = "cpu") -> None:
        self._matrices, self.device = list(matrices), torch.device(device)
        self.dims = sum(values.shape[1] for values, _ in self._matrices)
        self.rows = np.flatnonzero(np.any([known for _, known in self._matrices], axis=0))
        n_known = len(self.rows)
        nonzero = [self._raw(at).ne(0).any(dim=1).cpu().numpy() for at in self._chunks()]
        self.rows = self.rows[np.concatenate(nonzero)] if nonzero else self.rows
        self.zeros = n_known - len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, at: np.ndarray) -> "Points":
        """Only the points with the indices `at`, renumbered from 0."""
        part = copy(self)
        part.rows = self.rows[at]
        return part

    def take(self, at: np.ndarray) -> torch.Tensor:
        """Unit vectors float32 [len(at), d] of points by index (not by row)."""
        return torch.nn.functional.normalize(self._raw(at), dim=1)

    def raw(self, at: np.ndarray) -> torch.Tensor:
        """The vectors float32 [len(at), d] of points by index, with their own lengths."""
        return self._raw(at)

    def chunks(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """All points in order: (indices, unit vectors float32)."""
        for at in self._chunks():
            yield at, self.take(at)

    def _chunks(self) -> Iterator[np.ndarray]:
        size = max(1, CHUNK_BYTES // (4 * self.dims))
        for start in range(0, len(self.rows), size):
            yield np.arange(start, min(start + size, len(self.rows)))

    def _raw(self, at: np.ndarray) -> torch.Tensor:
        rows = self.rows[at]
        parts = [np.where(known[rows, None], values[rows], np.float16(0)) for values, known in self._matrices]
        return torch.from_numpy(np.concatenate(parts, axis=1)).to(self.device).float()


@dataclass
class Clustering:
    """The result of a clustering.

    centroids: float32 [k, d], of unit length. labels: int32 [n]. similarity: float32 [n], cosine to the own
    centroid.
    history: inertia (sum of 1 - similarity) at the start and after each step. reseeded: empty clusters given
    a new point.
    """

    centroids: torch.Tensor
    labels: np.ndarray
    similarity: np.ndarray
    history: list[float] = field(default_factory=list)
    reseeded: int = 0


def fit_kmeans(points: Points, k: int, seed: int, iterations: int, start: np.ndarray) -> Clustering:
    """Lloyd iterations from k-means++ on the points with the indices `start` (distinct, at least k)."""
    centroids = kmeans_plus_plus(points.take(start), k, seed)
    current = assign(points, centroids)
    for _ in range(iterations):
        previous = current
        centroids, reseeded = _update(points, previous, k)
        current = assign(points, centroids)
        current.history = [*previous.history, *current.history]
        current.reseeded = previous.reseeded + reseeded
        if np.array_equal(current.labels, previous.labels):
            break
    return current


def assign(points: Points, centroids: torch.Tensor) -> Clustering:
    """Assign every point to the nearest centroid, the first of equally near ones."""
    labels, similarity = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    for at, units in points.chunks():
        cosines = units @ centroids.T
        nearest = cosines.argmax(dim=1, keepdim=True)
        labels[at] = nearest[:, 0].cpu().numpy()
        similarity[at] = cosines.gather(1, nearest)[:, 0].clamp(-1, 1).cpu().numpy()
    return Clustering(centroids, labels, similarity, [float((1 - similarity.astype(np.float64)).sum())])


def mean_directions(points: Points, labels: np.ndarray, k: int) -> torch.Tensor:
    """Normalised sum float32 [k, d] of each label's points, added in float64; zeros for an empty label."""
    sums = torch.zeros(k, points.dims, dtype=torch.float64)
    for at, units in points.chunks():
        # On the CPU, where the order of additions is fixed: atomic additions on a GPU are not reproducible.
        sums.index_add_(0, torch.from_numpy(labels[at].astype(np.int64)), units.double().cpu())
    return torch.nn.functional.normalize(sums, dim=1).float().to(points.device)


def similarity_to_own(points: Points, labels: np.ndarray, centroids: torch.Tensor) -> np.ndarray:
    """Cosine float32 [n] of every point to the centroid of its label."""
    out = np.empty(len(points), np.float32)
    for at, units in points.chunks():
        own = centroids[torch.from_numpy(labels[at].astype(np.int64)).to(points.device)]
        out[at] = (units * own).sum(dim=1).clamp(-1, 1).cpu().numpy()
    return out


def distinct_points(points: Points, most: int, seed: int) -> np.ndarray:
    """Indices of at most `most` points in a seeded order, no two with the same unit vector (in float16)."""
    order = np.random.default_rng(seed).permutation(len(points))
    seen: set[bytes] = set()
    chosen: list[int] = []
    for start in range(0, len(order), 4096):
        block = order[start : start + 4096]
        for number, unit in zip(block, points.take(block).half().cpu().numpy(), strict=True):
            if (key := (unit + np.float16(0)).tobytes()) not in seen:  # + 0 turns -0 into 0, for equal bytes
                seen.add(key)
                chosen.append(number)
                if len(chosen) == most:
                    return np.array(chosen)
    return np.array(chosen, dtype=np.int64)


def kmeans_plus_plus(units: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """k of the unit vectors [m, d], each drawn in proportion to its squared distance to those before."""
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(units)))]
    distance = np.full(len(units), np.inf)
    while len(chosen) < k:
        cosines = (units @ units[chosen[-1]]).double().cpu().numpy()
        # Distinct points have a distance above 0, which rounding may hide: keep them eligible.
        distance = np.minimum(distance, np.maximum(2 - 2 * cosines, 1e-12))
        distance[chosen[-1]] = 0
        cumulative = np.cumsum(distance)
        chosen.append(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")))
    return units[chosen]


def _update(points: Points, current: Clustering, k: int) -> tuple[torch.Tensor, int]:
    """New centroids, and the number of empty clusters that were given a far point."""
    centroids = mean_directions(points, current.labels, k)
    empty = np.flatnonzero(np.bincount(current.labels, minlength=k) == 0)
    if len(empty) == 0:
        return centroids, 0
    far = _far_points(points, current, len(empty))
    centroids[torch.from_numpy(empty[: len(far)])] = points.take(far)
    return centroids, len(far)


def _far_points(points: Points, current: Clustering, count: int) -> np.ndarray:
    """Indices of at most `count` distinct points, farthest from their centroids and not equal to them."""
    seen: set[bytes] = set()
    chosen: list[int] = []
    for number in np.argsort(current.similarity, kind="stable"):
        if len(chosen) == count or current.similarity[number] >= SAME:
            break
        key = points.take(np.array([number])).half().cpu().numpy().tobytes()
        if key not in seen:
            seen.add(key)
            chosen.append(number)
    return np.array(chosen, dtype=np.int64)
