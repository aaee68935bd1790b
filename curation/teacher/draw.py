"""Seeded draws that depend on a sample's id only, and the choice of the rows that a teacher labels.

A draw is a BLAKE2b digest of (purpose, seed, id): the same on every machine and library version, and independent of
input order.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def random_words(purpose: str, seed: int, id: str) -> np.ndarray:
    """Sixteen independent uniform uint32 words for one sample; `purpose` (<= 16 bytes) separates uses of one seed."""
    digest = hashlib.blake2b(f"{seed}/{id}".encode(), person=purpose.encode()).digest()
    return np.frombuffer(digest, dtype="<u4")


def uniform(purpose: str, seed: int, id: str) -> float:
    """One draw from [0, 1) for one sample."""
    return float(random_words(purpose, seed, id)[0]) / 2**32


def label_quotas(sizes: np.ndarray, budget: int, floor: int, temper: float = 1.0) -> np.ndarray:
    """How many samples of each source are labelled: a floor for each, the rest in proportion to what it has beyond
    the floor to the power `temper` (1 = proportional to size, 0 = equal), but no more than there are.

    `sizes` int64[sources] -> int64[sources] that sums to min(budget, sizes.sum()). The floor is lowered to the largest
    one that the budget can pay; left-over units go to the largest fractions (largest remainder, ties to the first).
    """
    budget = min(budget, int(sizes.sum()))
    while np.minimum(sizes, floor).sum() > budget:
        floor -= 1
    quotas = np.minimum(sizes, floor)
    exact = _capped_shares(sizes - quotas, budget - int(quotas.sum()), temper)
    whole = np.floor(exact + 1e-9).astype(np.int64)  # powers differ in their last bit between CPUs
    quotas = quotas + whole
    order = np.argsort(np.round(whole - exact, 9), kind="stable")
    order = order[quotas[order] < sizes[order]]
    quotas[order[: budget - quotas.sum()]] += 1
    return quotas


def _capped_shares(spare: np.ndarray, total: int, temper: float) -> np.ndarray:
    """float64[sources]: `total` shared out by spare ** temper; what a source cannot give is shared among the others."""
    weights = np.where(spare > 0, spare.astype(np.float64) ** temper, 0.0)
    full = spare == 0
    while True:
        left = total - spare[full].sum()
        exact = np.where(full, spare, weights * (left / max(weights[~full].sum(), 1)))
        over = ~full & (exact > spare)
        if not over.any():
            return exact
        full |= over


def choose_rows(pool_table: pa.Table, share: float, seed: int, floor: int, temper: float = 1.0) -> np.ndarray:
    """Rows to label: int64, ascending; round(share * n) of them (at least one), stratified by source (`label_quotas`).

    `pool_table` has row, id, source. The choice inside a source is by a seeded hash of the id, so that it does not
    depend on the order of the pool. Raises ValueError for a share outside (0, 1] or a temper outside [0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the labelled share must be above 0 and at most 1, got {share}")
    if not 0 <= temper <= 1:
        raise ValueError(f"temper is a power from 0 (equal) to 1 (proportional), got {temper}")
    ids = pool_table["id"].to_pylist()
    rows = pool_table["row"].to_numpy().astype(np.int64)
    source = pc.rank(pool_table["source"], tiebreaker="dense").to_numpy() - 1
    key = np.array([uniform("label", seed, id) for id in ids])
    quotas = label_quotas(np.bincount(source), max(1, round(share * len(ids))), floor, temper)
    order = np.lexsort((key, source))
    starts = np.concatenate([[0], np.cumsum(np.bincount(source))[:-1]])
    picks = [order[start : start + quota] for start, quota in zip(starts, quotas, strict=True)]
    return np.sort(rows[np.concatenate(picks)])
