"""The value of a sample: the prediction of a regressor, fitted on scores of models trained on subsets.

InstructionGPT-4 (arXiv 2308.12067): the pool's images are clustered, the clusters made equally large, and a
model is trained on each and evaluated. The regressor learns these scores from the subsets' features, and a
sample's value is its prediction for the subset of this sample alone. Column `value` float32, in the unit of
the labels. Also written are fit.json (coefficients, leave-one-subset-out R2, label range, versions) and
pca.npz (mean and components of each vector column).
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from curation.signals.core.table import Advance, Progress, SignalError, write_signal
from curation.signals.subset_value.features import INDICATORS, VECTORS, Features, sample_features
from curation.signals.subset_value.regressors import REGRESSORS, Fitted, leave_one_out, pad
from curation.signals.vectors.kmeans import MIN_START, START_POINTS, Points, distinct_points, fit_kmeans

if TYPE_CHECKING:
    from curation.pool.read import Pool

ITERATIONS = 50
"""Most steps of k-means."""
_CHUNK = 8192
"""Samples whose values are predicted at a time."""


def balanced_subsets(
    vectors: np.ndarray, known: np.ndarray, k: int, size: int, seed: int
) -> list[np.ndarray]:
    """k disjoint arrays of `size` rows (int64, ascending): k-means clusters of `vectors` [n, d], rebalanced.

    A row is assigned to the nearest centroid that is not full; where too many compete, the nearest stay and
    the others move on. Rows where `known` bool [n] is False, whose vector is all zeros, or that are left when
    all subsets are full are in no subset. Raises SignalError for fewer than k · size rows with a vector, or
    fewer than k distinct vectors.
    """
    points = Points([(vectors, known)])
    if k < 1 or size < 1 or k * size > len(points):
        raise SignalError(
            f"requested {k} subsets of {size} samples, but only {len(points)} samples have a vector: "
            "request fewer or smaller subsets"
        )
    start = distinct_points(points, max(k * START_POINTS, MIN_START), seed)
    if len(start) < k:
        raise SignalError(f"requested {k} subsets, but only {len(start)} vectors are distinct")
    clustering = fit_kmeans(points, k, seed, ITERATIONS, start)
    cosines = np.concatenate([(units @ clustering.centroids.T).cpu().numpy() for _, units in points.chunks()])
    return [np.sort(points.rows[members]) for members in _balance(cosines, size)]


def _balance(similarity: np.ndarray, size: int) -> list[np.ndarray]:
    """`size` of n members for each of k groups, by similarity [n, k]; ties go to the earlier one."""
    k = similarity.shape[1]
    groups, free = [np.empty(0, np.int64) for _ in range(k)], np.arange(len(similarity))
    while not_full := [g for g in range(k) if len(groups[g]) < size]:
        columns = np.array(not_full)
        nearest = columns[similarity[np.ix_(free, columns)].argmax(axis=1)]
        unassigned = np.ones(len(free), bool)
        for g in not_full:
            competing = np.flatnonzero(nearest == g)
            order = np.argsort(-similarity[free[competing], g], kind="stable")
            taken = competing[order][: size - len(groups[g])]
            groups[g] = np.concatenate([groups[g], free[taken]])
            unassigned[taken] = False
        free = free[unassigned]
    return groups


def score_subset_value(
    pool: "Pool",
    signals: pa.Table,
    subsets: Sequence[np.ndarray],
    labels: Sequence[float],
    out: Path,
    *,
    regressor: str = "ridge",
    indicators: Sequence[str] = INDICATORS,
    vectors: Sequence[str] = VECTORS,
    components: int = 6,
    scaling: str = "standard",
    penalty: float = 1.0,
    seed: int = 0,
    shard_rows: int = 65_536,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit `regressor` on subsets and the scores of models trained on them; write the values of a pool.

    signals: `row` and the feature columns for all rows of the pool, in order. subsets: rows of each. labels:
    score of the model trained on each. components, scaling: as for `sample_features`. penalty: of ridge.
    Returns the counts of `write_signal`, loso_r2, label_range and imputed (rows without a value, by column);
    warns where loso_r2 is not above 0. Raises SignalError for fewer than three subsets, labels that are not
    finite or not one for each subset, rows that are not in the pool, columns that do not exist.
    """
    scores = _checked(pool, signals, subsets, labels, regressor)
    features = sample_features(signals, indicators, vectors, components, scaling)
    fit = partial(REGRESSORS[regressor], penalty=penalty) if regressor == "ridge" else REGRESSORS[regressor]
    sets, valid = pad([features.values[rows] for rows in subsets])
    fitted = fit(sets, valid, scores, seed)
    r2, predictions = leave_one_out(fit, sets, valid, scores, seed)
    if not r2 > 0:
        warnings.warn(
            f"leave-one-subset-out R2 is {r2:.3f}: {regressor} predicts the {len(scores)} subsets "
            "no better than their mean, so the values are as good as random; probe more or larger subsets, "
            "repeat the training, or use another regressor",
            stacklevel=2,
        )
    identity = {
        "producer": "subset_value",
        "pool_hash": pool.hash,
        "regressor": regressor,
        "penalty": penalty,
        "seed": seed,
        "features": hashlib.sha256(features.values.tobytes()).hexdigest()[:16],
        "subsets": hashlib.sha256(
            json.dumps([np.asarray(rows).tolist() for rows in subsets]).encode()
        ).hexdigest()[:16],
        "labels": scores.tolist(),
    }

    def compute(rows: range, advance: Advance) -> pa.Table:
        return pa.table(
            {"row": pa.array(rows, pa.int32()), "value": pa.array(_values(features, fitted, rows, advance))}
        )

    out.mkdir(parents=True, exist_ok=True)
    _describe(out, features, fitted, identity, r2, predictions)
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **counts,
        "loso_r2": r2,
        "label_range": [float(scores.min()), float(scores.max())],
        "imputed": features.imputed,
    }


