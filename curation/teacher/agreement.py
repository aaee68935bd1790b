"""How far two labels of the same samples agree: per capability a weighted kappa, for styles an overlap."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE
from curation.teacher.rubric import Label


def quadratic_kappa(first: np.ndarray, second: np.ndarray, levels: int) -> float | None:
    """Cohen's kappa with quadratic weights (Cohen 1968) of two ratings 0..levels-1, int[samples] each.

    1 is full agreement, 0 that of chance. None without samples, or if both ratings are one constant.
    """
    counts = np.zeros((levels, levels))
    np.add.at(counts, (first, second), 1)
    distance = np.subtract.outer(np.arange(levels), np.arange(levels)) ** 2
    expected = np.outer(counts.sum(1), counts.sum(0)) / max(len(first), 1)
    chance = float((distance * expected).sum())
    return 1 - float((distance * counts).sum()) / chance if chance else None


def jaccard(first: Sequence[str], second: Sequence[str]) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    a, b = set(first), set(second)
    return len(a & b) / len(a | b) if a | b else 1.0


def agreement(first: Sequence[Label], second: Sequence[Label]) -> dict[str, Any]:
    """Agreement of two labels of each sample, in the same order; pairs without both are counted as missing.

    `capabilities`: kappa (quadratic weights), exact and within_1 (shares of equal scores, and of scores that
    differ by one at most), n. Their means are over the capabilities that have a value. `styles`: mean
    Jaccard index.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if not (a.missing or b.missing)]
    each = {name: _of(name, pairs) for name in CAPABILITY_KEYS}

    def mean(key: str) -> float | None:
        values = [entry[key] for entry in each.values() if entry[key] is not None]
        return float(np.mean(values)) if values else None

    return {
        "n": len(pairs),
        "missing": len(first) - len(pairs),
        **{key: mean(key) for key in ("kappa", "exact", "within_1")},
        "styles": float(np.mean([jaccard(a.styles, b.styles) for a, b in pairs])) if pairs else None,
        "capabilities": each,
    }


def in_words(found: Mapping[str, Any]) -> str:
    """What `agreement` found, in one sentence, with the kappa of each capability."""
    named = {"kappa": "kappa", "equal scores": "exact", "within one point": "within_1", "styles": "styles"}
    means = [f"{name} {found[key]:.2f}" for name, key in named.items() if found[key] is not None]
    kappas = [
        f"{name} {entry['kappa']:.2f}"
        for name, entry in found["capabilities"].items()
        if entry["kappa"] is not None
    ]
    missing = f" ({found['missing']} without both labels)" if found["missing"] else ""
    by_capability = f"; kappa by capability: {', '.join(kappas)}" if kappas else ""
    return (
        f"{found['n']} samples labelled twice{missing}: {', '.join(means) or 'no agreement can be computed'}"
        f"{by_capability}"
    )


def _of(capability: str, pairs: Sequence[tuple[Label, Label]]) -> dict[str, Any]:
    scores = [(a.scores[capability], b.scores[capability]) for a, b in pairs]
    both = np.array([pair for pair in scores if None not in pair], np.int64).reshape(-1, 2)
    if not len(both):
        return {"n": 0, "kappa": None, "exact": None, "within_1": None}
    apart = np.abs(both[:, 0] - both[:, 1])
    return {
        "n": len(both),
        "kappa": quadratic_kappa(both[:, 0], both[:, 1], MAX_SCORE + 1),
        "exact": float(np.mean(apart == 0)),
        "within_1": float(np.mean(apart <= 1)),
    }
