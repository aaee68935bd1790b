"""MLLM-Selector: groups by necessity under a seed model, more from the higher ones, spread over sources.

Source: arXiv 2503.20502. Published: a seed model is fine-tuned on a random part of the pool; each sample gets
a necessity score under it; the pool is grouped by necessity and sampled from the groups, so that the subset
is both needed and diverse. Only the abstract says so: no code and no formula can be read, so nothing here is
the authors' own rule, and every choice is a parameter: the score, the noise cut, the groups, the share of
each, the sampling inside. Needs: necessity (delta: base_losses too; visual: necessity_ablated too; answer:
answered alone). Cost class: C4 (a LoRA fit on the seed part, one forward pass per sample). Blind.

A further round (the seed model tuned again on the subset) is another call, with the columns of that round.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    SelectorError,
    check_budget,
    flags,
    numbers,
    one_of,
    require,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.formulas import NECESSITIES, NECESSITY_COLUMNS
from curation.selectors.formulas import necessity as necessity_of
from curation.selectors.primitives.cosine import Lookup, joined
from curation.selectors.primitives.divergence import follow
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.keys import groups, rank_within, seeded_keys
from curation.selectors.primitives.pick import COMPARED, pick_from, rule
from curation.selectors.primitives.quota import quota, spread
from curation.selectors.signal_columns import columns_read, names_of

DIVERSITIES = ("source", "kl", *COMPARED)


def reads(
    necessity: str = "nll",
    column: str | None = None,
    strata_by: str = "necessity",
    diversity: str = "source",
    diversity_by: str = "source",
    vectors: str | Sequence[str] = "emb_last_token",
    exclude_seed: bool = False,
    **_: object,
) -> tuple[str, ...]:
    """The losses (or whatever `column` comes from), clusters and vectors where they are used."""
    names = [column] if column else list(_losses_of(necessity))
    names += [strata_by] if strata_by != "necessity" else []
    names += names_of(vectors) if diversity in COMPARED else []
    names += [diversity_by] if diversity == "kl" else []
    return columns_read(*names, "in_seed" if exclude_seed else None)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    necessity: str = "nll",
    column: str | None = None,
    noise_tail: float = 0.01,
    strata: int = 10,
    strata_by: str = "necessity",
    tau: float = 1.0,
    diversity: str = "source",
    diversity_by: str = "source",
    vectors: str | Sequence[str] = "emb_last_token",
    exclude_seed: bool = False,
) -> Selection:
    """Sample more from the groups that the seed model finds harder.

    1. The score is `necessity`: "nll" = L(A|I,Q) of the seed model, "delta" = that minus the base model's,
       "visual" = L(A|Q) - L(A|I,Q) (0 for text-only rows), mean over answer tokens, in nats; "answer" = 1 -
       answer_score, how badly the seed model answers by itself (the meaning of MoDS, arXiv 2311.15653); or
       any other `column`. Left out are rows whose score is missing, NaN or infinite (`missing_value`), with
       `exclude_seed` those that the column in_seed marks (`in_seed`), then the floor(`noise_tail`·n) highest,
       mostly wrong answers (`noise_tail`).
    2. `strata_by="necessity"`: the n remaining rows, sorted by (score, hash of seed and id), are cut into
       `strata` groups: the row at place i goes to group floor(i · strata / n), equal in size to within one. A
       column of cluster numbers (`cluster_visnec`, ...) instead: each is a group, numbered by its mean score;
       rows without one are left out (`missing_cluster`).
    3. Group k gets a number proportional to size_k · softmax(mean score_k / `tau`) (`tau` in the unit of the
       score), rounded by largest remainders; what a full group cannot take goes to the others. `tau=inf` is
       proportional stratified random; small `tau` approaches top-k.
    4. Inside a group, `diversity="source"`: sources share in proportion to their size in it (systematic
       sampling), rows by the hash. "kl": from the highest group down, each row comes from the cell (value of
       `diversity_by`: the source, or a column of cluster numbers, whose absence leaves a row out:
       `missing_cell`) that leaves the lowest KL divergence of the subset's cells from those of all usable
       rows; rows by the hash. That is a reading of one outside summary ("KL-divergence-driven diversity
       sampling"), not the authors' rule. "farthest", "mmd", "typicality": by the `vectors` (a column, or
       several joined); rows without one are left out (`missing_vector`).

    Picks are ordered from the highest group down. Reason: source, stratum (0 = lowest), score, and the
    cluster where groups are clusters. Raises ColumnError, BudgetError, SizeError, SelectorError.
    """
    _check(noise_tail, strata, tau, diversity)
    scores = numbers(columns, column) if column else _score(columns, necessity)
    clusters = None if strata_by == "necessity" else numbers(columns, strata_by)
    units, has_vector = joined(columns, vectors) if diversity in COMPARED else (None, None)
    cells, has_cell = _cells(columns, diversity_by if diversity == "kl" else "source")
    keys = seeded_keys(seed, texts(columns, "id"))
    usable, notes = _usable(columns, scores, clusters, has_vector, has_cell, exclude_seed)
    known = np.flatnonzero(usable)
    ranked = known[np.lexsort((row_numbers(columns)[known], keys[known], scores[known]))]
    notes["noise_tail"] = math.floor(noise_tail * len(ranked) + 1e-9)  # 0.29 · 100 is 28.999... in float64
    ranked = ranked[: len(ranked) - notes["noise_tail"]]
    check_budget(
        budget, len(ranked), ", ".join(f"{count:,} rows are {name}" for name, count in notes.items() if count)
    )
    score = scores[ranked]
    stratum = (
        np.arange(len(ranked)) * strata // len(ranked)
        if clusters is None
        else _by_mean(clusters[ranked], score)
    )
    sizes = np.bincount(stratum, minlength=strata if clusters is None else 0)
    counts = quota(sizes, _lift(score, stratum, sizes, tau), budget)
    picks = list(_inside(ranked, stratum, counts, keys, cells, units, diversity, seed))
    levels = np.flatnonzero(counts)[::-1].repeat(counts[counts > 0][::-1])
    return _selection(columns, np.concatenate(picks), levels, scores, clusters, strata_by, notes)


def _inside(
    ranked: np.ndarray,
    stratum: np.ndarray,
    counts: np.ndarray,
    keys: np.ndarray,
    cells: np.ndarray,
    units: Lookup | None,
    diversity: str,
    seed: int,
) -> Iterator[np.ndarray]:
    """The picks of each group, from the highest down: `counts` int64[groups] of the rows of `stratum`."""
    target = np.bincount(cells[ranked], minlength=cells.max(initial=0) + 1)
    taken = np.zeros_like(target)
    for places in reversed(members_of(stratum)):
        k, members = int(stratum[places[0]]), ranked[places]
        count = int(counts[k])
        if not count:
            continue
        members = members[np.argsort(keys[members], kind="stable")]
        if diversity in COMPARED:
            yield members[pick_from(members, rule(diversity), keys[members], count, units=units)]
            continue
        inside = np.bincount(cells[members], minlength=len(target))
        shares = (
            follow(target / len(ranked), taken, inside, count)
            if diversity == "kl"
            else spread(inside, count, _offset(seed, k, len(members)))
        )
        taken += shares
        yield _first_of_cells(members, cells[members], shares)


def _score(columns: pa.Table, necessity: str) -> np.ndarray:
    return necessity_of(necessity, {name: numbers(columns, name) for name in _losses_of(necessity)})


def _losses_of(necessity: str) -> tuple[str, ...]:
    one_of("necessity", necessity, NECESSITIES)
    return NECESSITY_COLUMNS[necessity]


def _cells(columns: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(cell int64[n] of each row, known bool[n]) by the column `name`, of texts or of cluster numbers."""
    require(columns, [name])
    if not pa.types.is_integer(columns[name].type):
        codes, _ = groups(texts(columns, name))
        return codes, np.ones(len(columns), bool)
    values = numbers(columns, name)
    known = np.isfinite(values)
    codes = np.zeros(len(values), np.int64)
    codes[known] = np.unique(values[known], return_inverse=True)[1]
    return codes, known


