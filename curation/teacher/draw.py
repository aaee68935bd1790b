"""Seeded draws per sample id, and the choice of the rows that a teacher labels.

A draw is a BLAKE2b digest of (purpose, seed, id): the same on every machine and with every library version,
and independent of the input order.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def random_words(purpose: str, seed: int, id: str) -> np.ndarray:
    """Sixteen independent uniform words, uint32[16], for one sample.

    `purpose` (at most 16 bytes) makes the draws of different uses of one seed independent.
    """
    digest = hashlib.blake2b(f"{seed}/{id}".encode(), person=purpose.encode()).digest()
    return np.frombuffer(digest, dtype="<u4")


def uniform(purpose: str, seed: int, id: str) -> float:
    """One uniform draw from [0, 1) for one sample."""
    return float(random_words(purpose, seed, id)[0]) / 2**32


def label_quotas(sizes: np.ndarray, budget: int, floor: int, temper: float = 1.0) -> np.ndarray:
    """Number of samples to label per source: `floor` for each, the rest by tempered size.

    `sizes`: int64[sources] -> int64[sources] that sums to min(budget, sizes.sum()), none above its size. The
    rest is shared in proportion to (size - floor) ** temper (temper 1 = proportional, 0 = equal), with the
    largest-remainder method (ties to the first source). If the budget cannot pay `floor` for every source,
    the largest floor that it can pay is used.
    """
    budget = min(budget, int(sizes.sum()))
    while np.minimum(sizes, floor).sum() > budget:
        floor -= 1
    quotas = np.minimum(sizes, floor)
    exact = _capped_shares(sizes - quotas, budget - int(quotas.sum()), temper)
    # Powers differ in their last bit between CPUs: 2.9999999 must not become 2 on one of them.
    whole = np.floor(exact + 1e-9).astype(np.int64)
    quotas = quotas + whole
    order = np.argsort(np.round(whole - exact, 9), kind="stable")
    order = order[quotas[order] < sizes[order]]
    quotas[order[: budget - quotas.sum()]] += 1
    return quotas


def _capped_shares(spare: np.ndarray, total: int, temper: float) -> np.ndarray:
    """float64[sources]: `total` shared by spare ** temper; what exceeds `spare` goes to the others."""
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
    """Rows to label, int64 ascending: round(share * n), at least one, stratified by source (`label_quotas`).

    `pool_table` has the columns row, id and source. Within a source, a seeded hash of the id decides, so the
    choice does not depend on the order of the pool. Raises ValueError for a share outside (0, 1] or a temper
    outside [0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the labelled share must be above 0 and at most 1, got {share}")
    if not 0 <= temper <= 1:
        raise ValueError(f"temper must be from 0 (equal) to 1 (proportional), got {temper}")
    ids = pool_table["id"].to_pylist()
    rows = pool_table["row"].to_numpy().astype(np.int64)
    source = pc.rank(pool_table["source"], tiebreaker="dense").to_numpy() - 1
    key = np.array([uniform("label", seed, id) for id in ids])
    quotas = label_quotas(np.bincount(source), max(1, round(share * len(ids))), floor, temper)
    order = np.lexsort((key, source))
    starts = np.concatenate([[0], np.cumsum(np.bincount(source))[:-1]])
    picks = [order[start : start + quota] for start, quota in zip(starts, quotas, strict=True)]
    return np.sort(rows[np.concatenate(picks)])


def choose_again(rows: np.ndarray, ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Of the labelled rows (int64, with their ids in the same order) those that are labelled twice.

    round(share * n) ascending rows, at least two (one pair has no kappa), by a seeded hash of the id; none
    for share 0.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share that is labelled twice must be from 0 to 1, got {share}")
    if share == 0:
        return rows[:0]
    key = np.array([uniform("agreement", seed, id) for id in ids])
    return np.sort(rows[np.argsort(key, kind="stable")[: max(2, round(share * len(rows)))]])
