"""Clusters of a pool's vectors: a fit whose centroids and assignments are stored, not silently recomputed.

    fit_clusters(pool, signals / "last_token", out, column="emb_last_token", name="semdedup", k=10_000)
    fit_clusters(pool, signals / "dino", out, column="emb_dino", name="presel", k="1%", within="source")

Writes a signal (cluster_<name> int32 and similarity_<name> float32, the cosine to the own centroid; both null
for a sample without a vector) with centroids.npy float32 [k, d] and clusters.json beside it. Results of
k-means depend on the library and its version (COINCIDE's authors name FAISS 1.8.0), so both are part of the
fit's identity: a directory that holds another fit is refused, not overwritten.
"""

import json
import math
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.signals.core.options import FORMATS, format_of
from curation.signals.core.table import (
    Advance,
    MissingPartError,
    Progress,
    read_metadata,
    read_signal,
    write_signal,
)
from curation.signals.core.vector_files import matrix
from curation.signals.vectors.errors import (
    ClusterError,
    CollapsedVectorsError,
    OtherFitError,
    TooFewVectorsError,
)

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.vectors.kmeans import Clustering, Points

WITHIN = ("source", "format")
"""Groups inside which clusters can be made: the pool's sources, formats of questions (core/options.py)."""
CONCENTRATED, COLLAPSED = 0.999, 1 - 1e-6
"""Mean cosine to the common direction from which a warning, and from which an error, is raised."""