def _checked(
    pool: "Pool", signals: pa.Table, subsets: Sequence[np.ndarray], labels: Sequence[float], regressor: str
) -> np.ndarray:
    """The labels as float64 [m]. Raises SignalError for arguments that do not fit together."""
    scores = np.asarray(labels, dtype=np.float64)
    if regressor not in REGRESSORS:
        raise SignalError(f"regressor must be one of {', '.join(REGRESSORS)}, got {regressor!r}")
    if len(subsets) < 3 or len(scores) != len(subsets) or not np.isfinite(scores).all():
        raise SignalError(
            f"{len(subsets)} subsets with {len(scores)} labels: "
            "at least three subsets are required, with one finite label for each"
        )
    if not np.array_equal(signals["row"].to_numpy(), np.arange(len(pool))):
        raise SignalError(f"the features must be those of all {len(pool)} rows of the pool, in order")
    for at, rows in enumerate(subsets):
        if not len(rows) or min(rows) < 0 or max(rows) >= len(pool):
            raise SignalError(f"subset {at} is empty or names a row outside the pool of {len(pool)} samples")
    return scores


def _values(features: Features, fitted: Fitted, rows: range, advance: Advance) -> np.ndarray:
    parts = []
    for start in range(rows.start, rows.stop, _CHUNK):
        alone = features.values[start : min(start + _CHUNK, rows.stop), None, :]
        parts.append(fitted.predict(alone, np.ones(alone.shape[:2], bool)))
        advance(len(alone))
    return np.concatenate(parts).astype(np.float32)


def _describe(
    out: Path,
    features: Features,
    fitted: Fitted,
    identity: dict[str, Any],
    r2: float,
    predictions: np.ndarray,
) -> None:
    """Write fit.json and pca.npz: how the values were computed, for a person to judge."""
    arrays = {
        f"{name}_{part}": getattr(pca, part)
        for name, pca in features.pca.items()
        for part in ("mean", "components", "variance")
    }
    np.savez(out / "pca.npz", **arrays)
    coefficients = (
        None
        if fitted.coefficients is None
        else dict(zip(features.names, fitted.coefficients.tolist(), strict=True))
    )
    content = identity | {
        "features": features.names,
        "imputed": features.imputed,
        "coefficients": coefficients,
        "intercept": fitted.intercept,
        "loso_r2": r2 if np.isfinite(r2) else None,
        "loso_predictions": predictions.tolist(),
        "label_range": [min(identity["labels"]), max(identity["labels"])],
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
    }
    (out / "fit.json").write_text(json.dumps(content, indent=1) + "\n")
