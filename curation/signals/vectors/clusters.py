"""Clusters of a pool's vectors: a fit, whose centroids and assignments are stored and never computed again silently.

    fit_clusters(pool, signals / "embedding", out, column="emb_text", name="text", k=100)

Writes a signal (cluster_<name> int32, similarity_<name> float32, the cosine to the own centroid; both null where there is
no vector) with centroids.npy float32 [k, d] and clusters.json beside it. Results of k-means hang on the library and its
version (COINCIDE's authors name FAISS 1.8.0), so both are part of the fit's identity: a directory that holds another fit is
refused, not overwritten.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

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

CONCENTRATED, COLLAPSED = 0.999, 1 - 1e-6
"""Mean cosine to the common direction: from the first on there is a warning, from the second on an error."""


def fit_clusters(
    pool: "Pool",
    vectors: Path | Sequence[Path],
    out: Path,
    *,
    k: int,
    column: str | Sequence[str] = "emb_text",
    name: str = "text",
    method: str = "kmeans",
    seed: int = 0,
    iterations: int = 50,
    engine: str = "torch",
    neighbours: int = 10,
    device: str | None = None,
    shard_rows: int = 1 << 20,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Cluster the vectors of a pool by direction and write the signal `out`; a finished fit of the same identity is kept.

    vectors: signal directories, which hold `column` (or several columns, laid side by side; a sample that lacks one of
        them has zeros there, one that lacks all has no cluster).
    method: "kmeans" (spherical) or "spectral" (scikit-learn, graph of the `neighbours` nearest; above SPECTRAL_LIMIT
        vectors a seeded sample is clustered and the others go to the nearest mean direction).
    engine: of k-means: "torch", "faiss", or "auto" (faiss where it is installed); what was used is recorded.
    iterations: at most so many steps of k-means. device: default the accelerator if there is one.

    Returns what clusters.json holds: engine, versions, points, zero_vectors, inertia (sum of 1 - cosine), steps, sizes,
    centroid cosines, warnings. Raises TooFewVectorsError, CollapsedVectorsError, OtherFitError, and ImportError with a
    hint where the engine is not installed.
    """
    from curation.signals.vectors.cluster_engines import resolve_engine, run_engine, versions

    columns = [column] if isinstance(column, str) else list(column)
    engine_used = resolve_engine(method, engine, k, iterations)
    directories = [vectors] if isinstance(vectors, str | Path) else list(vectors)
    found = [_directory_of(each, directories) for each in columns]
    settings = {"k": k, "seed": seed} | (
        {"neighbours": neighbours} if method == "spectral" else {"iterations": iterations}
    )
    identity = {
        "producer": "clusters", "pool_hash": pool.hash, "name": name, "columns": columns,
        "inputs": [read_metadata(directory)["identity"] for directory in found],
        "method": method, **settings, "engine": engine_used, "versions": versions(engine_used),
    }  # fmt: skip
    if kept := _finished(out, identity):
        return kept
    points = _points(found, columns, pool, device)
    start, alike = _check_points(points, k, seed)
    clustering, notes = run_engine(points, start, method, engine_used, settings)
    info = {**identity, "engine_asked": engine, **_describe(points, clustering, len(pool), alike), **notes}
    info["warnings"] = _warnings(info)
    _write(out, identity, info, points, clustering, shard_rows, on_progress)
    return info


def _directory_of(column: str, directories: Sequence[Path]) -> Path:
    for directory in directories:
        if column in read_metadata(directory).get("vectors", {}):
            return Path(directory)
    held = {str(d): sorted(read_metadata(d).get("vectors", {})) for d in directories}
    raise ClusterError(f"no vector column {column!r}: the given signals hold {held}")


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


