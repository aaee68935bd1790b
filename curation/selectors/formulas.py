"""Scores that several methods derive from the same four answer losses, without another pass over the data.

L(A|I,Q), L(A|Q), L(A|I) and L(A) are mean losses of the answer's tokens in nats: columns nll, nll_noimg,
nll_noq and nll_a of the loss producer (base_* under the base model). Every function takes and returns float64
[n]; NaN is a missing value and stays one; a ratio whose denominator is not above 0, or infinite, is missing
too. Sums, differences and quotients of float64 are the same on every CPU, and so is `math.exp`, unlike
numpy's vectorised exp.
"""

import math
from collections.abc import Mapping

import numpy as np

from curation.selectors.contract import SelectorError, one_of

NECESSITY_COLUMNS = {
    "nll": ("nll",),
    "delta": ("nll", "base_nll"),
    "visual": ("nll", "nll_noimg"),
    "answer": ("answer_score",),
}
"""Kind of necessity -> the columns that it is computed from."""
NECESSITIES = tuple(NECESSITY_COLUMNS)


def perplexity(nll: np.ndarray) -> np.ndarray:
    """exp L(A|I,Q): the perplexity of the answer; inf where it exceeds float64."""
    return np.array([_exp(value) for value in _float64(nll).tolist()])


def visual_necessity(nll_noimg: np.ndarray, nll: np.ndarray) -> np.ndarray:
    """VisNec (arXiv 2603.01195): L(A|Q) - L(A|I,Q).

    How much the image helps the answer: below 0 it misleads (mismatched pairs), about 0 it is redundant. 0
    for text-only samples, whose two losses are equal by definition.
    """
    return _minus(nll_noimg, nll)


def ifd(nll: np.ndarray, nll_noq: np.ndarray) -> np.ndarray:
    """Multimodal instruction-following difficulty (arXiv 2308.12032): L(A|I,Q) / L(A|I).

    Above 1 the question makes the answer less likely; the method drops those rows and takes the largest of
    the rest. Equal to `ifd_text` for a text-only sample.
    """
    return _ratio(nll, nll_noq)


def ifd_text(nll_noimg: np.ndarray, nll_a: np.ndarray) -> np.ndarray:
    """Instruction-following difficulty as published (arXiv 2308.12032): L(A|Q) / L(A), no image in either."""
    return _ratio(nll_noimg, nll_a)


def irs(nll: np.ndarray, nll_noq: np.ndarray) -> np.ndarray:
    """PreSel's instruction relevance score (arXiv 2503.07591): L(A|I,Q) / L(A|I) of a model tuned on 5 %.

    The same ratio as `ifd`; the methods differ in model and use (PreSel averages it per task and prefers low
    means).
    """
    return _ratio(nll, nll_noq)


def necessity(kind: str, losses: Mapping[str, np.ndarray]) -> np.ndarray:
    """MLLM-Selector's necessity (arXiv 2503.20502), whose formula is not published; high = more needed.

    `losses`: columns by name. `nll`: L(A|I,Q) of the seed model; `delta`: that minus the base model's (needs
    base_nll too; high where the seed data did harm); `visual`: L(A|Q) - L(A|I,Q) of the seed model (needs
    nll_noimg too); `answer`: 1 - answer_score, how badly the seed model itself answers, as in MoDS (arXiv
    2311.15653). Raises SelectorError for another kind or a missing column.
    """
    one_of("necessity", kind, NECESSITIES)
    if absent := [name for name in NECESSITY_COLUMNS[kind] if name not in losses]:
        raise SelectorError(f"necessity {kind!r} needs the column {absent[0]}")
    if kind == "answer":
        return 1.0 - _float64(losses["answer_score"])
    if kind == "delta":
        return _minus(losses["nll"], losses["base_nll"])
    return (
        visual_necessity(losses["nll_noimg"], losses["nll"]) if kind == "visual" else _float64(losses["nll"])
    )


def _float64(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _minus(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # the difference of two infinite losses is missing
        return _float64(above) - _float64(below)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = _float64(above), _float64(below)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=(below > 0) & np.isfinite(below))


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