def fit_clusters(
    pool: "Pool",
    vectors: Path | Sequence[Path],
    out: Path,
    *,
    k: int | str | None = None,
    column: str | Sequence[str],
    name: str,
    method: str = "kmeans",
    within: str | None = None,
    seed: int = 0,
    iterations: int = 50,
    engine: str = "torch",
    neighbours: int = 10,
    threshold: float | None = None,
    device: str | None = None,
    shard_rows: int = 1 << 20,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Cluster a pool's vectors by direction and write the signal `out`; a finished identical fit is kept.

    vectors: signal directories that hold `column` (or several columns, which are concatenated; a sample that
        lacks some of them has zeros there, one that lacks all has no cluster).
    k: number of clusters, or a share of the vectors such as "1%", rounded down, at least 1 (PreSel, arXiv
        2503.07591); not for Ward's method.
    within: "source": the clusters of each source by itself, in the order of the sources' names and numbered
        through; a source with fewer distinct vectors than `k` gets as many clusters as these (`reduced`
        counts such sources). "format": of each format of question, in the order of FORMATS.
    method: "kmeans" (spherical) or "spectral" (scikit-learn, graph of the `neighbours` nearest; above
        SPECTRAL_LIMIT vectors a seeded sample is clustered and the others are assigned to the nearest mean
        direction), or "ward" (ward.py): vectors with their own lengths, merged up to `threshold` (0.1) of the
        last merge, with memory quadratic in their number; above WARD_LIMIT in one group, a seeded sample.
    engine: for k-means "torch", "faiss", or "auto" (faiss if installed); the engine used is recorded.
    iterations: most steps of k-means.

    Returns the contents of clusters.json: engine, versions, points, zero_vectors, clusters, inertia (sum of 1
    - cosine), steps, sizes, centroid cosines, warnings. Raises ValueError for unknown settings,
    TooFewVectorsError, CollapsedVectorsError, OtherFitError, and ImportError with a hint where the engine is
    not installed.
    """
    from curation.signals.vectors.cluster_engines import resolve_engine, versions

    columns = [column] if isinstance(column, str) else list(column)
    if (k is None) != (method == "ward"):
        raise ValueError(f"method {method!r} {'needs k' if k is None else 'has no k; give threshold'}")
    engine_used = resolve_engine(method, engine, 1 if k is None else clusters_of(k, 1), iterations)
    if within not in (None, *WITHIN):
        raise ValueError(f"within must be one of {', '.join(WITHIN)}, or not given; got {within!r}")
    directories = [vectors] if isinstance(vectors, str | Path) else list(vectors)
    sources = [_directory_of(each, directories) for each in columns]
    own = {"kmeans": {"iterations": iterations}, "spectral": {"neighbours": neighbours}}
    settings = {"seed": seed} | (
        {"threshold": 0.1 if threshold is None else threshold} if k is None else {"k": k, **own[method]}
    )
    identity = {
        "producer": "clusters",
        "pool_hash": pool.hash,
        "name": name,
        "columns": columns,
        "inputs": [read_metadata(directory)["identity"] for directory in sources],
        "method": method,
        **({"within": within} if within else {}),
        **settings,
        "engine": engine_used,
        "versions": versions(engine_used),
    }
    if kept := _finished(out, identity):
        return kept
    points = _points(sources, columns, pool, device)
    concentration = _concentration(points)
    groups = _groups(points, pool, within)
    fits = [_fit(points, at, identity, concentration, shrink=within is not None) for at in groups]
    clustering, notes = _joined(points, groups, fits)
    description = _describe(points, clustering, len(pool), concentration)
    info = {**identity, "engine_asked": engine, **description, **notes}
    info["warnings"] = _warnings(info)
    _write(out, identity, info, points, clustering, shard_rows, on_progress)
    return info


def _directory_of(column: str, directories: Sequence[Path]) -> Path:
    for directory in directories:
        if column in read_metadata(directory).get("vectors", {}):
            return Path(directory)
    held = {str(d): sorted(read_metadata(d).get("vectors", {})) for d in directories}
    raise ClusterError(f"vector column {column!r} is in none of the signals, which hold {held}")


def _points(
    directories: Sequence[Path], columns: Sequence[str], pool: "Pool", device: str | None
) -> "Points":
    import torch

    from curation.signals.vectors.kmeans import Points

    tables = {directory: read_signal(directory, pool.hash) for directory in set(directories)}
    matrices = [
        matrix(tables[directory], column) for directory, column in zip(directories, columns, strict=True)
    ]
    return Points(matrices, device or ("cuda" if torch.cuda.is_available() else "cpu"))


Fit = tuple["Clustering", dict[str, Any]]
"""The clusters of a group of points, and notes on the fit."""


def _groups(points: "Points", pool: "Pool", within: str | None) -> list[np.ndarray]:
    """Indices of the points of each group that has any; all of them without `within`."""
    if within is None:
        return [np.arange(len(points))]
    if within == "source":
        sources = pool.table["source"].take(points.rows).to_numpy(zero_copy_only=False)
        names, codes = np.unique(sources.astype(str), return_inverse=True)
        return [np.flatnonzero(codes.reshape(-1) == number) for number in range(len(names))]
    formats = [format_of(sample) for sample in pool.samples(range(len(pool)))]
    codes = np.array([FORMATS.index(name) for name in formats])[points.rows]
    return [group for number in range(len(FORMATS)) if len(group := np.flatnonzero(codes == number))]


def _fit(
    points: "Points", at: np.ndarray, identity: dict[str, Any], concentration: float, *, shrink: bool
) -> Fit:
    """Cluster the points with the indices `at`. `shrink`: no more clusters than distinct points.

    Raises TooFewVectorsError for fewer distinct points than clusters, CollapsedVectorsError for points of one
    direction.
    """
    from curation.signals.vectors.cluster_engines import run_engine
    from curation.signals.vectors.kmeans import MIN_START, START_POINTS, distinct_points

    own, seed = points.subset(at), identity["seed"]
    if identity["method"] == "ward":
        clustering, notes = run_engine(own, np.empty(0, np.int64), "ward", identity["engine"], identity)
        return clustering, {**notes, "reduced": 0}
    asked = k = clusters_of(identity["k"], len(at))
    start = distinct_points(own, max(START_POINTS * k, MIN_START), seed)
    if len(start) < k and not shrink:
        raise TooFewVectorsError(
            f"requested {k} clusters, but only {len(start)} of {len(at)} vectors are distinct: lower k"
        )
    if k > 1 and concentration >= COLLAPSED:
        raise CollapsedVectorsError(
            f"all vectors have the same direction (mean cosine {concentration:.7f}): "
            "clusters would follow rounding errors; check the model and the layer"
        )
    k = min(k, len(start))
    clustering, notes = run_engine(own, start, identity["method"], identity["engine"], {**identity, "k": k})
    return clustering, {**notes, "reduced": int(k < asked)}


def clusters_of(k: int | str, points: int) -> int:
    """The number of clusters that `k` stands for: itself, or a share of the points, rounded down, at least 1.

    Raises ValueError for other text and for a number below 1.
    """
    if isinstance(k, int):
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return k
    share = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)%", k)
    if share is None:
        raise ValueError(f"k must be a number from 1, or a share such as '1%', got {k!r}")
    return max(1, int(Decimal(share[1]) * points / 100))


def _joined(points: "Points", groups: Sequence[np.ndarray], fits: Sequence[Fit]) -> Fit:
    """The fits of groups of points as one, clusters numbered through."""
    import torch

    from curation.signals.vectors.kmeans import Clustering

    notes: dict[str, Any] = {"clusters": sum(len(fit.centroids) for fit, _ in fits)}
    if len(fits) == 1:
        return fits[0][0], {**fits[0][1], **notes}
    labels, similarity = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    first = 0
    for at, (fit, _) in zip(groups, fits, strict=True):
        labels[at], similarity[at] = fit.labels + first, fit.similarity
        first += len(fit.centroids)
    whole = Clustering(
        torch.cat([fit.centroids for fit, _ in fits]),
        labels,
        similarity,
        [math.fsum(fit.history[-1] for fit, _ in fits)],
    )
    notes |= {"groups": len(fits)}
    for key in ("steps", "reseeded", "reduced"):
        notes[key] = sum(own.get(key, 0) for _, own in fits)
    if any("trained_on" in own for _, own in fits):  # a group that says nothing was used as a whole
        notes["trained_on"] = sum(
            own.get("trained_on", len(at)) for at, (_, own) in zip(groups, fits, strict=True)
        )
    texts = sorted({text for _, own in fits for text in own.get("library_warnings", [])})
    return whole, {**notes, **({"library_warnings": texts} if texts else {})}


def _concentration(points: "Points") -> float:
    """Mean cosine of the points to their mean direction: 1 when all have the same direction."""
    from curation.signals.vectors.kmeans import mean_directions, similarity_to_own

    one = np.zeros(len(points), np.int32)
    return float(similarity_to_own(points, one, mean_directions(points, one, 1)).mean(dtype=np.float64))


def _describe(points: "Points", clustering: "Clustering", rows: int, concentration: float) -> dict[str, Any]:
    k = len(clustering.centroids)
    sizes = np.bincount(clustering.labels, minlength=k)
    cosines = (clustering.centroids @ clustering.centroids.T).cpu().numpy()[~np.eye(k, dtype=bool)]
    return {
        "device": points.device.type,
        "rows": rows,
        "points": len(points),
        "zero_vectors": points.zeros,
        "no_vector": rows - len(points) - points.zeros,
        "dims": points.dims,
        "concentration": concentration,
        "inertia": clustering.history[-1],
        "mean_similarity": float(clustering.similarity.mean(dtype=np.float64)),
        "empty_clusters": int((sizes == 0).sum()),
        "sizes": {"min": int(sizes.min()), "median": float(np.median(sizes)), "max": int(sizes.max())},
        "centroid_cosines": {"mean": float(cosines.mean()), "max": float(cosines.max())} if k > 1 else None,
    }


def _warnings(info: dict[str, Any]) -> list[str]:
    texts = list(info.get("library_warnings", []))
    if info["clusters"] > 1 and info["concentration"] >= CONCENTRATED:
        texts.append(
            f"the vectors have nearly the same direction (mean cosine {info['concentration']:.5f}): "
            "clusters may not be meaningful"
        )
    if info["empty_clusters"]:
        texts.append(f"{info['empty_clusters']} of {info['clusters']} clusters are empty")
    if info["reduced"]:
        texts.append(f"{info['reduced']} groups have fewer distinct vectors than clusters, and got as many")
    for text in texts:
        warnings.warn(f"clusters {info['name']!r}: {text}", stacklevel=3)
    return texts


def _write(
    out: Path,
    identity: dict[str, Any],
    info: dict[str, Any],
    points: "Points",
    clustering: "Clustering",
    shard_rows: int,
    on_progress: Progress | None,
) -> None:
    """Write centroids and clusters.json first; signal.json last, because it marks the fit as complete."""
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "centroids.npy", clustering.centroids.cpu().numpy().astype(np.float32))
    (out / "clusters.json").write_text(json.dumps(info, indent=1) + "\n")
    rows, name = info["rows"], identity["name"]
    known = np.zeros(rows, bool)
    known[points.rows] = True
    columns: dict[str, np.ndarray] = {
        f"cluster_{name}": np.zeros(rows, np.int32),
        f"similarity_{name}": np.zeros(rows, np.float32),
    }
    for column, values in zip(columns.values(), (clustering.labels, clustering.similarity), strict=True):
        column[points.rows] = values

    def table(part: range, advance: Advance) -> pa.Table:
        at = slice(part.start, part.stop)
        advance(len(part))
        return pa.table(
            {
                "row": pa.array(part, pa.int32()),
                **{n: pa.array(v[at], mask=~known[at]) for n, v in columns.items()},
            }
        )

    # Parts that an interrupted fit left belong to other centroids, though they may have the same identity.
    for part in out.glob("part-*"):
        part.unlink()
    write_signal(out, identity, rows, table, shard_rows=shard_rows, on_progress=on_progress)


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """clusters.json of a finished fit of this identity; None if there is no finished fit.

    Raises OtherFitError for a fit of another identity.
    """
    try:
        held = read_metadata(out)
    except MissingPartError:
        return None
    if differing := sorted(key for key in identity if held.get(key) != identity[key]):
        changes = "; ".join(f"{key}: {held.get(key)} -> {identity[key]}" for key in differing)
        raise OtherFitError(
            f"{out} holds a different fit ({changes}): use another directory, or delete it to fit again"
        )
    for file in ("centroids.npy", "clusters.json"):
        if not (out / file).exists():
            raise MissingPartError(
                f"{out / file} does not exist, although the fit is finished: delete {out} to fit again"
            )
    return json.loads((out / "clusters.json").read_text())
