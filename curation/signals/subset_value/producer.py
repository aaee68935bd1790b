"""The value of a sample: what a regressor, fitted on subsets that a model was trained on, says of the sample alone.

InstructionGPT-4 (arXiv 2308.12067): the pool's images are clustered, the clusters made equally large, a model is trained on
each and evaluated; the regressor learns the scores from the subsets' features, and a sample's value is its prediction
for the subset that holds this sample only. Column `value` float32, in the unit of the labels. Beside it stand fit.json
(coefficients, leave-one-subset-out R2, label range, versions) and pca.npz (mean and components of each vector column).
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
_CHUNK = 8192


def balanced_subsets(
    vectors: np.ndarray, known: np.ndarray, k: int, size: int, seed: int
) -> list[np.ndarray]:
    """k disjoint arrays of `size` rows each (int64, ascending): k-means clusters of `vectors` [n, d], rebalanced.

    A row goes to the nearest centroid that still has room; where more come than there is room for, the nearest stay and
    the others go on. Rows where `known` bool [n] is False, or whose vector is all zeros, are in no subset; nor are
    those for which nobody has room. Raises SignalError where there are not k · size rows, or fewer than k distinct vectors.
    """
    points = Points([(vectors, known)])
    if k < 1 or size < 1 or k * size > len(points):
        raise SignalError(
            f"{k} subsets of {size} samples asked for, {len(points)} samples have a vector: take fewer or smaller ones"
        )
    start = distinct_points(points, max(k * START_POINTS, MIN_START), seed)
    if len(start) < k:
        raise SignalError(f"{k} subsets asked for, but there are {len(start)} distinct vectors only")
    clustering = fit_kmeans(points, k, seed, ITERATIONS, start)
    cosines = np.concatenate([(units @ clustering.centroids.T).cpu().numpy() for _, units in points.chunks()])
    return [np.sort(points.rows[members]) for members in _balance(cosines, size)]


def _balance(nearness: np.ndarray, size: int) -> list[np.ndarray]:
    """For each of k groups `size` of the n members, by nearness [n, k]; ties go to the earlier member and group."""
    k = nearness.shape[1]
    groups, free = [np.empty(0, np.int64) for _ in range(k)], np.arange(len(nearness))
    while roomy := [g for g in range(k) if len(groups[g]) < size]:
        wish = np.array(roomy)[nearness[np.ix_(free, roomy)].argmax(axis=1)]
        stays = np.ones(len(free), bool)
        for g in roomy:
            asking = np.flatnonzero(wish == g)
            taken = asking[np.argsort(-nearness[free[asking], g], kind="stable")][: size - len(groups[g])]
            groups[g] = np.concatenate([groups[g], free[taken]])
            stays[taken] = False
        free = free[stays]
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
    penalty: float = 1.0,
    seed: int = 0,
    shard_rows: int = 65_536,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit `regressor` on the `subsets` (rows of each) and their `labels` (score of the model trained on it), score the pool.

    signals: the feature columns for all rows of the pool, in order, with `row`. `penalty` is ridge's. Returns the counts
    of `write_signal`, loso_r2, label_range and imputed (rows whose value was missing, by column); warns where loso_r2 is
    not above 0. Raises SignalError for fewer than three subsets, labels that are not finite or not one for each subset, rows
    that the pool does not have, columns that are not there.
    """
    labels = _checked(pool, signals, subsets, labels, regressor)
    features = sample_features(signals, indicators, vectors, components)
    fit = partial(REGRESSORS[regressor], penalty=penalty) if regressor == "ridge" else REGRESSORS[regressor]
    sets, there = pad([features.values[rows] for rows in subsets])
    fitted = fit(sets, there, labels, seed)
    r2, guesses = leave_one_out(fit, sets, there, labels, seed)
    if not r2 > 0:
        warnings.warn(
            f"leave-one-subset-out R2 is {r2:.3f}: {regressor} predicts the {len(labels)} subsets no better than their mean, so that "
            "the values are as good as random; probe more or larger subsets, repeat the training, or use another regressor",
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
        "labels": labels.tolist(),
    }

    def compute(rows: range, advance: Advance) -> pa.Table:
        return pa.table(
            {"row": pa.array(rows, pa.int32()), "value": pa.array(_values(features, fitted, rows, advance))}
        )

    out.mkdir(parents=True, exist_ok=True)
    _describe(out, features, fitted, identity, r2, guesses)
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **counts,
        "loso_r2": r2,
        "label_range": [float(labels.min()), float(labels.max())],
        "imputed": features.imputed,
    }


def _checked(
    pool: "Pool", signals: pa.Table, subsets: Sequence[np.ndarray], labels: Sequence[float], regressor: str
) -> np.ndarray:
    labels = np.asarray(labels, dtype=np.float64)
    if regressor not in REGRESSORS:
        raise SignalError(f"regressor {regressor!r} is none of {', '.join(REGRESSORS)}")
    if len(subsets) < 3 or len(labels) != len(subsets) or not np.isfinite(labels).all():
        raise SignalError(
            f"{len(subsets)} subsets with {len(labels)} labels: at least three are needed, one finite label for each"
        )
    if not np.array_equal(signals["row"].to_numpy(), np.arange(len(pool))):
        raise SignalError(f"the features are not those of all {len(pool)} rows of the pool, in order")
    for at, rows in enumerate(subsets):
        if not len(rows) or min(rows) < 0 or max(rows) >= len(pool):
            raise SignalError(
                f"subset {at} is empty or names a row that the pool of {len(pool)} does not have"
            )
    return labels


def _values(features: Features, fitted: Fitted, rows: range, advance: Advance) -> np.ndarray:
    parts = []
    for start in range(rows.start, rows.stop, _CHUNK):
        alone = features.values[start : min(start + _CHUNK, rows.stop), None, :]
        parts.append(fitted.predict(alone, np.ones(alone.shape[:2], bool)))
        advance(len(alone))
    return np.concatenate(parts).astype(np.float32)


def _describe(
    out: Path, features: Features, fitted: Fitted, identity: dict[str, Any], r2: float, guesses: np.ndarray
) -> None:
    """fit.json and pca.npz: what the values came from, for a person to judge."""
    arrays = {
        f"{name}_{part}": getattr(pca, part)
        for name, pca in features.pca.items()
        for part in ("mean", "components", "variance")
    }
    np.savez(out / "pca.npz", **arrays)
    named = (
        None
        if fitted.coefficients is None
        else dict(zip(features.names, fitted.coefficients.tolist(), strict=True))
    )
    content = identity | {
        "features": features.names,
        "imputed": features.imputed,
        "coefficients": named,
        "intercept": fitted.intercept,
        "loso_r2": r2 if np.isfinite(r2) else None,
        "loso_predictions": guesses.tolist(),
        "label_range": [min(identity["labels"]), max(identity["labels"])],
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
    }
    (out / "fit.json").write_text(json.dumps(content, indent=1) + "\n")
