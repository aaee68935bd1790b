"""How well a scorer and a styler agree with the teacher on labels that they were not trained on.

Most samples score 0 in most capabilities, so ties cap the rank correlation: read it with the AUC of "score above 0".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from curation.signals.raters.queries import OTHER
from curation.signals.raters.style import likely_styles
from curation.taxonomy import CAPABILITY_KEYS, STYLES

STRONG = 3
"""Score from which a sample is what one would select for a capability."""
THRESHOLDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Shares of the likeliest style's probability that are tried for further ones."""


def spearman(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """Spearman's rank correlation with mid-ranks for ties; None where one side is constant or n < 3."""
    if len(truth) < 3 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return None
    return float(stats.spearmanr(predicted, truth).statistic)


def auc(predicted: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive is ranked above a negative, ties counted half; None without both kinds."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    ranks = stats.rankdata(predicted)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def precision_at_n(predicted: np.ndarray, positive: np.ndarray) -> float | None:
    """Share of positives among the n samples predicted highest, n = number of positives; None without a positive.

    Samples that tie at the cut count with the share of their places that are above it.
    """
    n = int(positive.sum())
    if not n:
        return None
    cut = np.sort(predicted)[-n]
    above, tied = predicted > cut, predicted == cut
    return float((positive[above].sum() + positive[tied].mean() * (n - above.sum())) / n)


def capability_report(signal: pa.Table, labels: pa.Table) -> dict[str, Any]:
    """Agreement of the expected scores with held-out labels, for each capability and on average.

    signal: row, exp_<key> (or cap_<key> where all of it is null, as in official mode), mass_<key>; labels: row, cap_<key>.
    What is null on either side is left out. Every labelled row must be in the signal.
    Returns {"capabilities": {key: n, zeros, spearman, auc, precision, mae, mass}, "mean": the means over capabilities
    that have a value}. auc is of "score above 0", precision the one at n of "score at least STRONG".
    """
    signal = _rows_of(signal, labels)
    by_key = {}
    for key in CAPABILITY_KEYS:
        score = signal[f"exp_{key}"]
        if score.null_count == len(score):
            score = signal[f"cap_{key}"]
        known = pc.and_(labels[f"cap_{key}"].is_valid(), score.is_valid())
        truth = labels[f"cap_{key}"].filter(known).to_numpy().astype(np.float64)
        expected = score.filter(known).to_numpy().astype(np.float64)
        by_key[key] = {
            "n": len(truth),
            "zeros": _mean(truth == 0),
            "spearman": spearman(expected, truth),
            "auc": auc(expected, truth > 0),
            "precision": precision_at_n(expected, truth >= STRONG),
            "mae": _mean(np.abs(expected - truth)),
            "mass": _mean(signal[f"mass_{key}"].filter(known).drop_null().to_numpy()),
        }
    means = {
        name: _mean([m[name] for m in by_key.values() if m[name] is not None])
        for name in ("spearman", "auc", "precision", "mae", "mass")
    }
    return {"capabilities": by_key, "mean": means}


def style_report(signal: pa.Table, labels: pa.Table) -> dict[str, Any]:
    """Agreement of the predicted style sets with held-out labels; samples without a labelled style are left out, and those
    whose prediction is missing (a broken image; official mode: no image).

    Returns n, missing (predictions), exact (share of equal sets), other (share of predictions with unknown text), f1 by
    style with its number of labelled samples (None where neither side names it) and macro_f1 over the styles that occur in
    the labels.
    """
    labels = labels.filter(pa.array([bool(styles) for styles in labels["styles"].to_pylist()], pa.bool_()))
    pairs = list(
        zip(_rows_of(signal, labels)["styles"].to_pylist(), labels["styles"].to_pylist(), strict=True)
    )
    known = [(set(named), set(styles)) for named, styles in pairs if named is not None]
    predicted, truth = [named for named, _ in known], [styles for _, styles in known]
    by_style = {style: _f1(style, predicted, truth) for style in STYLES}
    return {
        "n": len(truth),
        "missing": len(pairs) - len(known),
        "exact": _mean([p == t for p, t in zip(predicted, truth, strict=True)]),
        "other": _mean([OTHER in p for p in predicted]),
        "styles": by_style,
        "macro_f1": _mean([m["f1"] for m in by_style.values() if m["n"]]),
    }


def choose_threshold(
    signal: pa.Table, labels: pa.Table, grid: Sequence[float] = THRESHOLDS
) -> tuple[float, dict[str, Any]]:
    """The threshold of likelihood mode with the best macro F1 on labels, and its `style_report`; the highest of equals.

    signal: row, style_logp_<key>, null where the styler said nothing; labels: row, styles. Use labels that the styler was
    not trained on.
    """
    log_probs = np.stack([signal[f"style_logp_{key}"].to_numpy() for key in STYLES], axis=1)
    known = ~np.isnan(log_probs).any(axis=1)

    def report(threshold: float) -> dict[str, Any]:
        named = iter(likely_styles(log_probs[known], threshold))
        styles = pa.array([next(named) if there else None for there in known], pa.list_(pa.string()))
        return style_report(pa.table({"row": signal["row"], "styles": styles}), labels)

    reports = {threshold: report(threshold) for threshold in sorted(grid, reverse=True)}
    best = max(reports, key=lambda threshold: reports[threshold]["macro_f1"])
    return best, reports[best]


def _rows_of(signal: pa.Table, labels: pa.Table) -> pa.Table:
    position = {row: i for i, row in enumerate(signal["row"].to_pylist())}
    absent = [row for row in labels["row"].to_pylist() if row not in position]
    if absent:
        raise ValueError(
            f"{len(absent)} labelled rows are not in the signal, row {absent[0]} first: score them too"
        )
    return signal.take([position[row] for row in labels["row"].to_pylist()])


def _f1(style: str, predicted: list[set[str]], truth: list[set[str]]) -> dict[str, Any]:
    both = sum(style in p and style in t for p, t in zip(predicted, truth, strict=True))
    named, labelled = sum(style in p for p in predicted), sum(style in t for t in truth)
    return {"n": labelled, "f1": 2 * both / (named + labelled) if named + labelled else None}


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
