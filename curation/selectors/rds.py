"""RDS+: the rows most similar to query examples of the target, by turns of the queries, or of several tasks.

Source: Ivison et al. (arXiv 2503.01807, released code): cosine of position-weighted means of last-layer
states of the untuned base to each query; for one task every query takes its next best row in turn; for
several tasks a row's value for a task is the highest over the task's queries, and the tasks take turns. A row
that was taken already costs the turn. Needs: rds (rds_<task>). Cost class: C2. Targeted: it sees validation
data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import ColumnError, Published, Selection, Selector
from curation.selectors.icons import tasks_of
from curation.selectors.primitives.candidates import find_candidates

PREFIX = "rds_"
_TURNS = 1 << 20


def select(columns: pa.Table, budget: int, seed: int, *, tasks: list[str] | None = None) -> Selection:
    """The `budget` rows that queries (one task) or tasks (several) take in turn, each its most similar ones.

    rds_<task> is a list of numbers, the cosines of a row to each query of the task; `tasks`: which (default:
    all such columns, in the order of their names). Queries take turns in their order, ties go by the hash of
    (seed, id). Text-only rows are treated like all others: a query may have no image either. Rows that lack a
    similarity to any of the queries cannot be picked (`missing_value`). Reason: task, query (for several
    tasks the nearest of the task), score (the cosine). Raises ColumnError, BudgetError.
    """
    names = tasks_of(columns, tasks, PREFIX)
    by_task = [similarities(columns, f"{PREFIX}{task}") for task in names]
    usable = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in by_task])
    candidates = find_candidates(columns, budget, seed, usable)
    if len(names) == 1:
        turns = by_task[0].T
    else:
        turns = np.stack([values.max(axis=1) for values in by_task])
    places, taker = take_turns(turns[:, candidates.rows], candidates.budget)
    picked = candidates.rows[places]
    task = np.zeros(len(places), np.int64) if len(names) == 1 else taker
    query = taker if len(names) == 1 else _nearest(by_task, picked, taker)
    return candidates.selection(
        columns,
        places,
        task=pa.array(names).take(pa.array(task)),
        query=query.astype(np.int32),
        score=turns[taker, picked].astype(np.float64),
    )


def similarities(columns: pa.Table, name: str) -> np.ndarray:
    """float32[n, q] of a column of lists, all as long; NaN where missing. Raises ColumnError."""
    lists = columns[name].combine_chunks() if name in columns.column_names else None
    if lists is None or not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise ColumnError(name, f"column {name!r} must be lists of numbers, one for each query")
    known = np.asarray(lists.is_valid())
    flat = lists.flatten().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    width = len(flat) // max(int(known.sum()), 1)
    lengths = lists.drop_null().value_lengths().unique().to_pylist()
    if lengths and (len(lengths) > 1 or not width):
        raise ColumnError(name, f"column {name!r} must have lists of one length, at least 1, got {lengths}")
    if known.all():
        return flat.reshape(-1, max(width, 1))
    values = np.full((len(lists), max(width, 1)), np.nan, np.float32)
    values[known] = flat.reshape(-1, max(width, 1))
    return values


def take_turns(values: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64[budget], takers int64[budget]): each of q takers in turn takes its next best of n.

    values: float[q, n], n >= budget; ties by place. What another took before costs the turn.
    """
    takers = len(values)
    # after `budget` rounds one taker alone has met as many different rows as are asked for
    order = np.stack([np.argsort(-own, kind="stable")[:budget].astype(np.int32) for own in values], axis=1)
    free = np.ones(values.shape[1], bool)
    places, by = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    left, step = budget, max(_TURNS // takers, 1)
    for start in range(0, budget, step):
        if not left:
            break
        met = order[start : start + step].reshape(-1)
        at = np.flatnonzero(free[met])
        _, first = np.unique(met[at], return_index=True)
        at = at[np.sort(first)][:left]
        free[met[at]] = False
        places.append(met[at].astype(np.int64))
        by.append(at % takers)
        left -= len(at)
    return np.concatenate(places), np.concatenate(by)


def _nearest(by_task: list[np.ndarray], picked: np.ndarray, taker: np.ndarray) -> np.ndarray:
    """int64[budget]: the query of its taker's task that each pick is nearest to."""
    query = np.empty(len(picked), np.int64)
    for task, values in enumerate(by_task):
        mine = taker == task
        query[mine] = values[picked[mine]].argmax(axis=1)
    return query


SELECTOR = Selector(
    select,
    needs=("rds",),
    cost="C2",
    targeted=True,
    nested=True,
    published=Published(
        "turns of the queries (one task), or of tasks by the highest cosine to their queries (several)",
        "arXiv 2503.01807, released code",
    ),
)
