"""Leverage of each vector in the leading directions of all (ScalSelect, arXiv 2602.11636).

    score_leverage(pool, signals / "attended_visual", out)  # of the column emb_attended_visual

Column `leverage`, float32, from 0 to 1. Of the vectors less their mean, with singular values s_1 >= s_2 >=
... and left singular vectors U, it is the sum over j <= k of U_ij^2, where k is the fewest directions whose
s_j^2 add up to `energy` of all. Over the pool the leverages add up to k. Cost: N · d^2, by way of the d x d
matrix of products.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_metadata, read_signal, write_signal
from curation.signals.core.vector_files import matrix

if TYPE_CHECKING:
    import torch

    from curation.pool.read import Pool

CHUNK_BYTES = 64 << 20
"""Size of the chunk of float64 vectors held at a time."""


def score_leverage(
    pool: "Pool",
    vectors: Path,
    out: Path,
    *,
    column: str = "emb_attended_visual",
    energy: float = 0.9,
    device: str | None = None,
    shard_rows: int = 1 << 18,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the leverage of a pool's vectors to `out`; parts that are complete are kept.

    vectors: the signal that holds `column`. energy: above 0, at most 1. A row without a vector has no value.
    Returns directions (k), dims, vectors, nulls. Raises ValueError for an energy out of range, for a column
    that the signal lacks, and for vectors that are all equal.
    """
    import torch

    if not 0 < energy <= 1:
        raise ValueError(f"energy must be above 0 and at most 1, got {energy}")
    metadata = read_metadata(Path(vectors))
    if column not in metadata.get("vectors", {}):
        held = ", ".join(metadata.get("vectors", {})) or "no vectors"
        raise ValueError(f"vector column {column!r} is not in {vectors}, which holds {held}")
    values, known = matrix(read_signal(Path(vectors), pool.hash), column)
    at = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    mean, directions = leading_directions(values, np.flatnonzero(known), energy, at)

    def compute(rows: range, advance: Advance) -> pa.Table:
        places = np.arange(rows.start, rows.stop)
        own = known[places]
        found = np.zeros(len(rows))
        for part in _chunks(np.flatnonzero(own), values.shape[1]):
            centred = _taken(values, places[part], at) - mean
            found[part] = (centred @ directions).square().sum(dim=1).cpu().numpy()
        advance(len(rows))
        column = pa.array(found.astype(np.float32), mask=~own)
        return pa.table({"row": pa.array(rows, pa.int32()), "leverage": column})

    identity = {
        "producer": "leverage",
        "pool_hash": pool.hash,
        "input": metadata["identity"],
        "column": column,
        "energy": energy,
        "device": at.type,
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **counts,
        "rows": len(pool),
        "vectors": int(known.sum()),
        "dims": values.shape[1],
        "directions": directions.shape[1],
        "nulls": {"leverage": int((~known).sum())},
    }


def leading_directions(
    values: np.ndarray, rows: np.ndarray, energy: float, device: "torch.device"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """(mean float64 [d], directions float64 [d, k]) of the vectors float16 [N, d] at `rows`.

    A direction is a right singular vector over its singular value, so that the product with a centred vector
    is its entry of U. Raises ValueError for vectors that are all equal.
    """
    import torch

    total = torch.zeros(values.shape[1], dtype=torch.float64, device=device)
    for part in _chunks(rows, values.shape[1]):
        total += _taken(values, part, device).sum(dim=0)
    mean = total / max(len(rows), 1)
    products = torch.zeros(len(total), len(total), dtype=torch.float64, device=device)
    for part in _chunks(rows, values.shape[1]):
        centred = _taken(values, part, device) - mean
        products += centred.T @ centred
    squares, vectors = torch.linalg.eigh(products)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    if not squares[0] > 0:
        raise ValueError("all vectors are equal: check the model and the layer")
    share = squares.cumsum(0) / squares.sum()
    # float64 rounding must not add a direction where the share is met by whole numbers
    k = min(int((share < energy - 1e-12).sum()) + 1, int((squares > squares[0] * 1e-12).sum()))
    return mean, vectors[:, :k] / squares[:k].sqrt()


def _chunks(rows: np.ndarray, dims: int) -> list[np.ndarray]:
    size = max(1, CHUNK_BYTES // (8 * dims))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _taken(values: np.ndarray, rows: np.ndarray, device: "torch.device") -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.asarray(values[rows])).to(device).double()
