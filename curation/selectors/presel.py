"""PreSel: tasks whose questions help the answer most get most; inside a task clusters share, most typical rows first.

Source: Safaei et al. (arXiv 2503.07591): IRS_i = L(A|I,Q) / L(A|I) under a model tuned on a random 5 % (the reference
part), task weight softmax(-mean IRS / T) with T = 1 / sqrt(number of tasks), k-means of image features inside a task,
typicality = mean cosine to the 5 nearest neighbours. Needs: necessity, necessity_ablated, embedding, cluster_image, and
seed_rows for the reference part. Cost class: C4. Blind.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import BudgetError, Selection, Selector, SelectorError, flags, numbers, texts
from curation.selectors.formulas import irs
from curation.selectors.primitives.candidates import candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import pick_by_group, rule
from curation.selectors.primitives.quota import quota, quota_by_group
from curation.selectors.signal_columns import loss_column, losses, names_of, signals_of


def needs(
    model: str = "seed",
    vectors: str = "emb_image",
    cluster: str = "image",
    reference: str | None = "in_seed",
    **_: object,
) -> tuple[str, ...]:
    """The losses with and without the question, the vectors, their clusters, and the reference part."""
    return signals_of(
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
    """The reference part, then the rest of the budget: source by weight, cluster by size, row by typicality.

    A task is a source. The rows that the column `reference` marks are in the subset and count into the budget (they are
    paid for: the model was tuned on them), and a task's IRS is the mean over them; a source without any takes the mean
    of all (note `tasks_without_irs`). With `reference=None` there is no such part, and the mean is over all rows.
    `temperature`: T, default 1 / sqrt(number of tasks). Inside a source the clusters cluster_<cluster> of the whole pool stand for k-means of the
    task; ties by the hash of (seed, id). Text-only rows: "exclude" (published) sets them aside, "keep" gives them
    their share at random. Rows with images but without vector or cluster cannot be picked (`missing_value`). Reason:
    cluster, irs (of the task). Raises ColumnError, BudgetError, SizeError, SelectorError (among others for a reference
    part that is no smaller than the budget).
    """
    given = flags(columns, reference) if reference else np.zeros(len(columns), bool)
    judged = given if reference else ~given
    if temperature is not None and not temperature > 0:
        raise SelectorError(f"temperature {temperature} must be positive (inf = equal)")
    score, (tasks, names) = irs(*losses(columns, model, "nll", "nll_noq")), groups(texts(columns, "source"))
    if not (np.isfinite(score) & judged).any():
        raise BudgetError(
            budget,
            0,
            f"no row {'of the reference part ' if reference else ''}has the losses that IRS is made of",
        )
    mean, unknown = _task_means(score, tasks, len(names), judged)
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{cluster}")
    usable = known & np.isfinite(clusters)
    taken = {"reference": given} if reference else None
    _refuse_large_part(int(given.sum()), budget)
    found = candidates(columns, budget, seed, usable, text_only=text_only, taken=taken)
    weight = temperature if temperature is not None else 1 / math.sqrt(len(names))
    sizes = np.bincount(tasks[found.rows], minlength=len(names))
    counts = quota_by_group(sizes, found.budget, allocation="softmax", stat=-mean, tau=weight)
    cells, codes = np.unique(np.stack([tasks[found.rows], clusters[found.rows]]), axis=1, return_inverse=True)
    codes = codes.reshape(-1)  # its shape differs between versions of numpy
    inside = _by_cluster(cells[0], np.bincount(codes), counts)
    places = pick_by_group(
        found.rows, codes, inside, rule("typicality", neighbours=neighbours), found.keys, units=units
    )
    picked = found.rows[places]
    reason = {"cluster": clusters[picked].astype(np.int32), "irs": mean[tasks[picked]]}
    return found.selection(columns, places, {"tasks_without_irs": unknown}, **reason)


def _task_means(score: np.ndarray, tasks: np.ndarray, count: int, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """(mean score of each task over `rows` bool[n], how many tasks have none and take the mean of all)."""
    known = np.flatnonzero(rows & np.isfinite(score))
    # fsum: another sum of float64 would depend on the order of the rows
    means = np.full(count, math.fsum(score[known].tolist()) / len(known))
    met = [known[places] for places in members_of(tasks[known])]
    means[[tasks[places[0]] for places in met]] = [
        math.fsum(score[places].tolist()) / len(places) for places in met
    ]
    return means, count - len(met)


def _refuse_large_part(paid: int, budget: int) -> None:
    if paid >= budget > 0:
        raise SelectorError(
            f"the reference part has {paid:,} rows, the budget of {budget:,} must be larger; take a smaller part, or reference: null"
        )


def _by_cluster(tasks: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64[cells]: how many rows each cell (task, cluster), with `tasks` ascending, gives of its task's: by its size."""
    parts = [
        quota(sizes[cells], np.zeros(len(cells)), int(counts[int(tasks[cells[0]])]))
        for cells in members_of(tasks)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


SELECTOR = Selector(select, needs=needs, cost="C4")
