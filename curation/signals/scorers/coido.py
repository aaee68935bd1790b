"""CoIDO's score: a net that is trained on a part of the pool, jointly with the model whose losses it weights.

Source: CoIDO (arXiv 2510.17847), paper and released code in words: on a random 20 % of the pool, w = softmax
of the scores of a batch, L_I = sum of w · mean answer loss, L_D = spread of the mean w of the clusters in the
batch (paper: variance; code: standard deviation), total = L_I / s1^2 + L_D / (2 s2^2) + log s1 + log s2 with
s1 and s2 learned. Lower score = more important (curation/selectors/coido.py).

Column coido_score: the net's output, float32; null where a feature is missing. The net has one hidden layer
of 256 units (a reading). The paper's inputs also have ImageReward and three scores of a paid service: name
columns with such scores as features.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from curation.signals.core.table import Progress, read_metadata, read_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool

HIDDEN = 256


def score_coido(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    signals: Sequence[Path],
    clusters: Path,
    features: str | Sequence[str] = ("emb_clip_pair", "clip_score"),
    cluster: str = "coido",
    share: float = 0.2,
    spread: Literal["variance", "deviation"] = "variance",
    joint: Mapping[str, Any] | None = None,
    shard_rows: int = 1 << 18,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the net with the model of `model_dir` on a random `share` of the pool, then score the pool.

    signals: directories that hold the columns `features`. clusters: the signal with cluster_<cluster>. joint:
    settings, see `spec.PartSpec`; its seed draws the part. Samples without features or cluster are not
    drawn. A finished net in `out` is kept, and a killed training continues (joint.py). Returns also steps,
    samples_trained, first and last loss, and missing. Raises ValueError for another spread or share,
    FeatureError where no sample can be drawn.
    """
    import torch

    from curation.signals.scorers.features import FeatureError
    from curation.signals.scorers.objectives import ImportanceAndDiversity
    from curation.signals.scorers.score import Given, train_and_score
    from curation.signals.scorers.spec import PartSpec

    if spread not in ("variance", "deviation") or not 0 < share <= 1:
        raise ValueError(f"spread must be variance or deviation, share in (0, 1], got {spread!r} and {share}")
    given = Given.open(pool, model_dir, signals, features, PartSpec(**(joint or {})), device)
    codes = read_signal(Path(clusters), pool.hash)[f"cluster_{cluster}"].cast("float64").to_numpy()
    identity = given.identity(
        "coido",
        pool,
        read_metadata(Path(clusters))["identity"],
        cluster=cluster,
        share=share,
        spread=spread,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.spec.seed)
        hidden = torch.nn.Linear(given.features.dims, HIDDEN)
        net = torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1))
    usable = np.flatnonzero(given.features.known & np.isfinite(codes))
    if not len(usable):
        raise FeatureError(f"no sample of the pool has both all features and a cluster_{cluster}")
    rows = _part(usable, share, given.spec.seed)
    objective = ImportanceAndDiversity(codes, spread).to(given.vlm.device)
    return train_and_score(
        pool, given, net, objective, rows, "coido_score", Path(out), identity, shard_rows, on_progress
    )


def _part(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A random `share` of the rows, ascending; at least two."""
    order = np.random.default_rng([seed, 1]).permutation(len(rows))
    return np.sort(rows[order[: max(2, math.ceil(round(share * len(rows), 6)))]])
