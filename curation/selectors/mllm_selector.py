"""MLLM-Selector (arXiv 2503.20502): necessity-based grouped sampling.

Published: a seed model is fine-tuned on a random part of the pool; each sample gets a necessity score under it; the
pool is grouped by necessity and sampled from the groups, so that the subset is both needed and diverse.
Not published, and so reconstructed here with every choice a parameter: the score (token-mean answer NLL of the seed
model), the noise cut, the number of groups, how much each group gets, and how a group is sampled.
"""

import hashlib
import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, SelectorError, check_budget, numbers, row_numbers, sources_of, texts
from curation.selectors.primitives import groups, quota, rank_within, seeded_keys, spread

NEEDS: tuple[str, ...] = ("necessity",)


def needs(column: str = "nll", **_: object) -> tuple[str, ...]:
    """The necessity signal, whichever of its columns is used."""
    return NEEDS


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    column: str = "nll",
    noise_tail: float = 0.01,
    strata: int = 10,
    tau: float = 1.0,
) -> Selection:
    """Sample more from the groups that the seed model finds harder.

    1. Rows whose `column` is missing, NaN or infinite are set aside (`missing_value`), then the floor(`noise_tail`·n)
       highest, which are mostly wrong answers (`noise_tail`).
    2. The n rows left, sorted by (score, hash of seed and id), are cut into `strata` groups: row at place i goes to
       group floor(i · strata / n), equal in size to within one.
    3. Group k gets a number proportional to size_k · softmax(mean score_k / `tau`) (`tau` in the unit of the column,
       nats a token for `nll`), rounded by largest remainders; what a full group cannot take goes to the others.
       `tau=inf` is proportional stratified random; small `tau` approaches top-k.
    4. Inside a group sources share in proportion to their size in it (systematic sampling), rows by the hash.

    Picks are ordered from the highest group down, inside it by the hash. Reason: source, stratum (0 = lowest), score.
    Cost: a LoRA fit on the seed part and one forward pass a sample. Blind. Raises ColumnError, BudgetError.
    """
    _check(noise_tail, strata, tau)
    scores = numbers(columns, column)
    keys = seeded_keys(seed, texts(columns, "id"))
    known = np.flatnonzero(np.isfinite(scores))
    ranked = known[np.lexsort((keys[known], scores[known]))]
    cut = math.floor(noise_tail * len(ranked))
    notes = {"missing_value": len(scores) - len(known), "noise_tail": cut}
    ranked = ranked[: len(ranked) - cut]
    check_budget(budget, len(ranked), f"{notes['missing_value']:,} rows have no {column}, {cut:,} are cut as noise")
    stratum = np.arange(len(ranked)) * strata // len(ranked)
    sizes = np.bincount(stratum, minlength=strata)
    counts = quota(sizes, _lift(scores[ranked], stratum, sizes, tau), budget)
    sources, _ = groups(texts(columns, "source"))
    picks, levels = [], []
    for k in np.flatnonzero(counts)[::-1]:
        inside = ranked[stratum == k]
        picks.append(_pick(inside, sources[inside], keys[inside], int(counts[k]), _offset(seed, k, sizes[k])))
        levels.append(np.full(counts[k], k))
    chosen = np.concatenate(picks)
    reason = (
        sources_of(columns, chosen)
        .append_column("stratum", pa.array(np.concatenate(levels), pa.int32()))
        .append_column("score", pa.array(scores[chosen], pa.float64()))
    )
    return Selection(row_numbers(columns)[chosen], reason, notes)


def _check(noise_tail: float, strata: int, tau: float) -> None:
    if not 0 <= noise_tail < 1:
        raise SelectorError(f"noise_tail {noise_tail} is a share of the rows, 0 <= noise_tail < 1")
    if strata < 1:
        raise SelectorError(f"strata {strata} must be at least 1")
    if not tau > 0:
        raise SelectorError(f"tau {tau} must be positive (inf = proportional)")


def _lift(scores: np.ndarray, stratum: np.ndarray, sizes: np.ndarray, tau: float) -> np.ndarray:
    return np.bincount(stratum, weights=scores, minlength=len(sizes)) / np.maximum(sizes, 1) / tau


def _pick(rows: np.ndarray, sources: np.ndarray, keys: np.ndarray, count: int, offset: int) -> np.ndarray:
    order = np.argsort(keys, kind="stable")
    _, local = np.unique(sources, return_inverse=True)
    shares = spread(np.bincount(local), count, offset)
    taken = rank_within(local, order) < shares[local]
    return rows[order[taken[order]]]


def _offset(seed: int, stratum: int, size: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{stratum}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % int(size)
