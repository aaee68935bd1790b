"""Numbers per cell that keep a growing subset's distribution over cells close to a target distribution."""

import heapq
import math

import numpy as np


def follow(target: np.ndarray, before: np.ndarray, available: np.ndarray, count: int) -> np.ndarray:
    """int64[cells]: how many of `count` further rows to take from each cell, one at a time.

    Each step takes the cell that leaves the lowest KL(subset || target), where the subset holds `before`
    int64[cells] and what was taken; no cell gives more than `available` int64[cells], whose sum must be at
    least `count`. target: float64[cells], positive where rows are available. Equal steps go to the earlier
    cell. The divergence of counts n of N is sum n log(n / target) / N - log N, so that a step to n + 1 costs
    (n + 1) log(n + 1) - n log n - log target, whatever the others are: steps in order of cost are optimal.
    """
    taken = np.zeros(len(target), np.int64)
    logs = [math.log(share) if share > 0 else 0.0 for share in target.tolist()]

    def cost(cell: int) -> float:
        n = int(before[cell] + taken[cell])
        return round((n + 1) * math.log(n + 1) - (n * math.log(n) if n else 0.0) - logs[cell], 9)

    steps = [(cost(cell), cell) for cell in np.flatnonzero(available).tolist()]
    heapq.heapify(steps)
    for _ in range(count):
        _, cell = steps[0]
        taken[cell] += 1
        if taken[cell] < available[cell]:
            heapq.heapreplace(steps, (cost(cell), cell))
        else:
            heapq.heappop(steps)
    return taken