def _usable(
    columns: pa.Table,
    scores: np.ndarray,
    clusters: np.ndarray | None,
    has_vector: np.ndarray | None,
    has_cell: np.ndarray,
    exclude_seed: bool,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows can be picked; the others are counted under the first reason that applies."""
    steps = {"missing_value": np.isfinite(scores)}
    if exclude_seed:
        steps["in_seed"] = ~flags(columns, "in_seed")
    if clusters is not None:
        steps["missing_cluster"] = np.isfinite(clusters)
    if has_vector is not None:
        steps["missing_vector"] = has_vector
    if not has_cell.all():
        steps["missing_cell"] = has_cell
    usable, notes = np.ones(len(scores), bool), {}
    for name, valid in steps.items():
        notes[name] = int((usable & ~valid).sum())
        usable &= valid
    return usable, notes


def _by_mean(clusters: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """int64[n]: the clusters numbered by ascending mean score, equal means by cluster number."""
    _, codes = np.unique(clusters, return_inverse=True)
    mean = np.bincount(codes, weights=scores) / np.bincount(codes)
    rank = np.empty(len(mean), np.int64)
    rank[np.argsort(np.round(mean, 9), kind="stable")] = np.arange(len(mean))
    return rank[codes]


def _selection(
    columns: pa.Table,
    picks: np.ndarray,
    levels: np.ndarray,
    scores: np.ndarray,
    clusters: np.ndarray | None,
    strata_by: str,
    notes: dict[str, int],
) -> Selection:
    reason = sources_of(columns, picks).append_column("stratum", pa.array(levels, pa.int32()))
    reason = reason.append_column("score", pa.array(scores[picks], pa.float64()))
    if clusters is not None:
        reason = reason.append_column(strata_by, pa.array(clusters[picks].astype(np.int64)))
    return Selection(row_numbers(columns)[picks], reason, notes)


def _check(noise_tail: float, strata: int, tau: float, diversity: str) -> None:
    one_of("diversity", diversity, DIVERSITIES)
    if not 0 <= noise_tail < 1:
        raise SelectorError(f"noise_tail must be a share of at least 0 and below 1, got {noise_tail}")
    if strata < 1:
        raise SelectorError(f"strata must be at least 1, got {strata}")
    if not tau > 0:
        raise SelectorError(f"tau must be positive (inf = proportional), got {tau}")


def _lift(scores: np.ndarray, stratum: np.ndarray, sizes: np.ndarray, tau: float) -> np.ndarray:
    """float64[k]: mean score of each stratum, divided by `tau`; 0 for an empty one."""
    return np.bincount(stratum, weights=scores, minlength=len(sizes)) / np.maximum(sizes, 1) / tau


def _first_of_cells(rows: np.ndarray, cells: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The first `shares` int64[cells] of the `rows` int64[n] of each cell."""
    return rows[rank_within(cells, np.arange(len(rows))) < shares[cells]]


def _offset(seed: int, stratum: int, size: int) -> int:
    """Start of the systematic sampling: from 0 to size - 1, by a hash."""
    digest = hashlib.blake2b(f"{seed}:{stratum}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % size


PUBLISHED = Published(
    rule="no formula published; read as strata of a seed model's loss, more of the higher ones, over sources",
    source="arXiv 2503.20502, abstract and reviews; every choice is a parameter",
)
SELECTOR = Selector(select, reads=reads, cost="C4", published=PUBLISHED)
