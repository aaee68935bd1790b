"""PreSel: more rows from tasks whose questions help the answer; typical rows of each cluster in a task.

Source: Safaei et al. (arXiv 2503.07591, released code): IRS_i = L(A|I,Q) / L(A|I) under a model tuned on a
random 5 % (the reference part), task weight softmax(-mean IRS / T) with T = 1 / sqrt(number of tasks);
k-means of image features inside a task (K = 1 % of its rows), clusters in proportion to their rows outside
the reference part, typicality = mean cosine to the 5 nearest of those. Numbers are rounded as in the code: a
task gets the floor of its share, the heaviest one also what is left; a cluster gets the nearest whole number
(halves to even); what is then missing or too much in a task is put right by one row a cluster, the largest
first where rows are missing, the smallest first where there are too many; what no cluster can give is filled
with random rows of all tasks. Needs: necessity, necessity_ablated, embedding_dino, cluster_presel, and
seed_rows for the reference part. Cost class: C4. Blind.

The variant "clean" rounds by largest remainders, both tasks and clusters, and a full task passes the rest of
its share on by the same weights instead of at random. Its picks and the published ones have Jaccard 0.96 on
the frozen table of tests/parity.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    BudgetError,
    Published,
    Selection,
    Selector,
    SelectorError,
    flags,
    numbers,
    one_of,
    texts,
)
from curation.selectors.formulas import irs
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import pick_by_group, rule
from curation.selectors.primitives.quota import quota, quota_by_group
from curation.selectors.signal_columns import columns_read, loss_column, losses, names_of


def reads(
    model: str = "seed",
    vectors: str = "emb_dino",
    cluster: str = "presel",
    reference: str | None = "in_seed",
    **_: object,
) -> tuple[str, ...]:
    """The losses with and without the question, the vectors, their clusters, and the reference part."""
    return columns_read(
        loss_column(model, "nll"),
        loss_column(model, "nll_noq"),
        *names_of(vectors),
        f"cluster_{cluster}",
        reference,
    )


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    model: str = "seed",
    temperature: float | None = None,
    vectors: str = "emb_dino",
    cluster: str = "presel",
    neighbours: int = 5,
    reference: str | None = "in_seed",
    text_only: str | None = "exclude",
) -> Selection:
    """The reference part, then sources by weight, clusters by size, rows by typicality.

    A task is a source. The rows that the column `reference` marks are in the subset and count towards the
    budget (the model was tuned on them), and a task's IRS is the mean over them; a source without any takes
    the mean of all (note `tasks_without_irs`). With `reference=None` there is no such part, and the mean is
    over all rows. `temperature`: T, default 1 / sqrt(number of tasks with vectors; of all sources in
    "clean"). `variant`: "published" or "clean", see above; random rows are those with the lowest hash of
    (seed, id), by which ties are broken too (note `filled`: how many). Text-only rows: "exclude" (published)
    leaves them out, "keep" gives them their share at random, None treats them like all others. Rows without
    vector or cluster cannot be picked (`missing_value`). Reason: cluster, irs (of the task). Raises
    ColumnError, BudgetError, SizeError, SelectorError (also for a reference part that is not smaller than
    the budget).
    """
    one_of("variant", variant, ("published", "clean"))
    in_reference = flags(columns, reference) if reference else None
    if temperature is not None and not temperature > 0:
        raise SelectorError(f"temperature must be positive (inf = equal), got {temperature}")
    tasks, mean, unknown = _irs_of_tasks(columns, model, in_reference, budget)
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{cluster}")
    usable = known & np.isfinite(clusters)
    preselected = None
    if in_reference is not None:
        _refuse_large_part(int(in_reference.sum()), budget)
        preselected = {"reference": in_reference}
    candidates = find_candidates(columns, budget, seed, usable, text_only=text_only, preselected=preselected)
    pictured = usable & (numbers(columns, "n_images") != 0) if text_only else usable
    cells, of_row = _cells(tasks, clusters, pictured)
    codes = of_row[candidates.rows]
    sizes = np.bincount(codes, minlength=cells.shape[1])
    if variant == "clean":
        counts = _clean_counts(cells[0], sizes, mean, temperature, candidates.budget)
    else:
        whole = np.bincount(of_row[of_row >= 0], minlength=cells.shape[1])
        counts = _published_counts(cells[0], sizes, whole, mean, temperature, candidates.budget)
    typical = rule("typicality", neighbours=neighbours)
    places = pick_by_group(candidates.rows, codes, counts, typical, candidates.keys, units=units)
    others = np.setdiff1d(np.arange(len(candidates.rows)), places)
    filled = candidates.budget - len(places)
    places = np.concatenate([places, others[:filled]])
    picked = candidates.rows[places]
    reason = {"cluster": clusters[picked].astype(np.int32), "irs": mean[tasks[picked]]}
    notes = {"tasks_without_irs": unknown, "filled": filled}
    return candidates.selection(columns, places, notes, **reason)


def _cells(tasks: np.ndarray, clusters: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float64[2, k]: task and cluster of each cell, ascending; int64[n]: the cell of a row, -1 for none)."""
    cells, inverse = np.unique(np.stack([tasks[counted], clusters[counted]]), axis=1, return_inverse=True)
    of_row = np.full(len(tasks), -1, np.int64)
    of_row[counted] = inverse.reshape(-1)  # numpy 2.0 returns another shape than other versions
    return cells, of_row


