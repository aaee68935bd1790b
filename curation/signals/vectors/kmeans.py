"""Spherical k-means over vectors that need not fit in memory: seeded, in chunks, the same result on every run of a machine.

Points are turned into unit vectors; a centroid is the normalised sum of its points; nearness is the cosine (Dhillon and
Modha, Machine Learning 42, 2001). Centroids start by k-means++ (Arthur and Vassilvitskii, SODA 2007) on a sample of distinct
points; a cluster that runs empty gets the point that lies farthest from its own centroid.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch

CHUNK_BYTES = 64 << 20
"""Unit vectors in float32 that are held at a time."""
START_POINTS = 16
"""Distinct points for each cluster among which k-means++ looks, at least `MIN_START` in all."""
MIN_START = 16_384
SAME = 1 - 1e-6
"""Cosine from which a point counts as lying on its centroid: float16 cannot tell them apart."""


class Points:
    """Unit vectors [n, d] of the rows that have some: the columns' float16 matrices side by side.

    matrices: (values float16 [N, d_i], known bool [N]) of each column; a row that lacks one column and has another holds
    zeros there. Rows without any, or with zeros only, have no direction and are left out; `rows` int64 [n] names the rest.
    """

    def __init__(self, matrices: Sequence[tuple[np.ndarray, np.ndarray]], device: str = "cpu") -> None:
        self._matrices, self.device = list(matrices), torch.device(device)
        self.dims = sum(values.shape[1] for values, _ in self._matrices)
        self.rows = np.flatnonzero(np.any([known for _, known in self._matrices], axis=0))
        given = len(self.rows)
        nonzero = [self._raw(at).ne(0).any(dim=1).cpu().numpy() for at in self._chunks()]
        self.rows = self.rows[np.concatenate(nonzero)] if nonzero else self.rows
        self.zeros = given - len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, at: np.ndarray) -> "Points":
        """The points numbered `at` alone, renumbered from 0."""
        part = copy(self)
        part.rows = self.rows[at]
        return part

    def take(self, at: np.ndarray) -> torch.Tensor:
        """Unit vectors float32 [len(at), d] of points by number (not by row)."""
        return torch.nn.functional.normalize(self._raw(at), dim=1)

    def chunks(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """All points in order: (numbers, unit vectors float32)."""
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
    """centroids float32 [k, d] (unit), labels int32 [n], similarity float32 [n] (cosine to the own centroid), inertia
    (sum of 1 - similarity) after each step, and steps until nothing moved (or as many as were allowed)."""

    centroids: torch.Tensor
    labels: np.ndarray
    similarity: np.ndarray
    history: list[float] = field(default_factory=list)
    reseeded: int = 0


def fit_kmeans(points: Points, k: int, seed: int, iterations: int, start: np.ndarray) -> Clustering:
    """Lloyd steps from k-means++ among the points numbered `start` (distinct, at least k)."""
    centroids = plus_plus(points.take(start), k, seed)
    now = assign(points, centroids)
    for _ in range(iterations):
        before = now
        centroids, filled = _update(points, before, k)
        now = assign(points, centroids)
        now.history, now.reseeded = [*before.history, *now.history], before.reseeded + filled
        if np.array_equal(now.labels, before.labels):
            break
    return now


def assign(points: Points, centroids: torch.Tensor) -> Clustering:
    """The nearest centroid of every point; of equally near ones, the first."""
    labels, similarity = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    for at, units in points.chunks():
        cosines = units @ centroids.T
        nearest = cosines.argmax(dim=1, keepdim=True)
        labels[at] = nearest[:, 0].cpu().numpy()
        similarity[at] = cosines.gather(1, nearest)[:, 0].clamp(-1, 1).cpu().numpy()
    return Clustering(centroids, labels, similarity, [float((1 - similarity.astype(np.float64)).sum())])


def mean_directions(points: Points, labels: np.ndarray, k: int) -> torch.Tensor:
    """Normalised sum float32 [k, d] of the points of each label (zeros for a label without points), added in float64."""
    sums = torch.zeros(k, points.dims, dtype=torch.float64)
    for at, units in points.chunks():
        sums.index_add_(
            0, torch.from_numpy(labels[at].astype(np.int64)), units.double().cpu()
        )  # on CPU: a fixed order
    return torch.nn.functional.normalize(sums, dim=1).float().to(points.device)


def similarity_to_own(points: Points, labels: np.ndarray, centroids: torch.Tensor) -> np.ndarray:
    """Cosine float32 [n] of every point to the centroid of its label."""
    out = np.empty(len(points), np.float32)
    for at, units in points.chunks():
        own = centroids[torch.from_numpy(labels[at].astype(np.int64)).to(points.device)]
        out[at] = (units * own).sum(dim=1).clamp(-1, 1).cpu().numpy()
    return out


def distinct_points(points: Points, most: int, seed: int) -> np.ndarray:
    """Numbers of at most `most` points, no two with the same unit vector (as float16), drawn in a seeded order."""
    order, seen, chosen = np.random.default_rng(seed).permutation(len(points)), set(), []
    for start in range(0, len(order), 4096):
        block = order[start : start + 4096]
        for number, unit in zip(block, points.take(block).half().cpu().numpy(), strict=True):
            if (key := (unit + np.float16(0)).tobytes()) not in seen:  # -0 becomes 0
                seen.add(key)
                chosen.append(number)
                if len(chosen) == most:
                    return np.array(chosen)
    return np.array(chosen, dtype=np.int64)


def plus_plus(units: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """k of the unit vectors [m, d], each drawn with probability proportional to its squared distance to those before."""
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(units)))]
    distance = np.full(len(units), np.inf)
    while len(chosen) < k:
        cosines = (units @ units[chosen[-1]]).double().cpu().numpy()
        distance = np.minimum(
            distance, np.maximum(2 - 2 * cosines, 1e-12)
        )  # never 0: the points are distinct
        distance[chosen[-1]] = 0
        heap = np.cumsum(distance)
        chosen.append(int(np.searchsorted(heap, rng.random() * heap[-1], side="right")))
    return units[chosen]


def _update(points: Points, now: Clustering, k: int) -> tuple[torch.Tensor, int]:
    """New centroids, and how many empty clusters were given a far point."""
    centroids = mean_directions(points, now.labels, k)
    empty = np.flatnonzero(np.bincount(now.labels, minlength=k) == 0)
    if len(empty) == 0:
        return centroids, 0
    far = _far_points(points, now, len(empty))
    centroids[torch.from_numpy(empty[: len(far)])] = points.take(far)
    return centroids, len(far)


def _far_points(points: Points, now: Clustering, count: int) -> np.ndarray:
    """At most `count` distinct points that lie farthest from their centroids, none of them on it."""
    order, seen, chosen = np.argsort(now.similarity, kind="stable"), set(), []
    for number in order:
        if len(chosen) == count or now.similarity[number] >= SAME:
            break
        key = points.take(np.array([number])).half().cpu().numpy().tobytes()
        if key not in seen:
            seen.add(key)
            chosen.append(number)
    return np.array(chosen, dtype=np.int64)
