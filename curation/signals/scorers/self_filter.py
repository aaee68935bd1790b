"""Self-Filter's score: a linear net that is trained jointly with the model whose losses it weights.

Source: Chen et al. (arXiv 2402.12501), released code in words: s = w · x on CLIP features (or on three given
scores, scaled to [-1, 1]), no bias; in a batch of B samples the weights are B · softmax(s), and the loss is
the sum of weighted token losses divided by the number of labelled tokens. The net learns to weight what the
model finds easy, so difficulty is -s (curation/selectors/self_filter.py).

Column filter_score: s, float32; null where a feature is missing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.signals.core.table import Progress

if TYPE_CHECKING:
    from curation.pool.read import Pool


def score_self_filter(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    signals: Sequence[Path],
    features: str | Sequence[str] = "emb_clip_pair",
    joint: Mapping[str, Any] | None = None,
    shard_rows: int = 1 << 18,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the net with the model of `model_dir` on all samples with features, then score the pool.

    signals: directories that hold the columns `features`. joint: settings, see `spec.JointSpec`. The net
    starts at zero, so that all weights are equal in the first step (a reading). A finished net in `out` is
    kept, and a killed training continues (joint.py). Returns also steps, samples_trained, first and last
    loss, and missing (draws of samples that could not be rendered, by reason).
    """
    import numpy as np
    import torch

    from curation.signals.scorers.objectives import BatchWeights
    from curation.signals.scorers.score import Given, train_and_score
    from curation.signals.scorers.spec import JointSpec

    given = Given.open(pool, model_dir, signals, features, JointSpec(**(joint or {})), device)
    net = torch.nn.Linear(given.features.dims, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    identity = given.identity("self_filter", pool)
    rows = np.flatnonzero(given.features.known)
    return train_and_score(
        pool, given, net, BatchWeights(), rows, "filter_score", Path(out), identity, shard_rows, on_progress
    )
