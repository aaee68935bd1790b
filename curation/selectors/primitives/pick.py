"""Rules that pick inside a group, and their application to every group of a pool."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from curation.selectors.contract import SelectorError, SizeError, one_of
from curation.selectors.primitives.cosine import Lookup, cosines, exp
from curation.selectors.primitives.farthest import farthest_point, refuse_pairs
from curation.selectors.primitives.graph import members_of

GROUP_LIMIT = 50_000
"""Most rows of one group that the rules `typicality` and `mmd` compare with one another."""
_BLOCK = 1024


@dataclass(frozen=True)
class Group:
    """The n rows that a rule picks from, by ascending hash.

    keys: uint64[n], the hashes; score: float64[n]; units: float64[n, d], unit vectors. Those that a rule does
    not read (see SCORED, COMPARED) may be empty.
    """

    keys: np.ndarray
    score: np.ndarray
    units: np.ndarray


Rule = Callable[[Group, int], np.ndarray]
"""(group, count <= n) -> places int64[count] in pick order. Ties go to the earlier row (lower hash)."""


def rule(name: str, *, neighbours: int = 5, tau: float = 1.0, sigma: float = 1.0) -> Rule:
    """The pick rule `name`; `neighbours` is for typicality, `tau` for soft_sample, `sigma` for mmd.

    Raises SelectorError.
    """
    one_of("pick", name, tuple(RULES))
    if neighbours < 1 or not tau > 0 or not sigma > 0:
        raise SelectorError(
            "neighbours must be at least 1, tau and sigma positive, "
            f"got neighbours={neighbours}, tau={tau}, sigma={sigma}"
        )
    options: dict[str, dict[str, float]] = {
        "typicality": {"neighbours": neighbours},
        "soft_sample": {"tau": tau},
        "mmd": {"sigma": sigma},
    }
    return partial(RULES[name], **options.get(name, {}))


def top(group: Group, count: int) -> np.ndarray:
    """Highest score first."""
    return np.argsort(-group.score, kind="stable")[:count]


def bottom(group: Group, count: int) -> np.ndarray:
    """Lowest score first."""
    return np.argsort(group.score, kind="stable")[:count]


def random(group: Group, count: int) -> np.ndarray:
    """In the order of the hash."""
    return np.arange(count)


def soft_sample(group: Group, count: int, tau: float = 1.0) -> np.ndarray:
    """Sampling without replacement, probability ~ exp(score / tau): Gumbel top-k with noise from the hash."""
    uniform = ((group.keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    # rounded: numpy's log differs in the last bit between SIMD variants
    noisy = np.round(group.score / tau - np.log(-np.log(uniform)), 9)
    return np.argsort(-noisy, kind="stable")[:count]


def typicality(group: Group, count: int, neighbours: int = 5) -> np.ndarray:
    """Highest mean cosine to the nearest `neighbours` others first (all others, where there are fewer)."""
    return np.argsort(-typical(group.units, neighbours), kind="stable")[:count]


def typical(units: np.ndarray, neighbours: int) -> np.ndarray:
    """float64[n]: mean cosine of each of `units` [n, d] to its nearest `neighbours` others; 0 for one row."""
    n = len(units)
    k = min(neighbours, n - 1)
    refuse_large(n)
    mean = np.zeros(n)
    for start in range(0, n if k else 0, _BLOCK):
        cosine = cosines(units[start : start + _BLOCK], units)
        cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -np.inf
        mean[start : start + _BLOCK] = np.partition(cosine, n - k, axis=1)[:, n - k :].sum(axis=1) / k
    return mean


def mmd(group: Group, count: int, sigma: float = 1.0) -> np.ndarray:
    """Greedily the picks whose distribution is nearest to the group's, by MMD^2 under a Gaussian kernel."""
    units, n = group.units, len(group.units)
    refuse_large(n)
    # int64 multiples of 2^-24: sums of kernel values are exact, whatever the order
    to_all = np.concatenate(
        [kernel(units[s : s + _BLOCK], units, sigma).sum(axis=1) for s in range(0, n, _BLOCK)]
    )
    nothing = np.zeros((1, units.shape[1]))  # a vector of zeros has cosine 0 even to itself
    own = np.where(units.any(axis=1), 1 << 24, kernel(nothing, nothing, sigma)[0, 0])
    return _nearest_to_all(to_all, own, lambda at: kernel(units, units[at : at + 1], sigma)[:, 0], count)