def _check_points(points: "Points", k: int, seed: int) -> tuple[np.ndarray, float]:
    """Numbers of distinct points to start from, and how alike all are. Raises for too few, or all in one direction."""
    from curation.signals.vectors.kmeans import MIN_START, START_POINTS, distinct_points

    start = distinct_points(points, max(START_POINTS * k, MIN_START), seed)
    if len(start) < k:
        raise TooFewVectorsError(
            f"{k} clusters asked, but the {len(points)} vectors hold only {len(start)} distinct ones: lower k"
        )
    alike = _concentration(points)
    if k > 1 and alike >= COLLAPSED:
        raise CollapsedVectorsError(
            f"all vectors point the same way (mean cosine {alike:.7f}): clusters would follow rounding; check the model and the layer"
        )
    return start, alike


def _concentration(points: "Points") -> float:
    """Mean cosine of the points to their common direction: 1 when all point the same way."""
    from curation.signals.vectors.kmeans import mean_directions, similarity_to_own

    one = np.zeros(len(points), np.int32)
    return float(similarity_to_own(points, one, mean_directions(points, one, 1)).mean(dtype=np.float64))


def _describe(points: "Points", found: "Clustering", rows: int, alike: float) -> dict[str, Any]:
    k = len(found.centroids)
    sizes = np.bincount(found.labels, minlength=k)
    cosines = (found.centroids @ found.centroids.T).cpu().numpy()[~np.eye(k, dtype=bool)]
    return {
        "device": points.device.type,
        "rows": rows,
        "points": len(points),
        "zero_vectors": points.zeros,
        "no_vector": rows - len(points) - points.zeros,
        "dims": points.dims,
        "concentration": alike,
        "inertia": found.history[-1],
        "mean_similarity": float(found.similarity.mean(dtype=np.float64)),
        "empty_clusters": int((sizes == 0).sum()),
        "sizes": {"min": int(sizes.min()), "median": float(np.median(sizes)), "max": int(sizes.max())},
        "centroid_cosines": {"mean": float(cosines.mean()), "max": float(cosines.max())} if k > 1 else None,
    }


def _warnings(info: dict[str, Any]) -> list[str]:
    found = list(info.get("library_warnings", []))
    if info["k"] > 1 and info["concentration"] >= CONCENTRATED:
        found.append(
            f"the vectors are nearly one direction (mean cosine {info['concentration']:.5f}): clusters may mean little"
        )
    if info["empty_clusters"]:
        found.append(f"{info['empty_clusters']} of {info['k']} clusters are empty")
    for text in found:
        warnings.warn(f"clusters {info['name']!r}: {text}", stacklevel=3)
    return found


def _write(
    out: Path, identity: dict[str, Any], info: dict[str, Any], points: "Points", found: "Clustering", shard_rows: int,
    on_progress: Progress | None,
) -> None:  # fmt: skip
    """Centroids and clusters.json first, signal.json last: its presence means that all is there."""
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "centroids.npy", found.centroids.cpu().numpy().astype(np.float32))
    (out / "clusters.json").write_text(json.dumps(info, indent=1) + "\n")
    rows, name = info["rows"], identity["name"]
    known = np.zeros(rows, bool)
    known[points.rows] = True
    columns = {f"cluster_{name}": np.zeros(rows, np.int32), f"similarity_{name}": np.zeros(rows, np.float32)}
    for column, values in zip(columns.values(), (found.labels, found.similarity), strict=True):
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

    for part in out.glob(
        "part-*"
    ):  # a fit that was cut off left them: what stands here belongs to this one's centroids
        part.unlink()
    write_signal(out, identity, rows, table, shard_rows=shard_rows, on_progress=on_progress)


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """clusters.json of a finished fit of this identity, None where there is none. Raises OtherFitError for another one."""
    try:
        held = read_metadata(out)
    except MissingPartError:
        return None
    if differing := sorted(key for key in identity if held.get(key) != identity[key]):
        changes = "; ".join(f"{key}: {held.get(key)} -> {identity[key]}" for key in differing)
        raise OtherFitError(
            f"{out} holds another fit ({changes}): use another directory, or delete it to fit again"
        )
    for file in ("centroids.npy", "clusters.json"):
        if not (out / file).exists():
            raise MissingPartError(
                f"{out / file} is not there, though the fit was finished: delete {out} to fit again"
            )
    return json.loads((out / "clusters.json").read_text())
