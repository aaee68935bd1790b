"""PreSel: more rows from tasks whose questions help the answer; typical rows of each cluster in a task.

Source: Safaei et al. (arXiv 2503.07591): IRS_i = L(A|I,Q) / L(A|I) under a model tuned on a random 5 % (the
reference part), task weight softmax(-mean IRS / T) with T = 1 / sqrt(number of tasks), k-means of image
features inside a task, typicality = mean cosine to the 5 nearest neighbours. Needs: necessity,
necessity_ablated, embedding, cluster_image, and seed_rows for the reference part. Cost class: C4. Blind.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import BudgetError, Selection, Selector, SelectorError, flags, numbers, texts
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
    vectors: str = "emb_image",
    cluster: str = "image",
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
    model: str = "seed",
    temperature: float | None = None,
    vectors: str = "emb_image",
    cluster: str = "image",
    neighbours: int = 5,
    reference: str | None = "in_seed",
    text_only: str = "exclude",
) -> Selection:
    """The reference part, then sources by weight, clusters by size, rows by typicality.

    A task is a source. The rows that the column `reference` marks are in the subset and count towards the
    budget (the model was tuned on them), and a task's IRS is the mean over them; a source without any takes
    the mean of all (note `tasks_without_irs`). With `reference=None` there is no such part, and the mean is
    over all rows. `temperature`: T, default 1 / sqrt(number of tasks). Inside a source, cluster_<cluster> of
    the whole pool replaces k-means of the task; ties by the hash of (seed, id). Text-only rows: "exclude"
    (published) leaves them out, "keep" gives them their share at random. Rows with images but without vector
    or cluster cannot be picked (`missing_value`). Reason: cluster, irs (of the task). Raises ColumnError,
    BudgetError, SizeError, SelectorError (also for a reference part that is not smaller than the budget).
    """
    in_reference = flags(columns, reference) if reference else np.zeros(len(columns), bool)
    scored = in_reference if reference else ~in_reference
    if temperature is not None and not temperature > 0:
        raise SelectorError(f"temperature must be positive (inf = equal), got {temperature}")
    score, (tasks, names) = irs(*losses(columns, model, "nll", "nll_noq")), groups(texts(columns, "source"))
    if not (np.isfinite(score) & scored).any():
        raise BudgetError(
            budget,
            0,
            f"no row {'of the reference part ' if reference else ''}has the losses for the IRS",
        )
    mean, unknown = _task_means(score, tasks, len(names), scored)
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{cluster}")
    usable = known & np.isfinite(clusters)
    preselected = {"reference": in_reference} if reference else None
    _refuse_large_part(int(in_reference.sum()), budget)
    candidates = find_candidates(columns, budget, seed, usable, text_only=text_only, preselected=preselected)
    tau = temperature if temperature is not None else 1 / math.sqrt(len(names))
    sizes = np.bincount(tasks[candidates.rows], minlength=len(names))
    counts = quota_by_group(sizes, candidates.budget, allocation="softmax", stat=-mean, tau=tau)
    cells, codes = np.unique(
        np.stack([tasks[candidates.rows], clusters[candidates.rows]]), axis=1, return_inverse=True
    )
    codes = codes.reshape(-1)  # numpy 2.0 returns another shape than other versions
    inside = _by_cluster(cells[0], np.bincount(codes), counts)
    places = pick_by_group(
        candidates.rows,
        codes,
        inside,
        rule("typicality", neighbours=neighbours),
        candidates.keys,
        units=units,
    )
    picked = candidates.rows[places]
    reason = {"cluster": clusters[picked].astype(np.int32), "irs": mean[tasks[picked]]}
    return candidates.selection(columns, places, {"tasks_without_irs": unknown}, **reason)


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


def _by_cluster(tasks: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64[cells]: the count of each task, split over its (task, cluster) cells by size; `tasks` ascend."""
    parts = [
        quota(sizes[cells], np.zeros(len(cells)), int(counts[int(tasks[cells[0]])]))
        for cells in members_of(tasks)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


SELECTOR = Selector(select, reads=reads, cost="C4")