def mmd_of(kernels: np.ndarray, count: int) -> np.ndarray:
    """int64[count]: the picks of `mmd` from the kernel of all pairs, int[n, n] in units of 2^-24."""
    to_all, own = kernels.sum(axis=1, dtype=np.int64), kernels.diagonal().astype(np.int64)
    return _nearest_to_all(to_all, own, lambda at: kernels[at], count)


def _nearest_to_all(
    to_all: np.ndarray, own: np.ndarray, to: Callable[[int], np.ndarray], count: int
) -> np.ndarray:
    n = len(to_all)
    to_picks = np.zeros(n, np.int64)
    picks: list[int] = []
    free = np.ones(n, bool)
    for size in range(1, count + 1):
        # the part of MMD^2 · n · size^2 that depends on the candidate
        cost = n * (2 * to_picks + own) - 2 * size * to_all
        at = int(np.argmin(np.where(free, cost, np.iinfo(np.int64).max)))
        picks.append(at)
        free[at] = False
        to_picks += to(at)
    return np.array(picks, np.int64)


def kernel(a: np.ndarray, b: np.ndarray, sigma: float) -> np.ndarray:
    """int64[n, m] in units of 2^-24: exp(-|a - b|^2 / (2 sigma^2)) of unit vectors a, b."""
    return np.rint(exp((cosines(a, b) - 1.0) / (sigma * sigma)) * 2.0**24).astype(np.int64)


def farthest(group: Group, count: int) -> np.ndarray:
    """Farthest-point sampling, starting at the row nearest to the mean direction."""
    return farthest_point(group.units, count)


RULES: dict[str, Rule] = {
    "top": top,
    "bottom": bottom,
    "random": random,
    "soft_sample": soft_sample,
    "typicality": typicality,
    "mmd": mmd,
    "farthest": farthest,
}
SCORED, COMPARED = ("top", "bottom", "soft_sample"), ("typicality", "mmd", "farthest")
"""The rules that read a score, and those that read vectors."""


def pick_by_group(
    rows: np.ndarray,
    codes: np.ndarray,
    counts: np.ndarray,
    pick: Rule,
    keys: np.ndarray,
    *,
    score: np.ndarray | None = None,
    units: Lookup | None = None,
) -> np.ndarray:
    """int64[sum of counts]: places in `rows`, `counts[c]` of each group c, by `pick`.

    `rows` int64[n] (in the order of the hash), `codes` int64[n], `keys` uint64[n] and `score` float64[n] run
    side by side; `units` gives the vectors of rows. Order: the first pick of every group, then the second,
    and so on, so that every prefix of the subset is spread over the groups.
    """
    picks = []
    for members in members_of(codes):
        count = int(counts[codes[members[0]]])
        if not count:
            continue
        picks.append(
            members[
                pick_from(
                    rows[members],
                    pick,
                    keys[members],
                    count,
                    score=None if score is None else score[members],
                    units=units,
                )
            ]
        )
    return by_turns(picks)


def by_turns(picks: Sequence[np.ndarray]) -> np.ndarray:
    """int64[]: the first of each group's `picks` int64[], then the second of each, and so on."""
    turns = [np.empty(0, np.int64), *(np.arange(len(group)) for group in picks)]
    order = np.argsort(np.concatenate(turns), kind="stable")
    return np.concatenate([np.empty(0, np.int64), *picks])[order]


def pick_from(
    rows: np.ndarray,
    pick: Rule,
    keys: np.ndarray,
    count: int,
    *,
    score: np.ndarray | None = None,
    units: Lookup | None = None,
) -> np.ndarray:
    """int64[count]: places in one group's `rows` int64[n], by `pick`.

    Raises SizeError before any vector is read, since the vectors of a very large group may not fit into
    memory.
    """
    rule_itself = getattr(pick, "func", pick)  # `rule` binds parameters with functools.partial
    if rule_itself in (typicality, mmd):
        refuse_large(len(rows))
    if rule_itself is farthest:
        refuse_pairs(len(rows), count)
    unread = np.empty(0)
    return pick(Group(keys, unread if score is None else score, units(rows) if units else unread), count)


def refuse_large(n: int) -> None:
    """Raises SizeError for a group of more than GROUP_LIMIT rows."""
    if n > GROUP_LIMIT:
        raise SizeError(
            n,
            GROUP_LIMIT,
            "rows of one group compared with one another",
            "use more clusters, or pick `random` or `top`",
        )
