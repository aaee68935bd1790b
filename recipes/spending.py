"""A selection under a budget in compute, in stage `select`: what selecting took, and what each row costs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.errors import RecipeError
from recipes.stage_flops import StageFlops
from recipes.stage_models import Uncounted
from recipes.steps import Step
from training.spec import FitSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from curation.selectors.contract import Selection
    from training.estimate.lengths import Lengths
    from training.estimate.shapes import Shape

AS_SPENDER = "as:spender"


def select_in_compute(
    function: Callable[..., "Selection"],
    columns: "pa.Table",
    config: dict[str, Any],
    inputs: dict[str, Any],
) -> "Selection":
    """The selection of `function` for a budget `flops:N` or `as:spender`, the subset of another arm.

    `columns`: in the order of the pool's rows. inputs: `tokens`, the stages `costed` that selecting needed,
    and `spender`. Notes are those of `select_within_compute`; `budget_above_pool`: the whole pool costs less
    than the spender, and is taken; `cost_unknown`: what the spender's selection took cannot be counted, so it
    is as many rows. Raises RecipeError where a cost cannot be counted, SpendError where the budget does not
    suffice.
    """
    from curation.selectors.budget import Compute, choose, select_within_compute

    seed, params, steps = config["seed"], config["params"], _steps(inputs)
    rule = StageFlops(steps, config["costs"]["model_paths"], lambda pool, shape: _lengths(inputs))
    try:
        each = row_flops(
            rule.shape_of(config["costs"]["base"]), FitSpec(**config["costs"]["train"]), inputs["tokens"]
        )
    except Uncounted as error:
        problem = f"budget {config['budget']}: the FLOPs of training cannot be counted: {error}"
        raise RecipeError(problem) from error
    taken = [rule.of(step) for step in steps.values()]
    selecting = None if None in taken else sum(one for one in taken if one is not None)
    if config["budget"] == AS_SPENDER:
        rows = _rows(inputs["spender"])
        if selecting is None:
            chosen = choose(function, columns, len(rows), seed, params)
            return replace(chosen, notes=chosen.notes | {"cost_unknown": 1})
        budget = float(each[rows].sum()) + selecting
        if budget >= each.sum():
            chosen = choose(function, columns, "100%", seed, params)
            return replace(chosen, notes=chosen.notes | {"budget_above_pool": 1})
        return select_within_compute(function, columns, Compute(budget, 0.0, each), seed, params)
    if selecting is None:
        raise RecipeError(f"budget {config['budget']} cannot be kept: {'; '.join(rule.notes)}")
    compute = Compute(float(config["budget"].removeprefix("flops:")), selecting, each)
    return select_within_compute(function, columns, compute, seed, params)


def row_flops(shape: "Shape", spec: FitSpec, tokens: Path) -> "np.ndarray":
    """FLOPs of training on each row of a pool through all epochs, float64 [n]; 0 for rows that are rejected.

    tokens: artefact of stage `tokens`. A share of an epoch counts as a whole one: which rows it meets is not
    known before.
    """
    import math

    import numpy as np

    from training.estimate.cost import per_example
    from training.estimate.lengths import of_store
    from training.token_store import TokenStore

    store = TokenStore.open(tokens / "store", verify=False)
    trained = store.lengths > 0
    if spec.max_length is not None and spec.too_long != "truncate":
        trained &= store.lengths <= spec.max_length
    rows = np.flatnonzero(trained)
    lengths = of_store(tokens / "store", rows).within(spec.max_length, "truncate")
    each = np.zeros(len(store))
    each[rows] = math.ceil(spec.epochs) * per_example(shape, spec, lengths)
    return each


def of_tokens(tokens: Path, pool: Path, rows: Any = None) -> "Lengths":
    """Lengths of a pool's rows (default: all) that the trainings read, with the number of questions of each.

    tokens, pool: artefacts of these stages.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from training.estimate.lengths import of_store
    from training.token_store import TokenStore

    lengths = of_store(tokens / "store", rows)
    store = TokenStore.open(tokens / "store", verify=False)
    kept = np.arange(len(store)) if rows is None else rows
    kept = kept[store.lengths[kept] > 0]
    turns = pq.read_table(pool / "pool.parquet", columns=["n_turns"])["n_turns"].to_numpy()
    return replace(lengths, turns=turns[kept])


def _steps(inputs: dict[str, Any]) -> dict[str, Step]:
    """The stages that selecting needed, by hash."""
    steps = (Step.of_record(folder) for folder in inputs.get("costed", ()))
    return {step.hash: step for step in steps}


def _lengths(inputs: dict[str, Any]) -> "Lengths":
    return of_tokens(inputs["tokens"], inputs["pool"])


def _rows(subset: Path) -> Any:
    from curation.subset import read_subset

    return read_subset(subset)["row"].to_numpy()
