"""Agreement of a scorer and a styler with the teacher, on labels that they were not trained on.

Most samples score 0 in most capabilities, so ties limit the rank correlation: read it together with the AUC
of "score above 0".
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
"""Lowest score of a sample that one would select for a capability."""
THRESHOLDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Thresholds of likelihood mode that `choose_threshold` tries by default."""


def spearman(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """Spearman's rank correlation, mid-ranks for ties; None where one side is constant or n < 3."""
    if len(truth) < 3 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return None
    return float(stats.spearmanr(predicted, truth).statistic)


def auc(predicted: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive is ranked above a negative, ties counted half; None for one class only."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    ranks = stats.rankdata(predicted)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def precision_at_n(predicted: np.ndarray, positive: np.ndarray) -> float | None:
    """Share of positives among the n samples predicted highest, n = number of positives; None for n = 0.

    Samples that tie at the n-th place count with their expected share under random tie-breaking.
    """
    n = int(positive.sum())
    if not n:
        return None
    cut = np.sort(predicted)[-n]
    above, tied = predicted > cut, predicted == cut
    return float((positive[above].sum() + positive[tied].mean() * (n - above.sum())) / n)


def capability_report(signal: pa.Table, labels: pa.Table) -> dict[str, Any]:
    """Agreement of the expected scores with held-out labels, for each capability and on average.

    signal: row, exp_<key> (cap_<key> where exp_<key> is all null, as in official mode), mass_<key>. labels:
    row, cap_<key>. Samples that are null on either side are left out.
    Returns {"capabilities": {key: n, zeros, spearman, auc, precision, mae, mass}, "mean": means over the
    capabilities that have a value}. auc is that of "score above 0", precision that at n of "score at least
    STRONG".
    Raises ValueError for a labelled row that is not in the signal.
    """
    signal = _rows_of(signal, labels)
    by_capability = {}
    for capability in CAPABILITY_KEYS:
        score = signal[f"exp_{capability}"]
        if score.null_count == len(score):
            score = signal[f"cap_{capability}"]
        label = labels[f"cap_{capability}"]
        known = pc.and_(label.is_valid(), score.is_valid())
        truth = label.filter(known).to_numpy().astype(np.float64)
        expected = score.filter(known).to_numpy().astype(np.float64)
        by_capability[capability] = {
            "n": len(truth),
            "zeros": _mean(truth == 0),
            "spearman": spearman(expected, truth),
            "auc": auc(expected, truth > 0),
            "precision": precision_at_n(expected, truth >= STRONG),
            "mae": _mean(np.abs(expected - truth)),
            "mass": _mean(signal[f"mass_{capability}"].filter(known).drop_null().to_numpy()),
        }
    means = {
        name: _mean([metrics[name] for metrics in by_capability.values() if metrics[name] is not None])
        for name in ("spearman", "auc", "precision", "mae", "mass")
    }
    return {"capabilities": by_capability, "mean": means}


def style_report(signal: pa.Table, labels: pa.Table) -> dict[str, Any]:
    """Agreement of the predicted style sets with held-out labels.

    Left out are samples without a labelled style and those without a prediction (a broken image; official
    mode: no image).
    Returns n, missing (samples without a prediction), exact (share of equal sets), other (share of
    predictions with unknown text), styles: for each its n labelled samples and f1 (None where neither side
    names it), and macro_f1 over the styles that occur in the labels. Raises ValueError for a labelled row
    that is not in the signal.
    """
    labels = labels.filter(pa.array([bool(styles) for styles in labels["styles"].to_pylist()], pa.bool_()))
    pairs = list(
        zip(_rows_of(signal, labels)["styles"].to_pylist(), labels["styles"].to_pylist(), strict=True)
    )
    known = [(set(styles), set(label)) for styles, label in pairs if styles is not None]
    predicted, truth = [styles for styles, _ in known], [label for _, label in known]
    by_style = {style: _f1(style, predicted, truth) for style in STYLES}
    return {
        "n": len(truth),
        "missing": len(pairs) - len(known),
        "exact": _mean([p == t for p, t in zip(predicted, truth, strict=True)]),
        "other": _mean([OTHER in p for p in predicted]),
        "styles": by_style,
        "macro_f1": _mean([metrics["f1"] for metrics in by_style.values() if metrics["n"]]),
    }


def choose_threshold(
    signal: pa.Table, labels: pa.Table, grid: Sequence[float] = THRESHOLDS
) -> tuple[float, dict[str, Any]]:
    """The threshold of likelihood mode with the best macro F1 on labels, and its `style_report`.

    Of equally good thresholds the highest. signal: row, style_logp_<key> (null for samples without a
    prediction). labels: row, styles; use labels that the styler was not trained on.
    """
    log_probs = np.stack([signal[f"style_logp_{style}"].to_numpy() for style in STYLES], axis=1)
    known = ~np.isnan(log_probs).any(axis=1)

    def report(threshold: float) -> dict[str, Any]:
        predictions = iter(likely_styles(log_probs[known], threshold))
        styles = pa.array([next(predictions) if has else None for has in known], pa.list_(pa.string()))
        return style_report(pa.table({"row": signal["row"], "styles": styles}), labels)

    reports = {threshold: report(threshold) for threshold in sorted(grid, reverse=True)}
    best = max(reports, key=lambda threshold: reports[threshold]["macro_f1"])
    return best, reports[best]


def _rows_of(signal: pa.Table, labels: pa.Table) -> pa.Table:
    position = {row: i for i, row in enumerate(signal["row"].to_pylist())}
    absent = [row for row in labels["row"].to_pylist() if row not in position]
    if absent:
        raise ValueError(
            f"{len(absent)} labelled rows are not in the signal, the first is row {absent[0]}: score them too"
        )
    return signal.take([position[row] for row in labels["row"].to_pylist()])


def _f1(style: str, predicted: list[set[str]], truth: list[set[str]]) -> dict[str, Any]:
    both = sum(style in p and style in t for p, t in zip(predicted, truth, strict=True))
    n_predicted, n_labelled = sum(style in p for p in predicted), sum(style in t for t in truth)
    total = n_predicted + n_labelled
    return {"n": n_labelled, "f1": 2 * both / total if total else None}


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
