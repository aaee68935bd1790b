"""A net's training with a model, and its score of every sample as a signal of one column."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from curation.pool.read import Pool
from curation.signals.core.table import Advance, Progress, identity_hash, read_signal, write_signal
from curation.signals.core.vlm import Vlm
from curation.signals.scorers.features import Features, read_features
from curation.signals.scorers.joint import Objective, cotrain
from curation.signals.scorers.spec import OPERATIONAL, JointSpec


@dataclass
class Given:
    """What both producers begin with: the features, the model and the settings of the training."""

    names: list[str]
    features: Features
    vlm: Vlm
    spec: JointSpec

    @classmethod
    def open(
        cls,
        pool: Pool,
        model_dir: Path,
        signals: Sequence[Path],
        names: str | Sequence[str],
        spec: JointSpec,
        device: str | None,
    ) -> "Given":
        """A frozen model under adapters is held in bfloat16 where the training computes in it."""
        dtype = "bfloat16" if spec.precision == "bf16" and spec.lora else "float32"
        names = [names] if isinstance(names, str) else list(names)
        features = read_features(pool, signals, names)
        return cls(names, features, Vlm(model_dir, device=device, dtype=dtype), spec)

    def identity(self, producer: str, pool: Pool, *inputs: str, **settings: Any) -> dict[str, Any]:
        """What determines the signal. inputs: identities of further signals."""
        return {
            **self.vlm.identity(producer, pool.hash),
            "features": self.names,
            "inputs": [*self.features.identities, *inputs],
            "joint": self.spec.model_dump(mode="json", exclude=OPERATIONAL),
            **settings,
        }


def train_and_score(
    pool: Pool,
    given: Given,
    net: torch.nn.Module,
    objective: Objective,
    rows: np.ndarray,
    column: str,
    out: Path,
    identity: dict[str, Any],
    shard_rows: int,
    on_progress: Progress | None,
) -> dict[str, Any]:
    """Train on the samples at `rows`, then write the net's output for all that have features.

    Returns counts, mean, steps, samples_trained, first and last loss, and missing.
    """
    trained = cotrain(
        pool,
        given.vlm,
        net.to(given.vlm.device),
        objective,
        given.features,
        rows,
        given.spec,
        out,
        identity_hash(identity),
        on_progress,
    )
    counts = write_scores(pool, net.cpu(), given.features, column, out, identity, shard_rows)
    return {**counts, "samples_trained": len(rows), **trained.summary()}


def write_scores(
    pool: Pool,
    net: torch.nn.Module,
    features: Features,
    column: str,
    out: Path,
    identity: dict[str, Any],
    shard_rows: int,
) -> dict[str, Any]:
    """Write `column` float32, the net's output; null where a feature is missing. Returns counts and mean."""
    net.eval()

    def compute(rows: range, advance: Advance) -> pa.Table:
        at = slice(rows.start, rows.stop)
        with torch.inference_mode():
            scores = net(features.of(at))[:, 0].float().numpy()
        advance(len(rows))
        return pa.table(
            {"row": pa.array(rows, pa.int32()), column: pa.array(scores, mask=~features.known[at])}
        )

    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows)
    values = read_signal(out, pool.hash)[column]
    known = values.drop_null().to_numpy()
    return {
        **counts,
        "rows": len(pool),
        "rows_missing": values.null_count,
        "mean": float(known.mean()) if len(known) else None,
    }
