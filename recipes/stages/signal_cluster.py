"""Cluster the vectors of a signal; centroids, assignments and library versions are kept."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the signal cluster_<name> with centroids.npy and clusters.json."""
    from curation.pool.read import Pool
    from curation.signals.vectors.clusters import fit_clusters

    return fit_clusters(
        Pool.open(inputs["pool"]), inputs["vectors"], out, on_progress=counter(progress), **config
    )