def _irs_of_tasks(
    columns: pa.Table, model: str, part: np.ndarray | None, budget: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(task int64[n] of each row, mean IRS float64[tasks], number of tasks without one).

    Over the rows `part` bool[n], or all. Raises BudgetError where none of them has the losses.
    """
    score, (tasks, names) = irs(*losses(columns, model, "nll", "nll_noq")), groups(texts(columns, "source"))
    scored = np.ones(len(score), bool) if part is None else part
    if not (np.isfinite(score) & scored).any():
        which = "" if part is None else "of the reference part "
        raise BudgetError(budget, 0, f"no row {which}has the losses for the IRS")
    return tasks, *_task_means(score, tasks, len(names), scored)


def _task_means(score: np.ndarray, tasks: np.ndarray, count: int, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """(mean score of each task over `rows` bool[n], number of tasks without one)."""
    known = np.flatnonzero(rows & np.isfinite(score))
    # fsum is exact; any other sum of float64 would depend on the order of the rows
    means = np.full(count, math.fsum(score[known].tolist()) / len(known))
    by_task = [known[places] for places in members_of(tasks[known])]
    means[[tasks[places[0]] for places in by_task]] = [
        math.fsum(score[places].tolist()) / len(places) for places in by_task
    ]
    return means, count - len(by_task)


def _refuse_large_part(size: int, budget: int) -> None:
    if size >= budget > 0:
        raise SelectorError(
            f"the budget of {budget:,} must exceed the {size:,} rows of the reference part; "
            "take a smaller part, or reference: null"
        )


def _clean_counts(
    tasks: np.ndarray, sizes: np.ndarray, mean: np.ndarray, temperature: float | None, budget: int
) -> np.ndarray:
    """int64[k]: the rows of each cell of `tasks` (ascending), by largest remainders."""
    tau = temperature if temperature is not None else 1 / math.sqrt(len(mean))
    held = np.bincount(tasks.astype(np.int64), weights=sizes, minlength=len(mean)).astype(np.int64)
    wanted = quota_by_group(held, budget, allocation="softmax", stat=-mean, tau=tau)
    parts = [
        quota(sizes[cells], np.zeros(len(cells)), int(wanted[int(tasks[cells[0]])]))
        for cells in members_of(tasks)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _published_counts(
    tasks: np.ndarray,
    sizes: np.ndarray,
    whole: np.ndarray,
    mean: np.ndarray,
    temperature: float | None,
    budget: int,
) -> np.ndarray:
    """int64[k]: the rows of each cell, in sum at most `budget`; `whole`: sizes with the reference part."""
    groups = members_of(tasks)
    stat = [float(mean[int(tasks[cells[0]])]) for cells in groups]
    tau = temperature if temperature is not None else 1 / math.sqrt(max(len(groups), 1))
    # math.exp and fsum: other sums and exponentials differ in the last bit between machines
    weights = [math.exp((min(stat) - value) / tau) for value in stat]
    wanted = [math.floor(round(budget * weight / math.fsum(weights), 9)) for weight in weights]
    if wanted:
        wanted[weights.index(max(weights))] += budget - sum(wanted)
    counts = np.zeros(len(tasks), np.int64)
    for cells, count in zip(groups, wanted, strict=True):
        counts[cells] = _of_clusters(sizes[cells].tolist(), whole[cells].tolist(), count)
    return counts


def _of_clusters(sizes: list[int], whole: list[int], wanted: int) -> list[int]:
    """The rows of each cluster of one task, at most `sizes`; in sum `wanted`, or fewer."""
    held = sum(sizes)
    counts = [min(round(size / held * wanted), size) if held else 0 for size in sizes]
    off = wanted - sum(counts)
    for at in sorted(range(len(sizes)), key=lambda at: -whole[at] if off > 0 else whole[at]):
        if off > 0 and counts[at] < sizes[at]:
            counts[at], off = counts[at] + 1, off - 1
        elif off < 0 and counts[at]:
            counts[at], off = counts[at] - 1, off + 1
    return counts


PUBLISHED = Published(
    rule="rows of a task ~ exp(-mean IRS sqrt(tasks)), of a cluster ~ its size; in it the highest mean "
    "cosine to the 5 nearest; the rest at random",
    source="arXiv 2503.07591, code read",
    variants={"published": {"variant": "published"}, "clean": {"variant": "clean"}},
    differs={"clean": "largest remainders; a full task passes its share on by weight, not at random"},
)
SELECTOR = Selector(select, reads=reads, cost="C4", published=PUBLISHED)
