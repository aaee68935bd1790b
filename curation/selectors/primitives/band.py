"""The ends and the middle of a ranked column."""

import numpy as np

from curation.selectors.contract import one_of

RULES = ("top", "bottom", "mid")


def band(values: np.ndarray, budget: int, rule: str) -> np.ndarray:
    """int64[budget]: places in `values` float64[n] (no NaN), ties by place; nested over budgets.

    "top": highest first. "bottom": lowest first. "mid": the `budget` values around the median, from the
    middle outwards; as many are left out above as below, or one more above. Raises SelectorError for another
    rule.
    """
    one_of("rule", rule, RULES)
    if rule == "top":
        return np.argsort(-values, kind="stable")[:budget]
    ranked = np.argsort(values, kind="stable")
    if rule == "bottom":
        return ranked[:budget]
    n = len(values)
    middle = (n - 1) // 2
    # a band of b values starts at place (n - b) // 2, so bands grow by one at alternate ends
    steps = np.arange(1, n)
    side = np.where((n - steps) % 2 == 0, -1, 1)
    outwards = middle + side * ((steps + 1) // 2)
    return ranked[np.concatenate([[middle], outwards])[:budget]] if n else ranked
